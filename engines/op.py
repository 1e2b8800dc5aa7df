"""One row of the op table, `Op`, and the namespace `ops` through which models and gradient rules call the table.

    ops.relu(x)                       # a model: records on a tape, adds a node to a graph
    lambda ops, g, out, _x: g * out   # the gradient rule of exp, run by the tape and traced by the compiler

**Gradient rules.** There is one per input: `(ops, g, *outputs, *inputs, **attrs) -> gradient`. A rule says by the names
of its parameters what has to be kept alive for it, and an engine hands it exactly that:

    x          the value itself
    x_shape    its shape only
    x_spec     its `Spec` only (shape, dtype, device)
    _x         nothing (None)

`g` is the gradient of the output, or, where an op has several outputs, a tuple with None for those that got none.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from engines.value import DTYPE_NAMES, EngineError, Spec, Value, user_location

Kernel = Callable[..., Any]
Rule = Callable[..., Any]
Picker = Callable[..., tuple[Any, ...]]

REQUIRED = "<required>"
"""Stands in `Op.attrs` for an attribute without a default."""

KERNEL_ERRORS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError)
"""What torch raises where it refuses its arguments."""


def direct(overload: Any) -> Kernel:
    """The native function under an op overload of torch, without the Python call around it where torch shows it."""
    function: Kernel = getattr(overload, "_op", overload)
    return function


def of_sizes(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Stands for an operand of which a kernel reads the sizes alone: of `shape`, of the dtype and device of `like`."""
    return (like if like.numel() else like.new_empty(1)).as_strided(shape, (0,) * len(shape))


def kernels_only() -> AbstractContextManager[None]:
    """The one guard under which every engine of ours calls kernels: torch's own autograd, and its bookkeeping, are off.

    This is what `torch.inference_mode()` enters, without the Python around it, which takes as long as a small kernel.
    """
    guard: AbstractContextManager[None] = torch._C._InferenceMode(True)
    return guard


