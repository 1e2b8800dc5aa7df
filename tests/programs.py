"""What the engines' tests share: random programs, comparison to the bit, and the lines that error messages name.

program = random_program(seed=7)
loss, gradients = on_tape(program)
executable = on_graph(program, passes=())
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engines.graph import Graph, trace
from engines.graph.compile import compile_loss
from engines.graph.executable import Executable
from engines.graph.passes import Pass
from engines.ops.random import step_key
from engines.tape import Tape
from engines.value import Spec

ROWS, COLUMNS = 3, 4
FLOAT = torch.float32
KEY = torch.tensor(step_key(seed=3, step=1))

Ops = Any
Step = Callable[..., Any]


def spec(*shape: int, dtype: torch.dtype = FLOAT) -> Spec:
    return Spec(shape, dtype, "cpu")


def array(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def tensor(*shape: int, seed: int = 0, dtype: Any = np.float32) -> torch.Tensor:
    return torch.tensor(array(*shape, seed=seed, dtype=dtype))


def traced(model: Callable[..., Any], *specs: Spec) -> Graph:
    """The graph of `model(ops, a, b, ...)`, with inputs named x, y, z and the output named out."""
    names = "xyz"[: len(specs)]
    return trace(lambda ops, s: {"out": model(ops, *(s[n] for n in names))}, dict(zip(names, specs, strict=True)))


def run(graph: Graph, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return Executable.build(graph)(*inputs)


def text(graph: Graph) -> str:
    """A graph as text, without the lines that its nodes come from."""
    return re.sub(r"  # \S+", "", str(graph))


def bits(value: torch.Tensor) -> torch.Tensor:
    """A tensor's bits as integers, so that -0.0 is not 0.0 and NaN equals itself."""
    if not value.dtype.is_floating_point:
        return value
    return value.contiguous().view({8: torch.int64, 4: torch.int32, 2: torch.int16}[value.element_size()])


