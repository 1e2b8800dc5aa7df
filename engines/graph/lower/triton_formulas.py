"""What each op of a region is in Triton: an expression on tiles.

    FORMULAS["tanh_backward"](["v0", "v1"], node)    ->    "v0 * (1.0 - v1 * v1)"

Operands are values of the region's float type, whatever they were; only the choice in `where` is a truth value. The
functions are those of the prelude.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from engines.graph.ir import Node
from engines.ops.random import first_counter, keep_below

Formula = Callable[[Sequence[str], Node], str]


def _text(template: str) -> Formula:
    return lambda x, _node: template.format(*x)


def _infix(symbol: str) -> Formula:
    return _text(f"({{0}} {symbol} {{1}})")


POWERS = {
    2.0: "({0} * {0})",
    3.0: "({0} * {0} * {0})",
    0.5: "root({0})",
    -0.5: "divide(1.0, root({0}))",
    -1.0: "divide(1.0, {0})",
    -2.0: "divide(1.0, {0} * {0})",
}


def _power(x: Sequence[str], node: Node) -> str:
    exponent = node.inputs[1]
    assert isinstance(exponent, (int, float))
    return POWERS[float(exponent)].format(x[0])


def _dropout_mask(x: Sequence[str], node: Node) -> str:
    """Operands: the key, the element's number, the scale of what is kept."""
    key, at, scale = x
    start, below = first_counter(node.attrs["stream"]), keep_below(node.attrs["rate"])
    return f"tl.where(random_word({key}, {start}, {at}) < {below}, {scale}, 0.0)"


FORMULAS: Mapping[str, Formula] = {
    "add": _infix("+"),
    "sub": _infix("-"),
    "mul": _infix("*"),
    "div": _text("divide({0}, {1})"),
    "maximum": _text("tl.where(({0} > {1}) | ({0} != {0}), {0}, {1})"),
    "minimum": _text("tl.where(({0} < {1}) | ({0} != {0}), {0}, {1})"),
    "power": _power,
    "neg": _text("(-{0})"),
    "abs": _text("tl.abs({0})"),
    "sign": _text("(({0} > 0.0).to(T) - ({0} < 0.0).to(T))"),
    "exp": _text("exp({0})"),
    "sqrt": _text("root({0})"),
    "tanh": _text("tanh({0})"),
    "sigmoid": _text("sigmoid({0})"),
    "relu": _text("tl.where({0} < 0.0, 0.0, {0})"),
    "tanh_backward": _text("({0} * (1.0 - {1} * {1}))"),
    "sigmoid_backward": _text("({0} * (1.0 - {1}) * {1})"),
    "relu_backward": _text("tl.where({1} <= 0.0, 0.0, {0})"),
    "equal": _infix("=="),
    "not_equal": _infix("!="),
    "less": _infix("<"),
    "less_equal": _infix("<="),
    "greater": _infix(">"),
    "greater_equal": _infix(">="),
    "where": _text("tl.where({0}, {1}, {2})"),
    "logical_not": _text("({0} == 0.0)"),
    "cast": _text("{0}"),
    "full_like": _text("{0}"),
    "dropout_mask": _dropout_mask,
}
"""Elementwise ops: operands as expressions give the result as one; `T` stands for the region's type."""

ROWS: Mapping[str, str] = {
    "log_softmax": "log_softmax({0}, inside)",
    "softmax": "softmax({0}, inside)",
    "log_softmax_backward": "log_softmax_backward({0}, {1}, inside)",
    "softmax_backward": "softmax_backward({0}, {1}, inside)",
    "nll_loss": "-at_label({0}, {1}, x, {columns})",
    "nll_loss_backward": "put_at_label({0} * {scale}, {1}, x, {columns})",
}
"""Ops on whole rows, of which a tile holds some: of one column per row for a loss, before rows are added up."""

UPDATES: Mapping[str, Sequence[str]] = {
    "sgd_update": ("{1} = {1} * {momentum} + {2}", "{0} = {0} - {lr} * {1}"),
}
"""Ops that overwrite their first inputs: statements on values; attributes by name."""
