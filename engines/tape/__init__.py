"""The dynamic engine: run each op at once, record it, walk the record back, throw it away."""

from engines.tape.record import OPS
from engines.tape.tape import LEAF, Tape
from engines.tape.tensor import Tensor

__all__ = ["LEAF", "OPS", "Tape", "Tensor"]
