"""What does our interface cost a peer: the workload's text on torch against the same network as a plain nn.Module?

The module draws its dropout masks from torch's own generator, so the two are held against the reference with dropout
off, and timed with it on. Both run in one process: two processes of one program differ by more than an interface may
cost.
"""

from dataclasses import replace

from pytest_benchmark.fixture import BenchmarkFixture

from suites.harness.cell import Cell
from suites.harness.contender import Contender
from suites.harness.effort import Effort
from suites.harness.replay import RunRow

ENGINES = ("torch_eager", "torch_module")
ROOM = "torch"


def cells(effort: Effort, device: str) -> list[Cell]:
    """A training step of the CNN at batch 1, where overhead would show; with more effort of every network at 64."""
    pairs = (("cnn", 1), *(() if effort.name == "quick" else (("cnn", 64), ("lenet5", 64), ("mlp", 64))))
    return [Cell("interface", name, "step", batch, device=device, own_masks=True) for name, batch in pairs]


def contender(name: str) -> Contender:
    """The peer by its name, or the module of the cell's workload."""
    named = Contender(name, room=ROOM)
    return replace(named, loader="suites.harness.modules:load_module") if name == "torch_module" else named


def test_interface(row: RunRow, benchmark: BenchmarkFixture) -> None:
    row(benchmark)
