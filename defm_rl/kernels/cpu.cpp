// Operations of a frozen network on a processor, of float32 maps with the channels last: group normalization with
// residual and activation, and squeeze and excitation, each one operation in place; and convolutions, in groups, as
// products of matrices, and after Winograd.
//
// `cpu.py` builds this for the vector instructions that PyTorch itself uses on the machine.

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/cpu/vec/vec.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using at::Tensor;
using Vec = at::vec::Vectorized<float>;
constexpr int64_t kLanes = Vec::size();

enum class Activation { kNone, kRelu, kSilu };

Activation activation_of(c10::string_view name) {
  if (name == "none") return Activation::kNone;
  if (name == "relu") return Activation::kRelu;
  TORCH_CHECK(name == "silu", "activation must be none, relu or silu; got ", std::string(name));
  return Activation::kSilu;
}

Vec sigmoid(Vec x) { return Vec(1.0f) / (Vec(1.0f) + x.neg().exp_u20()); }

template <Activation activation>
Vec activate(Vec x) {
  if constexpr (activation == Activation::kRelu) return at::vec::maximum(x, Vec(0.0f));
  if constexpr (activation == Activation::kSilu) return x * sigmoid(x);
  return x;
}

// Calls f(std::integral_constant<Activation, ...>) for an activation that is known at run time only.
template <typename F>
void with_activation(Activation activation, F f) {
  switch (activation) {
    case Activation::kNone: return f(std::integral_constant<Activation, Activation::kNone>());
    case Activation::kRelu: return f(std::integral_constant<Activation, Activation::kRelu>());
    case Activation::kSilu: return f(std::integral_constant<Activation, Activation::kSilu>());
  }
}

// Calls f(first, lanes) for every vector of `count` numbers; the last may have fewer lanes.
template <typename F>
void for_each_vector(int64_t count, F f) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) f(i, kLanes);
  if (i < count) f(i, count - i);
}

// The pixels of one image; `channels` is how far apart they are.
struct Map {
  float* data;
  int64_t pixels, channels;
};

// Sums over the pixels of what `width` vectors of channels differ from their first pixel, and of its square. Near the
// values themselves, the squares do not cancel where the mean is large beside the deviation.
template <int width>
void sum_differences(Map x, int64_t first, int64_t lanes, float* sums, float* squares) {
  constexpr int64_t run = 64;  // pixels that are summed by themselves first: long sums lose digits
  Vec origin[width], total[width], total_square[width];
  for (int v = 0; v < width; ++v) {
    origin[v] = Vec::loadu(x.data + first + v * kLanes, lanes);
    total[v] = total_square[v] = Vec(0.0f);
  }
  const float* pixel = x.data + first;
  for (int64_t begin = 0; begin < x.pixels; begin += run) {
    Vec sum[width], square[width];
    for (int v = 0; v < width; ++v) sum[v] = square[v] = Vec(0.0f);
    const int64_t end = std::min(begin + run, x.pixels);
    for (int64_t i = begin; i < end; ++i, pixel += x.channels) {
      for (int v = 0; v < width; ++v) {
        const Vec difference = Vec::loadu(pixel + v * kLanes, lanes) - origin[v];
        sum[v] = sum[v] + difference;
        square[v] = at::vec::fmadd(difference, difference, square[v]);
      }
    }
    for (int v = 0; v < width; ++v) {
      total[v] = total[v] + sum[v];
      total_square[v] = total_square[v] + square[v];
    }
  }
  for (int v = 0; v < width; ++v) {
    total[v].store(sums + first + v * kLanes, lanes);
    total_square[v].store(squares + first + v * kLanes, lanes);
  }
}

// The normalization of an image's channels [first, last), whole groups of it, as scale * x + shift.
void group_norm_as_line(Map x, int64_t first, int64_t last, int64_t group, const float* weight, const float* bias,
                        double eps, float* scale, float* shift) {
  constexpr int width = 4;
  float *sums = scale, *squares = shift;  // each channel's are read before they are written over
  int64_t c = first;
  for (; c + width * kLanes <= last; c += width * kLanes) sum_differences<width>(x, c, kLanes, sums, squares);
  for (; c < last; c += kLanes) sum_differences<1>(x, c, std::min(kLanes, last - c), sums, squares);

  const double per_pixel = 1.0 / static_cast<double>(x.pixels);
  for (int64_t start = first; start < last; start += group) {
    double mean = 0.0, square = 0.0;
#pragma omp simd reduction(+ : mean)
    for (int64_t i = start; i < start + group; ++i) mean += x.data[i] + sums[i] * per_pixel;
    mean /= static_cast<double>(group);
#pragma omp simd reduction(+ : square)
    for (int64_t i = start; i < start + group; ++i) {
      const double difference = sums[i] * per_pixel, offset = x.data[i] - mean;
      square += squares[i] * per_pixel + offset * (2.0 * difference + offset);
    }
    const double inverse_std = 1.0 / std::sqrt(std::max(square / static_cast<double>(group), 0.0) + eps);
    for (int64_t i = start; i < start + group; ++i) {
      const double factor = weight[i] * inverse_std;
      scale[i] = static_cast<float>(factor);
      shift[i] = static_cast<float>(bias[i] - mean * factor);
    }
  }
}

template <Activation activation, bool has_residual>
void apply_line(Map x, const float* residual, int64_t first, int64_t last, const float* scale, const float* shift) {
  for (int64_t i = 0; i < x.pixels; ++i) {
    float* pixel = x.data + i * x.channels + first;
    const float* added = has_residual ? residual + i * x.channels + first : nullptr;
    for_each_vector(last - first, [&](int64_t c, int64_t lanes) {
      const Vec factor = Vec::loadu(scale + first + c, lanes), offset = Vec::loadu(shift + first + c, lanes);
      Vec y = at::vec::fmadd(Vec::loadu(pixel + c, lanes), factor, offset);
      if constexpr (has_residual) y = y + Vec::loadu(added + c, lanes);
      activate<activation>(y).store(pixel + c, lanes);
    });
  }
}

// A float32 map with its channels last: `x` itself, or a copy that `put_back` writes back.
Tensor channels_last(const Tensor& x) {
  TORCH_CHECK(x.dim() == 4 && x.scalar_type() == at::kFloat, "x must be (B, C, H, W) in float32; got ", x.sizes(),
              " in ", x.scalar_type());
  return x.contiguous(at::MemoryFormat::ChannelsLast);
}

void put_back(Tensor& x, const Tensor& result) {
  if (!x.is_same(result)) x.copy_(result);
}

