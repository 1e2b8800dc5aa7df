"""Dropout's masks: the generator against its paper's listing, and the statistics that a user relies on."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from engines.op import Namespace
from engines.ops import KERNELS
from engines.ops.random import _words, step_key
from tests.op_references import splitmix64

MANY = 200_000
FIVE_SIGMA = 5.0
"""A sound generator fails one of these checks in some 2 million; and the masks are the same at every run."""


GOLDEN_KEYS = [-6411193824288604561, -5511663747979980962, 5095610196844313600]
GOLDEN_WORDS = [2558736990761145833, -533072480425318758, 5125111894096537214]
GOLDEN_MASK = "1101101111101111101101101111011011110110"


def key_of(seed: int, step: int) -> torch.Tensor:
    return torch.tensor(step_key(seed, step))


def kept(seed: int = 0, step: int = 0, rate: float = 0.3, stream: int = 0, count: int = MANY) -> torch.Tensor:
    """Truth values: which elements stay."""
    drawn = KERNELS.dropout_mask(key_of(seed, step), shape=(count,), rate=rate, stream=stream, dtype="float64")
    return drawn != 0


def test_words_are_those_of_splitmix64() -> None:
    for key, stream in itertools.product((0, -1, step_key(0, 0), 1 << 62, -(1 << 63)), (0, 1, 1000)):
        found = _words(torch.tensor(key), (2, 3), stream).flatten().tolist()
        assert [word % (1 << 64) for word in found] == [splitmix64(key, (stream << 40) + i) for i in range(6)]


def test_the_generator_has_not_changed() -> None:
    """Stored results rest on these numbers."""
    assert [step_key(0, 0), step_key(0, 1), step_key(1, 0)] == GOLDEN_KEYS
    assert _words(key_of(0, 0), (3,), 0).tolist() == GOLDEN_WORDS
    assert "".join("01"[bool(bit)] for bit in kept(count=40)) == GOLDEN_MASK


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("step", range(3))
def test_a_gpu_s_mask_is_a_processor_s(step: int, dtype: str) -> None:
    key = key_of(1, step)
    drawn = [
        KERNELS.dropout_mask(each, shape=(5, 7000), rate=0.3, stream=2, dtype=dtype).cpu() for each in (key, key.cuda())
    ]
    assert drawn[1].dtype is getattr(torch, dtype)
    assert torch.equal(*drawn)


def test_the_same_key_gives_the_same_mask() -> None:
    assert torch.equal(kept(seed=3, step=9), kept(seed=3, step=9))


def test_a_longer_mask_begins_as_a_shorter_one() -> None:
    assert torch.equal(kept(count=1000)[:10], kept(count=10))


def test_keys_differ_for_every_seed_and_step() -> None:
    keys = {step_key(seed, step) for seed in range(100) for step in range(100)}
    assert len(keys) == 10_000
    assert all(-(1 << 63) <= key < 1 << 63 for key in keys)


@pytest.mark.parametrize("rate", [1e-3, 0.1, 0.25, 0.5, 0.9, 0.999])
def test_the_fraction_kept_is_what_was_asked_for(rate: float) -> None:
    expected, deviation = MANY * (1 - rate), math.sqrt(MANY * rate * (1 - rate))
    assert abs(int(kept(rate=rate).sum()) - expected) < FIVE_SIGMA * deviation


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_mask_has_mean_one_and_two_values(rate: float, dtype: str) -> None:
    drawn = KERNELS.dropout_mask(key_of(0, 0), shape=(MANY,), rate=rate, dtype=dtype)
    scale = torch.tensor(1 / (1 - rate), dtype=drawn.dtype)
    assert drawn.unique().tolist() == [0.0, scale.item()]
    assert abs(drawn.double().mean().item() - 1) < FIVE_SIGMA * math.sqrt(rate / (1 - rate) / MANY)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(kept(), kept(step=1), id="next step"),
        pytest.param(kept(), kept(seed=1), id="next seed"),
        pytest.param(kept(), kept(stream=1), id="next stream"),
        pytest.param(kept(seed=1), kept(step=1), id="seed for step"),
        *(pytest.param(kept()[:-lag], kept()[lag:], id=f"neighbours {lag} apart") for lag in (1, 2, 3, 28, 64, 784)),
    ],
)
def test_draws_are_not_correlated(first: torch.Tensor, second: torch.Tensor) -> None:
    correlation = torch.corrcoef(torch.stack([first, second]).double())[0, 1]
    assert abs(correlation) < FIVE_SIGMA / math.sqrt(MANY)


def test_rates_near_their_ends() -> None:
    assert kept(rate=1e-300).all()
    assert kept(rate=5e-17).all()
    assert not kept(rate=math.nextafter(1.0, 0.0)).any()
    assert kept(rate=0.0).all()


@pytest.mark.parametrize("rate", [1.0, 1.5, -0.1, math.nan])
def test_other_rates_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="rate must be from 0 to below 1"):
        kept(rate=rate)


def test_planes_are_kept_or_dropped_whole() -> None:
    x = torch.ones(50, 40, 3, 2)
    dropped = KERNELS.dropout2d(x, key_of(0, 0), rate=0.5)
    assert torch.equal(dropped, dropped[:, :, :1, :1].expand_as(x))
    assert 0.4 < (dropped != 0).double().mean() < 0.6


def test_in_a_model_each_stream_is_its_own() -> None:
    def model(ops: Namespace, x: torch.Tensor, key: torch.Tensor) -> list[torch.Tensor]:
        return [ops.dropout(x, key, rate=0.5, stream=stream) for stream in (0, 1, 0)]

    first, second, again = model(KERNELS, torch.ones(1000), key_of(0, 0))
    assert torch.equal(first, again)
    assert 0.4 < (first == second).double().mean() < 0.6
