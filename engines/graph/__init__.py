"""The static engine: trace once, differentiate, optimise, compile, and from then on only run."""

from engines.graph.autodiff import differentiate, update
from engines.graph.compile import compile_loss
from engines.graph.compiled import Compiled
from engines.graph.executable import Executable, ExecutableError
from engines.graph.ir import Graph, Node, Var
from engines.graph.passes import PIPELINE
from engines.graph.shapes import Bucket, Exact, Pad, Policy, Symbolic
from engines.graph.trace import OPS, Symbol, trace
from engines.graph.verify import verify

__all__ = [
    "OPS",
    "PIPELINE",
    "Bucket",
    "Compiled",
    "Exact",
    "Executable",
    "ExecutableError",
    "Graph",
    "Node",
    "Pad",
    "Policy",
    "Symbol",
    "Symbolic",
    "Var",
    "compile_loss",
    "differentiate",
    "trace",
    "update",
    "verify",
]
