// Simulated depth cameras on a processor: the random numbers, and those of `defm_rl.sensors.operators` that PyTorch
// needs many passes for. Each frame is read and written once. `cpu_sensors.py` builds it, for the vector instructions of
// the machine, and calls it; what the functions compute stands in PyTorch's operations beside their callers.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "vectors.h"

namespace {

using Words = uint32_t __attribute__((vector_size(4 * kLanes)));

constexpr float kInfinity = std::numeric_limits<float>::infinity();

Floats sqrt(Floats x) {
  Floats root;
  for (int lane = 0; lane < kLanes; ++lane) root[lane] = __builtin_sqrtf(x[lane]);
  return root;
}

// To the nearest integer, the even one of two.
Floats round(Floats x) {
  Floats rounded;
  for (int lane = 0; lane < kLanes; ++lane) rounded[lane] = __builtin_nearbyintf(x[lane]);
  return rounded;
}

// 1 / x, and 0 where x is not positive.
Floats inverse(Floats x) { return x > Floats{} ? 1.0f / x : Floats{}; }

Floats abs(Floats x) { return x < 0.0f ? -x : x; }

Floats floats(Ints x) { return __builtin_convertvector(x, Floats); }
Ints integers(Floats x) { return __builtin_convertvector(x, Ints); }  // towards 0

Ints iota() {
  Ints lanes;
  for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = lane;
  return lanes;
}

// sin(x) and cos(x) for |x| up to pi / 4, and asin(x) for |x| up to 1/2: the polynomials of Cephes (Moshier 1989).
Floats sine(Floats x) {
  const Floats z = x * x;
  return ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * x + x;
}

Floats cosine(Floats x) {
  const Floats z = x * x;
  return ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z - 0.5f * z + 1.0f;
}

Floats arc_sine(Floats x) {
  const Floats z = x * x;
  const Floats sum = ((4.2163199048e-2f * z + 2.4181311049e-2f) * z + 4.5470025998e-2f) * z + 7.4953002686e-2f;
  return (sum * z + 1.6666752422e-1f) * z * x + x;
}

// Of cosines from 0 to 1.
Floats arc_cosine(Floats x) {
  const Ints large = x > all(0.5f);
  const Floats sine = arc_sine(large ? sqrt(0.5f * (1.0f - x)) : x);
  return large ? 2.0f * sine : static_cast<float>(M_PI_2) - sine;
}

// Calls f(frame) for every frame of a batch.
template <typename F>
void for_each_frame(int64_t batch, int64_t threads, F f) {
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t frame = 0; frame < batch; ++frame) f(frame);
}

// Calls f(i, load, store) for every vector of `count` numbers, see `for_each_vector`.
template <typename F>
void for_each_pixel(int64_t count, int64_t threads, F f) {
  const int64_t share = (count / threads / kLanes + 1) * kLanes;
  for_each_frame(threads, threads, [=](int64_t part) {
    const int64_t first = std::min(part * share, count), last = std::min(first + share, count);
    for_each_vector(last - first, 0.0f,
                    [&](int64_t i, auto load_some, auto store_some) { f(first + i, load_some, store_some); });
  });
}

// Random numbers: see `defm_rl/sensors/noise.py`.

constexpr uint32_t kGolden = 0x9E3779B9u;

Words mix(Words x) {
  x = (x ^ (x >> 16)) * 0x7FEB352Du;
  x = (x ^ (x >> 15)) * 0x846CA68Bu;
  return x ^ (x >> 16);
}

// What kernels are given of a batch's random numbers: the state of each frame, and the salts of the draws.
struct Pairs {
  const int32_t *low, *high;
  uint64_t radius_salt, angle_salt;
};

// One draw of one frame: 24 random bits for each counter.
struct Draw {
  uint32_t low, high;

  Draw(int32_t low, int32_t high, uint64_t salt)
      : low(static_cast<uint32_t>(low) ^ static_cast<uint32_t>(salt)),
        high(static_cast<uint32_t>(high) ^ static_cast<uint32_t>(salt >> 32)) {}

  Ints bits(Words counters) const { return reinterpret_cast<Ints>(mix(mix(counters ^ low) ^ high) >> 8); }
};

