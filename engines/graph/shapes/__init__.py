"""Ways in which a fixed graph can meet changing shapes, each a small value that a user picks.

    Compiled(loss, policy=Bucket(), varying=(Varying("length", (("tokens", 1),), most=64),))

    Exact       one executable for each shape
    Bucket      sizes rounded up to one of a few, so that a few executables serve all
    Pad         sizes rounded up to their maximum, so that one executable serves all
    Symbolic    one executable whose marked sizes are read from its inputs

Executables are held in a bounded cache, and the least recently used goes first.
"""

from engines.graph.shapes.policy import Bucket, Exact, Pad, Policy, Symbolic

__all__ = ["Bucket", "Exact", "Pad", "Policy", "Symbolic"]
