"""Matrix products in C, for loops that are C as a whole: a loop's sizes are constants of the text.

    product("f", (50, 10, 2), (2, 1), None)   # the name of a small product's function, which says all its sizes
    products(functions)                       # the definitions that these texts call

`product_...` are for small ones: a function for each size, compiled once however often it is called. `dots_f` and
`outer_f` are for what threads share, a narrow result of long operands, where a BLAS is made for wide ones, or one that
is not large: `dots_f` where both operands run along what is summed over, `outer_f` where the second runs along its
columns. Rows of their results are `oi` apart, so that threads may share one. `gemm_f` is for all that is larger, and
PyTorch's own BLAS (`blas.py`). `start` is added to each column, or is NULL, its elements `s` apart. Each name ends in
`_f` or `_d` by its float type, or has its sizes behind that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from engines.graph.lower.blas import GEMM

CTYPE = {"f": "float", "d": "double"}


def product(kind: str, sizes: tuple[int, int, int], steps: tuple[int, int], start: int | None) -> str:
    """The name of out (n, m) = a (n, k) b (k, m) + start, with `sizes` n, m, k.

    Elements of a are `steps` apart along n and k, those of start are `start` apart, or there is none.
    """
    return "_".join(["product", kind, *map(str, (*sizes, *steps)), "plain" if start is None else f"from{start}"])


_NAMED = re.compile(r"\bproduct_([fd])((?:_\d+){5})_(?:plain|from(\d+))(?=\()")


def products(functions: Iterable[str]) -> list[str]:
    """What functions in C need of the products here, each once."""
    texts = list(functions)
    long = [text for name, text in LONG.items() if any(f"{name}_" in function for function in texts)]
    small = dict.fromkeys(definition for text in texts for definition in _small(text))
    return [*([SMALL, *small] if small else []), *long]


def _small(text: str) -> Iterator[str]:
    """The definition of each small product that a text calls."""
    for found in _NAMED.finditer(text):
        kind, sizes, start = found.groups()
        begin = "0" if start is None else f"start[j * {start}L]"
        yield f"PRODUCT({found.group()}, {CTYPE[kind]}, {begin}{sizes.replace('_', ', ')})"


SMALL = r"""
// out (n, m) = a (n, k) b (k, m) + what each column begins with, where a has steps and b none. Not inlined: a loop may
// call one of a size dozens of times, and compilers take far more than twice as long over a function twice as long.
#define PRODUCT(NAME, T, BEGIN, n, m, k, ai, ak) \
static __attribute__((noinline)) void NAME(const T *a, const T *b, const T *start, T *out) { \
  for (long i = 0; i < n; i++) { \
    T total[m]; \
    for (long j = 0; j < m; j++) total[j] = BEGIN; \
    for (long l = 0; l < k; l++) { \
      const T left = a[i * ai + l * ak]; \
      for (long j = 0; j < m; j++) total[j] += left * b[l * m + j]; \
    } \
    for (long j = 0; j < m; j++) out[i * m + j] = total[j]; \
  } \
}
"""

LONG: Mapping[str, str] = {
    "dots": r"""
