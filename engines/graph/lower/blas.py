"""The BLAS that PyTorch was built with, for C to call: the very routine that `torch.matmul` ends in.

    available()              # whether PyTorch's library shows it
    bind(library)            # tells a library that was compiled with GEMM in it where it lies

C calls it through the variables `blas_f` and `blas_d`, in Fortran's convention: matrices lie by columns, so that the
product of two that lie by rows is asked for in the other order. Whole numbers are given as pointers to 64 bits, which
read right in 32 as well: a BLAS may be built either way.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch

ROUTINES: Mapping[str, str] = {"blas_f": "sgemm_", "blas_d": "dgemm_"}
"""Variables in C, and the routines that they point to."""

GEMM = r"""
// out (n, m) = a (n, k) b (k, m) + start; a and b by rows, `lda` and `ldb` apart, where 'N', by columns where 'T'.
#define GEMM(NAME, BLAS, T) \
void (*BLAS)(const char *, const char *, const int64_t *, const int64_t *, const int64_t *, const T *, const T *, \
             const int64_t *, const T *, const int64_t *, const T *, T *, const int64_t *); \
INLINE void NAME(const T *a, char ta, int64_t lda, const T *b, char tb, int64_t ldb, const T *start, long s, T *out, \
                 int64_t n, int64_t m, int64_t k) { \
  if (start) for (long i = 0; i < n; i++) for (long j = 0; j < m; j++) out[i * m + j] = start[j * s]; \
  const T one = 1, beta = start != NULL; \
  BLAS(&tb, &ta, &m, &n, &k, &one, b, &ldb, a, &lda, &beta, out, &m); \
}
GEMM(gemm_f, blas_f, float)
GEMM(gemm_d, blas_d, double)
"""


def available() -> bool:
    """Whether C may call PyTorch's BLAS here."""
    return sys.byteorder == "little" and _torch() is not None


def bind(library: ctypes.CDLL) -> None:
    """Point a library's variables, if it has them, to the routines."""
    for variable, routine in ROUTINES.items():
        if hasattr(library, variable):
            target = ctypes.cast(getattr(_torch(), routine), ctypes.c_void_p)
            ctypes.c_void_p.in_dll(library, variable).value = target.value


@lru_cache(maxsize=1)
def _torch() -> ctypes.CDLL | None:
    """PyTorch's library of kernels, which is loaded already, if it shows the routines."""
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        path = Path(torch.__file__).parent / "lib" / name
        if path.exists():
            library = ctypes.CDLL(str(path))
            return library if all(hasattr(library, routine) for routine in ROUTINES.values()) else None
    return None
