"""Settle which kernels of Intel's vector mathematics run, before several threads ask at once.

torch hands exp, tanh and others to MKL, which looks for the best kernel of each function when it is first called. Where
that is by several threads at once, one of them may compute its share with a kernel of low precision, this once
(PyTorch's issue 188792, open in 2026). Three of 180 processes had it here: a gradient off by 2e-5 in the one call that
came first.
"""

from __future__ import annotations

import torch

FUNCTIONS = (
    "acos", "asin", "atan", "cos", "erf", "erfc", "erfinv", "exp", "log", "log10", "log2", "sin", "sqrt", "tan", "tanh",
    "trunc",
)  # fmt: skip
"""What torch leaves to MKL, by torch's names."""


def settle() -> None:
    """Call each function once in each dtype that it has a kernel for, on one number: one thread's work."""
    for dtype in (torch.float32, torch.float64):
        one = torch.full((1,), 0.5, dtype=dtype)
        for name in FUNCTIONS:
            getattr(torch, name)(one)