uint64_t mix_64(uint64_t x) {
  x *= 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

Words counters_from(int64_t first) { return (reinterpret_cast<Words>(iota()) + static_cast<uint32_t>(first)) * kGolden; }

constexpr float kPerBit = 0x1p-24f;

// Two normal numbers, by Box and Muller, of 24 bits each for the radius and for the angle.
inline __attribute__((always_inline)) void normal_pair(Ints radius_bits, Ints angle_bits, Floats& first,
                                                       Floats& second) {
  const Floats radius = sqrt(-2.0f * log(floats((1 << 24) - radius_bits) * kPerBit, Floats{}));
  // The angle is so many quarters of a turn, and up to an eighth more or less.
  const Ints quarter = (angle_bits + (1 << 21)) >> 22;
  const Floats rest = floats(angle_bits - (quarter << 22)) * static_cast<float>(2 * M_PI / (1 << 24));
  const Floats a = radius * cosine(rest), b = radius * sine(rest);
  const Ints odd = (quarter & 1) != 0;
  const auto with_sign = [](Floats x, Ints sign) {  // that of the highest bit changes it
    return reinterpret_cast<Floats>(reinterpret_cast<Ints>(x) ^ (sign & std::numeric_limits<int32_t>::min()));
  };
  first = with_sign(odd ? b : a, (quarter + 1) << 30);
  second = with_sign(odd ? a : b, quarter << 30);
}

// Calls f(first, load, store, normals) for every vector of a frame's `count` normal numbers, see `for_each_vector`. The
// cosines of all pairs come before the sines.
template <typename F>
void for_each_normal(const Pairs& pairs, int64_t frame, int64_t count, F f) {
  const Draw radius(pairs.low[frame], pairs.high[frame], pairs.radius_salt);
  const Draw angle(pairs.low[frame], pairs.high[frame], pairs.angle_salt);
  const int64_t half = (count + 1) / 2;
  for_each_vector(half, 0.0f, [&](int64_t i, auto load_some, auto store_some) {
    const Words counters = counters_from(i);
    Floats cosines, sines;
    normal_pair(radius.bits(counters), angle.bits(counters), cosines, sines);
    f(i, load_some, store_some, cosines);
    if (half + i + kLanes <= count) {
      f(half + i, load_some, store_some, sines);
    } else {
      // There may be one less of these.
      for_each_vector(count - half - i, 0.0f, [&](int64_t, auto load_last, auto store_last) {
        f(half + i, load_last, store_last, sines);
      });
    }
  });
}

// A plane with a border of one pixel.
struct Bordered {
  int64_t stride;
  std::vector<float> pixels;

  Bordered(int64_t height, int64_t width) : stride(width + 2), pixels((height + 2) * stride) {}
  float* row(int64_t y) { return pixels.data() + (y + 1) * stride + 1; }
};

// Of the differences to both neighbours the smaller; those to holes, which are 0, do not count.
Floats smaller_difference(Floats before, Floats centre, Floats after) {
  const Floats none = {};
  const Ints there = centre > none;
  const Floats back = there & (before > none) ? centre - before : all(kInfinity);
  const Floats on = there & (after > none) ? after - centre : all(kInfinity);
  const Floats smaller = abs(back) < abs(on) ? back : on;
  return smaller == all(kInfinity) ? none : smaller;
}

// A mask with its four neighbours.
void grow(const uint8_t* mask, uint8_t* grown, int64_t height, int64_t width) {
  for (int64_t y = 0; y < height; ++y, mask += width, grown += width) {
    std::memcpy(grown, mask, width);
    for (int64_t x = 1; x < width; ++x) grown[x] |= mask[x - 1];
    for (int64_t x = 1; x < width; ++x) grown[x - 1] |= mask[x];
    if (y > 0) {
      for (int64_t x = 0; x < width; ++x) grown[x] |= mask[x - width];
    }
    if (y < height - 1) {
      for (int64_t x = 0; x < width; ++x) grown[x] |= mask[x + width];
    }
  }
}

}  // namespace