// out (n, m) = a (n, k) b' + start, where b is (m, k): tiles of up to 4 by 2 sums, which the registers hold.
#define DOTS(NAME, T) \
typedef T NAME##_lanes __attribute__((vector_size(32), aligned(sizeof(T)))); \
INLINE void NAME##_tile(const T *a, long ai, const T *b, long bj, const T *start, long s, T *out, long oi, long k, \
                        const int rows, const int columns) { \
  const long lanes = 32 / sizeof(T); \
  NAME##_lanes total[4][2] = {0}; \
  long l = 0; \
  for (; l + lanes <= k; l += lanes) { \
    NAME##_lanes right[2]; \
    _Pragma("GCC unroll 2") for (int j = 0; j < columns; j++) right[j] = *(const NAME##_lanes *)(b + j * bj + l); \
    _Pragma("GCC unroll 4") for (int i = 0; i < rows; i++) { \
      const NAME##_lanes left = *(const NAME##_lanes *)(a + i * ai + l); \
      _Pragma("GCC unroll 2") for (int j = 0; j < columns; j++) total[i][j] += left * right[j]; \
    } \
  } \
  for (int i = 0; i < rows; i++) for (int j = 0; j < columns; j++) { \
    T sum = start ? start[j * s] : 0; \
    for (int e = 0; e < lanes; e++) sum += total[i][j][e]; \
    for (long r = l; r < k; r++) sum += a[i * ai + r] * b[j * bj + r]; \
    out[i * oi + j] = sum; \
  } \
} \
INLINE void NAME(const T *a, long ai, const T *b, long bj, const T *start, long s, T *out, long oi, \
                 long n, long m, long k) { \
  for (long j = 0; j < m; j += 2) { \
    const T *right = b + j * bj, *from = start ? start + j * s : NULL; \
    const int both = j + 2 <= m; \
    long i = 0; \
    for (; i + 4 <= n; i += 4) \
      if (both) NAME##_tile(a + i * ai, ai, right, bj, from, s, out + i * oi + j, oi, k, 4, 2); \
      else NAME##_tile(a + i * ai, ai, right, bj, from, s, out + i * oi + j, oi, k, 4, 1); \
    for (; i < n; i++) \
      if (both) NAME##_tile(a + i * ai, ai, right, bj, from, s, out + i * oi + j, oi, k, 1, 2); \
      else NAME##_tile(a + i * ai, ai, right, bj, from, s, out + i * oi + j, oi, k, 1, 1); \
  } \
}
DOTS(dots_f, float)
DOTS(dots_d, double)
""",
    "outer": r"""
// out (n, m) = a (n, k) b (k, m) + start, where rows of b are contiguous: four rows of b at a time, two of out.
#define OUTER(NAME, T) \
INLINE void NAME(const T *a, long ai, long ak, const T *b, long bk, const T *start, long s, T *restrict out, long oi, \
                 long n, long m, long k) { \
  for (long i = 0; i < n; i++) for (long j = 0; j < m; j++) out[i * oi + j] = start ? start[j * s] : 0; \
  long l = 0; \
  for (; l + 4 <= k; l += 4) { \
    const T *b0 = b + l * bk, *b1 = b0 + bk, *b2 = b1 + bk, *b3 = b2 + bk; \
    long i = 0; \
    for (; i + 2 <= n; i += 2) { \
      const T *p = a + i * ai + l * ak, *q = p + ai; \
      const T p0 = p[0], p1 = p[ak], p2 = p[2 * ak], p3 = p[3 * ak]; \
      const T q0 = q[0], q1 = q[ak], q2 = q[2 * ak], q3 = q[3 * ak]; \
      T *x = out + i * oi, *y = x + oi; \
      _Pragma("omp simd") \
      for (long j = 0; j < m; j++) { \
        x[j] += p0 * b0[j] + p1 * b1[j] + p2 * b2[j] + p3 * b3[j]; \
        y[j] += q0 * b0[j] + q1 * b1[j] + q2 * b2[j] + q3 * b3[j]; \
      } \
    } \
    for (; i < n; i++) { \
      const T *p = a + i * ai + l * ak; \
      const T p0 = p[0], p1 = p[ak], p2 = p[2 * ak], p3 = p[3 * ak]; \
      T *x = out + i * oi; \
      _Pragma("omp simd") \
      for (long j = 0; j < m; j++) x[j] += p0 * b0[j] + p1 * b1[j] + p2 * b2[j] + p3 * b3[j]; \
    } \
  } \
  for (; l < k; l++) for (long i = 0; i < n; i++) { \
    const T left = a[i * ai + l * ak]; \
    _Pragma("omp simd") \
    for (long j = 0; j < m; j++) out[i * oi + j] += left * b[l * bk + j]; \
  } \
}
OUTER(outer_f, float)
OUTER(outer_d, double)
""",
    "gemm": GEMM,
}
"""By how their names begin."""
