// Simulated depth cameras on a processor: random numbers, and all that a camera does to a frame while the frame lies in
// the cache. `cpu_sensors.py` builds it, for the vector instructions of the machine, and calls it; what the functions
// compute stands in PyTorch's operations beside their callers, in `defm_rl/sensors`.

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

Floats abs(Floats x) {
  return reinterpret_cast<Floats>(reinterpret_cast<Ints>(x) & std::numeric_limits<int32_t>::max());
}

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

// Random numbers: see `defm_rl/sensors/noise.py`.

constexpr uint32_t kGolden = 0x9E3779B9u;
constexpr float kPerBit = 0x1p-24f;

Words mix(Words x) {
  x = (x ^ (x >> 16)) * 0x7FEB352Du;
  x = (x ^ (x >> 15)) * 0x846CA68Bu;
  return x ^ (x >> 16);
}

uint64_t mix_64(uint64_t x) {
  x *= 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// One draw of one frame: a number for each of its pixels.
class Draw {
 public:
  Draw(uint32_t low, uint32_t high) : low_(low), high_(high) {}

  // 24 random bits for each pixel from that on.
  Ints bits(int64_t pixel) const {
    const Words counters = (reinterpret_cast<Words>(iota()) + static_cast<uint32_t>(pixel)) * kGolden;
    return reinterpret_cast<Ints>(mix(mix(counters ^ low_) ^ high_) >> 8);
  }

  Floats uniform(int64_t pixel) const { return floats(bits(pixel)) * kPerBit; }

  void uniform(int64_t count, float* out) const {
    for_each_vector(count, 0.0f, [&](int64_t i, auto, auto store_some) { store_some(out + i, uniform(i)); });
  }

 private:
  uint32_t low_, high_;
};

// Pairs of normal numbers, by Box and Muller, of 24 bits each for the radius and for the angle.
struct Pairs {
  Draw radius, angle;

  inline __attribute__((always_inline)) void at(int64_t pixel, Floats& first, Floats& second) const {
    const Ints radius_bits = radius.bits(pixel), angle_bits = angle.bits(pixel);
    const Floats length = sqrt(-2.0f * log(floats((1 << 24) - radius_bits) * kPerBit, Floats{}));
    // The angle is so many quarters of a turn, and up to an eighth more or less.
    const Ints quarter = (angle_bits + (1 << 21)) >> 22;
    const Floats rest = floats(angle_bits - (quarter << 22)) * static_cast<float>(2 * M_PI / (1 << 24));
    const Floats a = length * cosine(rest), b = length * sine(rest);
    const Ints odd = (quarter & 1) != 0;
    const auto with_sign = [](Floats x, Ints sign) {  // that of the highest bit changes it
      return reinterpret_cast<Floats>(reinterpret_cast<Ints>(x) ^ (sign & std::numeric_limits<int32_t>::min()));
    };
    first = with_sign(odd ? b : a, (quarter + 1) << 30);
    second = with_sign(odd ? a : b, quarter << 30);
  }
};

// The random numbers of one frame, draw by draw.
class Numbers {
 public:
  Numbers(int32_t low, int32_t high, int64_t draws)
      : low_(static_cast<uint32_t>(low)), high_(static_cast<uint32_t>(high)), draws_(static_cast<uint64_t>(draws)) {}

  Draw draw() {
    const uint64_t salt = mix_64(++draws_ + 1);
    return Draw(low_ ^ static_cast<uint32_t>(salt), high_ ^ static_cast<uint32_t>(salt >> 32));
  }

  Pairs pairs() { return Pairs{draw(), draw()}; }

  // The cosines of all pairs come before the sines.
  void normal(int64_t count, float* out) {
    const Pairs numbers = pairs();
    const int64_t half = (count + 1) / 2;
    for_each_vector(half, 0.0f, [&](int64_t i, auto, auto store_some) {
      Floats cosines, sines;
      numbers.at(i, cosines, sines);
      store_some(out + i, cosines);
      if (half + i + kLanes <= count) {
        store(out + half + i, sines);
      } else if (half + i < count) {  // there may be one less of these
        std::memcpy(out + half + i, &sines, (count - half - i) * sizeof(float));
      }
    });
  }

 private:
  uint32_t low_, high_;
  uint64_t draws_;
};

// A plane of memory to work in, with a border of one pixel.
struct Plane {
  float* first;
  int64_t height, width;

  float* at(int64_t y, int64_t x) const { return first + (y + 1) * (width + 2) + x + 1; }

  // The border repeats what it is beside, or is 0.
  void fill_border(bool repeats) const {
    const auto beside = [&](int64_t y, int64_t x) { return repeats ? *at(y, x) : 0.0f; };
    for (int64_t y = 0; y < height; ++y) {
      *at(y, -1) = beside(y, 0);
      *at(y, width) = beside(y, width - 1);
    }
    for (int64_t x = -1; x <= width; ++x) {
      *at(-1, x) = beside(0, x);
      *at(height, x) = beside(height - 1, x);
    }
  }
};

// A batch of frames, as `cpu_sensors.py` describes them: depth (batch, height, width), where what is measured goes, the
// state of each frame's random numbers, and how many draws there were.
struct Frames {
  const float* depth;
  float* out;
  const int32_t *low, *high;
  int64_t draws, batch, height, width, threads;
};

// One of them, and memory to work in.
struct Frame {
  const float* depth;
  float* out;
  int64_t height, width;
  Numbers numbers;
  float* memory;

  Plane plane() { return Plane{take((height + 2) * (width + 2)), height, width}; }

  float* take(int64_t count) {
    float* taken = memory;
    memory += count;
    return taken;
  }

  // Calls f(i, y, x, load, store) for every vector, see `for_each_vector`, of pixel i in row y and column x.
  template <typename F>
  void for_each(F f) const {
    for (int64_t y = 0; y < height; ++y) {
      for_each_vector(width, 0.0f, [&](int64_t x, auto load_some, auto store_some) {
        f(y * width + x, y, x, load_some, store_some);
      });
    }
  }
};

// Calls f(i, scratch) for every i below `count`; the scratch is memory of so many numbers, a thread's own.
template <typename F>
void share(int64_t count, int64_t threads, int64_t numbers, F f) {
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    std::vector<float> scratch(numbers);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < count; ++i) f(i, scratch.data());
  }
}