// How many units of work a thread gets at the least, so that waking it is not in vain.
int64_t grain(int64_t elements_each) {
  constexpr int64_t least = 32768;
  return std::max<int64_t>(1, least / elements_each);
}

Tensor& group_norm_act_(Tensor& x, int64_t groups, const Tensor& weight, const Tensor& bias, double eps,
                        c10::string_view activation, const std::optional<Tensor>& residual) {
  TORCH_CHECK(groups > 0, "groups must be positive; got ", groups);
  const int64_t images = x.size(0), channels = x.size(1), pixels = x.size(2) * x.size(3), group = channels / groups;
  TORCH_CHECK(group * groups == channels && weight.numel() == channels && bias.numel() == channels,
              groups, " groups, ", weight.numel(), " weights, ", bias.numel(), " biases for ", channels, " channels");
  TORCH_CHECK(!residual || residual->sizes() == x.sizes(), "the residual's shape must be that of x");
  if (x.numel() == 0) return x;
  const Tensor y = channels_last(x), scales = weight.contiguous(), biases = bias.contiguous();
  const Tensor added = residual ? channels_last(*residual) : Tensor();

  // An image is shared by its groups where there are fewer images than threads.
  const int64_t parts = std::min<int64_t>(groups, at::divup(at::get_num_threads(), images));
  const int64_t part = at::divup(groups, parts) * group;
  with_activation(activation_of(activation), [&](auto constant) {
    constexpr Activation kind = decltype(constant)::value;
    at::parallel_for(0, images * parts, grain(pixels * part), [&](int64_t begin, int64_t end) {
      std::vector<float> line(2 * channels);
      float *scale = line.data(), *shift = scale + channels;
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t first = unit % parts * part, last = std::min(first + part, channels);
        if (first >= last) continue;
        const int64_t offset = unit / parts * pixels * channels;
        const Map map{y.data_ptr<float>() + offset, pixels, channels};
        group_norm_as_line(map, first, last, group, scales.data_ptr<float>(), biases.data_ptr<float>(), eps, scale,
                           shift);
        if (residual) {
          apply_line<kind, true>(map, added.data_ptr<float>() + offset, first, last, scale, shift);
        } else {
          apply_line<kind, false>(map, nullptr, first, last, scale, shift);
        }
      }
    });
  });
  put_back(x, y);
  return x;
}

// bias + x @ weight, of one row: beginning a product of matrices would take longer than this.
void multiply_row(const float* x, const Tensor& weight, const Tensor& bias, float* out) {
  const int64_t depth = weight.size(0), columns = weight.size(1);
  const float *factors = weight.data_ptr<float>(), *biases = bias.data_ptr<float>();
  const auto sum = [&](auto constant, int64_t c, int64_t lanes) {
    constexpr int width = decltype(constant)::value;
    Vec sums[width];
    for (int v = 0; v < width; ++v) sums[v] = Vec::loadu(biases + c + v * kLanes, lanes);
    for (int64_t i = 0; i < depth; ++i) {
      const Vec value(x[i]);
      for (int v = 0; v < width; ++v) {
        sums[v] = at::vec::fmadd(value, Vec::loadu(factors + i * columns + c + v * kLanes, lanes), sums[v]);
      }
    }
    for (int v = 0; v < width; ++v) sums[v].store(out + c + v * kLanes, lanes);
  };
  int64_t c = 0;
  for (; c + 8 * kLanes <= columns; c += 8 * kLanes) sum(std::integral_constant<int, 8>(), c, kLanes);
  for (; c + 2 * kLanes <= columns; c += 2 * kLanes) sum(std::integral_constant<int, 2>(), c, kLanes);
  for (; c < columns; c += kLanes) sum(std::integral_constant<int, 1>(), c, std::min(kLanes, columns - c));
}

// The mean of each channel.
void average(Map x, float* mean) {
  std::fill_n(mean, x.channels, 0.0f);
  for (int64_t i = 0; i < x.pixels; ++i) {
    for_each_vector(x.channels, [&](int64_t c, int64_t lanes) {
      (Vec::loadu(mean + c, lanes) + Vec::loadu(x.data + i * x.channels + c, lanes)).store(mean + c, lanes);
    });
  }
  for (int64_t c = 0; c < x.channels; ++c) mean[c] /= static_cast<float>(x.pixels);
}

// Multiplies each channel with the sigmoid of its gate, which is written over.
void let_through(Map x, float* gate) {
  for_each_vector(x.channels, [&](int64_t c, int64_t lanes) {
    sigmoid(Vec::loadu(gate + c, lanes)).store(gate + c, lanes);
  });
  for (int64_t i = 0; i < x.pixels; ++i) {
    float* pixel = x.data + i * x.channels;
    for_each_vector(x.channels, [&](int64_t c, int64_t lanes) {
      (Vec::loadu(pixel + c, lanes) * Vec::loadu(gate + c, lanes)).store(pixel + c, lanes);
    });
  }
}

Tensor& squeeze_excite_(Tensor& x, const Tensor& weight1, const Tensor& bias1, const Tensor& weight2,
                        const Tensor& bias2, c10::string_view activation) {
  const int64_t images = x.size(0), channels = x.size(1), pixels = x.size(2) * x.size(3), squeezed = weight1.size(1);
  TORCH_CHECK(weight1.sizes() == at::IntArrayRef({channels, squeezed}) && bias1.numel() == squeezed &&
                  weight2.sizes() == at::IntArrayRef({squeezed, channels}) && bias2.numel() == channels,
              "weights must be (", channels, ", S) and (S, ", channels, "), with as many biases; got ",
              weight1.sizes(), " and ", weight2.sizes());
  if (x.numel() == 0) return x;
  const Tensor y = channels_last(x);
  const auto map_of = [&](int64_t image) {
    return Map{y.data_ptr<float>() + image * pixels * channels, pixels, channels};
  };
  const auto activate_all = [kind = activation_of(activation)](float* values, int64_t count) {
    with_activation(kind, [&](auto constant) {
      for_each_vector(count, [&](int64_t i, int64_t lanes) {
        activate<decltype(constant)::value>(Vec::loadu(values + i, lanes)).store(values + i, lanes);
      });
    });
  };
  const auto for_each_image = [&](auto f) {
    at::parallel_for(0, images, grain(pixels * channels), [&](int64_t begin, int64_t end) {
      for (int64_t image = begin; image < end; ++image) f(image);
    });
  };

  if (images == 1) {  // which reads the weights for itself sooner than a product begins
    const Tensor in1 = weight1.contiguous(), in2 = weight2.contiguous();
    const Tensor offset1 = bias1.contiguous(), offset2 = bias2.contiguous();
    for_each_image([&](int64_t image) {
      std::vector<float> values(2 * channels + squeezed);
      float *mean = values.data(), *gate = mean + channels, *hidden = gate + channels;
      average(map_of(image), mean);
      multiply_row(mean, in1, offset1, hidden);
      activate_all(hidden, squeezed);
      multiply_row(hidden, in2, offset2, gate);
      let_through(map_of(image), gate);
    });
  } else {
    const Tensor means = at::empty({images, channels}, y.options().memory_format(at::MemoryFormat::Contiguous));
    for_each_image([&](int64_t image) { average(map_of(image), means.data_ptr<float>() + image * channels); });
    const Tensor hidden = at::addmm(bias1, means, weight1);
    activate_all(hidden.data_ptr<float>(), hidden.numel());
    const Tensor gates = at::addmm(bias2, hidden, weight2);
    for_each_image([&](int64_t image) { let_through(map_of(image), gates.data_ptr<float>() + image * channels); });
  }
  put_back(x, y);
  return x;
}

