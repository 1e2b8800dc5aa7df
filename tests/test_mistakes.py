"""Planted mistakes: what comes of each, how that is told apart, and that both engines name the line to blame."""

from __future__ import annotations

import json
import re
from functools import partial

import pytest

from engines.engine import place_arrays
from engines.ops import KERNELS
from suites import planted
from suites.mistakes import MISTAKES, WAYS, Found, Mistake, guilty_lines, line_named, main, shape, try_mistake


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, str, str], Found]:
    return {(m.what, m.flow, way): try_mistake(m, way) for m in MISTAKES for way in WAYS}


def test_every_planted_model_is_in_the_table():
    used = {getattr(model, "func", model).__name__ for m in MISTAKES for model in (m.dynamic, m.static)}
    assert used == {name for name in vars(planted) if name.endswith(("_dynamic", "_static"))}
    assert len({(m.what, m.flow) for m in MISTAKES}) == len(MISTAKES)
    for mistake in MISTAKES:
        assert guilty_lines(mistake.dynamic)
        assert guilty_lines(mistake.static)


def test_every_error_of_our_engines_names_the_line_to_blame(found):
    """A dtype that changes in Python's own loop is no error until its value is used."""
    for (what, flow, way), each in found.items():
        if each.when == "never" or way.startswith("torch"):
            continue
        late = what == "carry changes dtype" and way in {"tape", "tape, checked"}
        of_python = not each.said.startswith(("EngineError", "NotFiniteError"))
        expected = "elsewhere" if late else "traceback" if of_python else "message"
        assert each.line == expected, (what, flow, way, each.said)
        assert (each.op and each.values) or late or of_python, each.said


def test_a_graph_finds_before_it_runs_all_that_shapes_and_dtypes_show(found):
    for (what, flow, way), each in found.items():
        if way == "graph":
            expected = {"NaN is born": "never", "index out of range": "run"}.get(what, "trace")
            assert each.when == expected, (what, flow, each)
            assert each.values or expected == "never"


def test_running_at_once_finds_only_what_runs(found):
    assert found["wrong shape", "branch not taken", "tape"].when == "never"
    assert found["wrong shape", "branch taken", "tape"].when == "run"
    assert found["branches of two shapes", "branch taken", "tape+static"].when == "never"
    assert found["carry grows", "loop while", "tape"].when == "never"
    assert found["carry grows", "loop while", "tape+static"].when == "run"


@pytest.mark.parametrize("way", ["tape, checked", "graph, checked"])
@pytest.mark.parametrize(("flow", "op"), [("branch taken", "log"), ("loop over trips", "sqrt")])
def test_a_nan_is_found_where_it_is_born_if_it_is_looked_for(found, way, flow, op):
    each = found["NaN is born", flow, way]
    assert (each.when, each.line, each.op, each.values) == ("run", "message", True, True)
    assert each.said.startswith(f"NotFiniteError: {op}: ")
    assert found["NaN is born", flow, way.removesuffix(", checked")].said == "loss nan"


def test_torch_is_said_to_find_what_it_finds(found):
    each = found["wrong shape", "branch taken", "torch_eager"]
    assert (each.when, each.line, each.op, each.values) == ("run", "traceback", False, True)
    assert found["NaN is born", "loop over trips", "torch_eager, anomaly"].line == "message", "its warning names it"


def test_models_without_their_mistake_would_run():
    """What is wrong is what is planted: with the branch not taken the same model gives a number."""
    params, batch = (place_arrays(made, "cpu") for made in (planted.parameters(), planted.batch()))
    assert float(planted.branch_shape_dynamic(KERNELS, params, batch, None, which="no")) == planted.batch()["x"].sum()


def refused_when_made(*_):
    raise ValueError("no")


def wrong(ops, params, batch, _):
    return ops.matmul(params["w"], params["odd"][0:2])  # planted


@pytest.mark.parametrize(("way", "when"), [("graph", "trace"), ("tape", "run")])
def test_the_stage_is_that_in_which_the_error_came(way, when):
    each = try_mistake(Mistake("w", "f", wrong, wrong, "matmul", (shape(3, 3), shape(2, 3))), way)
    assert (each.when, each.line, each.op, each.values) == (when, "message", True, True)
    other = try_mistake(Mistake("w", "f", wrong, wrong, "conv", (shape(3, 3), shape(9, 9))), way)
    assert (other.op, other.values) == (False, False)


def test_an_error_before_tracing_is_one_of_preparing(monkeypatch):
    monkeypatch.setattr("engines.graph.engine.place_arrays", refused_when_made)
    assert try_mistake(MISTAKES[0], "graph").when == "prepare"


@pytest.mark.parametrize(
    ("said", "frames", "named"),
    [
        ("log: NaN, at m.py:12", [], "message"),
        ('File "/a/m.py", line 12, in f', [], "message"),
        ("log: NaN, at m.py:123", [], "elsewhere"),
        ("log: NaN, at other_m.py:12", [], "no"),
        ("log: NaN", [("/a/m.py", 12)], "traceback"),
        ("log: NaN, at m.py:13", [("/a/m.py", 12)], "traceback"),
        ("log: NaN", [("/a/m.py", 13)], "no"),
    ],
)
def test_where_a_line_is_named(said, frames, named):
    assert line_named([("/a/m.py", 12)], said, frames) == named


def test_lines_to_blame_are_those_that_are_marked():
    ((file, line),) = guilty_lines(partial(wrong))
    assert file == __file__
    assert line == wrong.__code__.co_firstlineno + 1


@pytest.mark.parametrize(
    ("text", "same"), [("f64[2,3]", True), ("(2x3 and", True), ("[2, 3]", True), ("(12, 3)", False), ("2, 3, 4", False)]
)
def test_shapes_are_known_in_any_brackets(text, same):
    assert bool(re.search(shape(2, 3), text)) is same


def test_the_command_prints_and_stores_the_table(tmp_path, capsys):
    file = tmp_path / "table.json"
    assert main(["--way", "tape", "--messages", "--json", str(file)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["mistake", "where", "way", "when", "line", "op", "values", "result"]
    assert any("matmul: " in line for line in printed[len(MISTAKES) + 1 :])
    short, said = json.loads(file.read_text())["tables"]
    assert short["columns"] == ["mistake", "where", "tape"]
    assert [row[:2] for row in short["rows"]] == [[mistake.what, mistake.flow] for mistake in MISTAKES]
    first = dict(zip(short["columns"], short["rows"][0], strict=True))
    assert first["tape"].startswith("run: line")
    assert said["rows"][0][:3] == ["wrong shape", "branch taken", "tape"]