// Calls f(frame) for every frame, with memory for so many planes and numbers.
template <typename F>
void for_each_frame(const Frames& frames, int64_t planes, int64_t numbers, F f) {
  const auto [depth, out, low, high, draws, batch, height, width, threads] = frames;
  const int64_t pixels = height * width;
  share(batch, threads, planes * (height + 2) * (width + 2) + numbers, [=](int64_t i, float* memory) {
    f(Frame{depth + i * pixels, out + i * pixels, height, width, Numbers(low[i], high[i], draws), memory});
  });
}

// Calls f(i, load, store) for every vector of `count` numbers, see `for_each_vector`.
template <typename F>
void for_each_pixel(int64_t count, int64_t threads, F f) {
  const int64_t part = (count / threads / kLanes + 1) * kLanes;
  share(threads, threads, 0, [=](int64_t i, float*) {
    const int64_t first = std::min(i * part, count), last = std::min(first + part, count);
    for_each_vector(last - first, 0.0f,
                    [&](int64_t j, auto load_some, auto store_some) { f(first + j, load_some, store_some); });
  });
}

Floats columns_from(int64_t x) { return floats(iota() + static_cast<int32_t>(x)); }

Floats clamped(Floats x, int64_t size) { return smaller(larger(x, Floats{}), all(static_cast<float>(size - 1))); }

Floats gather(const float* from, Ints places) {
  Floats values;
  for (int lane = 0; lane < kLanes; ++lane) values[lane] = from[places[lane]];
  return values;
}

// The pixel that is so many pixels from row y and the columns from x on, rounded.
Ints shifted(const Frame& frame, int64_t y, int64_t x, Floats down, Floats across) {
  const Floats row = clamped(round(down) + static_cast<float>(y), frame.height);
  const Floats column = clamped(round(across) + columns_from(x), frame.width);
  return integers(row) * static_cast<int32_t>(frame.width) + integers(column);
}

