"""The dynamic engine: run each op at once, record it, walk the record back, throw it away."""

from engines.tape.tape import Tape
from engines.tape.tensor import OPS, Tensor

__all__ = ["OPS", "Tape", "Tensor"]