// What a convolution of `x` that is padded by half its side will be written to.
Tensor convolved(const Tensor& x, int64_t out_channels, int64_t stride) {
  const auto extent = [&](int64_t side) { return at::divup(side, stride); };
  return at::empty({x.size(0), out_channels, extent(x.size(2)), extent(x.size(3))},
                   x.options().memory_format(at::MemoryFormat::ChannelsLast));
}

// Eight channels, and as many as a vector of the processor has. Compilers make of them what the processor has.
using Eight = float __attribute__((vector_size(32)));
using Wide = float __attribute__((vector_size(4 * kLanes)));

template <typename Lanes>
Lanes load(const float* from) {
  Lanes values;
  std::memcpy(&values, from, sizeof values);
  return values;
}

template <typename Lanes>
void store(float* to, Lanes values) {
  std::memcpy(to, &values, sizeof values);
}

// One group of a 3x3 convolution with padding 1, of one image.
template <int width>
struct GroupedConvolution {
  static constexpr int kSide = 3, kParts = width / 8;
  int64_t height, x_width, out_height, out_width, channels, stride;

  int64_t scratch_size() const { return height * (x_width + 2) * width; }

  // `x` and `out` are at the group's first channel, `weight` is (3, 3, in, out). `scratch` gets the group's channels
  // side by side, with a column of zeros on the left and on the right, which must be there already.
  void operator()(const float* x, const float* weight, float* out, float* scratch) const {
    for (int64_t i = 0; i < height; ++i) {
      for (int64_t j = 0; j < x_width; ++j) {
        std::memcpy(scratch + (i * (x_width + 2) + j + 1) * width, x + (i * x_width + j) * channels, width * 4);
      }
    }
    for (int64_t row = 0; row < out_height; ++row) {
      int64_t column = 0;
      if constexpr (kParts == 1) {
        for (; column + 8 <= out_width; column += 8) pixels<8>(scratch, weight, out, row, column);
      }
      for (; column + 4 <= out_width; column += 4) pixels<4>(scratch, weight, out, row, column);
      for (; column + 2 <= out_width; column += 2) pixels<2>(scratch, weight, out, row, column);
      if (column < out_width) pixels<1>(scratch, weight, out, row, column);
    }
  }

  // Pixels side by side, for all of which the weights are loaded once.
  template <int count>
  void pixels(const float* scratch, const float* weight, float* out, int64_t row, int64_t column) const {
    // Enough sums at a time for additions not to wait for each other.
    constexpr int splits = count * kParts >= 8 ? 1 : count * kParts >= 4 ? 2 : 4;
    Eight sums[splits][count][kParts] = {};
    const int64_t top = row * stride - 1, left = column * stride;
    for (int64_t i = std::max<int64_t>(0, -top); i < std::min<int64_t>(kSide, height - top); ++i) {
      for (int64_t j = 0; j < kSide; ++j) {
        const float* input = scratch + ((top + i) * (x_width + 2) + left + j) * width;
        const float* factors = weight + (i * kSide + j) * width * width;
        for (int channel = 0; channel < width; channel += splits) {
          for (int split = 0; split < splits; ++split, factors += width) {
            for (int part = 0; part < kParts; ++part) {
              const Eight factor = load<Eight>(factors + 8 * part);
              for (int p = 0; p < count; ++p) {
                sums[split][p][part] += input[p * stride * width + channel + split] * factor;
              }
            }
          }
        }
      }
    }
    for (int p = 0; p < count; ++p) {
      for (int part = 0; part < kParts; ++part) {
        for (int split = 1; split < splits; ++split) sums[0][p][part] += sums[split][p][part];
      }
      std::memcpy(out + (row * out_width + column + p) * channels, sums[0][p], width * 4);
    }
  }
};

template <int width>
void convolve_groups(const Tensor& x, const Tensor& weight, const Tensor& out, int64_t stride) {
  const int64_t images = x.size(0), channels = x.size(1), groups = channels / width;
  const GroupedConvolution<width> convolve{x.size(2), x.size(3), out.size(2), out.size(3), channels, stride};
  const int64_t x_size = x.size(2) * x.size(3) * channels, out_size = out.size(2) * out.size(3) * channels;
  // Some images after each other for each group: they stay in the cache from group to group, as do its weights.
  constexpr int64_t kept = 65536;
  const int64_t some = std::max<int64_t>(1, kept / x_size);
  at::parallel_for(0, groups * images, grain(out_size / groups * width), [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(convolve.scratch_size());
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t first_image = unit / (groups * some) * some, count = std::min(some, images - first_image);
      const int64_t first = (unit - first_image * groups) / count * width;
      const int64_t image = first_image + (unit - first_image * groups) % count;
      convolve(x.data_ptr<float>() + image * x_size + first, weight.data_ptr<float>() + 9 * first * width,
               out.data_ptr<float>() + image * out_size + first, scratch.data());
    }
  });
}

// A depthwise convolution with padding `side / 2`, of one row of an image's output.
struct DepthwiseConvolution {
  const float* weight;  // (side, side, channels)
  int64_t side, height, x_width, out_width, channels, stride;

  // `x` is the image, `out` the row.
  void operator()(const float* x, float* out, int64_t row) const {
    int64_t column = 0;
    while (column < out_width) {
      const int64_t left = column * stride - side / 2;
      const bool inside = left >= 0 && left + 3 * stride + side <= x_width && column + 4 <= out_width;
      if (inside) {
        pixels<4, 2>(x, out, row, column);
      } else {
        pixels<1, 4>(x, out, row, column);
      }
      column += inside ? 4 : 1;
    }
  }