Floats triangulated(Floats depth, Floats normals, float constant, float sigma, float steps, float largest) {
  const Floats disparity = round((inverse(depth) * constant + normals * sigma) * steps) / steps;
  return disparity <= all(largest) ? inverse(disparity) * constant : Floats{};
}

// Of the differences to both neighbours the smaller; those to holes, which are 0, do not count.
Floats smaller_difference(Floats before, Floats centre, Floats after) {
  const Floats none = {};
  const Floats back = before > none ? centre - before : all(kInfinity);
  const Floats on = after > none ? after - centre : all(kInfinity);
  const Floats smaller = abs(back) < abs(on) ? back : on;
  return (centre > none) & (smaller < all(kInfinity)) ? smaller : none;
}

// Calls f(i, y, x, angle, store) with the angles between the viewing rays and the surfaces' normals.
template <typename F>
void for_each_angle(Frame& frame, float focal_px, F f) {
  const Plane inverses = frame.plane();
  frame.for_each([&](int64_t i, int64_t y, int64_t x, auto load_some, auto store_some) {
    store_some(inverses.at(y, x), inverse(load_some(frame.depth + i)));
  });
  inverses.fill_border(false);
  const float per_px = 1.0f / focal_px;
  const float middle_y = static_cast<float>(frame.height - 1) / 2, middle_x = static_cast<float>(frame.width - 1) / 2;
  frame.for_each([&](int64_t i, int64_t row, int64_t column, auto load_some, auto store_some) {
    const auto at = [&](int64_t y, int64_t x) { return load_some(inverses.at(row + y, column + x)); };
    const float y = (static_cast<float>(row) - middle_y) * per_px;
    const Floats x = (columns_from(column) - middle_x) * per_px, q = at(0, 0);
    const Floats n_x = smaller_difference(at(0, -1), q, at(0, 1)) * focal_px;
    const Floats n_y = smaller_difference(at(-1, 0), q, at(1, 0)) * focal_px;
    const Floats n_z = q - x * n_x - y * n_y;
    const Floats length = sqrt((n_x * n_x + n_y * n_y + n_z * n_z) * (x * x + y * y + 1.0f));
    f(i, arc_cosine(smaller(q / larger(length, all(1e-12f)), all(1.0f))), store_some);
  });
}

// Each pixel reads so far away, bilinearly; holes are left out of the mean.
Floats sampled(const Frame& frame, int64_t y, int64_t x, Floats down, Floats across) {
  const int32_t width = static_cast<int32_t>(frame.width);
  const Floats row = clamped(down + static_cast<float>(y), frame.height);
  const Floats column = clamped(across + columns_from(x), frame.width);
  const Ints top = integers(row), left = integers(column);
  const Floats below = row - floats(top), right = column - floats(left);
  const Ints first = top * width + left;
  // On the border the next pixel has no weight: the same is read again.
  const Ints next = (left < width - 1) & 1, under = (top < static_cast<int32_t>(frame.height - 1)) & width;
  const Ints places[] = {first, first + next, first + under, first + next + under};
  const Floats weights[] = {(1.0f - below) * (1.0f - right), (1.0f - below) * right, below * (1.0f - right),
                            below * right};
  Floats value = {}, weight = {};
  for (int corner = 0; corner < 4; ++corner) {
    const Floats read = gather(frame.depth, places[corner]);
    value += weights[corner] * read;
    weight += read > Floats{} ? weights[corner] : Floats{};
  }
  return weight > all(1e-3f) ? value / weight : Floats{};
}

