"""The static engine: trace once, differentiate, optimise, compile, and from then on only run."""

from engines.graph.autodiff import differentiate, update
from engines.graph.compile import Compiled, compile_loss
from engines.graph.executable import Executable, ExecutableError
from engines.graph.ir import Graph, Node, Var
from engines.graph.passes import PIPELINE
from engines.graph.trace import OPS, Symbol, trace
from engines.graph.verify import verify

__all__ = [
    "OPS",
    "PIPELINE",
    "Compiled",
    "Executable",
    "ExecutableError",
    "Graph",
    "Node",
    "Symbol",
    "Var",
    "compile_loss",
    "differentiate",
    "trace",
    "update",
    "verify",
]