  // Pixels side by side, of which all see no padding on the left and on the right if they are more than one. Several
  // sums at a time: additions do not wait for each other, and a weight is loaded once for all pixels.
  template <int count, int vectors>
  void pixels(const float* x, float* out, int64_t row, int64_t column) const {
    const int64_t top = row * stride - side / 2, left = column * stride - side / 2;
    const int64_t first_row = std::max<int64_t>(0, -top), last_row = std::min(side, height - top);
    const int64_t first_column = std::max<int64_t>(0, -left), last_column = std::min(side, x_width - left);
    const auto sum = [&](auto constant, int64_t c, int64_t lanes) {
      constexpr int width = decltype(constant)::value;
      Vec sums[count][width];
      for (int p = 0; p < count; ++p) {
        for (int v = 0; v < width; ++v) sums[p][v] = Vec(0.0f);
      }
      for (int64_t i = first_row; i < last_row; ++i) {
        for (int64_t j = first_column; j < last_column; ++j) {
          const float* input = x + ((top + i) * x_width + left + j) * channels + c;
          const float* factors = weight + (i * side + j) * channels + c;
          for (int v = 0; v < width; ++v) {
            const Vec factor = Vec::loadu(factors + v * kLanes, lanes);
            for (int p = 0; p < count; ++p) {
              const Vec value = Vec::loadu(input + p * stride * channels + v * kLanes, lanes);
              sums[p][v] = at::vec::fmadd(value, factor, sums[p][v]);
            }
          }
        }
      }
      for (int p = 0; p < count; ++p) {
        for (int v = 0; v < width; ++v) sums[p][v].store(out + (column + p) * channels + c + v * kLanes, lanes);
      }
    };
    int64_t c = 0;
    for (; c + vectors * kLanes <= channels; c += vectors * kLanes) {
      sum(std::integral_constant<int, vectors>(), c, kLanes);
    }
    for (; c < channels; c += kLanes) sum(std::integral_constant<int, 1>(), c, std::min(kLanes, channels - c));
  }
};

void convolve_channels(const Tensor& x, const Tensor& packed, const Tensor& out, int64_t stride) {
  const int64_t channels = x.size(1), rows = out.size(2), row_size = out.size(3) * channels, side = packed.size(0);
  const int64_t x_size = x.size(2) * x.size(3) * channels;
  const DepthwiseConvolution convolve{packed.data_ptr<float>(), side,     x.size(2), x.size(3),
                                      out.size(3),              channels, stride};
  at::parallel_for(0, x.size(0) * rows, grain(row_size * side), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      convolve(x.data_ptr<float>() + unit / rows * x_size, out.data_ptr<float>() + unit * row_size, unit % rows);
    }
  });
}

Tensor grouped_conv_out(const Tensor& x, const Tensor&, const Tensor&, int64_t stride) {
  return convolved(x, x.size(1), stride);
}

using Convolve = void (*)(const Tensor&, const Tensor&, const Tensor&, int64_t);

// What computes a convolution, and up to how many products it is faster than oneDNN, which takes some 50 microseconds
// before it begins; by measurement, with AVX-512 and with AVX2, whose limits the others share.
std::pair<Convolve, int64_t> kernel_for(int64_t width, int64_t side) {
  constexpr bool avx512 = kLanes == 16;
  constexpr int64_t always = std::numeric_limits<int64_t>::max();
  if (width == 1) return {convolve_channels, avx512 ? 2'200'000 : always};
  if (width == 8 && side == 3) return {convolve_groups<8>, avx512 ? 6'000'000 : always};
  if (width == 16 && side == 3) return {convolve_groups<16>, avx512 ? 6'000'000 : always};
  if (width == 24 && side == 3) return {convolve_groups<24>, avx512 ? always : 6'000'000};
  return {nullptr, -1};
}

Tensor grouped_conv(const Tensor& x, const Tensor& weight, const Tensor& packed, int64_t stride) {
  TORCH_CHECK(weight.dim() == 4 && weight.size(0) == x.size(1) && weight.size(2) == weight.size(3), "weight must be (",
              x.size(1), ", width, side, side); got ", weight.sizes());
  TORCH_CHECK(weight.size(2) % 2 == 1 && stride > 0, "side must be odd and stride positive; got ", weight.size(2),
              " and ", stride);
  const int64_t channels = x.size(1), width = weight.size(1), groups = channels / width, side = weight.size(2);
  TORCH_CHECK((width == 1 ? packed.sizes() == at::IntArrayRef({side, side, channels})
                          : packed.sizes() == at::IntArrayRef({groups, side, side, width, width})) &&
                  packed.is_contiguous(),
              "packed must be grouped_weight(weight); got ", packed.sizes());
  const Tensor given = channels_last(x);
  const auto [convolve, most_products] = kernel_for(width, side);
  if (x.numel() / (stride * stride) * width * side * side > most_products) {
    return at::conv2d(given, weight, {}, stride, side / 2, 1, groups);
  }
  const Tensor out = grouped_conv_out(given, weight, packed, stride);
  if (out.numel() > 0) convolve(given, packed, out, stride);
  return out;
}

// Convolutions of all channels are products of matrices, whose right side is packed into panels of output channels.
//
// Their factors are float32 or bfloat16; sums and maps are float32. Two bfloat16 of a row, one after the other, take
// the place of a float32, and so do those that they are multiplied with: instructions multiply such pairs and add the
// two.

using c10::BFloat16;
template <typename Number>
constexpr int64_t kPairing = sizeof(float) / sizeof(Number);

constexpr int64_t kPanel = 2 * kLanes;         // output channels that are computed at a time
constexpr int kRows = kLanes == 16 ? 12 : 6;  // whose sums of a panel fit into the registers
constexpr int64_t kBlock = 36;                // rows that are in work together: what belongs to them stays in the cache
constexpr int64_t kUnrolled = 4;              // products that are added up together where there are few rows

using WideBits = uint32_t __attribute__((vector_size(4 * kLanes)));

// sum + left * right, of floats or of pairs, whose bits `left` and `right` hold.
template <typename Number>
Wide multiply_add(const Number* left, Wide right, Wide sum) {
  float bits;
  std::memcpy(&bits, left, sizeof bits);
  if constexpr (kPairing<Number> == 1) {
    return sum + bits * right;
  } else {
#ifdef __AVX512BF16__
    const __m512bh both = reinterpret_cast<__m512bh>(_mm512_set1_ps(bits));
    return _mm512_dpbf16_ps(sum, both, reinterpret_cast<__m512bh>(right));
#else
    uint32_t pair;
    std::memcpy(&pair, left, sizeof pair);
    const WideBits pairs = reinterpret_cast<WideBits>(right);
    const auto number = [](uint32_t upper_half) { return c10::bit_cast<float>(upper_half); };
    sum += number(pair << 16) * reinterpret_cast<Wide>(pairs << 16);
    return sum + number(pair & 0xffff0000) * reinterpret_cast<Wide>(pairs & 0xffff0000);
#endif
  }
}

