"""Tracing: run a model on symbols, which compute nothing, and keep the nodes that it asked for.

graph = trace(lambda ops, x: {"y": ops.relu(x["x"])}, {"x": Spec((4,), torch.float32, "cpu")})
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch

from engines.graph.foresee import foresee
from engines.graph.ir import Graph, Node, Operand, Var
from engines.op import KERNEL_ERRORS, Namespace, Op, check_operands, describe, kernels_only, lift, listed, refusal
from engines.ops import bind
from engines.value import EngineError, Location, Spec, Value, user_location

Model = Callable[[Namespace, dict[str, "Symbol"]], Mapping[str, "Symbol"]]


class Symbol(Value):
    """A value that a graph will have when it runs. Its shape and dtype are known; its elements are not."""

    __slots__ = ("builder", "var")

    def __init__(self, var: Var, builder: Builder) -> None:
        self.var = var
        self.builder = builder

    @property
    def spec(self) -> Spec:
        """Shape, dtype and device."""
        return self.var.spec

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes, one per dimension."""
        return self.var.spec.shape

    @property
    def dtype(self) -> torch.dtype:
        """Element type."""
        return self.var.spec.dtype

    def __repr__(self) -> str:
        return f"Symbol({self.spec})"

    def __bool__(self) -> bool:
        raise self._symbolic(
            "a Python `if`, `while`, `and`, `or`, `not` or `assert` needs its truth", "ops.where(condition, a, b)"
        )

    def __float__(self) -> NoReturn:
        raise self._symbolic(
            "float() needs its number", "the value itself, or make the number an attribute or an input"
        )

    def __int__(self) -> NoReturn:
        raise self._symbolic("int() needs its number", "the value itself, or a Python number known before tracing")

    __index__ = __int__

    def item(self) -> NoReturn:
        """Raises EngineError: there is no number yet."""
        raise self._symbolic("item() needs its number", "the value itself, or ops that decide in the graph")

    def tolist(self) -> NoReturn:
        """Raises EngineError: there are no elements yet."""
        raise self._symbolic("tolist() needs its elements", "the value itself, or ops that decide in the graph")

    def __str__(self) -> str:
        raise self._symbolic(
            "print() and str() need its elements", "repr() for shape and dtype, or return it as an output"
        )

    def __format__(self, _: str) -> NoReturn:
        raise self._symbolic("formatting needs its elements", "repr() for shape and dtype, or return it as an output")

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise self._symbolic("NumPy needs its elements", "the same function of ops")

    def _symbolic(self, what: str, instead: str) -> EngineError:
        where = user_location()
        line = linecache.getline(where.file, where.line).strip()
        return EngineError(
            f"{self.spec} is symbolic: {what}, which is not there before the graph runs; use {instead}; "
            f"at {where}: {line}"
        )


class Builder:
    """A graph under construction on one device, or a part of one: the body of a loop, say, inside `parent`.

    Nodes go to the innermost part that is open, which may use the values of all parts around it.
    """

    def __init__(self, device: str, parent: Builder | None = None) -> None:
        self.device = device
        self.parent = parent
        self._root = None if parent is None else parent.root  # of a root None: a cycle would keep constants alive
        self.nodes: list[Node] = []
        self.constants: dict[Var, torch.Tensor] = {}
        self._open: Builder | None = None  # of a root: the innermost part that is open, if it is not the root itself
        self._origin: Location | None = None
        self._inferred: dict[Any, tuple[Spec, ...]] = {}

    @classmethod
    def resume(cls, graph: Graph) -> Builder:
        """A builder that goes on where `graph` ends."""
        builder = cls(next((var.spec.device for var in graph.inputs.values()), "cpu"))
        builder.nodes.extend(graph.nodes)
        builder.constants.update(graph.constants)
        return builder

    @contextmanager
    def on_behalf_of(self, origin: Location) -> Iterator[None]:
        """Within, new nodes bear this line of the user's source."""
        before, self.root._origin = self.root._origin, origin
        try:
            yield
        finally:
            self.root._origin = before

    @contextmanager
    def part(self) -> Iterator[Builder]:
        """Within, nodes go to a new part inside this one."""
        inner, before = Builder(self.device, self), self.root._open
        self.root._open = inner
        try:
            yield inner
        finally:
            self.root._open = before

    @property
    def root(self) -> Builder:
        """The outermost part."""
        return self._root or self

    @property
    def open(self) -> Builder:
        """The innermost part that is open: new nodes belong there."""
        return self.root._open or self.root

    def reaches(self, other: Builder) -> bool:
        """Whether `other` is this part or one around it."""
        part: Builder | None = self
        while part is not None and part is not other:
            part = part.parent
        return part is other

    @property
    def where(self) -> Location:
        """The line that a new node bears."""
        return self.root._origin or user_location()

    def constant(self, tensor: torch.Tensor) -> Var:
        """A value fixed when the graph is made."""
        var = Var(Spec.of(tensor))
        self.root.constants[var] = tensor
        return var

    def add(self, op: Op, inputs: tuple[Operand, ...], attrs: Mapping[str, Any]) -> tuple[Var, ...]:
        """Append a node; gives its outputs. Raises EngineError where the kernel would refuse its inputs."""
        key = (op, tuple(i.spec if isinstance(i, Var) else type(i) for i in inputs), tuple(attrs.items()))
        known = self.root._inferred
        specs = known.get(key)
        if specs is None:
            specs = known[key] = foresee(op, inputs, attrs) or infer(op, inputs, attrs)
        outputs = tuple(Var(spec) for spec in specs)
        self.nodes.append(Node(op, inputs, attrs, outputs, self.where))
        return outputs


