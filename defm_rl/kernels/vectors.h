// Vectors of the machine's width, for the sources of this folder that include nothing of PyTorch.

#pragma once

#include <cstdint>
#include <cstring>

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
using Floats = float __attribute__((vector_size(4 * kLanes)));
using Ints = int32_t __attribute__((vector_size(4 * kLanes)));

Floats all(float value) { return Floats{} + value; }

Floats load(const float* from) {
  Floats values;
  std::memcpy(&values, from, sizeof values);
  return values;
}

void store(float* to, Floats values) { std::memcpy(to, &values, sizeof values); }

Floats smaller(Floats a, Floats b) { return a < b ? a : b; }
Floats larger(Floats a, Floats b) { return a > b ? a : b; }

// Calls f(first, load, store) for every vector of `count` numbers; what lies beyond the last is read as `beyond`, and
// not written.
template <typename F>
void for_each_vector(int64_t count, float beyond, F f) {
  const auto load_all = [](const float* from) { return load(from); };
  const auto store_all = [](float* to, Floats values) { store(to, values); };
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) f(i, load_all, store_all);
  if (i == count) return;
  const size_t bytes = (count - i) * sizeof(float);
  f(
      i,
      [&](const float* from) {
        Floats values = all(beyond);
        std::memcpy(&values, from, bytes);
        return values;
      },
      [&](float* to, Floats values) { std::memcpy(to, &values, bytes); });
}

// log(y) + rest, of normal positive y, to a few units in the last place. It is that of y's exponent and of its mantissa
// between 1/sqrt(2) and sqrt(2), for which the polynomial is that of Cephes' logf (Moshier 1989).
Floats log(Floats y, Floats rest) {
  constexpr float coefficients[] = {7.0376836292e-2f,  -1.1514610310e-1f, 1.1676998740e-1f,
                                    -1.2420140846e-1f, 1.4249322787e-1f,  -1.6668057665e-1f,
                                    2.0000714765e-1f,  -2.4999993993e-1f, 3.3333331174e-1f};
  constexpr int32_t smallest_mantissa = 0x3f3504f3;  // the bits of 1/sqrt(2)
  Ints bits;
  std::memcpy(&bits, &y, sizeof bits);
  const Ints exponent = (bits - smallest_mantissa) >> 23;
  bits -= exponent << 23;
  Floats z;
  std::memcpy(&z, &bits, sizeof z);
  z -= 1.0f;
  Floats sum = all(coefficients[0]);
#pragma GCC unroll 8
  for (int i = 1; i < 9; ++i) sum = sum * z + coefficients[i];
  // log(2) in two parts, of which the first times an exponent is exact.
  const Floats e = __builtin_convertvector(exponent, Floats);
  const Floats square = z * z;
  const Floats small = sum * z * square - 0.5f * square + e * -2.12194440e-4f + rest;
  return e * 0.693359375f + (z + small);
}

}  // namespace
