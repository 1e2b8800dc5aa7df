"""How a case of an op is run: on the tape, through the graph, and by torch's autograd, each giving the same names.

    values = given(case)                            # x0, x1, ... seed0, ... dir0, ...
    by_tape("exp", case, values)                    # out0, first.x0, second.x0, second.seed0

`first` are gradients of the outputs weighted by seeds, `second` those of the first gradients weighted by dirs. Weights
are random, so that an error which a symmetry would hide shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from engines.graph import Graph, trace
from engines.op import Namespace
from engines.ops import TABLE
from engines.tape import Tape
from engines.value import Spec
from tests.op_inputs import Case

Values = dict[str, Any]


def is_float(value: Any) -> bool:
    return value is not None and hasattr(value, "dtype") and value.dtype.is_floating_point


def given(case: Case, dtype: torch.dtype = torch.float64, salt: int = 0) -> Values:
    """Tensors by name: inputs (x0, ...), weights of float outputs (seed0, ...) and of float inputs (dir0, ...).

    Made anew at each call, because an update overwrites its inputs.
    """
    rng = np.random.default_rng(7)
    inputs = [v.to(dtype) if is_float(v) else v for v in case.build(salt)]
    values = {f"x{i}": v for i, v in enumerate(inputs) if isinstance(v, torch.Tensor)}
    for i, out in enumerate(reference(case, inputs)):
        if is_float(out):
            values[f"seed{i}"] = torch.tensor(rng.standard_normal(out.shape), dtype=out.dtype)
    for i, value in enumerate(inputs):
        if is_float(value):
            values[f"dir{i}"] = torch.tensor(rng.standard_normal(value.shape), dtype=dtype)
    return values


def reference(case: Case, inputs: Sequence[Any]) -> tuple[Any, ...]:
    out = case.torch_reference(*inputs, **case.attrs)
    return tuple(out) if isinstance(out, (tuple, list)) else (out,)


def call(ops: Namespace, name: str, case: Case, values: Values) -> tuple[Any, ...]:
    """The op's outputs on the inputs among `values`."""
    inputs = operands(case, values)
    together = name == "stack" or (name in TABLE and TABLE[name].variadic)
    function = getattr(ops, name)
    out = function(inputs, **case.attrs) if together else function(*inputs, **case.attrs)
    return tuple(out) if isinstance(out, (tuple, list)) else (out,)


def operands(case: Case, values: Values) -> list[Any]:
    return [values.get(f"x{i}", number) for i, number in enumerate(case.inputs)]


def weighted(total: Callable[[Any], Any], parts: Sequence[Any], weights: Sequence[Any]) -> Any:
    """The sum of all elements of all parts, each with a weight of its own; None where there is none."""
    sums = [total(part * weight) for part, weight in zip(parts, weights, strict=True) if weight is not None]
    return sum(sums[1:], start=sums[0]) if sums else None


def derivatives(
    outs: Sequence[Any], values: Values, total: Callable[..., Any], gradients: Callable[..., Any]
) -> Values:
    """Outputs, gradients, and gradients of gradients (also with respect to the weights), by name."""
    wrt = {name: value for name, value in values.items() if name.startswith("x") and is_float(value)}
    seeds = {name: value for name, value in values.items() if name.startswith("seed")}
    found = {f"out{i}": out for i, out in enumerate(outs)}
    if not wrt or not seeds:
        return found
    first = gradients(weighted(total, outs, [seeds.get(f"seed{i}") for i in range(len(outs))]), [*wrt.values()])
    found |= {f"first.{name}": gradient for name, gradient in zip(wrt, first, strict=True)}
    more = wrt | seeds
    second = gradients(weighted(total, first, [values[f"dir{name[1:]}"] for name in wrt]), [*more.values()])
    return found | {f"second.{name}": gradient for name, gradient in zip(more, second, strict=True)}


def by_engine(ops: Namespace, name: str, case: Case, values: Values) -> Values:
    return derivatives(call(ops, name, case, values), values, ops.sum, ops.gradients)


def by_torch(case: Case, values: Values) -> Values:
    def gradients(loss: Any, wrt: Sequence[Any]) -> Any:
        return torch.autograd.grad(loss, wrt, create_graph=True, allow_unused=True, materialize_grads=True)

    leaves = {name: v.detach().clone().requires_grad_() if is_float(v) else v for name, v in values.items()}
    outs = reference(case, operands(case, leaves))
    return {name: v.detach() for name, v in derivatives(outs, leaves, torch.sum, gradients).items()}


def place(tape: Tape, values: Values) -> Values:
    return {name: tape.parameter(v) if is_float(v) else tape.constant(v) for name, v in values.items()}


def by_tape(name: str, case: Case, values: Values) -> Values:
    with Tape() as tape:
        return {key: v.data for key, v in by_engine(tape.ops, name, case, place(tape, values)).items()}


def traced(name: str, case: Case, values: Values, run: Callable[..., Values] = by_engine) -> Graph:
    """The graph of what `run` gives."""
    specs = {key: Spec.of(value) for key, value in values.items()}
    return trace(lambda ops, symbols: run(ops, name, case, symbols), specs, name=name)


def weighted_outputs(ops: Namespace, name: str, case: Case, values: Values) -> Any:
    """The loss of `first_by_tape`; None where no output is a float."""
    outs = call(ops, name, case, values)
    return weighted(ops.sum, outs, [values.get(f"seed{i}") for i in range(len(outs))])


def first_by_tape(name: str, case: Case, values: Values, wrt: Sequence[str] = (), others: bool = True) -> Values:
    """First gradients by the walk on bare kernels that training takes.

    With respect to the inputs in `wrt`, by default all floats; the others are parameters too, or else constants.
    """
    wrt = wrt or [key for key, value in values.items() if key.startswith("x") and is_float(value)]
    with Tape() as tape:
        parameters = {k: v for k, v in values.items() if k in wrt or (others and k.startswith("x") and is_float(v))}
        placed = {k: tape.parameter(v) if k in parameters else tape.constant(v) for k, v in values.items()}
        loss = weighted_outputs(tape.ops, name, case, placed)
        if loss is None:
            return {}
        if loss.slot < 0:
            return {f"first.{key}": torch.zeros_like(values[key]) for key in wrt}
        found = tape.gradients(loss, [placed[key] for key in wrt])
        return {f"first.{key}": gradient.data for key, gradient in zip(wrt, found, strict=True)}


def check_close(found: Values, expected: Values, kind: str, rtol: float, atol: float) -> None:
    names = [name for name in expected if name.startswith(kind)]
    assert names == [name for name in found if name.startswith(kind)]
    for name in names:
        torch.testing.assert_close(
            found[name], expected[name], rtol=rtol, atol=atol, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
        )


def check_same_bits(found: Values, expected: Values) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert Spec.of(found[name]) == Spec.of(value), name
        assert found[name].numpy().tobytes() == value.numpy().tobytes(), name
