// The normalization of depth on a processor, in one operation: an image is read for its range and, from the cache, for
// its channels, which are written once. `cpu_depth.py` builds it, for the vector instructions of the machine, and calls
// it. It includes nothing of PyTorch, so that building takes a second.

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include "vectors.h"

namespace {

// What the pixels of one axis of a resized image are made of: `taps` pixels from `starts`, times `weights`.
struct Axis {
  const int64_t* starts;
  const float* weights;  // (pixels, taps)
  int64_t taps;
};

}  // namespace

extern "C" {

// Mirrored in `cpu_depth.py`.
struct Normalization {
  const float* depth;  // (images, height, width)
  float* out;          // (images, 3, padded_height, padded_width)
  float* scratch;      // (threads, scratch_size), where there is a resize
  int64_t images, height, width, out_height, out_width, padded_height, padded_width, threads, scratch_size;
  Axis rows, columns;  // of a resize; without one, starts are null
  float scale[3], shift[3], near, max_depth_m;
};

}  // extern "C"

namespace {

// NaN, infinities and negative depth are holes.
Floats clean(Floats depth, float max_depth_m) {
  const Floats none = {};
  const Floats valid = (depth > none) & (depth < all(std::numeric_limits<float>::infinity())) ? depth : none;
  return smaller(valid, all(max_depth_m));
}

// To a few units in the last place, of 0 and more: what the rounding of y = 1 + x took away is put back as
// (x - (y - 1)) / y.
Floats log1p(Floats x) {
  const Floats y = 1.0f + x;
  return log(y, (x - (y - 1.0f)) / y);
}

float log1p(float x) { return log1p(all(x))[0]; }

struct Range {
  float low, high;
};

// Smallest and largest depth of some pixels.
Range range_of(const float* depth, int64_t count, float max_depth_m) {
  // Two of each, which do not wait for each other.
  Floats low[2] = {all(max_depth_m), all(max_depth_m)}, high[2] = {};
  int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    for (int v = 0; v < 2; ++v) {
      const Floats values = clean(load(depth + i + v * kLanes), max_depth_m);
      low[v] = smaller(low[v], values);
      high[v] = larger(high[v], values);
    }
  }
  // Beyond the last, the first: it counts already.
  for_each_vector(count - i, depth[0], [&](int64_t j, auto load_some, auto) {
    const Floats values = clean(load_some(depth + i + j), max_depth_m);
    low[0] = smaller(low[0], values);
    high[0] = larger(high[0], values);
  });
  low[0] = smaller(low[0], low[1]);
  high[0] = larger(high[0], high[1]);
  Range range{low[0][0], high[0][0]};
  for (int lane = 1; lane < kLanes; ++lane) {
    range.low = std::min(range.low, low[0][lane]);
    range.high = std::max(range.high, high[0][lane]);
  }
  return range;
}

// The channels of one image; `range` is that of the logarithm.
struct Channels {
  const Normalization& job;
  Range range;
  float span;  // what L - low is divided by; an image may be flat

  Channels(const Normalization& job, Range depth)
      : job(job),
        range{log1p(depth.low), log1p(depth.high)},
        span(range.high > range.low ? range.high - range.low : 1.0f) {}

  // Writes `count` pixels of all three channels. `above_low` gives their L - low, and `near` their min(L, near).
  template <typename AboveLow, typename Near>
  void write(int64_t count, float* out, AboveLow above_low, Near near) const {
    const int64_t plane = job.padded_height * job.padded_width;
    for_each_vector(count, 0.0f, [&](int64_t i, auto load_some, auto store_some) {
      const Floats above = above_low(i, load_some);
      store_some(out + i, above * job.scale[0] + (range.low * job.scale[0] + job.shift[0]));
      store_some(out + plane + i, near(i, load_some, above) * job.scale[1] + job.shift[1]);
      store_some(out + 2 * plane + i, above / span * job.scale[2] + job.shift[2]);
    });
  }

  void write_depth(const float* depth, int64_t count, float* out) const {
    write(
        count, out,
        [&](int64_t i, auto load_some) {
          return log1p(clean(load_some(depth + i), job.max_depth_m)) - range.low;
        },
        [&](int64_t, auto, Floats above) { return smaller(above + range.low, all(job.near)); });
  }
};

// Some rows of an image's channels, without a resize.
void write_rows(const Channels& channels, const float* depth, float* out, int64_t first, int64_t last) {
  const Normalization& job = channels.job;
  if (job.padded_width == job.width) {
    channels.write_depth(depth + first * job.width, (last - first) * job.width, out + first * job.width);
    return;
  }
  for (int64_t row = first; row < last; ++row) {
    channels.write_depth(depth + row * job.width, job.width, out + row * job.padded_width);
  }
}

// A row of a resized image, before its columns are resized: a weighted sum of rows.
void sum_rows(const float* plane, int64_t width, const float* weights, int64_t taps, float* line) {
  for_each_vector(width, 0.0f, [&](int64_t i, auto load_some, auto store_some) {
    Floats sum = {};
    for (int64_t tap = 0; tap < taps; ++tap) sum += weights[tap] * load_some(plane + tap * width + i);
    store_some(line + i, sum);
  });
}