// Writes floats as numbers, rounded to the nearest, and to the even one of two that are as near. Instructions for
// bfloat16 take what is smaller than the smallest normal float for 0.
void put(float* to, Wide values) { store(to, values); }

void put(BFloat16* to, Wide values) {
#ifdef __AVX512BF16__
  const auto rounded = _mm512_cvtneps_pbh(values);
#else
  const WideBits bits = reinterpret_cast<WideBits>(values);
  const WideBits nearest = values == values ? (bits + 0x7fff + ((bits >> 16) & 1)) >> 16 : WideBits{} + 0x7fc0;
  using Halves = uint16_t __attribute__((vector_size(2 * kLanes)));
  const Halves rounded = __builtin_convertvector(nearest, Halves);
#endif
  static_assert(sizeof rounded == kLanes * sizeof(BFloat16));
  std::memcpy(to, &rounded, sizeof rounded);
}

template <typename Number>
void put_all(Number* to, const float* from, int64_t count) {
  if constexpr (kPairing<Number> == 1) {
    std::memcpy(to, from, count * sizeof(float));
  } else {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) put(to + i, load<Wide>(from + i));
    for (; i < count; ++i) to[i] = from[i];
  }
}

// A factor of a sum of products: where its left side begins, and where its right side does.
template <typename Number>
struct Factors {
  const Number *x, *panel;
};

// The sum of some (rows, depth) matrices each times the first `vectors` vectors of a (depth, kPanel) one; `depth` is a
// multiple of kUnrolled floats or pairs.
template <int rows, int vectors, typename Number>
void multiply(const Factors<Number>* factors, int64_t products, int64_t x_stride, int64_t depth, float* out,
              int64_t out_stride) {
  constexpr int64_t pairing = kPairing<Number>;
  // Enough sums at a time for additions not to wait for each other.
  constexpr int splits = rows >= 4 ? 1 : rows >= 2 ? 2 : kUnrolled;
  Wide sums[splits][rows][vectors] = {};
  for (int64_t product = 0; product < products; ++product) {
    const Number *x = factors[product].x, *panel = factors[product].panel;
    for (int64_t i = 0; i < depth; i += splits * pairing) {
      for (int split = 0; split < splits; ++split, panel += kPanel * pairing) {
        Wide right[vectors];
        for (int v = 0; v < vectors; ++v) std::memcpy(&right[v], panel + v * kLanes * pairing, sizeof(Wide));
        for (int row = 0; row < rows; ++row) {
          const Number* left = x + row * x_stride + i + split * pairing;
          for (int v = 0; v < vectors; ++v) sums[split][row][v] = multiply_add(left, right[v], sums[split][row][v]);
        }
      }
    }
  }
#pragma GCC unroll 12  // else the sums would be in memory
  for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) {
      Wide sum = sums[0][row][v];
#pragma GCC unroll 4
      for (int split = 1; split < splits; ++split) sum += sums[split][row][v];
      store(out + row * out_stride + v * kLanes, sum);
    }
  }
}

// The same for `count` rows, but kRows at the most.
template <int vectors = 2, int rows = kRows, typename Number>
void multiply_rows(int64_t count, const Factors<Number>* factors, int64_t products, int64_t x_stride, int64_t depth,
                   float* out, int64_t out_stride) {
  if (count >= rows) return multiply<rows, vectors>(factors, products, x_stride, depth, out, out_stride);
  if constexpr (rows > 1) {
    multiply_rows<vectors, rows - 1>(count, factors, products, x_stride, depth, out, out_stride);
  }
}

// Calls f(first row, rows, first panel, last panel) until every row has had every panel, on all threads.
template <typename F>
void for_each_block(int64_t rows, int64_t panels, F f) {
  // A block is shared by its panels where there are fewer blocks than threads.
  const int64_t blocks = at::divup(rows, kBlock);
  const int64_t parts = std::min<int64_t>(panels, at::divup(at::get_num_threads(), blocks));
  const int64_t part = at::divup(panels, parts);
  at::parallel_for(0, blocks * parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t row = unit / parts * kBlock, panel = unit % parts * part;
      if (panel < panels) f(row, std::min(kBlock, rows - row), panel, std::min(panel + part, panels));
    }
  });
}

// Adds a bias, where there is one, to what a convolution gave.
Tensor with_bias(Tensor out, const std::optional<Tensor>& bias) {
  if (!bias) return out;
  TORCH_CHECK(bias->numel() == out.size(1), "bias must have ", out.size(1), " numbers");
  return out.add_(bias->view({1, -1, 1, 1}));
}

// Memory as it is; `Number` may be one that would be set to zero.
template <typename Number>
struct Scratch {
  std::unique_ptr<float[]> floats;
  Number* get() const { return reinterpret_cast<Number*>(floats.get()); }
};

template <typename Number>
Scratch<Number> scratch_of(int64_t size) {
  return {std::unique_ptr<float[]>(new float[at::divup(size, kPairing<Number>)])};
}

template <typename Number>
struct ProductConvolution {
  const float* x;
  const Number* weight;  // see `product_weight`
  float* out;
  int64_t height, width, channels, out_height, out_width, out_channels, side, stride, depth;

  // For `count` output pixels from the first, the channels of some panels.
  void operator()(int64_t first, int64_t count, int64_t first_panel, int64_t last_panel) const {
    const bool is_matrix = side == 1 && stride == 1 && depth == channels;
    if constexpr (kPairing<Number> == 1) {
      if (is_matrix) return multiply_block(x + first * channels, first, count, first_panel, last_panel);
    }
    const auto scratch = scratch_of<Number>(count * depth);
    if (is_matrix) {
      put_all(scratch.get(), x + first * channels, count * channels);
    } else {
      for (int64_t i = 0; i < count; ++i) gather(first + i, scratch.get() + i * depth);
    }
    multiply_block(scratch.get(), first, count, first_panel, last_panel);
  }

