"""Mistakes of the kinds that control flow invites, each planted once in a model for each way of writing.

loss = planted.loop_nan_static(ops, params, batch, None)

The name says what is wrong, and for which style it is written. The lines to blame are those that end in the word
`planted` after a hash sign; of a call over several lines all are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engines.engine import Array
from engines.op import Namespace
from suites.workloads.cells import zeros

Values = Mapping[str, Any]


def batch() -> Mapping[str, Array]:
    """What all the models are given."""
    return {
        "x": np.array([[1.0, 0.5, 3.0], [0.25, 2.0, 1.5]]),
        "rows": np.linspace(0.1, 1.2, 12).reshape(4, 1, 3),
        "yes": np.array(True),
        "no": np.array(False),
        "index": np.array([0, 7]),
        "indices": np.array([[0], [4], [7], [1]]),
        "count": np.array(0),
    }


def parameters() -> Mapping[str, Array]:
    """`w` (3, 3), of which all losses are sums; `odd` (4, 3), which fits nothing; `table` (5, 3)."""
    return {"w": np.eye(3), "odd": np.ones((4, 3)), "table": np.ones((5, 3))}


def weighed(ops: Namespace, params: Values, x: Any) -> Any:
    """A scalar of x (..., 3)."""
    return ops.sum(ops.matmul(x, params["w"]))


# A shape that does not fit


def branch_shape_dynamic(ops: Namespace, params: Values, batch: Values, _: Any, *, which: str) -> Any:
    x = batch["x"]
    if batch[which]:
        x = ops.matmul(x, params["odd"])  # planted
    return weighed(ops, params, x)


def branch_shape_static(ops: Namespace, params: Values, batch: Values, _: Any, *, which: str) -> Any:
    def then(x: Any) -> Any:
        return ops.matmul(x, params["odd"])  # planted

    return weighed(ops, params, ops.cond(batch[which], then, lambda x: x, batch["x"]))


def loop_shape_dynamic(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    h = zeros(ops, batch["x"], 1, 3)
    for t in range(batch["rows"].shape[0]):
        h = ops.tanh(ops.matmul(h, params["odd"]) + batch["rows"][t])  # planted
    return weighed(ops, params, h)


def loop_shape_static(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    def body(h: Any, x: Any) -> tuple[Any, None]:
        return ops.tanh(ops.matmul(h, params["odd"]) + x), None  # planted

    return weighed(ops, params, ops.scan(body, zeros(ops, batch["x"], 1, 3), batch["rows"])[0])


def branches_differ_dynamic(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    x = batch["x"]
    if batch["yes"]:
        x = ops.mean(x, dim=0, keepdim=True)  # planted
    return weighed(ops, params, x)


def branches_differ_static(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    x = ops.cond(  # planted
        batch["yes"],  # planted
        lambda x: ops.mean(x, dim=0, keepdim=True),  # planted
        lambda x: x,  # planted
        batch["x"],  # planted
    )  # planted
    return weighed(ops, params, x)


def carry_grows_dynamic(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    x = batch["x"]
    while ops.sum(x) < 20.0:
        x = ops.concat([x, x], dim=0)  # planted
    return weighed(ops, params, x)


def carry_grows_static(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    def body(x: Any) -> Any:
        return ops.concat([x, x], dim=0)  # planted

    x = ops.while_loop(lambda x: ops.sum(x) < 20.0, body, batch["x"], limit=9)  # planted
    return weighed(ops, params, x)


# A NaN


def branch_nan_dynamic(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    x = ops.matmul(batch["x"], params["w"])
    if batch["yes"]:
        x = ops.log(x - 1.0)  # planted
    return ops.sum(x)


def branch_nan_static(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    def then(x: Any) -> Any:
        return ops.log(x - 1.0)  # planted

    return ops.sum(ops.cond(batch["yes"], then, lambda x: x, ops.matmul(batch["x"], params["w"])))


def loop_nan_dynamic(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    c = ops.matmul(batch["x"], params["w"])
    for _trip in range(4):
        c = c - ops.sqrt(c) * 0.75  # planted
    return ops.sum(c)


def loop_nan_static(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    def body(c: Any, _: Any) -> tuple[Any, None]:
        return c - ops.sqrt(c) * 0.75, None  # planted

    return ops.sum(ops.scan(body, ops.matmul(batch["x"], params["w"]), length=4)[0])


# An index out of range


def branch_index_dynamic(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    x = batch["x"]
    if batch["yes"]:
        x = ops.embedding(params["table"], batch["index"])  # planted
    return weighed(ops, params, x)


def branch_index_static(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    def then(_: Any) -> Any:
        return ops.embedding(params["table"], batch["index"])  # planted

    return weighed(ops, params, ops.cond(batch["yes"], then, lambda x: x, batch["x"]))


def loop_index_dynamic(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    h = zeros(ops, batch["x"], 1, 3)
    for t in range(batch["indices"].shape[0]):
        h = ops.tanh(h + ops.embedding(params["table"], batch["indices"][t]))  # planted
    return weighed(ops, params, h)


def loop_index_static(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    def body(h: Any, index: Any) -> tuple[Any, None]:
        return ops.tanh(h + ops.embedding(params["table"], index)), None  # planted

    return weighed(ops, params, ops.scan(body, zeros(ops, batch["x"], 1, 3), batch["indices"])[0])


# A carried value of another dtype


def while_dtype_dynamic(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    count = batch["count"]
    while count < 3:
        count = count + 0.5  # planted
    return weighed(ops, params, batch["x"]) * count


def while_dtype_static(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    def body(count: Any) -> Any:
        return count + 0.5  # planted

    count = ops.while_loop(lambda count: count < 3, body, batch["count"], limit=9)  # planted
    return weighed(ops, params, batch["x"]) * count


def scan_dtype_dynamic(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    h = zeros(ops, batch["x"], 1, 3)
    for t in range(batch["rows"].shape[0]):
        h = ops.cast(ops.tanh(ops.cast(h, dtype="float64") + batch["rows"][t]), dtype="float32")  # planted
    return weighed(ops, params, ops.cast(h, dtype="float64"))


def scan_dtype_static(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    def body(h: Any, x: Any) -> tuple[Any, None]:
        return ops.cast(ops.tanh(ops.cast(h, dtype="float64") + x), dtype="float32"), None  # planted

    h, _ys = ops.scan(body, zeros(ops, batch["x"], 1, 3), batch["rows"])  # planted
    return weighed(ops, params, ops.cast(h, dtype="float64"))


# A value that is not there yet


def loop_reads_dynamic(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    x = batch["x"]
    while ops.sum(x) < 20.0:
        x = x * (1.0 + float(ops.sum(x)))  # planted
    return weighed(ops, params, x)


def loop_reads_static(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    def body(x: Any) -> Any:
        return x * (1.0 + float(ops.sum(x)))  # planted

    return weighed(ops, params, ops.while_loop(lambda x: ops.sum(x) < 20.0, body, batch["x"], limit=9))


def other_branch_dynamic(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    if batch["no"]:
        bonus = ops.sum(batch["x"])
    return weighed(ops, params, batch["x"]) + bonus  # planted


def other_branch_static(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    made = []

    def then(x: Any) -> Any:
        made.append(ops.sum(x))
        return x

    x = ops.cond(batch["no"], then, lambda x: x, batch["x"])
    return weighed(ops, params, x) + made[0]  # planted


def after_loop_dynamic(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    for t in range(batch["rows"].shape[0]):
        last = batch["rows"][t] * 2.0
    last = last + 1.0  # planted
    return weighed(ops, params, last)


def after_loop_static(ops: Namespace, params: Values, batch: Values, _: Any) -> Any:
    made = []

    def body(h: Any, x: Any) -> tuple[Any, None]:
        made.append(x * 2.0)
        return h + made[-1], None

    ops.scan(body, zeros(ops, batch["x"], 1, 3), batch["rows"])
    last = made[-1] + 1.0  # planted
    return weighed(ops, params, last)