// The pixels of a row: weighted sums of those of `line`. The number of taps is constant where it is usual, else 0.
template <int constant_taps>
void sum_columns(const float* line, const Axis& columns, int64_t count, float* out) {
  const int64_t taps = constant_taps > 0 ? constant_taps : columns.taps;
  const float* weights = columns.weights;
  for (int64_t i = 0; i < count; ++i, weights += taps) {
    const float* from = line + columns.starts[i];
    float sum = 0.0f;
    for (int64_t tap = 0; tap < taps; ++tap) sum += weights[tap] * from[tap];
    out[i] = sum;
  }
}

using SumColumns = void (*)(const float*, const Axis&, int64_t, float*);

SumColumns sum_columns_of(int64_t taps) {
  constexpr SumColumns usual[] = {sum_columns<0>, sum_columns<1>, sum_columns<2>, sum_columns<3>,
                                  sum_columns<4>, sum_columns<5>, sum_columns<6>, sum_columns<7>};
  return taps < 8 ? usual[taps] : sum_columns<0>;
}

// Some rows of an image's channels, resized. Resizing commutes with affine maps: L - low gives two of the channels, and
// where nothing is beyond the range of the other, that one too.
void write_resized_rows(const Channels& channels, const float* depth, float* out, int64_t first, int64_t last,
                        float* scratch) {
  const Normalization& job = channels.job;
  const int64_t top = job.rows.starts[first], bottom = job.rows.starts[last - 1] + job.rows.taps;
  const int64_t pixels = (bottom - top) * job.width;
  const float low = channels.range.low;
  const bool all_near = channels.range.high <= job.near;
  const SumColumns sum_columns = sum_columns_of(job.columns.taps);
  float *above_plane = scratch, *near_plane = above_plane + pixels, *line = near_plane + (all_near ? 0 : pixels);
  float *above_row = line + job.width, *near_row = above_row + job.out_width;
  for_each_vector(pixels, 0.0f, [&](int64_t i, auto load_some, auto store_some) {
    const Floats log = log1p(clean(load_some(depth + top * job.width + i), job.max_depth_m));
    store_some(above_plane + i, log - low);
    if (!all_near) store_some(near_plane + i, smaller(log, all(job.near)));
  });
  for (int64_t row = first; row < last; ++row) {
    const auto resize = [&](const float* plane, float* to) {
      sum_rows(plane + (job.rows.starts[row] - top) * job.width, job.width, job.rows.weights + row * job.rows.taps,
               job.rows.taps, line);
      sum_columns(line, job.columns, job.out_width, to);
    };
    resize(above_plane, above_row);
    if (!all_near) resize(near_plane, near_row);
    channels.write(
        job.out_width, out + row * job.padded_width,
        [&](int64_t i, auto load_some) { return load_some(above_row + i); },
        [&](int64_t i, auto load_some, Floats above) { return all_near ? above + low : load_some(near_row + i); });
  }
}

// Zeros beyond the image, for rows [first, last) of its channels; those below it belong to its last rows.
void pad(const Normalization& job, float* out, int64_t first, int64_t last) {
  for (int64_t channel = 0; channel < 3; ++channel, out += job.padded_height * job.padded_width) {
    if (job.padded_width > job.out_width) {
      for (int64_t row = first; row < last; ++row) {
        std::fill_n(out + row * job.padded_width + job.out_width, job.padded_width - job.out_width, 0.0f);
      }
    }
    if (last == job.out_height) {
      std::fill_n(out + last * job.padded_width, (job.padded_height - last) * job.padded_width, 0.0f);
    }
  }
}

}  // namespace

extern "C" void normalize_depth(const Normalization* given) {
  const Normalization& job = *given;
  const int64_t pixels = job.height * job.width;
  const bool is_resized = job.rows.starts != nullptr;
  // An image is shared by its rows where there are fewer images than threads.
  const int64_t parts = std::min((job.threads + job.images - 1) / job.images, job.out_height);
  const int64_t part = (job.out_height + parts - 1) / parts;
#pragma omp parallel for num_threads(job.threads) schedule(static) if (job.threads > 1)
  for (int64_t unit = 0; unit < job.images * parts; ++unit) {
    const int64_t first = unit % parts * part, last = std::min(first + part, job.out_height);
    if (first >= last) continue;
    const float* depth = job.depth + unit / parts * pixels;
    float* out = job.out + unit / parts * 3 * job.padded_height * job.padded_width;
    // Each share looks for the whole image's range, which costs less than waiting for the others.
    const Channels channels(job, range_of(depth, pixels, job.max_depth_m));
    if (is_resized) {
      write_resized_rows(channels, depth, out, first, last, job.scratch + omp_get_thread_num() * job.scratch_size);
    } else {
      write_rows(channels, depth, out, first, last);
    }
    pad(job, out, first, last);
  }
}
