"""What steers a computation and computes nothing itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engines.op import Namespace


def checkpoint(_ops: Namespace, function: Callable[..., Any], *values: Any) -> Any:
    """`function(*values)`, a value or a tuple of them, of which an engine need not keep what its gradients read.

    An engine that keeps values for the backward pass runs the function again there instead (Chen et al., "Training deep
    nets with sublinear memory cost", 2016). `function` must do the same each time. What it reads may be given or
    captured, parameters among it; what it makes leaves it by being returned.
    """
    return function(*values)


FUNCTIONS = (checkpoint,)