// Calls f(i, hidden, load, store): what the other camera does not see; `dither(i, load)` moves the comparison.
template <typename Dither, typename F>
void for_each_hidden(Frame& frame, const Plane& disparity, Dither dither, float largest_px, float steepest, F f) {
  const int64_t height = frame.height, width = frame.width;
  int64_t reach = 1;
  while (static_cast<float>(reach) <= std::min(largest_px + 1.0f, static_cast<float>(width - 1))) reach *= 2;
  // To the right of a row nothing lands.
  const int64_t stride = width + reach + kLanes;
  float *landing = frame.take(height * stride), *lowest = frame.take(height * stride);
  std::fill_n(landing, height * stride, kInfinity);
  frame.for_each([&](int64_t, int64_t y, int64_t x, auto load_some, auto store_some) {
    store_some(landing + y * stride + x, columns_from(x) - load_some(disparity.at(y, x)));
  });
  std::copy_n(landing, height * stride, lowest);
  // The whole frame in each round: what a vector was just written to is slow to read at other offsets.
  for (int64_t step = 1; step < reach; step *= 2) {
    for (float* row = lowest; row < lowest + height * stride; row += stride) {
      for (int64_t x = 0; x < width; x += kLanes) store(row + x, smaller(load(row + x), load(row + x + step)));
    }
  }
  for (int64_t y = 0; y < height; ++y) lowest[y * stride + width] = static_cast<float>(width);  // counts there
  frame.for_each([&](int64_t i, int64_t y, int64_t x, auto load_some, auto store_some) {
    const Floats places = load(landing + y * stride + x), others = load(lowest + y * stride + x + 1);
    const Floats moved = places + dither(i, load_some);
    const Ints hidden = (moved > others - 0.5f) & (others - places < all(1.0f - steepest));
    f(i, hidden | (moved < all(-0.5f)), load_some, store_some);
  });
}

// Calls f(i, near, load, store): what is within `width_px` of a jump in disparity; `chance(i, load)` decides of the last
// part of a pixel.
template <typename Chance, typename F>
void for_each_edge(Frame& frame, const Plane& disparity, Chance chance, float jump_px, float width_px, F f) {
  const int64_t whole = static_cast<int64_t>(width_px);
  const float rest = width_px - static_cast<float>(whole);
  Plane edge = frame.plane(), grown = frame.plane();
  disparity.fill_border(true);
  frame.for_each([&](int64_t, int64_t y, int64_t x, auto load_some, auto store_some) {
    const Floats centre = load_some(disparity.at(y, x));
    const auto jumps = [&](int64_t down, int64_t across) {
      return abs(load_some(disparity.at(y + down, x + across)) - centre) > all(jump_px);
    };
    const Ints any = jumps(0, 1) | jumps(0, -1) | jumps(1, 0) | jumps(-1, 0);
    store_some(edge.at(y, x), any ? all(1.0f) : Floats{});
  });
  edge.fill_border(false);
  const auto with_neighbours = [&](int64_t y, int64_t x, auto load_some) {
    const auto at = [&](int64_t down, int64_t across) { return load_some(edge.at(y + down, x + across)); };
    return larger(larger(at(0, 0), larger(at(0, 1), at(0, -1))), larger(at(1, 0), at(-1, 0)));
  };
  for (int64_t i = 1; i < whole; ++i) {
    frame.for_each([&](int64_t, int64_t y, int64_t x, auto load_some, auto store_some) {
      store_some(grown.at(y, x), with_neighbours(y, x, load_some));
    });
    grown.fill_border(false);
    std::swap(edge, grown);
  }
  frame.for_each([&](int64_t i, int64_t y, int64_t x, auto load_some, auto store_some) {
    const Ints centre = load_some(edge.at(y, x)) > Floats{}, by_chance = chance(i, load_some) < all(rest);
    if (whole > 0) {
      f(i, centre | ((with_neighbours(y, x, load_some) > Floats{}) & by_chance), load_some, store_some);
    } else {
      f(i, centre & by_chance, load_some, store_some);
    }
  });
}

// Sum over 3x3 pixels, those on the diagonals with that weight; `at(y, x)` are the pixels so far away.
template <typename F>
Floats sum_3x3(F at, float diagonal) {
  const Floats straight = at(0, -1) + at(0, 1) + at(-1, 0) + at(1, 0) + at(0, 0);
  return straight + (at(-1, -1) + at(-1, 1) + (at(1, -1) + at(1, 1))) * diagonal;
}

// Sum of f of each of so many numbers; f(beyond) is 0.
template <typename F>
float sum_of(const float* x, int64_t count, float beyond, F f) {
  Floats sums = {};
  for_each_vector(count, beyond, [&](int64_t i, auto load_some, auto) { sums += f(load_some(x + i)); });
  float sum = 0.0f;
  for (int lane = 0; lane < kLanes; ++lane) sum += sums[lane];
  return sum;
}

