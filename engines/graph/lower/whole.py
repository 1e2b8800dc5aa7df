"""Whole loops in C: a scan or a while loop whose body is of small and plain ops.

A trip is straight-line code (`straight.py`) on values in one arena (`arena.py`). Shapes are constants of the text, so
that the compiler may unroll all of it. Bodies with larger values or products (`written.py` says how large) are left to
the kernels, which have better blocking.

A while loop that keeps something of every trip writes it into stores with room for so many trips. Where that is used up
it stops, and is called again with more room to go on where it stopped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from engines.graph.control import SCAN, WHILE
from engines.graph.fused import inline, reads
from engines.graph.ir import Node, Var
from engines.graph.lower.arena import CTYPES, UnfitError, count
from engines.graph.lower.loops import comment
from engines.graph.lower.places import Place, strides_in_full
from engines.graph.lower.straight import Straight
from engines.graph.lower.written import copied

PAST_LIMIT, NO_MEMORY, FULL = 1, 2, 4
"""What C returns beside 0 for the end of a loop, and `written.OUTSIDE`."""


def whole(name: str, node: Node) -> str | None:
    """A C function `int name(void **p)` for a loop; p points to inputs, then to outputs. None where C does not fit.

    If the loop is `counted`, a pointer follows to two int64: of a scan the trips to make, of a while loop those made so
    far and those that there is room for.

    It gives 0, 1 where a while loop would pass its limit, 2 where there is no memory, 3 for an index that lies outside,
    4 where there is no more room.
    """
    try:
        return _Loop(name, node).text()
    except UnfitError:
        return None


def fits(node: Node) -> bool:
    """Whether the loop is of a kind that `whole` may write."""
    return node.op is WHILE or (node.op is SCAN and (node.attrs["length"] is not None or node.attrs["scanned"] > 0))


def counted(node: Node) -> bool:
    """Whether tensors are as long as there are trips, which only a run can tell."""
    if node.op is WHILE:
        return len(node.outputs) > int(node.attrs["carried"])
    return node.attrs["length"] is None


class _Loop:
    """The text of one loop."""

    def __init__(self, name: str, node: Node) -> None:
        self.name = name
        self.node = node
        self.parts = [inline(part) for part in node.attrs["body"]]
        dtypes = {v.spec.dtype for part in self.parts for n in part.nodes for v in (*reads(n), *n.outputs)}
        dtypes |= {v.spec.dtype for v in (*node.inputs, *node.outputs) if isinstance(v, Var)}
        floats = {dtype for dtype in dtypes if dtype.is_floating_point}
        devices = {v.spec.device for v in (*node.inputs, *node.outputs) if isinstance(v, Var)}
        if len(floats) != 1 or not dtypes <= set(CTYPES) or devices != {"cpu"}:
            raise UnfitError
        self.double = floats == {torch.float64}

    def text(self) -> str:
        """The function."""
        node, carried = self.node, self.node.attrs["carried"]
        end, inputs = carried + node.attrs.get("scanned", 0), len(node.inputs)
        head, places = [], {}
        for i, operand in enumerate(node.inputs):
            assert isinstance(operand, Var)
            ctype = CTYPES[operand.spec.dtype]
            at = inputs + i if i < carried else i
            head.append(f"{ctype} *const in{i} = p[{at}];")
            if i < carried:
                first = "if (s == 0) " if node.op is WHILE else ""
                head.append(f"{first}memcpy(in{i}, p[{i}], {count(operand)} * sizeof({ctype}));")
        trip = []
        for i, operand in enumerate(node.inputs):
            assert isinstance(operand, Var)
            ctype = CTYPES[operand.spec.dtype]
            shape = operand.spec.shape[1:] if carried <= i < end else operand.spec.shape
            if carried <= i < end:
                trip.append(f"{ctype} *const row{i} = in{i} + t * {math.prod(shape)}L;")
            places[i] = Place(f"row{i}" if carried <= i < end else f"in{i}", strides_in_full(shape), ctype)
        body = Straight(self.double)
        if node.op is WHILE:
            condition = self.parts[0]
            body.write(condition, places)
            (holds,) = condition.outputs.values()
            body.lines += [f"if (!{body.arena.places[holds].pointer}[0]) break;"]
            body.lines += [f"if (t == {node.attrs['limit']}L) {{ status = {PAST_LIMIT}; break; }}"]
            body.lines += [f"if (t == trips[1]) {{ status = {FULL}; break; }}"] * counted(node)
        body.write(self.parts[-1], places)
        body.lines += self._kept(body, carried, inputs)
        body.lines += ["if (status) break;"]
        order = "length - 1 - s" if node.attrs.get("reverse") else "s"
        counts = [f"int64_t *const trips = p[{inputs + len(node.outputs)}];"] * counted(node)
        length = "INT64_MAX" if node.op is WHILE else "trips[0]" if counts else f"{node.attrs['length']}L"
        return "\n".join(
            [
                f"// from {comment(str(node.where))}",
                f"int {self.name}(void **p) {{",
                f"  typedef {'double' if self.double else 'float'} T;",
                f"  char *const heap = malloc({body.arena.bytes}L + 64);",
                f"  if (heap == NULL) return {NO_MEMORY};",
                "  char *const arena = (char *)(((uintptr_t)heap + 63) & ~(uintptr_t)63);",
                "  int status = 0;",
                *(f"  {line}" for line in counts),
                f"  const int64_t length = {length};",
                f"  int64_t s = {'trips[0]' if counts and node.op is WHILE else '0'};",
                *(f"  {line}" for line in [*body.arena.declared, *head]),
                "  for (; s < length; s++) {",
                f"    const int64_t t = {order};",
                *(f"    {line}" for line in [*trip, *body.lines]),
                "  }",
                *(["  trips[0] = s;"] * bool(counts)),
                "  free(heap);",
                "  return status;",
                "}",
            ]
        )

    def _kept(self, body: Straight, carried: int, inputs: int) -> Iterator[str]:
        """The rows of ys, then the next carry."""
        results = list(self.parts[-1].outputs.values())
        for i, var in enumerate(results[carried:], carried):
            target = f"(({CTYPES[var.spec.dtype]} *)p[{inputs + i}] + t * {count(var)}L)"
            yield from copied(body.arena, var, target)
        for i, var in enumerate(results[:carried]):
            yield f"memcpy(in{i}, {body.own[i]}, {count(var)} * sizeof({CTYPES[var.spec.dtype]}));"
