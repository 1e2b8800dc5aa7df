"""Randomness as an input: masks drawn from a key, the same on every engine and device.

    key = step_key(seed=0, step=7)                 # a plain integer, new for every step
    ops.dropout(x, key, rate=0.5, stream=1)        # `stream` tells the draws of one step apart

The generator is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014). It
computes the n-th number directly from the key and n; no state is carried from one draw to the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

import torch
from torch.cuda.jiterator import _create_jit_fn as create_jit_fn

from engines.op import REQUIRED, Namespace, Op
from engines.value import DTYPES, dtype_name

_GAMMA = 0x9E3779B97F4A7C15
_INVERSE = pow(_GAMMA, -1, 1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_WORD = (1 << 64) - 1
_STREAM_LENGTH = 1 << 40  # numbers in one stream


def _signed(word: int) -> int:
    """64 bits as torch's int64 holds them."""
    word &= _WORD
    return word - (1 << 64) if word >> 63 else word


def _mix(word: int) -> int:
    word = ((word ^ (word >> 30)) * _MIX_1) & _WORD
    word = ((word ^ (word >> 27)) * _MIX_2) & _WORD
    return word ^ (word >> 31)


def step_key(seed: int, step: int) -> int:
    """The key of one step of one run, an int64. Different steps or seeds give unrelated draws."""
    return _signed(_mix(_mix((seed + 1) * _GAMMA & _WORD) + (step + 1) * _GAMMA & _WORD))


def first_counter(stream: int) -> int:
    """The counter of the first number of a stream."""
    return stream * _STREAM_LENGTH + 1


def keep_below(rate: float) -> int:
    """A uniform int64 word below this keeps its element: that happens with probability 1 - rate."""
    return _signed(min(round((1.0 - rate) * (1 << 64)), _WORD) ^ (1 << 63))


def _scalar(word: int) -> torch.Tensor:
    """A number as a tensor without dimensions, which torch takes on any device and in half the time of a number."""
    return torch.tensor(_signed(word))


_MIXING = tuple((bits, _WORD >> bits, _signed(factor)) for bits, factor in ((30, _MIX_1), (27, _MIX_2)))
"""SplitMix64's mixing: z ^= z >>> bits, z *= factor. torch's shift of int64 copies the sign, hence the mask between."""

_MIXING_TENSORS = tuple(tuple(map(_scalar, step)) for step in _MIXING)


def _weyl(count: int, stream: int, device: torch.device) -> torch.Tensor:
    """The counters of a stream times SplitMix64's gamma: the part of a draw that does not depend on the key."""
    start = first_counter(stream)
    return torch.arange(start, start + count, device=device).mul_(_signed(_GAMMA))


_kept_weyl = lru_cache(maxsize=64)(_weyl)


def _counters(count: int, stream: int, device: torch.device) -> torch.Tensor:
    """The same, kept for later draws; not while a CUDA graph is captured, which must own all that it reads."""
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return _weyl(count, stream, device)
    return _kept_weyl(count, stream, device)


def _mixed(z: torch.Tensor, mixing: Sequence[Sequence[Any]]) -> torch.Tensor:
    """Uniform int64 words. SplitMix64's last step is left out: it touches only the low bits, which decide nothing."""
    for bits, mask, factor in mixing:
        z.bitwise_xor_((z >> bits).bitwise_and_(mask)).mul_(factor)
    return z


def _words(key: torch.Tensor, shape: tuple[int, ...], stream: int) -> torch.Tensor:
    return _mixed(_counters(math.prod(shape), stream, key.device) + key, _MIXING_TENSORS).reshape(shape)


_ON_CUDA = """
template <typename T> T mask(T n, T low, T high, long long start, long long below, double scale) {
    unsigned long long key = ((unsigned long long)(unsigned int)high << 32) | (unsigned int)low;
    unsigned long long z = ((unsigned long long)n + start) * 0x9E3779B97F4A7C15ULL + key;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return __float_as_int((long long)z < below ? (float)scale : 0.0f);
}
"""
"""All of a mask in float32, as one kernel: a dozen launches would be no fair price for it."""


