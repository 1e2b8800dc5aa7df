"""Products with matrices picked from a table, read where they lie there. No engine offers these ops: a pass makes them.

    matmul_picked(x, table, index)            # for each i: x[i] times the matrix in row index[i] of the table
    matmul_picked_weight(x, g, index)         # for each row of a table: the sum of x[i]' g[i] over all i that picked it

The matrices lie flat in the rows of a table, as `embedding` takes it. Neighbours that pick the same one share a
product, so an index that rises gives one large product for each matrix: what a program does that sorts its samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch

from engines.graph.ir import Operand, Var
from engines.op import REQUIRED, Op
from engines.ops.index import outside
from engines.value import Spec

Shape = tuple[int, ...]


def _groups(index: torch.Tensor, rows: int, height: int) -> Iterator[tuple[int, slice]]:
    """Rows of a table that neighbours pick, and where these stand, `height` rows to each. Raises IndexError."""
    if error := outside(index, rows):
        raise error
    stop = 0
    for which, alike in groupby(index.tolist()):
        start, stop = stop, stop + height * sum(1 for _ in alike)
        yield which, slice(start, stop)


def _picked(x: torch.Tensor, table: torch.Tensor, index: torch.Tensor, *, shape: Shape, turned: bool) -> torch.Tensor:
    matrices = table.reshape(-1, *shape)
    if turned:
        matrices = matrices.transpose(1, 2)
    samples, height, _ = x.shape
    flat = x.reshape(samples * height, -1)
    out = x.new_empty(samples * height, matrices.shape[2])
    for which, ours in _groups(index, len(matrices), height):
        torch.mm(flat[ours], matrices[which], out=out[ours])
    return out.view(samples, height, -1)


def _picked_weight(x: torch.Tensor, g: torch.Tensor, index: torch.Tensor, *, rows: int) -> torch.Tensor:
    height = x.shape[1]
    left, right = x.reshape(-1, x.shape[2]).t(), g.reshape(-1, g.shape[2])
    sums = x.new_empty(rows, x.shape[2], g.shape[2])
    untouched = set(range(rows))
    for which, ours in _groups(index, rows, height):
        if which in untouched:
            torch.mm(left[:, ours], right[ours], out=sums[which])
            untouched.remove(which)
        else:
            sums[which].addmm_(left[:, ours], right[ours])
    for which in untouched:
        sums[which].zero_()
    return sums.view(rows, -1)


def _picked_specs(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> tuple[Spec, ...]:
    x = _spec(inputs[0])
    return (x._replace(shape=(*x.shape[:2], attrs["shape"][0 if attrs["turned"] else 1])),)


def _picked_weight_specs(inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> tuple[Spec, ...]:
    x, g = map(_spec, inputs[:2])
    return (x._replace(shape=(attrs["rows"], x.shape[2] * g.shape[2])),)


def _spec(operand: Operand) -> Spec:
    assert isinstance(operand, Var)
    return operand.spec


PICKED = Op(
    "matmul_picked",
    _picked,
    (None, None, None),
    attrs={"shape": REQUIRED, "turned": False},
    specs=_picked_specs,
)
"""x (n, rows, a), a table (m, a * b) of matrices of `shape` (a, b) and an index (n,): (n, rows, b). `turned`, the
matrices are transposed: x is (n, rows, b), the result (n, rows, a)."""

PICKED_WEIGHT = Op(
    "matmul_picked_weight",
    _picked_weight,
    (None, None, None),
    attrs={"rows": REQUIRED},
    specs=_picked_weight_specs,
)
"""The gradient by that table of so many `rows`, from x (n, rows, a) and the result's gradient (n, rows, b)."""

OPS = (PICKED, PICKED_WEIGHT)
