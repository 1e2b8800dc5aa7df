"""What each op of a region is in C: an expression for elements, a function body for rows.

    FORMULAS["tanh_backward"](["v0", "v1"], node, "f")    ->    "v0 * (1 - v1 * v1)"

`T` is the region's float type; functions of the prelude end in `_f` or `_d` by it. Truth values are C's integers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from engines.graph.ir import Node
from engines.ops.random import first_counter, keep_below

Formula = Callable[[Sequence[str], Node, str], str]


def _infix(symbol: str) -> Formula:
    return lambda x, _node, _kind: f"({x[0]} {symbol} {x[1]})"


def _call(name: str) -> Formula:
    return lambda x, _node, kind: f"{name}_{kind}({x[0]})"


def _builtin(name: str) -> Formula:
    return lambda x, _node, kind: f"__builtin_{name}{kind if kind == 'f' else ''}({x[0]})"


POWERS = {
    2.0: "({0} * {0})",
    3.0: "({0} * {0} * {0})",
    0.5: "{1}",
    -0.5: "(1 / {1})",
    -1.0: "(1 / {0})",
    -2.0: "(1 / ({0} * {0}))",
}


def _power(x: Sequence[str], node: Node, kind: str) -> str:
    exponent = node.inputs[1]
    assert isinstance(exponent, (int, float))
    return POWERS[float(exponent)].format(x[0], _builtin("sqrt")(x, node, kind))


def _dropout_mask(x: Sequence[str], node: Node, _kind: str) -> str:
    rate, start = node.attrs["rate"], first_counter(node.attrs["stream"])
    word = f"random_word((uint64_t){x[0]}, UINT64_C({start}), (uint64_t)(at + i))"
    return f"({word} < INT64_C({keep_below(rate) + 1}) - 1 ? (T){(1.0 / (1.0 - rate)).hex()} : (T)0)"


FORMULAS: Mapping[str, Formula] = {
    "add": _infix("+"),
    "sub": _infix("-"),
    "mul": _infix("*"),
    "div": _infix("/"),
    "maximum": lambda x, _node, _kind: f"(({x[0]} > {x[1]}) | ({x[0]} != {x[0]}) ? {x[0]} : {x[1]})",
    "minimum": lambda x, _node, _kind: f"(({x[0]} < {x[1]}) | ({x[0]} != {x[0]}) ? {x[0]} : {x[1]})",
    "power": _power,
    "neg": lambda x, _node, _kind: f"(-{x[0]})",
    "abs": _builtin("fabs"),
    "sign": lambda x, _node, _kind: f"(T)(({x[0]} > 0) - ({x[0]} < 0))",
    "exp": _call("exp"),
    "sqrt": _builtin("sqrt"),
    "tanh": _call("tanh"),
    "sigmoid": _call("sigmoid"),
    "relu": lambda x, _node, _kind: f"({x[0]} < 0 ? (T)0 : {x[0]})",
    "tanh_backward": lambda x, _node, _kind: f"({x[0]} * (1 - {x[1]} * {x[1]}))",
    "sigmoid_backward": lambda x, _node, _kind: f"({x[0]} * (1 - {x[1]}) * {x[1]})",
    "relu_backward": lambda x, _node, _kind: f"({x[1]} <= 0 ? (T)0 : {x[0]})",
    "equal": _infix("=="),
    "not_equal": _infix("!="),
    "less": _infix("<"),
    "less_equal": _infix("<="),
    "greater": _infix(">"),
    "greater_equal": _infix(">="),
    "where": lambda x, _node, _kind: f"({x[0]} ? {x[1]} : {x[2]})",
    "logical_not": lambda x, _node, _kind: f"({x[0]} == 0)",
    "cast": lambda x, _node, _kind: f"(T){x[0]}",
    "full_like": lambda x, _node, _kind: x[0],
    "dropout_mask": _dropout_mask,
}
"""Elementwise ops: operands as C expressions give the result as one."""

TRUTHS: Mapping[str, Formula] = {"logical_and": _infix("&&"), "logical_or": _infix("||")}
"""The same of truth values, which no region has, but a loop may."""

UPDATES: Mapping[str, str] = {
    "sgd_update": "{1} = {1} * {momentum} + {2}; {0} = {0} - {lr} * {1};",
}
"""Ops that overwrite their first inputs: statements on lvalues; attributes by name."""

ROWS: Mapping[str, str] = {
    "log_softmax": """
  T most = -INFINITY, total = 0;
  for (long i = 0; i < n; i++) most = x0[i] > most ? x0[i] : most;
  #pragma omp simd reduction(+:total)
  for (long i = 0; i < n; i++) total += exp_K(x0[i] - most);
  total = (T)log(total);
  #pragma omp simd
  for (long i = 0; i < n; i++) out[i] = x0[i] - most - total;""",
    "softmax": """
  T most = -INFINITY, total = 0;
  for (long i = 0; i < n; i++) most = x0[i] > most ? x0[i] : most;
  #pragma omp simd reduction(+:total)
  for (long i = 0; i < n; i++) total += (out[i] = exp_K(x0[i] - most));
  #pragma omp simd
  for (long i = 0; i < n; i++) out[i] = out[i] / total;""",
    "log_softmax_backward": """
  T total = 0;
  #pragma omp simd reduction(+:total)
  for (long i = 0; i < n; i++) total += x0[i];
  #pragma omp simd
  for (long i = 0; i < n; i++) out[i] = x0[i] - exp_K(x1[i]) * total;""",
    "softmax_backward": """
  T total = 0;
  #pragma omp simd reduction(+:total)
  for (long i = 0; i < n; i++) total += x0[i] * x1[i];
  #pragma omp simd
  for (long i = 0; i < n; i++) out[i] = (x0[i] - total) * x1[i];""",
    "nll_loss": """
  const int64_t label = x1[0];
  if (label < 0 || label >= n) { *bad = 1; return; }
  out[0] -= x0[label];""",
    "nll_loss_backward": """
  const int64_t label = x1[0];
  if (label < 0 || label >= n) { *bad = 1; return; }
  for (long i = 0; i < n; i++) out[i] = 0;
  out[label] = x0[0] * scale;""",
}
"""Ops on whole rows of `n` elements: statements on pointers x0, x1 and out."""