  void multiply_block(const Number* rows, int64_t first, int64_t count, int64_t first_panel, int64_t last_panel) const {
    for (int64_t panel = first_panel; panel < last_panel; ++panel) {
      const int64_t begin = panel * kPanel, used = std::min(kPanel, out_channels - begin);
      for (int64_t i = 0; i < count; i += kRows) {
        const Factors<Number> factors{rows + i * depth, weight + panel * depth * kPanel};
        float* to = out + (first + i) * out_channels + begin;
        if (used == kPanel) {
          multiply_rows(count - i, &factors, 1, depth, depth, to, out_channels);
          continue;
        }
        float results[kRows * kPanel];
        const auto multiply_some = used > kLanes ? multiply_rows<2, kRows, Number> : multiply_rows<1, kRows, Number>;
        multiply_some(count - i, &factors, 1, depth, depth, results, kPanel);
        for (int64_t row = 0; row < std::min<int64_t>(kRows, count - i); ++row) {
          std::memcpy(to + row * out_channels, results + row * kPanel, used * 4);
        }
      }
    }
  }

  // What an output pixel sees, side by side, with zeros for the padding.
  void gather(int64_t pixel, Number* to) const {
    const int64_t image = pixel / (out_height * out_width), place = pixel % (out_height * out_width);
    const int64_t top = place / out_width * stride - side / 2, left = place % out_width * stride - side / 2;
    const int64_t first = std::max<int64_t>(0, -left), last = std::min(side, width - left);
    if (side > 1 || depth > channels) std::fill_n(to, depth, Number(0.0f));
    for (int64_t i = std::max<int64_t>(0, -top); i < std::min(side, height - top); ++i) {
      const float* from = x + ((image * height + top + i) * width + left + first) * channels;
      put_all(to + (i * side + first) * channels, from, (last - first) * channels);
    }
  }
};

// Calls f(Number()) for the type of a packed weight.
template <typename F>
auto with_number(at::ScalarType dtype, F f) {
  if (dtype == at::kBFloat16) return f(BFloat16());
  TORCH_CHECK(dtype == at::kFloat, "weights are float32 or bfloat16; got ", dtype);
  return f(float());
}

int64_t pairing_of(at::ScalarType dtype) {
  return with_number(dtype, []<typename Number>(Number) { return kPairing<Number>; });
}

// The rows of a packed weight for `channels * side * side` products each.
int64_t depth_of(int64_t products, at::ScalarType dtype) {
  const int64_t multiple = kUnrolled * pairing_of(dtype);
  return at::divup(products, multiple) * multiple;
}

// (..., depth, columns) to panels (..., panels, depth / pairing, kPanel, pairing), the numbers of a pair side by side.
Tensor panels_of(const Tensor& matrices, at::ScalarType dtype) {
  const int64_t pairing = pairing_of(dtype);
  const Tensor panels = matrices.unflatten(-1, {-1, kPanel}).unflatten(-3, {-1, pairing}).movedim({-2, -3}, {-4, -1});
  return panels.to(dtype).contiguous();
}

// A (K, C, side, side) weight as a matrix in panels: (K / p, side * side * C / pairing, p, pairing), where p is how
// many output channels are computed at a time. Zeros fill the last panel, and the rows up to a multiple of kUnrolled *
// pairing.
Tensor product_weight(const Tensor& weight, at::ScalarType dtype) {
  TORCH_CHECK(weight.dim() == 4 && weight.size(2) == weight.size(3), "weight must be (K, C, side, side); got ",
              weight.sizes());
  const Tensor matrix = weight.permute({2, 3, 1, 0}).flatten(0, 2);
  const int64_t depth = depth_of(matrix.size(0), dtype), panels = at::divup(matrix.size(1), kPanel);
  const Tensor padded = at::zeros({depth, panels * kPanel}, matrix.options());
  padded.slice(0, 0, matrix.size(0)).slice(1, 0, matrix.size(1)).copy_(matrix);
  return panels_of(padded, dtype);
}

Tensor product_conv_out(const Tensor& x, const Tensor&, const std::optional<Tensor>&, int64_t out_channels, int64_t,
                        int64_t stride) {
  return convolved(x, out_channels, stride);
}

Tensor product_conv(const Tensor& x, const Tensor& packed, const std::optional<Tensor>& bias, int64_t out_channels,
                    int64_t side, int64_t stride) {
  TORCH_CHECK(side % 2 == 1 && stride > 0, "side must be odd and stride positive; got ", side, " and ", stride);
  const Tensor given = channels_last(x);
  const int64_t channels = x.size(1), pairing = pairing_of(packed.scalar_type());
  const int64_t depth = depth_of(side * side * channels, packed.scalar_type());
  const int64_t panels = at::divup(out_channels, kPanel);
  TORCH_CHECK(packed.sizes() == at::IntArrayRef({panels, depth / pairing, kPanel, pairing}) && packed.is_contiguous(),
              "packed must be product_weight(weight) of a weight (", out_channels, ", ", channels, ", ", side, ", ",
              side, "); got ", packed.sizes());
  const Tensor out = product_conv_out(given, packed, bias, out_channels, side, stride);
  if (out.numel() == 0) return out;
  with_number(packed.scalar_type(), [&]<typename Number>(Number) {
    const ProductConvolution<Number> convolve{given.data_ptr<float>(), packed.data_ptr<Number>(), out.data_ptr<float>(),
                                              x.size(2),               x.size(3),                 channels,
                                              out.size(2),             out.size(3),               out_channels,
                                              side,                    stride,                    depth};
    for_each_block(out.numel() / out_channels, panels, convolve);
  });
  return with_bias(out, bias);
}

// Winograd's minimal 3x3 convolution F(2x2, 3x3) with padding 1 (Lavin & Gray 2015, arXiv 1509.09308): each tile of
// 2x2 outputs takes 16 products for every pair of channels, in place of 36. A tile's 4x4 inputs become 16 numbers; for
// each of these, the channels of all tiles are multiplied with a matrix; and 16 products become the 4 outputs.

constexpr int64_t kPositions = 16;

template <typename Number>
struct WinogradConvolution {
  const float* x;
  const Number* weight;  // see `winograd_weight`
  float* out;
  int64_t height, width, channels, out_channels;

  int64_t columns() const { return (width + 1) / 2; }
  int64_t tiles_per_image() const { return (height + 1) / 2 * columns(); }

  // Where the outputs of a tile begin.
  struct Corner {
    int64_t image, row, column;
  };
  Corner corner_of(int64_t tile) const {
    return {tile / tiles_per_image(), tile % tiles_per_image() / columns() * 2, tile % columns() * 2};
  }