// The maximum of each pixel and the `count` - 1 before it, of (outer, length, inner) along the second axis; in one of
// the two, both of which are written to.
float* running_max(float* x, float* other, int64_t outer, int64_t length, int64_t inner, int64_t count) {
  const int64_t size = length * inner;
  for (int64_t reach = 1; reach < std::min(count, length);) {
    const int64_t step = std::min(reach, count - reach), away = step * inner;
    for (int64_t part = 0; part < outer * size; part += size) {
      const float* before = x + part;
      std::copy_n(before, away, other + part);
      for (int64_t i = away; i < size; ++i) other[part + i] = std::max(before[i], before[i - away]);
    }
    std::swap(x, other);
    reach += step;
  }
  return x;
}

// Straight bars, of seven random numbers each, on an image of zeros; where they cross the largest value counts.
void draw_sticks(const float* random, int64_t slots, float* image, int64_t height, int64_t width, float active,
                 float length_px, float width_px) {
  for (const float* draw = random; draw < random + slots * 7; draw += 7) {
    if (!(draw[0] < active)) continue;
    const float angle = draw[3] * static_cast<float>(M_PI), sine = std::sin(angle), cosine = std::cos(angle);
    const float length = std::min(1 + draw[4] * (length_px - 1), length_px);
    const float breadth = std::min(1 + draw[5] * (width_px - 1), width_px);
    for (float along = 0; along < length; along += 0.5f) {
      for (float aside = 0; aside < breadth; aside += 0.5f) {
        const float column = std::floor(draw[2] * width + along * cosine - aside * sine);
        const float row = std::floor(draw[1] * height + along * sine + aside * cosine);
        if (!(column >= 0 && column < width && row >= 0 && row < height)) continue;
        float& pixel = image[static_cast<int64_t>(row) * width + static_cast<int64_t>(column)];
        pixel = std::max(pixel, 1 - draw[6]);
      }
    }
  }
}

}  // namespace

extern "C" {

// The state of each frame, of its stream's number and its own; `held` frames have the same.
void state(int64_t seed, const int64_t* streams, const int64_t* frames, int64_t held, int32_t* low, int32_t* high,
           int64_t batch) {
  const auto rest = [held](int64_t x) { return ((x % held) + held) % held; };
  for (int64_t i = 0; i < batch; ++i) {
    int64_t frame = frames[i];
    if (held > 1) {
      frame += rest(static_cast<int64_t>(mix_64(static_cast<uint64_t>(streams[i]))));
      frame = (frame - rest(frame)) / held;
    }
    const uint64_t stream = mix_64(static_cast<uint64_t>(streams[i]) + static_cast<uint64_t>(seed));
    const uint64_t mixed = mix_64(stream + static_cast<uint64_t>(frame));
    low[i] = static_cast<int32_t>(mixed);
    high[i] = static_cast<int32_t>(mixed >> 32);
  }
}

void uniform(const Frames& frames) {
  for_each_frame(frames, 0, 0, [](Frame frame) {
    const Draw draw = frame.numbers.draw();
    draw.uniform(frame.width, frame.out);
  });
}

void normal(const Frames& frames) {
  for_each_frame(frames, 0, 0, [](Frame frame) { frame.numbers.normal(frame.width, frame.out); });
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

// `down` and `across` are the (nodes, pixels) weights of each axis, of nodes that are `spread_px` apart from three of
// them before the first pixel on.
void smooth_field(const Frames& frames, const float* down, const float* across, int64_t rows, int64_t columns,
                  float spread_px) {
  // The sum of a term for each node that is near pixels `first` to `last`; six nodes away a weight is below float32's
  // rounding.
  const auto smoothed = [=](int64_t first, int64_t last, int64_t nodes, auto term) {
    int64_t node = std::max(static_cast<int64_t>(static_cast<float>(first) / spread_px - 3.0f), int64_t{0});
    const int64_t end = std::min(static_cast<int64_t>(static_cast<float>(last) / spread_px + 10.0f), nodes);
    Floats sums[4] = {};  // none waits for the one before it
    for (; node + 4 <= end; node += 4) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) sums[i] += term(node + i);
    }
    for (; node < end; ++node) sums[0] += term(node);
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
  };
  for_each_frame(frames, 0, rows * (columns + frames.width), [=](Frame frame) {
    const int64_t height = frame.height, width = frame.width;
    float *random = frame.take(rows * columns), *smooth = frame.take(rows * width);
    frame.numbers.normal(rows * columns, random);
    for (float *row = smooth, *numbers = random; row < smooth + rows * width; row += width, numbers += columns) {
      for_each_vector(width, 0.0f, [&](int64_t x, auto load_some, auto store_some) {
        const auto term = [&](int64_t node) { return numbers[node] * load_some(across + node * width + x); };
        store_some(row + x, smoothed(x, x + kLanes - 1, columns, term));
      });
    }
    frame.for_each([&](int64_t i, int64_t y, int64_t x, auto load_some, auto store_some) {
      const auto term = [&](int64_t node) { return down[node * height + y] * load_some(smooth + node * width + x); };
      store_some(frame.out + i, smoothed(y, y, rows, term));
    });
  });
}

