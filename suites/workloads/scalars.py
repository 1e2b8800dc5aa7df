"""Numbers added up: next to nothing to compute, so that the time of a call is what it takes to make one.

Knob: `inputs`, the number of parameters, each a single number. All are read, so that nothing can leave one out.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from engines.op import Namespace
from engines.optim import Sgd
from suites.workloads.workload import Arrays, Rng, Size, Workload

DEFAULT_SIZE = {"inputs": 10}


def workload(size: Size) -> Workload:
    """The sum of `inputs` parameters of shape ()."""

    def init(rng: Rng) -> Arrays:
        return {f"x{i}": np.asarray(rng.normal(), dtype=np.float32) for i in range(size["inputs"])}

    def batch(_: Rng, __: int) -> Arrays:
        return {}

    def loss(_: Namespace, params: Mapping[str, Any], __: Mapping[str, Any], ___: Any) -> Any:
        return reduce(add, params.values())

    return Workload("scalars", init, batch, loss, Sgd(lr=0.01), size=size, resize=workload)


WORKLOAD = workload(DEFAULT_SIZE)