  // For `count` tiles from the first, the output channels of some panels.
  void operator()(int64_t first, int64_t count, int64_t first_panel, int64_t last_panel) const {
    const int64_t part = (last_panel - first_panel) * kPanel;
    const auto transformed = scratch_of<Number>(kPositions * count * channels);
    const auto scratch = scratch_of<float>(channels + kPositions * count * part);
    float *padding = scratch.get(), *products = padding + channels;
    std::fill_n(padding, channels, 0.0f);
    for (int64_t t = 0; t < count; ++t) {
      transform(corner_of(first + t), padding, transformed.get() + t * channels, count * channels);
    }
    for (int64_t position = 0; position < kPositions; ++position) {
      const Number* rows = transformed.get() + position * count * channels;
      float* results = products + position * count * part;
      for (int64_t panel = first_panel; panel < last_panel; ++panel, results += kPanel) {
        const Number* matrix = weight + (position * (out_channels / kPanel) + panel) * channels * kPanel;
        for (int64_t t = 0; t < count; t += kRows) {
          const Factors<Number> factors{rows + t * channels, matrix};
          multiply_rows(count - t, &factors, 1, channels, channels, results + t * part, part);
        }
      }
    }
    for (int64_t t = 0; t < count; ++t) {
      transform_back(products + t * part, count * part, corner_of(first + t), first_panel * kPanel, part);
    }
  }

  // The 16 numbers of a tile, `stride` apart, of every channel.
  void transform(Corner corner, const float* padding, Number* to, int64_t stride) const {
    const float* pixels[4][4];
    for (int64_t i = 0; i < 4; ++i) {
      for (int64_t j = 0; j < 4; ++j) {
        const int64_t row = corner.row - 1 + i, column = corner.column - 1 + j;
        const bool inside = row >= 0 && row < height && column >= 0 && column < width;
        pixels[i][j] = inside ? x + ((corner.image * height + row) * width + column) * channels : padding;
      }
    }
    for (int64_t c = 0; c < channels; c += kLanes) {
      Wide half[4][4];
      for (int j = 0; j < 4; ++j) {
        const Wide first = load<Wide>(pixels[0][j] + c), second = load<Wide>(pixels[1][j] + c);
        const Wide third = load<Wide>(pixels[2][j] + c), fourth = load<Wide>(pixels[3][j] + c);
        half[0][j] = first - third;
        half[1][j] = second + third;
        half[2][j] = third - second;
        half[3][j] = second - fourth;
      }
      for (int i = 0; i < 4; ++i) {
        Number* row = to + 4 * i * stride + c;
        put(row, half[i][0] - half[i][2]);
        put(row + stride, half[i][1] + half[i][2]);
        put(row + 2 * stride, half[i][2] - half[i][1]);
        put(row + 3 * stride, half[i][1] - half[i][3]);
      }
    }
  }

  // From 16 products, `stride` apart, to a tile's outputs inside the image, of `part` channels from the first.
  void transform_back(const float* products, int64_t stride, Corner corner, int64_t first, int64_t part) const {
    const bool right = corner.column + 1 < width, below = corner.row + 1 < height;
    float* top = out + ((corner.image * height + corner.row) * width + corner.column) * out_channels + first;
    float* bottom = top + width * out_channels;
    for (int64_t c = 0; c < part; c += kLanes) {
      Wide half[2][4];
      for (int j = 0; j < 4; ++j) {
        const float* product = products + j * stride + c;
        const Wide first_row = load<Wide>(product), second = load<Wide>(product + 4 * stride);
        const Wide third = load<Wide>(product + 8 * stride), fourth = load<Wide>(product + 12 * stride);
        half[0][j] = first_row + second + third;
        half[1][j] = second - third - fourth;
      }
      const auto left_of = [](const Wide* row) { return row[0] + row[1] + row[2]; };
      const auto right_of = [](const Wide* row) { return row[1] - row[2] - row[3]; };
      store(top + c, left_of(half[0]));
      if (right) store(top + out_channels + c, right_of(half[0]));
      if (below) store(bottom + c, left_of(half[1]));
      if (right && below) store(bottom + out_channels + c, right_of(half[1]));
    }
  }
};

// A (K, C, 3, 3) weight as the 16 matrices that tiles are multiplied with, in panels: (16, K / p, C / pairing, p,
// pairing), where p is how many output channels are computed at a time.
Tensor winograd_weight(const Tensor& weight, at::ScalarType dtype) {
  TORCH_CHECK(weight.dim() == 4 && weight.size(2) == 3 && weight.size(3) == 3 && weight.size(0) % 32 == 0 &&
                  weight.size(1) % 32 == 0,
              "weight must be (K, C, 3, 3), with K and C multiples of 32; got ", weight.sizes());
  const Tensor values = at::tensor({1.0, 0.0, 0.0, 0.5, 0.5, 0.5, 0.5, -0.5, 0.5, 0.0, 0.0, 1.0}, at::kDouble);
  const Tensor transform = values.view({4, 3}).to(weight.device());
  const Tensor matrices = at::einsum("ih,kchw,jw->ijck", {transform, weight.to(at::kDouble), transform});
  return panels_of(matrices.flatten(0, 1), dtype);
}

// A 3x3 convolution with padding 1 of small maps: it leaves out the products with the padding, which are more than half
// of all in a map of 2x2 pixels.
template <typename Number>
struct SmallMapConvolution {
  const Number *x, *weight;  // of the weight, see `product_weight`
  float* out;
  int64_t height, width, channels, out_channels;

  // For `count` images from the first, the output channels of some panels.
  void operator()(int64_t first, int64_t count, int64_t first_panel, int64_t last_panel) const {
    for (int64_t panel = first_panel; panel < last_panel; ++panel) {
      if (count < kRows) {
        sum_taps(first, count, panel);
      } else {
        for (int64_t i = 0; i < count; i += kRows) sum_images(first + i, count - i, panel);
      }
    }
  }

  // Whether a tap of the kernel sees a pixel of the image, and no padding.
  bool is_inside(int64_t pixel, int64_t tap) const {
    const int64_t row = pixel / width + tap / 3 - 1, column = pixel % width + tap % 3 - 1;
    return row >= 0 && row < height && column >= 0 && column < width;
  }

  // How far this pixel of the image is from the tap's centre.
  int64_t offset(int64_t tap) const { return (tap / 3 - 1) * width + tap % 3 - 1; }

  const Number* factors_of(int64_t panel, int64_t tap) const { return weight + (panel * 9 + tap) * channels * kPanel; }