void redwood(const Frames& frames, float jitter_px, float constant, float sigma, float steps, float max_depth_m) {
  for_each_frame(frames, 1, 0, [=](Frame frame) {
    const Pairs jitter = frame.numbers.pairs();
    float* normals = frame.plane().first;
    frame.numbers.normal(frame.height * frame.width, normals);
    frame.for_each([&](int64_t i, int64_t y, int64_t x, auto load_some, auto store_some) {
      Floats down, across;
      jitter.at(i, down, across);
      const Floats depth = gather(frame.depth, shifted(frame, y, x, down * jitter_px, across * jitter_px));
      const Floats seen = triangulated(depth, load_some(normals + i), constant, sigma, steps, kInfinity);
      store_some(frame.out + i, (depth > Floats{}) & (depth < all(max_depth_m)) ? seen : Floats{});
    });
  });
}

void kinect_nguyen(const Frames& frames, float focal_px, float max_angle, float lateral_px, float steep_lateral_px) {
  for_each_frame(frames, 3, 0, [=](Frame frame) {
    float *steepness = frame.plane().first, *normals = frame.plane().first;
    for_each_angle(frame, focal_px, [&](int64_t i, Floats angle, auto store_some) {
      const Floats limited = smaller(angle, all(max_angle));
      store_some(steepness + i, limited / (static_cast<float>(M_PI_2) - limited));
    });
    const Pairs lateral = frame.numbers.pairs();
    frame.numbers.normal(frame.height * frame.width, normals);
    frame.for_each([&](int64_t i, int64_t y, int64_t x, auto load_some, auto store_some) {
      const Floats sigma_px = load_some(steepness + i) * steep_lateral_px + lateral_px;
      Floats down, across;
      lateral.at(i, down, across);
      const Ints places = shifted(frame, y, x, down * sigma_px, across * sigma_px);
      const Floats seen = gather(frame.depth, places), steep = gather(steepness, places);
      const Floats safe = larger(seen, all(1e-3f)), away = safe - 0.4f;
      const Floats sigma_m = away * away * 0.0019f + 0.0012f + 1e-4f * (steep * steep) / sqrt(safe);
      store_some(frame.out + i, seen > Floats{} ? seen + load_some(normals + i) * sigma_m : Floats{});
    });
  });
}