def assert_same_bits(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(bits(one), bits(other)), f"{one}\n{other}"


def assert_near(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> None:
    """Equal within what the order of float32 operations, and another tanh, may change."""
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-6, equal_nan=True)


def at(mark: str) -> str:
    """FILE:LINE of the one line of the calling test file that ends with the comment `mark`."""
    file = Path(inspect.stack()[1].filename)
    lines = [n for n, line in enumerate(file.read_text().splitlines(), 1) if line.endswith(f"# {mark}")]
    assert len(lines) == 1, f"{mark!r} marks {len(lines)} lines"
    return f"{file.name}:{lines[0]}"


def some_where(ops: Ops, p: Mapping[str, Any], a: Any, b: Any) -> Any:
    return ops.where(a > b, a, b * p["b"])


def some_split(ops: Ops, p: Mapping[str, Any], a: Any) -> Any:
    left, right = ops.split(a, sizes=(1, 3), dim=1)
    return ops.concat([right, left * 0.5], dim=1)


def half_used_split(ops: Ops, p: Mapping[str, Any], a: Any) -> Any:
    part = ops.split(a, sizes=(2, 2), dim=1)[1]
    return ops.concat([part, part], dim=1)


def some_layer_norm(ops: Ops, p: Mapping[str, Any], a: Any) -> Any:
    y, mean, rstd = ops.layer_norm_full(a, p["b"], None, normalized_shape=(COLUMNS,))
    return y * 0.5 + mean * ops.tanh(rstd)


STEPS: tuple[Step, ...] = (
    lambda ops, p, a, b: a + b,
    lambda ops, p, a, b: a - b,
    lambda ops, p, a, b: a * b,
    lambda ops, p, a, b: a / (b * b + 1.0),
    lambda ops, p, a: ops.tanh(a),
    lambda ops, p, a: ops.sigmoid(a),
    lambda ops, p, a: ops.relu(a),
    lambda ops, p, a: ops.exp(ops.tanh(a)),
    lambda ops, p, a: ops.abs(a),
    lambda ops, p, a: -a,
    lambda ops, p, a: ops.tanh(a) ** 2.0,
    lambda ops, p, a: ops.matmul(a, p["w"]),
    lambda ops, p, a: ops.linear(a, p["w"], p["b"]),
    lambda ops, p, a: a * p["b"],
    lambda ops, p, a: a + ops.mean(a, dim=0, keepdim=True),
    lambda ops, p, a: a - ops.max(a, dim=1, keepdim=True),
    lambda ops, p, a: ops.softmax(a, dim=1),
    lambda ops, p, a: ops.transpose(ops.tanh(ops.transpose(a, dim0=0, dim1=1)), dim0=0, dim1=1),
    lambda ops, p, a: ops.reshape(ops.sigmoid(ops.reshape(a, shape=(COLUMNS, ROWS))), shape=(ROWS, COLUMNS)),
    lambda ops, p, a: ops.concat([a[1:], a[:1]], dim=0),
    lambda ops, p, a: ops.embedding(p["table"], p["index"]) * a,
    lambda ops, p, a: ops.stop_gradient(a) * a,
    lambda ops, p, a: ops.dropout(a, p["key"], rate=0.25),
    lambda ops, p, a: ops.maximum(a, p["m"]),
    some_where,
    some_split,
    half_used_split,
    some_layer_norm,
)
"""Steps of a random program, each from matrices (ROWS, COLUMNS) to one."""

TRIVIAL: tuple[Step, ...] = (
    lambda ops, p, a: a * 1.0,
    lambda ops, p, a: 1.0 * a,
    lambda ops, p, a: a / 1.0,
    lambda ops, p, a: a**1,
    lambda ops, p, a: a - 0.0,
    lambda ops, p, a: a + 0.0,
    lambda ops, p, a: ops.neg(-a),
    lambda ops, p, a: ops.relu(ops.relu(a)),
    lambda ops, p, a: ops.abs(ops.abs(a)),
    lambda ops, p, a: ops.reshape(a, shape=(ROWS, COLUMNS)),
    lambda ops, p, a: a * ops.full_like(a, value=1.0),
    lambda ops, p, a: a + ops.exp(ops.full_like(p["b"], value=0.5)),
    lambda ops, p, a: ops.cast(a, dtype="float32"),
    lambda ops, p, a: ops.concat([a], dim=0),
)
"""Steps that give the passes something to do."""

ALL_STEPS = STEPS + TRIVIAL


@dataclass(frozen=True)
class Program:
    """A loss with parameters and a batch; `inputs` gives their tensors in the graph's order."""

    loss: Callable[..., Any]
    parameters: Mapping[str, torch.Tensor]
    batch: Mapping[str, torch.Tensor]

    def inputs(self) -> list[torch.Tensor]:
        return [*self.parameters.values(), *self.batch.values(), KEY]


def random_program(seed: int, length: int = 10) -> Program:
    """A program of random steps on shared operands, with parameters used any number of times, or never."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(len(ALL_STEPS), size=length)
    choices = [rng.integers(0, 3 + number, size=2) for number in range(length)]
    return program_of([(int(step), (int(a), int(b))) for step, (a, b) in zip(steps, choices, strict=True)], seed)


def program_of(steps: Sequence[tuple[int, tuple[int, int]]], seed: int = 0) -> Program:
    """The program of these steps: each a number in `ALL_STEPS`, and of two earlier values, counted round."""

    def loss(ops: Ops, parameters: Mapping[str, Any], batch: Mapping[str, Any], key: Any) -> Any:
        everything = {**parameters, **batch, "key": key}
        values = [batch["x"], parameters["m"], ops.matmul(batch["x"], parameters["w"])]
        for number, choice in steps:
            step = ALL_STEPS[number]
            operands = [values[c % len(values)] for c in choice][: len(inspect.signature(step).parameters) - 2]
            values.append(step(ops, everything, *operands))
        return ops.sum(ops.tanh(values[-1] * parameters["m"])) + ops.mean(values[-2] * values[-3])

    parameters = {
        "m": tensor(ROWS, COLUMNS, seed=seed),
        "w": tensor(COLUMNS, COLUMNS, seed=seed + 1),
        "b": tensor(COLUMNS, seed=seed + 2),
        "table": tensor(5, COLUMNS, seed=seed + 3),
    }
    return Program(loss, parameters, {"x": tensor(ROWS, COLUMNS, seed=seed + 4), "index": torch.tensor([4, 0, 4])})


def on_tape(program: Program, wrt: Sequence[str] | None = None) -> list[torch.Tensor]:
    """Loss and gradients from the tape, of the parameters named in `wrt` or of all."""
    with Tape() as tape:
        ours = {name: tape.parameter(value) for name, value in program.parameters.items()}
        theirs = {name: tape.constant(value) for name, value in program.batch.items()}
        loss = program.loss(tape.ops, ours, theirs, tape.constant(KEY))
        return [loss.data, *(g.data for g in tape.gradients(loss, [ours[name] for name in wrt or ours]))]


def on_graph(program: Program, passes: Sequence[Pass] = ()) -> Executable:
    """Loss and gradients as an executable of `program.inputs()`."""
    weights = {name: Spec.of(value) for name, value in program.parameters.items()}
    batch = {name: Spec.of(value) for name, value in program.batch.items()}
    return compile_loss(program.loss, weights, batch, Spec.of(KEY), passes=passes)
