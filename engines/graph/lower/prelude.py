"""The C that every generated file begins with: includes, and the functions that a compiler can vectorise.

`exp_f` and `tanh_f` hold for every float, NaN and infinities included, to within 1 unit in the last place; neither
branches, so that loops over them become vector code. In double precision the C library's are called. Exponentials
follow Cephes (S. L. Moshier).
"""

PRELUDE = r"""
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <omp.h>

#define INLINE static inline __attribute__((always_inline))

INLINE float bits_to_float(int32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
INLINE int32_t float_to_bits(float x) { int32_t bits; memcpy(&bits, &x, 4); return bits; }

// exp(x) = 2^n exp(r), r = x - n ln 2 in two parts; exp(r) by Taylor's polynomial, 2^n in two factors for denormals.
INLINE float exp_f(float x) {
  const float held = x > 128.0f ? 128.0f : x < -128.0f ? -128.0f : x;
  const float n = __builtin_rintf(held * 1.44269504f);
  const float r = (held - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const int32_t whole = (int32_t)n, half = whole >> 1;
  const float scaled = p * bits_to_float((half + 127) << 23) * bits_to_float((whole - half + 127) << 23);
  return x != x ? x : x > 128.0f ? INFINITY : x < -128.0f ? 0.0f : scaled;
}

// tanh(x): near 0 a polynomial, fitted to the least relative error below 1; elsewhere 1 - 2 / (exp(2 |x|) + 1).
INLINE float tanh_f(float x) {
  const float size = __builtin_fabsf(x), square = x * x;
  float p = 1.214693204e-04f;
  p = p * square - 8.411315698e-04f;
  p = p * square + 3.078585047e-03f;
  p = p * square - 8.595106941e-03f;
  p = p * square + 2.178472725e-02f;
  p = p * square - 5.395309751e-02f;
  p = p * square + 1.333320037e-01f;
  p = p * square - 3.333332930e-01f;
  const float near = p * square * x + x;
  const float held = size > 10.0f ? 10.0f : size;
  const float n = __builtin_rintf(held * 2.88539008f);
  const float r = (2.0f * held - n * 0.693359375f) - n * -2.12194440e-4f;
  float q = 1.9875691500e-4f;
  q = q * r + 1.3981999507e-3f;
  q = q * r + 8.3334519073e-3f;
  q = q * r + 4.1665795894e-2f;
  q = q * r + 1.6666665459e-1f;
  q = q * r + 5.0000001201e-1f;
  q = (q * (r * r) + r + 1.0f) * bits_to_float(((int32_t)n + 127) << 23);
  const float far = __builtin_copysignf(1.0f - 2.0f / (q + 1.0f), x);
  return size < 1.0f ? near : x != x ? x : far;
}

INLINE float sigmoid_f(float x) { return 1.0f / (1.0f + exp_f(-x)); }
INLINE double exp_d(double x) { return exp(x); }
INLINE double tanh_d(double x) { return tanh(x); }
INLINE double sigmoid_d(double x) { return 1.0 / (1.0 + exp(-x)); }

// SplitMix64 up to its last step, the generator of engines/ops/random.py.
INLINE int64_t random_word(uint64_t key, uint64_t start, uint64_t index) {
  uint64_t z = (start + index) * UINT64_C(0x9E3779B97F4A7C15) + key;
  z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
  return (int64_t)z;
}

// A piece of a region: `n` elements from number `at` on, of which `real` count; the others fill up a vector. s says for
// each value where it is: an outer pointer b[s] if s is not negative, else a buffer of this thread in t.
#define PIECE void *const *b, void *t, const int *s, const void *numbers, long n, long real, long at, long width
#define PLACE(type, j) ((type *)(s[j] < 0 ? (char *)t + (long)(~s[j]) * width : (char *)b[s[j]]))
typedef void piece(PIECE);
typedef struct { piece *run; int values, numbers; } step;
"""