// Patches are where `field` is below `least`; null where there are none. `constant` and `largest` are of the pixels of
// matching, `image_constant` and what follows of those of the image.
void stereo(const Frames& frames, float constant, float sigma, float steps, float largest, float hole_probability,
            const float* field, float least, float image_constant, float largest_px, float steepest, int64_t occlusion,
            float edge_jump_px, float edge_width_px) {
  const int64_t height = frames.height, width = frames.width;
  const bool has_edges = edge_width_px > 0.0f;
  const int64_t landings = occlusion ? 2 * height * (3 * width + kLanes) : 0;
  for_each_frame(frames, has_edges ? 5 : 3, landings, [=](Frame frame) {
    const float* blobs = field == nullptr ? nullptr : field + (frame.depth - frames.depth);
    const Plane disparity = frame.plane();
    float *normals = frame.plane().first, *rest = frame.plane().first;
    frame.numbers.normal(height * width, normals);
    const Draw chances = frame.numbers.draw();
    frame.for_each([&](int64_t i, int64_t y, int64_t x, auto load_some, auto store_some) {
      const Floats depth = load_some(frame.depth + i), chance = chances.uniform(i);
      const Floats seen = triangulated(depth, load_some(normals + i), constant, sigma, steps, largest);
      Ints kept = chance >= all(hole_probability);
      if (blobs != nullptr) kept &= load_some(blobs + i) >= all(least);
      store_some(frame.out + i, kept ? seen : Floats{});
      store_some(disparity.at(y, x), inverse(depth) * image_constant);
      store_some(rest + i, (chance - hole_probability) / (1.0f - hole_probability));
    });
    const auto lose = [&](int64_t i, Ints lost, auto load_some, auto store_some) {
      store_some(frame.out + i, lost ? Floats{} : load_some(frame.out + i));
    };
    if (occlusion) {
      const auto moved = [&](int64_t i, auto load_some) { return 0.5f - load_some(rest + i); };
      for_each_hidden(frame, disparity, moved, largest_px, steepest, lose);
    }
    if (has_edges) {
      const auto chance = [&](int64_t i, auto load_some) {
        const Floats again = load_some(rest + i) * 997.0f;
        return again - floats(integers(again));
      };
      for_each_edge(frame, disparity, chance, edge_jump_px, edge_width_px, lose);
    }
  });
}

void zedx(const Frames& frames, float constant, float steps, float least_threshold, float threshold_range,
          float least_chance, float chance_range) {
  const float diagonal = std::sqrt(0.5f);
  const int64_t pixels = frames.height * frames.width;
  for_each_frame(frames, 3, 0, [=](Frame frame) {
    const Plane disparity = frame.plane(), matched = frame.plane();
    float* difference = frame.plane().first;
    const auto sum_at = [&](const Plane& plane, int64_t y, int64_t x, auto load_some, float weight) {
      return sum_3x3([&](int64_t down, int64_t across) { return load_some(plane.at(y + down, x + across)); }, weight);
    };
    frame.for_each([&](int64_t i, int64_t y, int64_t x, auto load_some, auto store_some) {
      store_some(disparity.at(y, x), inverse(load_some(frame.depth + i)) * constant);
    });
    disparity.fill_border(true);
    frame.for_each([&](int64_t i, int64_t y, int64_t x, auto load_some, auto store_some) {
      const Floats mean = sum_at(disparity, y, x, load_some, diagonal) / (5.0f + 4.0f * diagonal);
      store_some(difference + i, abs(mean - load_some(disparity.at(y, x))));
    });
    const float mean = sum_of(difference, pixels, 0.0f, [](Floats x) { return x; }) / static_cast<float>(pixels);
    const float squares = sum_of(difference, pixels, mean, [=](Floats x) { return (x - mean) * (x - mean); });
    const float spread = std::sqrt(squares / static_cast<float>(pixels - 1));
    const Floats of_frame = frame.numbers.draw().uniform(0);
    const float threshold = mean + (least_threshold + threshold_range * of_frame[0]) * (spread + 1e-6f);
    const float probability = least_chance + chance_range * of_frame[1];
    const Draw chance = frame.numbers.draw();
    frame.for_each([&](int64_t i, int64_t y, int64_t x, auto load_some, auto store_some) {
      const Floats measured = load_some(disparity.at(y, x));
      const Ints matches = (load_some(difference + i) < all(threshold)) & (chance.uniform(i) < all(probability)) &
                           (load_some(frame.depth + i) > Floats{});
      store_some(matched.at(y, x), matches ? all(1.0f) : Floats{});
      store_some(disparity.at(y, x), matches ? round(measured * steps) / steps : Floats{});
    });
    matched.fill_border(false);
    disparity.fill_border(false);
    frame.for_each([&](int64_t i, int64_t y, int64_t x, auto load_some, auto store_some) {
      const Floats count = larger(sum_at(matched, y, x, load_some, 1.0f), all(1.0f));
      store_some(frame.out + i, inverse(sum_at(disparity, y, x, load_some, 1.0f) / count) * constant);
    });
  });
}