class Joint(NamedTuple):
    """One rule for several inputs whose gradients cost less together than one by one.

    It reads nothing that the inputs' own rules do not, gives one gradient per input, and runs where all are wanted.
    """

    inputs: tuple[int, ...]
    rule: Rule


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """All facts of one op.

    `kernel(*inputs, **attrs)` takes torch tensors (Python numbers where an elementwise op allows them, None for an
    optional input) and gives a tensor, or a tuple of them where `outputs` is not 1. `vjps` has one rule per input, None
    where nothing flows back. `attrs` maps every attribute to its default; attributes are plain hashable data.
    """

    name: str
    kernel: Kernel
    vjps: tuple[Rule | None, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    outputs: int | None = 1  # None: as many as the attributes say
    joints: tuple[Joint, ...] = ()  # the first of them whose inputs are all wanted is the one that runs
    variadic: bool = False  # any number of inputs of one kind; the one rule is also given `index`
    promotes: bool = False  # torch would mix float widths silently, so engines refuse them before they call
    donates: tuple[int, ...] = ()  # inputs whose storage the kernel overwrites and returns as output of the same index
    specs: Callable[..., tuple[Spec, ...]] | None = None  # of the outputs, where the kernel cannot run on torch's meta
    pickers: Mapping[int | Joint, Picker | None] = field(init=False)

    def __post_init__(self) -> None:
        rules: dict[int | Joint, Rule | None] = dict(enumerate(self.vjps))
        rules |= {joint: joint.rule for joint in self.joints}
        pickers = {which: rule and _picker(rule, self.attrs) for which, rule in rules.items()}
        object.__setattr__(self, "pickers", pickers)

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def rule(self, index: int) -> Rule | None:
        """The gradient rule for input number `index`."""
        return self.vjps[0 if self.variadic else index]

    def joint(self, wanted: Container[int]) -> Joint | None:
        """The joint rule that runs where the gradients of these inputs are wanted."""
        return next((joint for joint in self.joints if all(i in wanted for i in joint.inputs)), None)

    def picker(self, which: int | Joint) -> Picker | None:
        """What a joint rule or that for one input reads: a function from outputs and inputs to its arguments."""
        return self.pickers[0 if self.variadic else which]

    def run(self, operands: Sequence[Any], attrs: Mapping[str, Any]) -> tuple[Any, ...]:
        """The kernel on these operands, with all attributes given; always a tuple of outputs."""
        out = self.kernel(list(operands), **attrs) if self.variadic else self.kernel(*operands, **attrs)
        return (out,) if self.outputs == 1 else tuple(out)

    def complete(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The attributes given by a caller, with defaults filled in, as hashable data. Raises EngineError."""
        attrs = {**self.attrs, **{name: self._plain(name, value) for name, value in given.items()}}
        if len(attrs) > len(self.attrs):
            unknown = next(name for name in given if name not in self.attrs)
            raise EngineError(
                f"{self.name}: no attribute {unknown!r}; it takes {sorted(self.attrs) or 'none'}, at {user_location()}"
            )
        missing = [name for name, value in attrs.items() if value is REQUIRED]
        if missing:
            raise EngineError(f"{self.name}: attribute {missing[0]!r} is required, at {user_location()}")
        return attrs

    def _plain(self, name: str, value: Any) -> Any:
        try:
            return plain(value)
        except (KeyError, TypeError) as error:
            raise EngineError(f"{self.name}: attribute {name!r}: {error}, at {user_location()}") from None


def plain(value: Any) -> Any:
    """An attribute as hashable data: lists become tuples, NumPy numbers Python ones, torch dtypes their names.

    Raises TypeError for what is not data: a value of an engine, a tensor, an array.
    """
    if isinstance(value, (list, tuple)):
        return tuple(plain(part) for part in value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, torch.dtype):
        return DTYPE_NAMES[value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"found {describe(value)}, expected numbers, strings, None or tuples of them")


def _picker(rule: Rule, attrs: Mapping[str, Any]) -> Picker:
    """A function from outputs and inputs to what a rule reads of them.

    Made from source text, as in `collections.namedtuple`, because it runs once per recorded op.
    """
    names = [f"*p{i}" if name.startswith("*") else f"p{i}" for i, name in enumerate(operand_names(rule, attrs))]
    source = f"lambda {', '.join(names)}: {picked(rule, attrs, names)}"
    picker: Picker = eval(source, {"spec_of": spec_of})  # noqa: S307
    return picker


def operand_names(rule: Rule, attrs: Mapping[str, Any]) -> list[str]:
    """The names of a rule's parameters for outputs and inputs; one that takes many starts with a star."""
    parameters = list(inspect.signature(rule).parameters.values())[2:]
    return [
        f"*{p.name}" if p.kind is p.VAR_POSITIONAL else p.name
        for p in parameters
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL) and p.name not in attrs
    ]


def picked(rule: Rule, attrs: Mapping[str, Any], operands: Sequence[str]) -> str:
    """Source of the tuple that a rule reads, `operands` being the sources of outputs and inputs."""
    return f"({', '.join(picks(rule, attrs, operands))},)"


def picks(rule: Rule, attrs: Mapping[str, Any], operands: Sequence[str]) -> list[str]:
    """Sources of what a rule reads of each operand."""
    read = []
    for name, operand in zip(operand_names(rule, attrs), operands, strict=True):
        many = operand.startswith("*")
        read.append(f"*[{_pick(name[1:], 'p')} for p in {operand[1:]}]" if many else _pick(name, operand))
    return read


def _pick(name: str, operand: str) -> str:
    if name.startswith("_"):
        return "None"
    if name.endswith(("_shape", "_shapes")):
        return f"{operand}.shape"
    return f"spec_of({operand})" if name.endswith("_spec") else operand


def spec_of(operand: Any) -> Spec:
    """The spec of a torch tensor or of an engine's value."""
    if isinstance(operand, torch.Tensor):
        return Spec.of(operand)
    spec: Spec = operand.spec
    return spec


class UnknownOpError(EngineError, AttributeError):
    """A namespace was asked for an op that the table does not have."""


class Namespace:
    """The ops of one engine, as attributes: what a model receives as `ops`."""

    def __init__(self, engine: str) -> None:
        self.engine = engine

    def add_function(self, name: str, function: Callable[..., Any]) -> None:
        """Offer `function` as `ops.name`."""
        self.__dict__[name] = function

    def __getattr__(self, name: str) -> Callable[..., Any]:
        close = difflib.get_close_matches(name, self.__dict__, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UnknownOpError(f"no op named {name!r}{hint}, at {user_location()}")


def describe(operand: Any) -> str:
    """An operand in an error message."""
    if isinstance(operand, Spec):
        return str(operand)
    if isinstance(operand, (list, tuple)):
        return f"[{', '.join(map(describe, operand))}]"
    if isinstance(operand, (torch.Tensor, np.ndarray)) or hasattr(operand, "spec"):
        return str(_loose_spec(operand))
    return repr(operand)


def _loose_spec(operand: Any) -> Spec:
    return Spec.of(torch.as_tensor(operand)) if isinstance(operand, np.ndarray) else spec_of(operand)


def refusal(op: Op, operands: Sequence[Any], attrs: Mapping[str, Any], error: Exception) -> EngineError:
    """The error to raise where a kernel refused its operands: what torch said, what it was given, where."""
    said = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
    found = ", ".join([*map(describe, operands), *(f"{name}={value!r}" for name, value in attrs.items())])
    return EngineError(f"{op.name}: {said}; found ({found}) at {user_location()}")


def check_operands(op: Op, operands: Sequence[Any]) -> None:
    """Refuse missing operands, and different float widths (objects with a `dtype`; numbers take the others' width)."""
    if any(operand is None for operand in operands):
        raise EngineError(f"{op.name}: an input is missing, found {describe(list(operands))} at {user_location()}")
    floats = {o.dtype: o for o in operands if hasattr(o, "dtype") and o.dtype.is_floating_point}
    if len(floats) > 1:
        first, second = list(floats.values())[:2]
        raise EngineError(
            f"{op.name}: float widths differ: {describe(first)} and {describe(second)} at {user_location()}; "
            "cast one of them with ops.cast(x, dtype=...)"
        )


def listed(op: Op, operands: Sequence[Any]) -> tuple[Any, ...]:
    """The inputs of a variadic op, which come as one list. Raises EngineError."""
    if len(operands) != 1 or not isinstance(operands[0], (list, tuple)) or not operands[0]:
        found = ", ".join(map(describe, operands))
        raise EngineError(f"{op.name}: takes one list of values, found ({found}) at {user_location()}")
    return tuple(operands[0])


def lift(name: str, operand: Any, engine: str, device: str) -> Any:
    """An operand that is not an engine's value, as one a kernel takes: a number, None, or a tensor on `device`.

    NumPy arrays are copied to the device. A torch tensor must be there already: a silent transfer would be a cost that
    nobody sees.
    """
    if isinstance(operand, np.generic):  # first: np.float64 is also a Python float
        return operand.item()
    if operand is None or isinstance(operand, (bool, int, float)):
        return operand
    if isinstance(operand, np.ndarray):
        return torch.tensor(operand, device=device)
    if isinstance(operand, torch.Tensor):
        if str(operand.device) != device:
            raise EngineError(
                f"{name}: devices differ: {describe(operand)} is on {operand.device}, the engine on {device}, "
                f"at {user_location()}; move it with .to({device!r})"
            )
        return operand.detach()
    if isinstance(operand, Value):
        raise EngineError(
            f"{name}: engines differ: {describe(operand)} belongs to {operand.ops.engine}, "
            f"the other inputs to {engine}, at {user_location()}"
        )
    raise EngineError(
        f"{name}: takes values of this engine, NumPy arrays, torch tensors and numbers; "
        f"found {type(operand).__name__} at {user_location()}"
    )
