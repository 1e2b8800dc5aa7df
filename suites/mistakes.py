"""Debugging, measured: the same mistake in every style; whether an error comes, when, and what it names.

    python -m suites.mistakes                     # a table as text
    python -m suites.mistakes --messages          # and what each engine says
    python -m suites.mistakes --json FILE

Each mistake of `suites.planted` is run for loss and gradients. *When*: while the graph is traced, while it is made
ready otherwise, when it runs, or never. *Line*: whether the message names the user's file and line, or at least the
traceback goes through it; "elsewhere" is a later line, where the mistake came to light. *Op* and *values*: whether the
message names the op, and the shapes, dtypes or numbers that show what is wrong.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from engines.engine import Engine, LossFunction, Task
from engines.graph import Executable
from engines.graph.engine import GraphEngine
from engines.peers.torch_eager import TorchEager
from engines.tape.engine import TapeEngine
from suites import planted
from suites.harness import exits
from suites.sheets import Sheet, keep
from suites.texts import columns

PLANTED = "# planted"
TRACING = "trace.py"
"""The file through which an error goes that comes while a graph is traced."""


class Mistake(NamedTuple):
    """What is wrong and where; the model in both styles; what a good message says.

    `op` is a pattern for the name of the op or the control flow to blame, `facts` are patterns for what shows the
    mistake; letters may be small or capital.
    """

    what: str
    flow: str
    dynamic: LossFunction
    static: LossFunction
    op: str
    facts: tuple[str, ...]


class Way(NamedTuple):
    """An engine on one of the two ways of writing, and what it is switched on within."""

    engine: Callable[[], Engine]
    style: str
    within: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass(frozen=True)
class Found:
    """What came of one mistake in one way.

    `when` an error came; where the `line` to blame is named, as `line_named` says; whether `op` and `values` are named;
    the error's type and first line, or the loss if there was no error.
    """

    what: str
    flow: str
    way: str
    when: str
    line: str
    op: bool
    values: bool
    said: str


def shape(*sizes: int) -> str:
    """A pattern for a shape, in whichever brackets."""
    return r"(?<![\d,x])" + r"\s*[,x]\s*".join(map(str, sizes)) + r"(?![\d,x])"


ODD = (shape(2, 3), shape(4, 3))
ONE_ODD = (shape(1, 3), shape(4, 3))
COND, LOOP, FOR = "branch taken", "loop while", "loop over rows"
INDEX = (r"\b7\b", r"\b5\b")
MISTAKES = (
    Mistake(
        "wrong shape",
        COND,
        partial(planted.branch_shape_dynamic, which="yes"),
        partial(planted.branch_shape_static, which="yes"),
        "matmul",
        ODD,
    ),
    Mistake(
        "wrong shape",
        "branch not taken",
        partial(planted.branch_shape_dynamic, which="no"),
        partial(planted.branch_shape_static, which="no"),
        "matmul",
        ODD,
    ),
    Mistake("wrong shape", FOR, planted.loop_shape_dynamic, planted.loop_shape_static, "matmul", ONE_ODD),
    Mistake(
        "branches of two shapes",
        COND,
        planted.branches_differ_dynamic,
        planted.branches_differ_static,
        "cond|mean",
        (shape(1, 3), shape(2, 3)),
    ),
    Mistake(
        "carry grows",
        LOOP,
        planted.carry_grows_dynamic,
        planted.carry_grows_static,
        "concat|while_loop",
        (shape(2, 3), shape(4, 3)),
    ),
    Mistake("NaN is born", COND, planted.branch_nan_dynamic, planted.branch_nan_static, "log", (r"\d of 6",)),
    Mistake("NaN is born", "loop over trips", planted.loop_nan_dynamic, planted.loop_nan_static, "sqrt", (r"\d of 6",)),
    Mistake("index out of range", COND, planted.branch_index_dynamic, planted.branch_index_static, "embedding", INDEX),
    Mistake("index out of range", FOR, planted.loop_index_dynamic, planted.loop_index_static, "embedding", INDEX),
    Mistake(
        "carry changes dtype",
        LOOP,
        planted.while_dtype_dynamic,
        planted.while_dtype_static,
        "add|while_loop",
        (r"i(nt)?64|long", r"f(loat)?(32|64)|double"),
    ),
    Mistake(
        "carry changes dtype",
        FOR,
        planted.scan_dtype_dynamic,
        planted.scan_dtype_static,
        "cast|scan",
        (r"f(loat)?64|double", r"f(loat)?32"),
    ),
    Mistake("number read", LOOP, planted.loop_reads_dynamic, planted.loop_reads_static, r"float\(\)", (r"\[\]|\(\)",)),
    Mistake(
        "not there yet",
        "branch not taken",
        planted.other_branch_dynamic,
        planted.other_branch_static,
        "add",
        (r"\[\]|\(\)|bonus",),
    ),
    Mistake("not there yet", FOR, planted.after_loop_dynamic, planted.after_loop_static, "add", (shape(1, 3),)),
)
"""In the order of the table."""

WAYS: Mapping[str, Way] = MappingProxyType(
    {
        "tape": Way(TapeEngine, "dynamic"),
        "tape+static": Way(TapeEngine, "static"),
        "graph": Way(GraphEngine, "static"),
        "torch_eager": Way(TorchEager, "dynamic"),
        "tape, checked": Way(partial(TapeEngine, check_finite=True), "dynamic"),
        "graph, checked": Way(partial(GraphEngine, build=Executable.checked), "static"),
        "torch_eager, anomaly": Way(TorchEager, "dynamic", partial(torch.autograd.set_detect_anomaly, True)),
    }
)
"""By name. The last three are switched to look for NaN, each by the means of its engine."""


def try_mistake(mistake: Mistake, name: str) -> Found:
    """Run one mistake in one way, and say what came of it."""
    way = WAYS[name]
    model = mistake.dynamic if way.style == "dynamic" else mistake.static
    task = Task(model, planted.parameters(), planted.batch(), "loss_and_grad", random=False)
    stage = "prepare"
    with warnings.catch_warnings(record=True) as warned, way.within():
        warnings.simplefilter("always")
        try:
            program = way.engine().prepare(task)
            stage = "run"
            loss = float(program.run(program.place(task.batch, 0)).loss)
        except Exception as error:
            said = "\n".join([str(error), *(str(w.message) for w in warned)])
            return _classified(mistake, name, model, error, stage, said)
    return Found(mistake.what, mistake.flow, name, "never", "no", False, False, f"loss {loss:.4g}")


def _classified(mistake: Mistake, way: str, model: LossFunction, error: Exception, stage: str, said: str) -> Found:
    frames = traceback.extract_tb(error.__traceback__)
    if stage == "prepare" and any(Path(frame.filename).name == TRACING for frame in frames):
        stage = "trace"
    return Found(
        what=mistake.what,
        flow=mistake.flow,
        way=way,
        when=stage,
        line=line_named(guilty_lines(model), said, [(frame.filename, frame.lineno or 0) for frame in frames]),
        op=re.search(rf"(?<![a-z])({mistake.op})", said, re.IGNORECASE) is not None,
        values=all(re.search(fact, said, re.IGNORECASE) for fact in mistake.facts),
        said=f"{type(error).__name__}: {str(error).strip().splitlines()[0]}",
    )


def guilty_lines(model: Callable[..., Any]) -> tuple[tuple[str, int], ...]:
    """File and number of each line to blame in a model."""
    function = model.func if isinstance(model, partial) else model
    lines, first = inspect.getsourcelines(function)
    file = inspect.getsourcefile(function) or ""
    return tuple((file, first + at) for at, text in enumerate(lines) if text.rstrip().endswith(PLANTED))


def line_named(guilty: Sequence[tuple[str, int]], said: str, frames: Sequence[tuple[str, int]]) -> str:
    """Where one of these lines is named: by the "message", by the "traceback", or not.

    Then the message may name another line of the file, where the mistake came to light: "elsewhere"; or "no" line.
    """
    named = {(file, int(line)) for file, _ in guilty for line in _lines_of(file, said)}
    if named & set(guilty):
        return "message"
    if set(frames) & set(guilty):
        return "traceback"
    return "elsewhere" if named else "no"


def _lines_of(file: str, said: str) -> list[str]:
    """Lines of a file that a message names, as FILE:LINE or as Python does."""
    return re.findall(rf"\b{re.escape(Path(file).name)}(?::|\", line )(\d+)", said)


# The tables

LEAD = (
    "The same mistake planted in each style: when an error comes, and whether it names the line to blame, the op, and "
    "the shapes, dtypes or numbers that show what is wrong. The last ways look for NaN, each by its engine's means."
)


def table(found: Sequence[Found]) -> str:
    """A line for each mistake and way."""
    head = ["mistake", "where", "way", "when", "line", "op", "values", "result"]
    yes = {True: "yes", False: "no"}
    rows = [
        [f.what, f.flow, f.way, f.when, f.line, yes[f.op], yes[f.values], "error"]
        if f.when != "never"
        else [f.what, f.flow, f.way, f.when, "", "", "", f.said]
        for f in found
    ]
    return columns([head, *rows])


def sheets(found: Sequence[Found]) -> list[Sheet]:
    """A line for each mistake with a column for each way; then what each engine says."""
    ways = list(dict.fromkeys(f.way for f in found))
    by_place = {(f.what, f.flow, f.way): _in_short(f) for f in found}
    places = dict.fromkeys((f.what, f.flow) for f in found)
    short = [[what, flow, *(by_place[what, flow, way] for way in ways)] for what, flow in places]
    said = [[f.what, f.flow, f.way, f.said] for f in found if f.when != "never"]
    return [
        Sheet("Mistakes", LEAD, ["mistake", "where", *ways], short),
        Sheet("What each engine says", "", ["mistake", "where", "way", "message"], said),
    ]


def _in_short(found: Found) -> str:
    if found.when == "never":
        return f"never: {found.said}"
    lines = {"message": "line", "traceback": "line in traceback", "elsewhere": "another line"}
    named = [lines.get(found.line), "op" if found.op else None, "values" if found.values else None]
    return f"{found.when}: {', '.join(filter(None, named)) or 'nothing named'}"


@exits.interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives an exit code."""
    parser = argparse.ArgumentParser(prog="python -m suites.mistakes", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--way", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--messages", action="store_true", help="also the first line of each error")
    parser.add_argument("--json", type=Path, help="a file for the tables; the page shows those in results/tables")
    options = parser.parse_args(arguments)
    found = [try_mistake(mistake, way) for mistake in MISTAKES for way in options.way]
    print(table(found))
    if options.messages:
        print()
        print(columns([[f.what, f.flow, f.way, f.said] for f in found if f.when != "never"]))
    return keep(options.json, "python -m suites.mistakes", sheets(found))


if __name__ == "__main__":
    sys.exit(main())