def infer(op: Op, inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> tuple[Spec, ...]:
    """The specs of an op's outputs: its kernel run on torch's meta device, where tensors have no elements."""
    if op.specs is not None:
        return op.specs(inputs, attrs)
    device = next((i.spec.device for i in inputs if isinstance(i, Var)), "cpu")
    operands = [
        torch.empty(i.spec.shape, dtype=i.spec.dtype, device="meta") if isinstance(i, Var) else i for i in inputs
    ]
    # On the meta device torch lets some mixed float widths pass that the real kernel refuses, so all ops are checked.
    check_operands(op, [i.spec if isinstance(i, Var) else i for i in inputs if op.promotes or i is not None])
    try:
        with kernels_only():
            outs = op.run(operands, attrs)
    except KERNEL_ERRORS as error:
        raise refusal(op, [i.spec if isinstance(i, Var) else i for i in inputs], attrs, error) from None
    return tuple(Spec(tuple(o.shape), o.dtype, device) for o in outs)


def _tracing(op: Op) -> Callable[..., Any]:
    def call(*operands: Any, **given: Any) -> Any:
        if op.variadic:
            operands = listed(op, operands)
        builder = _builder_of(op, operands)
        if op.donates and builder.parent is not None:
            raise EngineError(
                f"{op.name}: overwrites its inputs, which a branch or a body does not own, at {user_location()}; "
                "give it new values instead"
            )
        inputs = tuple(_operand(op, o, builder) for o in operands)
        inputs += (None,) * (0 if op.variadic else len(op.vjps) - len(inputs))
        outs = tuple(Symbol(var, builder) for var in builder.add(op, inputs, op.complete(given)))
        return outs[0] if op.outputs == 1 else outs

    return call


def _builder_of(op: Op, operands: Sequence[Any]) -> Builder:
    for operand in operands:
        if type(operand) is Symbol:
            return operand.builder.open
    found = ", ".join(type(operand).__name__ for operand in operands)
    raise EngineError(f"{op.name}: no symbol of a graph among the inputs ({found}) at {user_location()}")


def _operand(op: Op, operand: Any, builder: Builder) -> Operand:
    if type(operand) is Symbol:
        return local(op.name, operand, builder)
    lifted = lift(op.name, operand, "graph", builder.device)
    return builder.constant(lifted) if isinstance(lifted, torch.Tensor) else lifted


def local(name: str, symbol: Symbol, builder: Builder) -> Var:
    """The value of a symbol, for use in a part. Raises EngineError where it is not there."""
    if not builder.reaches(symbol.builder):
        if symbol.builder.root is builder.root:
            what = "was made inside a branch or a body, where alone it is known; return it from there"
        else:
            what = "belongs to another trace"
        raise EngineError(f"{name}: {symbol.spec} {what}, at {user_location()}")
    return symbol.var


OPS = bind("graph", _tracing)
"""The namespace of every trace: each op infers its result's spec and adds a node."""
Symbol.ops = OPS


def trace(model: Model, inputs: Mapping[str, Spec], name: str = "f") -> Graph:
    """Run `model(ops, symbols)` once and keep what it asked for. The model gives named outputs. Raises EngineError."""
    devices = sorted({spec.device for spec in inputs.values()})
    if len(devices) != 1:
        raise EngineError(f"trace {name}: the inputs must be on one device, found {devices or 'no inputs'}")
    builder = Builder(devices[0])
    symbols = {key: Symbol(Var(spec), builder) for key, spec in inputs.items()}
    outputs = model(OPS, symbols)
    if not isinstance(outputs, Mapping):
        raise EngineError(f"trace {name}: the model must give its outputs by name, found {describe(outputs)}")
    for key, value in outputs.items():
        if not isinstance(value, Symbol) or value.builder is not builder:
            raise EngineError(f"trace {name}: output {key!r} must be a symbol of this trace, found {describe(value)}")
    return Graph(
        name,
        {key: symbol.var for key, symbol in symbols.items()},
        tuple(builder.nodes),
        {key: symbol.var for key, symbol in outputs.items()},
        builder.constants,
    )
