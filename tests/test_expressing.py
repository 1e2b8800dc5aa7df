"""What it takes to write a model: how text is counted, and that every formulation is in the table as it was found."""

from __future__ import annotations

import json

import pytest
import torch

from engines.engine import Outputs
from suites import expressing
from suites.counting import Length, length_of
from suites.expressing import Way, in_a_graph, main, small, ways
from suites.harness import exits
from suites.texts import columns
from suites.workloads import CONTROL_FLOW, load_workload
from suites.workloads.workload import Workload


def helped(x):
    """Both use this, so that it is no part of either."""
    return x + 1


def only_long(x):
    """A docstring
    of two lines, which are not counted."""
    # nor is a comment

    return x * 2  # nor this


def short(x):
    return helped(x)


def long(x):
    """Said."""
    y = helped(
        x,
    )
    return only_long(y)


def test_what_all_share_and_what_says_nothing_is_not_counted():
    both = {"short": short, "long": long}
    assert length_of(both, "short") == Length(2, 6 + 5)
    assert length_of(both, "long") == Length(5 + 2, 6 + 7 + 5 + 6 + 4)
    assert length_of({"short": short}, "short") == Length(2 + 2, 11 + 6 + 4), "one alone shares nothing"
    assert length_of({**both, "same": helped}, "short") == Length(2, 6 + 5)


@pytest.fixture(scope="module")
def found() -> list[Way]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    table = list(ways(engines=("tape", "graph_replay")))
    torch.set_num_threads(before)
    return table


def test_every_formulation_of_every_workload_is_in_the_table(found):
    expected = [(name, formulation) for name, workload in CONTROL_FLOW.items() for formulation in workload.formulations]
    assert [(way.workload, way.formulation) for way in found] == expected
    for way in found:
        assert way.outcomes.keys() == {"tape", "graph_replay"}
        assert 0 < way.length.lines < way.length.tokens
        assert way.how


def test_the_tape_runs_all_and_a_graph_what_reads_no_value(found):
    for way in found:
        reads = way.breaks != ""
        assert way.outcomes["tape"] == "runs"
        assert way.outcomes["graph_replay"] == ("refused: EngineError" if reads else "runs"), way
        assert not reads or f" at {way.workload}.py:" in way.breaks
        assert not reads or way.formulation in CONTROL_FLOW[way.workload].reading


@pytest.mark.parametrize(
    ("workload", "formulation", "how"),
    [
        ("l2hmc", "dynamic", "unrolled"),
        ("l2hmc", "static", "rewritten: scan"),
        ("fixed_point", "static", "rewritten: while"),
        ("moe", "padded", "padded or masked"),
        ("moe", "dynamic", "cannot be: its batches declare no structure"),
        ("tree_lstm", "levels", "compiled again for each structure: 4 graphs in 4 batches"),
        ("many_paths", "static", "rewritten: cond"),
    ],
)
def test_how_a_graph_comes_to_a_formulation(found, workload, formulation, how):
    (way,) = [way for way in found if (way.workload, way.formulation) == (workload, formulation)]
    assert way.how == how


def test_what_runs_but_differs_is_not_said_to_run():
    other = Outputs(torch.tensor(0.0, dtype=torch.float64), {})
    assert expressing._outcome("tape", _fixed_point(), other) == expressing.DIFFERS


def _fixed_point():
    return expressing._task(small(load_workload("fixed_point")), "static")


def test_a_loop_in_python_that_reads_nothing_and_does_not_grow_is_as_it_is():
    workload = load_workload("many_paths")
    same = Workload(
        "same",
        workload.init,
        workload.batch,
        workload.formulations["masked"],
        workload.optimizer,
        formulations={"dynamic": workload.formulations["masked"], "static": workload.formulations["masked"]},
    )
    assert in_a_graph(same, "dynamic") == ("as is", "")


def test_the_command_prints_and_stores_the_table(tmp_path, capsys):
    file = tmp_path / "table.json"
    assert main(["l2hmc", "--engine", "tape", "--json", str(file)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:5] == ["workload", "formulation", "lines", "tokens", "tape"]
    assert len(printed) == 3
    first, *_ = json.loads(file.read_text())["tables"]
    assert [row[first["columns"].index("formulation")] for row in first["rows"]] == ["dynamic", "static"]


def test_a_table_that_cannot_be_stored_is_still_printed(tmp_path, capsys):
    assert main(["l2hmc", "--engine", "tape", "--json", str(tmp_path)]) == exits.UNWRITABLE_RESULTS
    printed = capsys.readouterr()
    assert "l2hmc" in printed.out
    assert printed.err == f"error: {tmp_path}: Is a directory; name a writable file with --json\n"


def test_ctrl_c_ends_with_one_line(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(expressing, "ways", interrupted)
    assert main(["l2hmc"]) == exits.INTERRUPTED
    assert capsys.readouterr().err == "\ninterrupted\n"


@pytest.mark.parametrize(("name", "said"), [("mlp", "mlp is written in one way only"), ("moo", "did you mean 'moe'")])
def test_a_workload_without_control_flow_is_refused(name, said, capsys):
    assert main([name]) == 4
    assert said in capsys.readouterr().err


def test_columns_are_aligned():
    assert columns([["a", "1"], ["bcd", "10"]], numbers=(1,)) == "a     1\nbcd  10"