@cache
def _kernel_on_cuda() -> Callable[..., torch.Tensor]:
    made: Callable[..., torch.Tensor] = create_jit_fn(_ON_CUDA, start=0, below=0, scale=1.0)
    return made


@lru_cache(maxsize=64)
def _kept_range(count: int, device: torch.device) -> torch.Tensor:
    return torch.arange(count, dtype=torch.int32, device=device)


def _mask_on_cuda(key: torch.Tensor, shape: tuple[int, ...], rate: float, stream: int) -> torch.Tensor:
    count, capturing = math.prod(shape), torch.cuda.is_current_stream_capturing()
    numbers = (_kept_range.__wrapped__ if capturing else _kept_range)(count, key.device)
    low, high = key.view(1).view(torch.int32).unbind()  # the kernel's numbers are of one type, of a float's size
    scale = 1.0 / (1.0 - rate)
    bits = _kernel_on_cuda()(numbers, low, high, start=first_counter(stream), below=keep_below(rate), scale=scale)
    return bits.view(torch.float32).view(shape)


@lru_cache(maxsize=64)
def _bounds(rate: float, dtype: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Below what a word keeps its element, and what it is then scaled by, as tensors without dimensions."""
    return _scalar(keep_below(rate)), torch.tensor(1.0 / (1.0 - rate), dtype=DTYPES[dtype])


def _mask_for_compiler(key: torch.Tensor, shape: tuple[int, ...], rate: float, stream: int, dtype: str) -> torch.Tensor:
    """A mask as torch.compile takes it: it writes numbers into its code, and hands tensors over.

    Products and large sums of what it takes for an index it works out as if integers did not wrap around: so the key
    comes first, divided by what follows.
    """
    start = key * _signed(_INVERSE) + first_counter(stream)
    words = _mixed((torch.arange(math.prod(shape), device=key.device) + start) * _signed(_GAMMA), _MIXING)
    return (words.reshape(shape) < keep_below(rate)).to(DTYPES[dtype]).mul_(1.0 / (1.0 - rate))


def _dropout_mask(key: torch.Tensor, *, shape: tuple[int, ...], rate: float, stream: int, dtype: str) -> torch.Tensor:
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"rate must be from 0 to below 1, found {rate}")
    if torch.compiler.is_compiling():
        return _mask_for_compiler(key, shape, rate, stream, dtype)
    if key.is_cuda and dtype == "float32":
        return _mask_on_cuda(key, shape, rate, stream)
    below, scale = _bounds(rate, dtype)
    return (_words(key, shape, stream) < below) * scale


OPS = (
    Op(
        "dropout_mask",  # 1 / (1 - rate) with probability 1 - rate, else 0
        _dropout_mask,
        (None,),
        attrs={"shape": REQUIRED, "rate": REQUIRED, "stream": 0, "dtype": "float32"},
    ),
)


def _masked(ops: Namespace, x: Any, key: Any, shape: tuple[int, ...], rate: float, stream: int) -> Any:
    if key is None or rate == 0.0:
        return x
    return x * ops.dropout_mask(key, shape=shape, rate=rate, stream=stream, dtype=dtype_name(x.dtype))


def dropout(ops: Namespace, x: Any, key: Any, *, rate: float, stream: int = 0) -> Any:
    """Each element zeroed with probability `rate`, the others scaled by 1 / (1 - rate); x itself where key is None."""
    return _masked(ops, x, key, tuple(x.shape), rate, stream)


def dropout2d(ops: Namespace, x: Any, key: Any, *, rate: float, stream: int = 0) -> Any:
    """As `dropout`, but for whole planes of an x of shape (batch, channels, height, width)."""
    return _masked(ops, x, key, (*x.shape[:2], 1, 1), rate, stream)


COMPOSITES = (dropout, dropout2d)
