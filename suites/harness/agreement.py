"""Right before fast: what an engine computes is held against a float64 reference before any round is timed.

The reference is PyTorch's autograd in float64 on the same parameters, batch and key. A result may be off by twice
PyTorch eager's own error in the same dtype (three times at half precision) plus a little, each as root mean square
relative to the reference (the criterion of PyTorch's own compiler benchmarks, there with a tolerance of 1e-4).

One run shows eager's error by chance: where a sum lies within a rounding of 0, a relu lets it through or not, and with
it a whole term of a gradient. So a result that fails is held against more of eager's runs, on parameters that differ
from the given ones in their last place alone: no engine can be asked to be more certain of a tie than eager is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from engines.engine import Array, Program, Task
from engines.ops.random import step_key
from engines.registry import load_engine
from suites.harness.cell import Cell

MULTIPLE_OF_EAGER = {"float64": 2.0, "float32": 2.0, "float16": 3.0, "bfloat16": 3.0}
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-2, "bfloat16": 4e-2}
"""As root mean square relative to the reference; some tens of roundings of the dtype."""
EAGER = "torch_eager"
REFERENCE = "float64 torch autograd"
NUDGES = 16
"""Runs of eager on nudged parameters. What a nudge turns over half the time stays as it is in all of them once in
65,536; what it turns over one time in ten, once in five."""
NUDGED = f"{REFERENCE}, eager's error the largest over {NUDGES} nudges of the parameters' last place"
PREFIX = "="  # no parameter of numpy.savez is called so
KEY = step_key(seed=0, step=0)


@dataclass(frozen=True, slots=True)
class Agreement:
    """The verdict on one row: the tensor that is furthest off, by how much, and how much is allowed (both relative)."""

    verdict: str
    worst: str | None = None
    error: float | None = None
    allowed: float | None = None
    reference: str | None = REFERENCE

    @property
    def wrong(self) -> bool:
        """Whether the row must not be timed."""
        return self.verdict == "wrong"


UNCHECKED = Agreement("unchecked", reference=None)


def results(program: Program, cell: Cell) -> dict[str, Array]:
    """Loss, gradients and, after a step, parameters, as NumPy arrays: one run on the cell's own batch."""
    return _results(program, cell.checked_task())


def _results(program: Program, task: Task) -> dict[str, Array]:
    outputs = program.run(program.place(task.batch, KEY))
    found = {"loss": outputs.loss, **{f"grad.{name}": g for name, g in outputs.gradients.items()}}
    if task.quantity == "step":
        found |= program.parameters
    return {name: value.detach().cpu().numpy().astype(np.float64) for name, value in found.items()}


@lru_cache(maxsize=2)
def _reference(cell: Cell) -> Mapping[str, Array]:
    task = cell.checked_task("float64")
    return _results(load_engine(EAGER).prepare(task), task)


@lru_cache(maxsize=2)
def _eager_errors(cell: Cell, nudges: int = 0) -> Mapping[str, float]:
    """Eager's relative error by name; with nudges, the largest of as many more runs."""
    task = cell.checked_task()
    tasks = (task, *(_nudged(task, seed) for seed in range(nudges)))
    runs = [_results(load_engine(EAGER).prepare(one), one) for one in tasks]
    return {name: max(relative_error(run[name], wanted) for run in runs) for name, wanted in _reference(cell).items()}


def _nudged(task: Task, seed: int) -> Task:
    """The task with each number of its parameters moved by one unit in the last place, up or down at random."""
    deal = np.random.default_rng(seed)

    def nudge(values: Array) -> Array:
        up = deal.integers(2, size=values.shape, dtype=bool)
        moved: Array = np.nextafter(values, np.where(up, np.inf, -np.inf).astype(values.dtype))
        return moved

    return replace(task, parameters={name: nudge(values) for name, values in task.parameters.items()})


def relative_error(found: Array, wanted: Array) -> float:
    """Root mean square of the difference over that of the reference; infinite where shapes differ or a NaN stands."""
    if found.shape != wanted.shape:
        return float("inf")
    scale = float(np.sqrt(np.mean(np.square(wanted)))) if wanted.size else 0.0
    error = float(np.sqrt(np.mean(np.square(found - wanted)))) if wanted.size else 0.0
    if not np.isfinite(error):
        return float("inf")
    return error / scale if scale > 0.0 else error


def check(program: Program, cell: Cell) -> Agreement:
    """Run a fresh program once on the cell and compare. A step moves its parameters by that one step."""
    return judge(results(program, cell), cell)


def judge(found: Mapping[str, Array], cell: Cell) -> Agreement:
    """Hold loss, gradients and parameters against the reference; the verdict names the tensor that is furthest off.

    Raises ValueError where the reference itself is not finite: there is nothing then that could be right. Where only
    eager is not finite, it has overflowed in this dtype, and excuses nobody.
    """
    once = _held(found, cell, _eager_errors(cell), REFERENCE)
    return _held(found, cell, _eager_errors(cell, NUDGES), NUDGED) if once.wrong else once


def _held(found: Mapping[str, Array], cell: Cell, eager: Mapping[str, float], reference: str) -> Agreement:
    worst, error, allowed, excess = None, 0.0, 0.0, -1.0
    for name, wanted in _reference(cell).items():
        if not np.isfinite(wanted).all():
            raise ValueError(
                f"{name} of the reference is not finite: the data or the parameters of {cell.name} are bad"
            )
        here = relative_error(found[name], wanted) if name in found else float("inf")
        excused = MULTIPLE_OF_EAGER[cell.dtype] * eager[name] if np.isfinite(eager[name]) else 0.0
        bound = excused + TOLERANCE[cell.dtype] / 10
        if here / bound > excess:
            worst, error, allowed, excess = name, here, bound, here / bound
    return Agreement("agrees" if excess <= 1.0 else "wrong", worst, error, allowed, reference)


def save_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays by name, for another process to read."""
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **{f"{PREFIX}{name}": value for name, value in arrays.items()})


def load_arrays(path: Path) -> dict[str, Array]:
    """What `save_arrays` wrote."""
    with np.load(path, allow_pickle=False) as found:
        return {name.removeprefix(PREFIX): found[name] for name in found.files}
