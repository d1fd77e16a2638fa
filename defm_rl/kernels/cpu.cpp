// Operations of a frozen network on a processor, of float32 maps with the channels last: group normalization with
// residual and activation, and squeeze and excitation, each one operation in place; convolutions in small groups.
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

  const double pixels = static_cast<double>(x.pixels);
  for (int64_t start = first; start < last; start += group) {
    double mean = 0.0, square = 0.0;
    for (c = start; c < start + group; ++c) mean += x.data[c] + sums[c] / pixels;
    mean /= group;
    for (c = start; c < start + group; ++c) {
      const double difference = sums[c] / pixels, offset = x.data[c] - mean;
      square += squares[c] / pixels + offset * (2.0 * difference + offset);
    }
    const double inverse_std = 1.0 / std::sqrt(std::max(square / group, 0.0) + eps);
    for (c = start; c < start + group; ++c) {
      const double factor = weight[c] * inverse_std;
      scale[c] = static_cast<float>(factor);
      shift[c] = static_cast<float>(bias[c] - mean * factor);
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

Tensor& squeeze_excite_(Tensor& x, const Tensor& weight1, const Tensor& bias1, const Tensor& weight2,
                        const Tensor& bias2, c10::string_view activation) {
  const int64_t images = x.size(0), channels = x.size(1), pixels = x.size(2) * x.size(3);
  if (x.numel() == 0) return x;
  const Tensor y = channels_last(x);
  Tensor means = at::empty({images, channels}, y.options().memory_format(at::MemoryFormat::Contiguous));
  const auto map_of = [&](int64_t image) {
    return Map{y.data_ptr<float>() + image * pixels * channels, pixels, channels};
  };
  at::parallel_for(0, images, grain(pixels * channels), [&](int64_t begin, int64_t end) {
    for (int64_t image = begin; image < end; ++image) {
      const Map map = map_of(image);
      float* mean = means.data_ptr<float>() + image * channels;
      std::fill_n(mean, channels, 0.0f);
      for (int64_t i = 0; i < pixels; ++i) {
        for_each_vector(channels, [&](int64_t c, int64_t lanes) {
          (Vec::loadu(mean + c, lanes) + Vec::loadu(map.data + i * channels + c, lanes)).store(mean + c, lanes);
        });
      }
      for (int64_t c = 0; c < channels; ++c) mean[c] /= static_cast<float>(pixels);
    }
  });

  Tensor hidden = at::addmm(bias1, means, weight1);
  with_activation(activation_of(activation), [&](auto constant) {
    float* values = hidden.data_ptr<float>();
    for_each_vector(hidden.numel(), [&](int64_t i, int64_t lanes) {
      activate<decltype(constant)::value>(Vec::loadu(values + i, lanes)).store(values + i, lanes);
    });
  });
  Tensor gates = at::addmm(bias2, hidden, weight2);
  at::parallel_for(0, images, grain(pixels * channels), [&](int64_t begin, int64_t end) {
    for (int64_t image = begin; image < end; ++image) {
      const Map map = map_of(image);
      float* gate = gates.data_ptr<float>() + image * channels;
      for_each_vector(channels, [&](int64_t c, int64_t lanes) {
        sigmoid(Vec::loadu(gate + c, lanes)).store(gate + c, lanes);
      });
      for (int64_t i = 0; i < pixels; ++i) {
        float* pixel = map.data + i * channels;
        for_each_vector(channels, [&](int64_t c, int64_t lanes) {
          (Vec::loadu(pixel + c, lanes) * Vec::loadu(gate + c, lanes)).store(pixel + c, lanes);
        });
      }
    }
  });
  put_back(x, y);
  return x;
}

// Eight channels. Compilers make of it what the processor has.
using Eight = float __attribute__((vector_size(32)));

Eight load_eight(const float* from) {
  Eight values;
  std::memcpy(&values, from, sizeof values);
  return values;
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
              const Eight factor = load_eight(factors + 8 * part);
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
  // All images of a group after each other: its weights stay in the cache.
  at::parallel_for(0, groups * images, grain(out_size / groups * width), [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(convolve.scratch_size());
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t first = unit / images * width, image = unit % images;
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
    const int64_t top = row * stride - side / 2;
    const int64_t first_row = std::max<int64_t>(0, -top), last_row = std::min(side, height - top);
    for (int64_t column = 0; column < out_width; ++column) {
      const int64_t left = column * stride - side / 2;
      const int64_t first_column = std::max<int64_t>(0, -left), last_column = std::min(side, x_width - left);
      const auto sum = [&](auto count, int64_t c, int64_t lanes) {
        constexpr int vectors = decltype(count)::value;
        Vec sums[vectors];
        for (int v = 0; v < vectors; ++v) sums[v] = Vec(0.0f);
        for (int64_t i = first_row; i < last_row; ++i) {
          for (int64_t j = first_column; j < last_column; ++j) {
            const float* input = x + ((top + i) * x_width + left + j) * channels + c;
            const float* factors = weight + (i * side + j) * channels + c;
            for (int v = 0; v < vectors; ++v) {
              sums[v] = at::vec::fmadd(Vec::loadu(input + v * kLanes, lanes), Vec::loadu(factors + v * kLanes, lanes),
                                       sums[v]);
            }
          }
        }
        for (int v = 0; v < vectors; ++v) sums[v].store(out + column * channels + c + v * kLanes, lanes);
      };
      // Several vectors at a time for additions not to wait for each other.
      int64_t c = 0;
      for (; c + 4 * kLanes <= channels; c += 4 * kLanes) sum(std::integral_constant<int, 4>(), c, kLanes);
      for (; c < channels; c += kLanes) sum(std::integral_constant<int, 1>(), c, std::min(kLanes, channels - c));
    }
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
  const auto extent = [&](int64_t side) { return (side - 1) / stride + 1; };
  return at::empty({x.size(0), x.size(1), extent(x.size(2)), extent(x.size(3))},
                   x.options().memory_format(at::MemoryFormat::ChannelsLast));
}

using Convolve = void (*)(const Tensor&, const Tensor&, const Tensor&, int64_t);

// What computes a convolution, and up to how many products it is faster than oneDNN, which takes some 50 microseconds
// before it begins; by measurement.
std::pair<Convolve, int64_t> kernel_for(int64_t width, int64_t side) {
  if (width == 1) return {convolve_channels, 2'200'000};
  if (width == 8 && side == 3) return {convolve_groups<8>, 6'000'000};
  if (width == 16 && side == 3) return {convolve_groups<16>, 6'000'000};
  if (width == 24 && side == 3) return {convolve_groups<24>, std::numeric_limits<int64_t>::max()};
  return {nullptr, -1};
}

Tensor grouped_conv(const Tensor& x, const Tensor& weight, const Tensor& packed, int64_t stride) {
  TORCH_CHECK(weight.dim() == 4 && weight.size(0) == x.size(1) && weight.size(2) == weight.size(3), "weight must be (",
              x.size(1), ", width, side, side); got ", weight.sizes());
  const int64_t channels = x.size(1), width = weight.size(1), groups = channels / width, side = weight.size(2);
  TORCH_CHECK((width == 1 ? packed.sizes() == at::IntArrayRef({side, side, channels})
                          : packed.sizes() == at::IntArrayRef({groups, side, side, width, width})) &&
                  packed.is_contiguous(),
              "packed must be packed_weight(weight); got ", packed.sizes());
  const Tensor given = channels_last(x);
  const auto [convolve, most_products] = kernel_for(width, side);
  if (x.numel() / (stride * stride) * width * side * side > most_products) {
    return at::conv2d(given, weight, {}, stride, side / 2, 1, groups);
  }
  const Tensor out = grouped_conv_out(given, weight, packed, stride);
  convolve(given, packed, out, stride);
  return out;
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
}

TORCH_LIBRARY_IMPL(defm_rl, CPU, library) {
  library.impl("group_norm_act_", TORCH_FN(group_norm_act_));
  library.impl("squeeze_excite_", TORCH_FN(squeeze_excite_));
  library.impl("grouped_conv", TORCH_FN(grouped_conv));
}

// Of tensors without data.
TORCH_LIBRARY_IMPL(defm_rl, Meta, library) {
  library.impl("group_norm_act_",
               [](Tensor& x, int64_t, const Tensor&, const Tensor&, double, c10::string_view,
                  const std::optional<Tensor>&) -> Tensor& { return x; });
  library.impl("squeeze_excite_", [](Tensor& x, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                     c10::string_view) -> Tensor& { return x; });
  library.impl("grouped_conv", TORCH_FN(grouped_conv_out));
}