// `values` are the depths of blocks, picked by floor(x * factor), modulo their number.
void realsense_parkour(const Frames& frames, float near_sigma_m, float far_sigma_m, float far_from_m, float spark_m,
                       float spark_probability, float too_close_m, float column_share, float block_probability,
                       int64_t block_height, int64_t block_width, const float* values, int64_t choices, float factor) {
  const int64_t height = frames.height, width = frames.width;
  for_each_frame(frames, 3, width, [=](Frame frame) {
    float *normals = frame.plane().first, *order = frame.plane().first, *other = frame.plane().first;
    float* close = frame.take(width);  // in each column
    frame.numbers.normal(height * width, normals);
    const Draw chances = frame.numbers.draw();
    std::fill_n(close, width, 0.0f);
    frame.for_each([&](int64_t i, int64_t, int64_t x, auto load_some, auto store_some) {
      const Floats depth = load_some(frame.depth + i), chance = chances.uniform(i);
      const Floats sigma_m = depth <= all(far_from_m) ? all(near_sigma_m) : all(far_sigma_m);
      const Ints too_close = (depth > Floats{}) & (depth < all(too_close_m));
      const Floats spark = chance < all(spark_probability) ? all(spark_m) : Floats{};
      store_some(frame.out + i, too_close ? spark : depth + load_some(normals + i) * sigma_m);
      store_some(order + i, chance < all(block_probability) ? chance / block_probability : Floats{});
      store_some(close + x, load_some(close + x) + (too_close ? all(1.0f) : Floats{}));
    });
    if (*std::max_element(close, close + width) / static_cast<float>(height) <= column_share) return;
    float* columns = running_max(order, other, 1, height, width, block_height);
    order = running_max(columns, columns == order ? other : order, height, width, 1, block_width);
    frame.for_each([&](int64_t i, int64_t, int64_t x, auto load_some, auto store_some) {
      const Floats depth = load_some(frame.depth + i), number = load_some(order + i);
      const Floats whole = floats(integers(number * factor)), count = all(static_cast<float>(choices));
      const Floats index = whole - count * floats(integers(whole / count));
      Floats block = {};
      for (int64_t choice = 0; choice < choices; ++choice) {
        block = index == all(static_cast<float>(choice)) ? all(values[choice]) : block;
      }
      block = number > Floats{} ? block : Floats{};
      const Ints shows = (load_some(close + x) / static_cast<float>(height) > all(column_share)) & (depth > Floats{}) &
                         (depth < all(too_close_m));
      store_some(frame.out + i, shows ? block : load_some(frame.out + i));
    });
  });
}

void dextrah(const Frames& frames, float shift_px, float constant, float sigma, float normal_sigma_m,
             float dropout_probability, float random_probability, float nearest_m, float span_m, int64_t slots,
             float active, float length_px, float width_px) {
  for_each_frame(frames, 1, slots * 7, [=](Frame frame) {
    float *sticks = frame.plane().first, *random = frame.take(slots * 7);
    const Pairs shift = frame.numbers.pairs(), error = frame.numbers.pairs();
    const Draw chances = frame.numbers.draw(), of_sticks = frame.numbers.draw();
    of_sticks.uniform(slots * 7, random);
    std::fill_n(sticks, frame.height * frame.width, 0.0f);
    draw_sticks(random, slots, sticks, frame.height, frame.width, active, length_px, width_px);
    frame.for_each([&](int64_t i, int64_t y, int64_t x, auto load_some, auto store_some) {
      Floats down, across, in_disparity, in_depth;
      shift.at(i, down, across);
      error.at(i, in_disparity, in_depth);
      const Floats depth = sampled(frame, y, x, down * shift_px, across * shift_px);
      Floats seen = triangulated(depth, in_disparity, constant, sigma, 1.0f, kInfinity);
      seen = seen > Floats{} ? seen + in_depth * normal_sigma_m : Floats{};
      const Floats chance = chances.uniform(i), wrong = (chance - dropout_probability) / random_probability;
      seen = (wrong >= Floats{}) & (wrong < all(1.0f)) ? nearest_m + span_m * wrong : seen;
      seen = chance >= all(dropout_probability) ? seen : Floats{};
      const Floats stick = load_some(sticks + i);
      store_some(frame.out + i, stick > Floats{} ? nearest_m + span_m * stick : seen);
    });
  });
}

}  // extern "C"
