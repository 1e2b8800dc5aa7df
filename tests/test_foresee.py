"""What is foreseen of an op is what its kernel gives, for every case, and for every case bent out of shape."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from engines.graph.foresee import RULES, foresee
from engines.graph.ir import Operand, Var
from engines.graph.trace import infer
from engines.ops import TABLE
from engines.value import EngineError, Spec
from tests.op_cases import CASES
from tests.op_inputs import Case

ODD_ATTRS: Mapping[str, tuple[Any, ...]] = {
    "dim": (-1, 0, 1, 5, -5),
    "stride": (2, 0, -1, (1, 2)),
    "padding": (1, 2, 7, -1, (0, 1)),
    "dilation": (2, 0, 9),
    "groups": (2, 0, 3),
    "kernel_size": (1, 2, 0, 9, (2, 1)),
    "shape": ((), (1,), (3, 4), (2, 2, 5, 5), (-1, 2)),
    "widths": (3, ((1, 1), 2), ((1, 1), (0,)), ((1.5, 0), (0, 0)), ((-9, 0), (0, 1)), ((0, 2), (-1, -1))),
    "rows": (0, 5, -1),
    "k": (0, 1, 2, 99, -1, 1.5),
    "num_classes": (0, 7, -1),
    "value": (0, 2, 0.5, True, None),
    "keepdim": (True, False, None),
    "rate": (0.0, 0.5, 1.0, -0.1),
    "dtype": ("float64", "int64"),
}
"""Other attributes to try, right or wrong."""


def drawn(op: str, case: Case) -> tuple[tuple[Operand, ...], dict[str, Any]]:
    """A case's operands as values of a graph, and all its attributes."""
    built = [i.to(torch.float32) if isinstance(i, torch.Tensor) and i.is_floating_point() else i for i in case.build()]
    operands = tuple(Var(Spec.of(i)) if isinstance(i, torch.Tensor) else i for i in built)
    return operands + (None,) * (len(TABLE[op].vjps) - len(operands)), TABLE[op].complete(case.attrs)


def bent(operands: tuple[Operand, ...], attrs: dict[str, Any]) -> Iterator[tuple[tuple[Operand, ...], dict[str, Any]]]:
    """The case itself, and with one operand or attribute changed, or an operand too few or too many."""
    yield operands, attrs
    yield operands[:-1], attrs
    yield (*operands, operands[-1]), attrs
    for place, operand in enumerate(operands):
        for other in (*others(operand), None, 2, 0.5, True):
            yield (*operands[:place], other, *operands[place + 1 :]), attrs
    for name, values in ODD_ATTRS.items():
        if name in attrs:
            yield from ((operands, {**attrs, name: value}) for value in values)


def others(operand: Operand) -> Iterator[Var]:
    if not isinstance(operand, Var):
        yield Var(Spec((3,), torch.float32, "cpu"))
        return
    spec = operand.spec
    for dtype in (torch.float64, torch.int64, torch.bool):
        yield Var(spec._replace(dtype=dtype))
    yield Var(spec._replace(shape=(1, *spec.shape)))
    yield Var(spec._replace(shape=spec.shape[1:]))
    for place, size in enumerate(spec.shape):
        for other in (size + 1, 1, 0):
            yield Var(spec._replace(shape=(*spec.shape[:place], other, *spec.shape[place + 1 :])))


@pytest.mark.parametrize("op", RULES)
def test_what_is_foreseen_is_what_the_kernel_gives(op: str) -> None:
    foreseen = 0
    for case in CASES[op]:
        for operands, attrs in bent(*drawn(op, case)):
            if not any(isinstance(i, Var) for i in operands):
                continue
            found = foresee(TABLE[op], operands, attrs)
            if found is None:
                continue
            foreseen += 1
            described = [i.spec if isinstance(i, Var) else i for i in operands]
            try:
                assert found == infer(TABLE[op], operands, attrs), (described, attrs)
            except EngineError as error:
                pytest.fail(f"{op}{described} {attrs} is foreseen as {found}, and refused: {error}")
    assert foreseen


def test_what_is_not_plain_is_left_to_the_kernel() -> None:
    x, y = Var(Spec((2, 3), torch.float32, "cpu")), Var(Spec((2, 3), torch.float64, "cpu"))
    assert foresee(TABLE["add"], (x, y), {}) is None
    assert foresee(TABLE["add"], (Var(Spec((4,), torch.float32, "cpu")), x), {}) is None
    assert foresee(TABLE["argmax"], (x,), {"dim": (0, 1), "keepdim": False}) is None


def test_models_are_made_ready_without_the_slow_parts_of_torch() -> None:
    """What its symbolic shapes stand on, sympy first, takes a second to import, its compiler (which has it) several."""
    script = (
        "import sys; from engines.registry import load_engine; from suites.workloads import WORKLOADS, load_workload\n"
        "def make_ready(name):\n"
        "    model = load_workload(name)\n"
        "    size = {knob: 4 for knob in ('steps', 'layers', 'ops') if knob in model.size and not model.stream}\n"
        "    load_engine('graph_replay').prepare(model.sized(size).task('loss_and_grad', 2))\n"
        "for name in WORKLOADS:\n"
        "    make_ready(name)\n"
        "    assert not {'sympy', 'torch._dynamo'} & set(sys.modules), name"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