extern "C" {

// (batch, count) numbers. `low` and `high` are the state of each frame, `salt` that of the draw.
void uniform(const int32_t* low, const int32_t* high, uint64_t salt, float* out, int64_t batch, int64_t count,
             int64_t threads) {
  for_each_frame(batch, threads, [=](int64_t frame) {
    const Draw draw(low[frame], high[frame], salt);
    for_each_vector(count, 0.0f, [&](int64_t i, auto, auto store_some) {
      store_some(out + frame * count + i, floats(draw.bits(counters_from(i))) * kPerBit);
    });
  });
}

// The state of each frame, of its stream's number and its own.
void state(int64_t seed, const int64_t* streams, const int64_t* frames, int32_t* low, int32_t* high, int64_t batch) {
  for (int64_t i = 0; i < batch; ++i) {
    const uint64_t stream = mix_64(static_cast<uint64_t>(streams[i]) + static_cast<uint64_t>(seed));
    const uint64_t mixed = mix_64(stream + static_cast<uint64_t>(frames[i]));
    low[i] = static_cast<int32_t>(mixed);
    high[i] = static_cast<int32_t>(mixed >> 32);
  }
}

// mean + sigma * N; without a mean 0, and without sigmas that of all.
void normal(const int32_t* low, const int32_t* high, uint64_t radius_salt, uint64_t angle_salt, const float* mean,
            const float* sigmas, float sigma, float* out, int64_t batch, int64_t count, int64_t threads) {
  const Pairs pairs{low, high, radius_salt, angle_salt};
  for_each_frame(batch, threads, [=](int64_t frame) {
    const int64_t start = frame * count;
    for_each_normal(pairs, frame, count, [&](int64_t i, auto load_some, auto store_some, Floats normals) {
      normals *= sigmas == nullptr ? all(sigma) : load_some(sigmas + start + i);
      if (mean != nullptr) normals += load_some(mean + start + i);
      store_some(out + start + i, normals);
    });
  });
}

void triangulate(const float* depth, const int32_t* low, const int32_t* high, uint64_t radius_salt, uint64_t angle_salt,
                 float* out, int64_t batch, int64_t count, float constant, float sigma, float steps, float largest,
                 int64_t threads) {
  const Pairs pairs{low, high, radius_salt, angle_salt};
  for_each_frame(batch, threads, [=](int64_t frame) {
    const int64_t start = frame * count;
    for_each_normal(pairs, frame, count, [&](int64_t i, auto load_some, auto store_some, Floats normals) {
      const Floats disparity = inverse(load_some(depth + start + i)) * constant + normals * sigma;
      const Floats measured = round(disparity * steps) / steps;
      store_some(out + start + i, measured <= all(largest) ? inverse(measured) * constant : Floats{});
    });
  });
}

// x where it is from `least` to `most` and `also` is positive, else 0.
void within(const float* x, const float* also, float* out, int64_t count, float least, float most, int64_t threads) {
  for_each_pixel(count, threads, [=](int64_t i, auto load_some, auto store_some) {
    const Floats values = load_some(x + i);
    const Ints valid = (values >= all(least)) & (values <= all(most)) & (load_some(also + i) > Floats{});
    store_some(out + i, valid ? values : Floats{});
  });
}

// `inside` where least <= x < below, else `outside`; null for the number beside it.
void choose(const float* x, const float* inside, const float* outside, float* out, int64_t count, float least,
            float below, float inside_value, float outside_value, int64_t threads) {
  for_each_pixel(count, threads, [=](int64_t i, auto load_some, auto store_some) {
    const Floats values = load_some(x + i);
    const Ints is_inside = (values >= all(least)) & (values < all(below));
    const Floats a = inside == nullptr ? all(inside_value) : load_some(inside + i);
    const Floats b = outside == nullptr ? all(outside_value) : load_some(outside + i);
    store_some(out + i, is_inside ? a : b);
  });
}

void occluded(const float* disparity, const float* dither, uint8_t* out, int64_t batch, int64_t height, int64_t width,
              float largest_px, float steepest, int64_t threads) {
  int64_t reach = 1;
  while (static_cast<float>(reach) <= std::min(largest_px + 1.0f, static_cast<float>(width - 1))) reach *= 2;
  // To the right of a row nothing lands.
  const int64_t stride = width + reach + kLanes;
  for_each_frame(batch, threads, [=](int64_t frame) {
    std::vector<float> landing(height * stride, kInfinity);
    std::vector<int32_t> lost(width + kLanes);
    for (int64_t y = 0; y < height; ++y) {
      for_each_vector(width, 0.0f, [&](int64_t x, auto load_some, auto store_some) {
        const Floats columns = floats(iota() + static_cast<int32_t>(x));
        store_some(landing.data() + y * stride + x, columns - load_some(disparity + (frame * height + y) * width + x));
      });
    }
    // The whole frame in each round: what a vector was just written to is slow to read at other offsets.
    std::vector<float> lowest = landing;
    for (int64_t step = 1; step < reach; step *= 2) {
      for (float* row = lowest.data(); row < lowest.data() + height * stride; row += stride) {
        for (int64_t x = 0; x < width; x += kLanes) store(row + x, smaller(load(row + x), load(row + x + step)));
      }
    }
    for (int64_t y = 0; y < height; ++y) {
      const int64_t start = (frame * height + y) * width;
      lowest[y * stride + width] = static_cast<float>(width);  // counts to the right of the last pixel
      for_each_vector(width, 0.0f, [&](int64_t x, auto load_some, auto) {
        const Floats places = load(landing.data() + y * stride + x), others = load(lowest.data() + y * stride + x + 1);
        const Floats moved = places + load_some(dither + start + x);
        const Ints hidden = (moved > others - 0.5f) & (others - places < all(1.0f - steepest));
        const Ints either = hidden | (moved < all(-0.5f));
        std::memcpy(lost.data() + x, &either, sizeof either);
      });
      for (int64_t x = 0; x < width; ++x) out[start + x] = lost[x] & 1;
    }
  });
}

void near_edges(const float* disparity, const float* chance, uint8_t* out, int64_t batch, int64_t height, int64_t width,
                float jump_px, float width_px, int64_t threads) {
  const int64_t pixels = height * width;
  const int64_t whole = static_cast<int64_t>(width_px);
  const float rest = width_px - static_cast<float>(whole);
  for_each_frame(batch, threads, [=](int64_t frame) {
    const float *here = disparity + frame * pixels, *draw = chance + frame * pixels;
    std::vector<uint8_t> edge(pixels), grown(pixels), jumps(pixels);
    for (const int64_t step : {int64_t{1}, width}) {  // to the right, and down
      if (step >= pixels) continue;
      for (int64_t i = 0; i < pixels - step; ++i) jumps[i] = std::fabs(here[i + step] - here[i]) > jump_px;
      if (step == 1 && width > 1) {
        for (int64_t i = width - 1; i < pixels; i += width) jumps[i] = 0;  // the next row is no neighbour
      }
      for (int64_t i = 0; i < pixels - step; ++i) edge[i] |= jumps[i];
      for (int64_t i = 0; i < pixels - step; ++i) edge[i + step] |= jumps[i];
    }
    for (int64_t i = 1; i < whole; ++i) {
      grow(edge.data(), grown.data(), height, width);
      edge.swap(grown);
    }
    if (whole > 0) grow(edge.data(), grown.data(), height, width);
    uint8_t* near = out + frame * pixels;
    if (whole > 0) {
      for (int64_t i = 0; i < pixels; ++i) near[i] = edge[i] | (grown[i] & (draw[i] < rest));
    } else {
      for (int64_t i = 0; i < pixels; ++i) near[i] = edge[i] & (draw[i] < rest);
    }
  });
}

void surface_angle(const float* depth, float* out, int64_t batch, int64_t height, int64_t width, float focal_px,
                   int64_t threads) {
  const int64_t pixels = height * width;
  for_each_frame(batch, threads, [=](int64_t frame) {
    Bordered inverses(height, width);
    for (int64_t y = 0; y < height; ++y) {
      const float* row = depth + frame * pixels + y * width;
      for_each_vector(width, 0.0f, [&](int64_t x, auto load_some, auto store_some) {
        const Floats values = load_some(row + x);
        store_some(inverses.row(y) + x, inverse(values));
      });
    }
    for (int64_t row = 0; row < height; ++row) {
      const float y = (static_cast<float>(row) - static_cast<float>(height - 1) / 2) / focal_px;
      const float *above = inverses.row(row - 1), *here = inverses.row(row), *below = inverses.row(row + 1);
      for_each_vector(width, 0.0f, [&](int64_t column, auto load_some, auto store_some) {
        const Floats q = load_some(here + column);
        const Floats columns = floats(iota() + static_cast<int32_t>(column));
        const Floats x = (columns - static_cast<float>(width - 1) / 2) / focal_px;
        const Floats left = load_some(here + column - 1), right = load_some(here + column + 1);
        const Floats n_x = smaller_difference(left, q, right) * focal_px;
        const Floats n_y = smaller_difference(load_some(above + column), q, load_some(below + column)) * focal_px;
        const Floats n_z = q - x * n_x - y * n_y;
        const Floats length = sqrt((n_x * n_x + n_y * n_y + n_z * n_z) * (x * x + y * y + 1.0f));
        const Floats angle = arc_cosine(smaller(q / larger(length, all(1e-12f)), all(1.0f)));
        store_some(out + frame * pixels + row * width + column, angle);
      });
    }
  });
}

// Each pixel reads so many pixels away, rounded; `other` is read at the same places, or null.
void read_shifted(const float* image, const float* other, const float* y, const float* x, float* out, float* other_out,
                  int64_t batch, int64_t height, int64_t width, int64_t threads) {
  const Floats bottom = all(static_cast<float>(height - 1)), right = all(static_cast<float>(width - 1));
  for_each_frame(batch, threads, [=](int64_t frame) {
    const int64_t first = frame * height * width;
    for (int64_t line = 0; line < height; ++line) {
      const int64_t start = first + line * width;
      for_each_vector(width, 0.0f, [&](int64_t i, auto load_some, auto store_some) {
        const Floats columns = floats(iota() + static_cast<int32_t>(i));
        const Floats row = smaller(larger(round(load_some(y + start + i)) + static_cast<float>(line), Floats{}), bottom);
        const Floats column = smaller(larger(round(load_some(x + start + i)) + columns, Floats{}), right);
        const Ints places = integers(row) * static_cast<int32_t>(width) + integers(column);
        const auto read = [&](const float* from, float* to) {
          Floats values;
          for (int lane = 0; lane < kLanes; ++lane) values[lane] = from[first + places[lane]];
          store_some(to + start + i, values);
        };
        read(image, out);
        if (other != nullptr) read(other, other_out);
      });
    }
  });
}

// `y` and `x` are how far away each pixel reads, in pixels.
void sample_shifted(const float* depth, const float* y, const float* x, float* out, int64_t batch, int64_t height,
                    int64_t width, int64_t threads) {
  const int64_t pixels = height * width;
  const auto clamped = [](Floats at, int64_t size) {
    return smaller(larger(at, Floats{}), all(static_cast<float>(size - 1)));
  };
  for_each_frame(batch, threads, [=](int64_t frame) {
    const float* image = depth + frame * pixels;
    for (int64_t line = 0; line < height; ++line) {
      const int64_t start = frame * pixels + line * width;
      for_each_vector(width, 0.0f, [&](int64_t i, auto load_some, auto store_some) {
        const Floats columns = floats(iota() + static_cast<int32_t>(i));
        const Floats row = clamped(load_some(y + start + i) + static_cast<float>(line), height);
        const Floats column = clamped(load_some(x + start + i) + columns, width);
        const Ints top = integers(row), left = integers(column);
        const Floats down = row - floats(top), across = column - floats(left);
        const Ints first = top * static_cast<int32_t>(width) + left;
        // On the border the next pixel has no weight: the same is read again.
        const Ints right = (left < static_cast<int32_t>(width - 1)) & 1;
        const Ints below = (top < static_cast<int32_t>(height - 1)) & static_cast<int32_t>(width);
        const Ints places[] = {first, first + right, first + below, first + right + below};
        const Floats weights[] = {(1.0f - down) * (1.0f - across), (1.0f - down) * across, down * (1.0f - across),
                                  down * across};
        Floats value = {}, weight = {};
        for (int corner = 0; corner < 4; ++corner) {
          Floats read;
          for (int lane = 0; lane < kLanes; ++lane) read[lane] = image[places[corner][lane]];
          value += weights[corner] * read;
          weight += read > Floats{} ? weights[corner] : Floats{};
        }
        store_some(out + start + i, weight > all(1e-3f) ? value / weight : Floats{});
      });
    }
  });
}

void sum_3x3(const float* x, float* out, int64_t batch, int64_t height, int64_t width, float diagonal, int64_t repeats,
             int64_t threads) {
  const int64_t pixels = height * width;
  for_each_frame(batch, threads, [=](int64_t frame) {
    const std::vector<float> zeros(width);
    std::vector<float> row(width + 2), others(width + 2);
    for (int64_t y = 0; y < height; ++y) {
      const float* here = x + frame * pixels + y * width;
      const float* edge = repeats ? here : zeros.data();
      const float *above = y > 0 ? here - width : edge, *below = y < height - 1 ? here + width : edge;
      std::copy_n(here, width, row.data() + 1);
      for (int64_t i = 0; i < width; ++i) others[i + 1] = above[i] + below[i];
      for (auto* line : {&row, &others}) {
        line->front() = repeats ? (*line)[1] : 0.0f;
        line->back() = repeats ? (*line)[width] : 0.0f;
      }
      float* to = out + frame * pixels + y * width;
      for (int64_t i = 0; i < width; ++i) {
        const float straight = row[i] + row[i + 2] + others[i + 1];
        to[i] = straight + row[i + 1] + diagonal * (others[i] + others[i + 2]);
      }
    }
  });
}

// (outer, length, inner): the maximum of each value and the `count` - 1 before it along the second axis.
void running_max(const float* x, float* out, int64_t outer, int64_t length, int64_t inner, int64_t count,
                 int64_t threads) {
  const int64_t size = length * inner;
  for_each_frame(outer, threads, [=](int64_t part) {
    const float* from = x + part * size;
    std::vector<float> before(from, from + size), after(size);
    for (int64_t reach = 1; reach < std::min(count, length);) {
      const int64_t step = std::min(reach, count - reach), away = step * inner;
      std::copy_n(before.data(), away, after.data());
      for (int64_t i = away; i < size; ++i) after[i] = std::max(before[i], before[i - away]);
      before.swap(after);
      reach += step;
    }
    std::copy_n(before.data(), size, out + part * size);
  });
}

// Where x is positive, the one of `values` that is picked by floor(x * factor), modulo their count; 0 elsewhere.
void pick(const float* x, const float* values, float* out, int64_t count, int64_t choices, float factor,
          int64_t threads) {
  const float size = static_cast<float>(choices);
  for_each_pixel(count, threads, [=](int64_t i, auto load_some, auto store_some) {
    const Floats number = load_some(x + i), whole = floats(integers(number * factor));
    const Floats index = whole - size * floats(integers(whole / size));
    Floats picked = {};
    for (int64_t choice = 0; choice < choices; ++choice) {
      picked = index == all(static_cast<float>(choice)) ? all(values[choice]) : picked;
    }
    store_some(out + i, number > Floats{} ? picked : Floats{});
  });
}

// `random` is (batch, slots, 7), `out` (batch, height, width) zeros; see `operators.sticks`.
void sticks(const float* random, float* out, int64_t batch, int64_t slots, int64_t height, int64_t width, float active,
            float length_px, float width_px, int64_t threads) {
  for_each_frame(batch, threads, [=](int64_t frame) {
    for (int64_t slot = 0; slot < slots; ++slot) {
      const float* draw = random + (frame * slots + slot) * 7;
      if (!(draw[0] < active)) continue;
      const float angle = draw[3] * static_cast<float>(M_PI), sine = std::sin(angle), cosine = std::cos(angle);
      const float length = std::min(1 + draw[4] * (length_px - 1), length_px);
      const float breadth = std::min(1 + draw[5] * (width_px - 1), width_px);
      for (float along = 0; along < length; along += 0.5f) {
        for (float aside = 0; aside < breadth; aside += 0.5f) {
          const float column = std::floor(draw[2] * width + along * cosine - aside * sine);
          const float row = std::floor(draw[1] * height + along * sine + aside * cosine);
          if (!(column >= 0 && column < width && row >= 0 && row < height)) continue;
          float& pixel = out[(frame * height + static_cast<int64_t>(row)) * width + static_cast<int64_t>(column)];
          pixel = std::max(pixel, 1 - draw[6]);
        }
      }
    }
  });
}

}  // extern "C"