  // Pixel by pixel, for `count` images but kRows at the most.
  void sum_images(int64_t first, int64_t count, int64_t panel) const {
    const int64_t pixels = height * width;
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      Factors<Number> factors[9];
      int64_t products = 0;
      for (int64_t tap = 0; tap < 9; ++tap) {
        if (!is_inside(pixel, tap)) continue;
        factors[products++] = {x + (first * pixels + pixel + offset(tap)) * channels, factors_of(panel, tap)};
      }
      float* to = out + (first * pixels + pixel) * out_channels + panel * kPanel;
      multiply_rows(count, factors, products, pixels * channels, channels, to, pixels * out_channels);
    }
  }

  // Tap by tap, for all pixels of images that are too few for the sums above to be worth reading a matrix for: so each
  // is read once.
  void sum_taps(int64_t first, int64_t count, int64_t panel) const {
    const int64_t pixels = height * width;
    const auto scratch = scratch_of<Number>(kRows * channels);
    std::vector<float> sums(count * pixels * kPanel);
    for (int64_t tap = 0; tap < 9; ++tap) {
      const Factors<Number> factors{scratch.get(), factors_of(panel, tap)};
      float* targets[kRows];
      int64_t rows = 0;
      const auto multiply_and_add = [&] {
        float results[kRows * kPanel];
        multiply_rows(rows, &factors, 1, channels, channels, results, kPanel);
        for (int64_t row = 0; row < rows; ++row) {
          for (int64_t c = 0; c < kPanel; ++c) targets[row][c] += results[row * kPanel + c];
        }
        rows = 0;
      };
      for (int64_t i = 0; i < count * pixels; ++i) {
        if (!is_inside(i % pixels, tap)) continue;
        const Number* pixel = x + (first * pixels + i + offset(tap)) * channels;
        std::memcpy(scratch.get() + rows * channels, pixel, channels * sizeof(Number));
        targets[rows++] = sums.data() + i * kPanel;
        if (rows == kRows) multiply_and_add();
      }
      if (rows > 0) multiply_and_add();
    }
    for (int64_t i = 0; i < count * pixels; ++i) {
      std::memcpy(out + (first * pixels + i) * out_channels + panel * kPanel, sums.data() + i * kPanel, kPanel * 4);
    }
  }
};

Tensor conv3x3_out(const Tensor& x, const Tensor& winograds, const Tensor&, const std::optional<Tensor>&) {
  return convolved(x, winograds.size(1) * kPanel, 1);
}

Tensor conv3x3(const Tensor& x, const Tensor& winograds, const Tensor& products, const std::optional<Tensor>& bias) {
  const Tensor given = channels_last(x);
  const int64_t channels = x.size(1), height = x.size(2), width = x.size(3), panels = winograds.size(1);
  const int64_t pairing = pairing_of(winograds.scalar_type()), depth = channels / pairing;
  TORCH_CHECK(channels % 32 == 0 &&
                  winograds.sizes() == at::IntArrayRef({kPositions, panels, depth, kPanel, pairing}) &&
                  products.sizes() == at::IntArrayRef({panels, 9 * depth, kPanel, pairing}) &&
                  products.scalar_type() == winograds.scalar_type() && winograds.is_contiguous() &&
                  products.is_contiguous(),
              "weights must be winograd_weight(weight) and product_weight(weight) for ", channels, " channels; got ",
              winograds.sizes(), " and ", products.sizes());
  const Tensor out = conv3x3_out(given, winograds, products, bias);
  if (out.numel() == 0) return out;
  with_number(winograds.scalar_type(), [&]<typename Number>(Number) {
    // Whichever takes fewer products.
    const int64_t tiles = at::divup(height, 2) * at::divup(width, 2);
    if ((3 * height - 2) * (3 * width - 2) <= kPositions * tiles) {
      const Tensor factors = given.to(products.scalar_type());
      const SmallMapConvolution<Number> convolve{factors.data_ptr<Number>(), products.data_ptr<Number>(),
                                                 out.data_ptr<float>(),      height,
                                                 width,                      channels,
                                                 out.size(1)};
      for_each_block(x.size(0), panels, convolve);
    } else {
      const WinogradConvolution<Number> convolve{given.data_ptr<float>(), winograds.data_ptr<Number>(),
                                                 out.data_ptr<float>(),   height,
                                                 width,                   channels,
                                                 out.size(1)};
      for_each_block(x.size(0) * tiles, panels, convolve);
    }
  });
  return with_bias(out, bias);
}

}  // namespace

TORCH_LIBRARY(defm_rl, library) {
  library.def(
      "group_norm_act_(Tensor(a!) x, int groups, Tensor weight, Tensor bias, float eps, str activation, "
      "Tensor? residual=None) -> Tensor(a!)");
  library.def(
      "squeeze_excite_(Tensor(a!) x, Tensor weight1, Tensor bias1, Tensor weight2, Tensor bias2, str activation) "
      "-> Tensor(a!)");
  library.def("grouped_conv(Tensor x, Tensor weight, Tensor packed, int stride) -> Tensor");
  library.def("product_weight(Tensor weight, ScalarType dtype) -> Tensor");
  library.def(
      "product_conv(Tensor x, Tensor packed, Tensor? bias, int out_channels, int side, int stride) -> Tensor");
  library.def("winograd_weight(Tensor weight, ScalarType dtype) -> Tensor");
  library.def("conv3x3(Tensor x, Tensor winograds, Tensor products, Tensor? bias) -> Tensor");
}

TORCH_LIBRARY_IMPL(defm_rl, CPU, library) {
  library.impl("group_norm_act_", TORCH_FN(group_norm_act_));
  library.impl("squeeze_excite_", TORCH_FN(squeeze_excite_));
  library.impl("grouped_conv", TORCH_FN(grouped_conv));
  library.impl("product_weight", TORCH_FN(product_weight));
  library.impl("product_conv", TORCH_FN(product_conv));
  library.impl("winograd_weight", TORCH_FN(winograd_weight));
  library.impl("conv3x3", TORCH_FN(conv3x3));
}

// Of tensors without data.
TORCH_LIBRARY_IMPL(defm_rl, Meta, library) {
  library.impl("group_norm_act_",
               [](Tensor& x, int64_t, const Tensor&, const Tensor&, double, c10::string_view,
                  const std::optional<Tensor>&) -> Tensor& { return x; });
  library.impl("squeeze_excite_", [](Tensor& x, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                     c10::string_view) -> Tensor& { return x; });
  library.impl("grouped_conv", TORCH_FN(grouped_conv_out));
  library.impl("product_weight", TORCH_FN(product_weight));
  library.impl("product_conv", TORCH_FN(product_conv_out));
  library.impl("winograd_weight", TORCH_FN(winograd_weight));
  library.impl("conv3x3", TORCH_FN(conv3x3_out));
}
