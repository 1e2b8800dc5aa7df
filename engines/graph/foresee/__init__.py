"""What common ops will give, known from shapes alone, so that torch need not be asked.

    foresee(conv2d, (image, weight, bias), attrs)     ->  the specs that its kernel would give, or None

A kernel run on torch's meta device is what defines an op's results (`infer`), but the first such run imports parts of
torch that take longer than all else that happens before a graph first runs. So each rule here answers for the plain
case alone and gives None wherever the kernel might refuse, promote a type or bend a shape: then the kernel is asked,
and its own words are what a user reads. Rules cannot drift from kernels: `verify` asks the kernels about every node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engines.graph.foresee import elementwise, layers, positions
from engines.graph.foresee.given import Rule, Specs
from engines.graph.ir import Operand
from engines.op import Op

RULES: Mapping[str, Rule] = {**elementwise.RULES, **positions.RULES, **layers.RULES}
"""Ops whose results are foreseen: those of the models here, where asking costs most."""


def foresee(op: Op, inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Specs | None:
    """The specs of an op's outputs where they are plain; None where its kernel must be asked."""
    rule = RULES.get(op.name)
    return None if rule is None or (len(inputs) != len(op.vjps) and not op.variadic) else rule(inputs, attrs)
