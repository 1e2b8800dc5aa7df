"""`python -m engines show`: what is printed, what is drawn, and what is refused without a traceback."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import pytest

from engines.__main__ import ENGINES, INTERRUPTED, main
from engines.engine import Quantity, Task
from engines.graph import PIPELINE
from engines.registry import UnknownWorkloadError, load_workload
from engines.show import Box, as_html, as_svg, show_graph, show_tape
from suites.workloads import STRAIGHT, WORKLOADS
from tests.programs import array, at


def loss(ops: Any, p: Mapping[str, Any], batch: Mapping[str, Any], key: Any) -> Any:
    hidden = ops.tanh(ops.linear(batch["x"], p["w"])) * 1.0  # hidden layer
    left, right = ops.split(hidden, sizes=(1, 2), dim=1)
    return ops.sum(ops.dropout(left * right, key, rate=0.5))  # the loss


class Small:
    def task(self, quantity: Quantity, batch_size: int) -> Task:
        return Task(loss, {"w": array(3, 4)}, {"x": array(batch_size, 4)}, quantity, optimizer=None)


SMALL = Small()


def svg_texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in Xml.fromstring(svg).iter() if element.tag.endswith("text")]


def test_a_graph_is_shown_at_every_stage_with_what_each_changed() -> None:
    text, _ = show_graph(SMALL.task("loss_and_grad", 2))
    titles = re.findall(r"^== (.+)$", text, re.MULTILINE)
    assert titles[0] == "traced: 8 nodes"
    assert titles[1].startswith("differentiated: ")
    assert "+1 tanh_backward" in titles[1]
    assert [title.split(":")[0] for title in titles[2 : 2 + len(PIPELINE)]] == [
        f"after {step.__name__}" for step in PIPELINE
    ]
    assert re.search(r"-\d mul", titles[2])
    assert text.count("\ngraph ") == sum("nodes" in title for title in titles)
    assert [title.split(",")[0] for title in titles[2 + len(PIPELINE) :]] == ["source", "C source"]


def test_c_has_the_user_s_lines_above_each_region() -> None:
    text, _ = show_graph(SMALL.task("loss_and_grad", 2))
    lines = text[text.index("== C source") :].splitlines()
    assert "#include <omp.h>" not in lines
    functions = [number for number, line in enumerate(lines) if line.startswith("int fused_")]
    assert functions
    assert all(re.match(r"// test_show\.py:\d+: \S", lines[number - 1]) for number in functions)
    assert any(line.startswith(f"// {at('the loss')}: return ops.sum(") for line in lines)


def test_generated_source_has_the_user_s_line_above_each_piece() -> None:
    text, _ = show_graph(SMALL.task("forward", 2))
    source = text[text.index("== source") :].splitlines()
    above = source.index(
        f"    # {at('hidden layer')}: {'hidden = ops.tanh(ops.linear(batch['}" + '"x"], p["w"])) * 1.0  # hidden layer'
    )
    assert re.fullmatch(rf"    v0 = linear_into\(x, w, None, out=p0\)  # {at('hidden layer')}", source[above + 1])
    assert "differentiated" not in text


@pytest.mark.parametrize("name", STRAIGHT)
@pytest.mark.parametrize("quantity", ["forward", "loss_and_grad", "step"])
def test_every_workload_is_shown_on_both_engines(
    name: str, quantity: Quantity, capsys: pytest.CaptureFixture[str]
) -> None:
    for engine in ("graph", "tape"):
        assert main(["show", name, "--engine", engine, "--quantity", quantity, "--batch", "2"]) == 0
    found = capsys.readouterr().out
    assert ("sgd_update" in found) == (quantity == "step")
    assert "== the tape" in found


def test_the_tape_s_record_names_slots_what_is_kept_and_lines() -> None:
    text, boxes = show_tape(SMALL.task("step", 2))
    heading, _, columns, *rows = text.splitlines()
    assert columns.split() == ["slot", "op", "reads", "bytes", "keeps", "line"]
    first, weight, hidden = (re.split(r"  +", row) for row in rows[:3])
    assert (first[0], first[1], first[-1]) == ("0", "leaf", "w")
    assert weight == ["1", "linear", "0", "32", "x0=f32[2,4]", at("hidden layer")]
    assert hidden == ["2", "tanh", "1", "24", "y0=f32[2,3]", at("hidden layer")]
    assert [row.split()[0] for row in rows] == [
        "0",
        "1",
        "2",
        "3",
        "4",
        "6",
        "7",
        "8",
    ]  # split has two outputs: 4 and 5
    assert re.match(r"== the tape: 7 ops and 1 parameters; the record itself takes \d+ bytes \(\d+ an op\)", heading)
    assert {box.key for box in boxes} == {0, 1, 2, 3, 4, 6, 7, 8}
    assert next(box for box in boxes if box.title == "6 mul").reads == (4, 4)


def test_tensors_kept_are_counted_once_and_parameters_not_at_all() -> None:
    def squares(ops: Any, p: Mapping[str, Any], _: Any, __: Any) -> Any:
        y = ops.exp(p["w"])
        return ops.sum(y * y * p["w"])

    text, _ = show_tape(Task(squares, {"w": array(100)}, {}, "step", random=False))
    assert "keeps 800 bytes of tensors" in text  # y, and y * y; not w


def test_a_drawing_has_a_box_for_each_node_below_what_it_reads() -> None:
    boxes = [Box("a", "a", "f32[3]"), Box(0, "0 <exp>", "x & y", ("a",)), Box(1, "1 add", "", (0, "a"))]
    svg = as_svg(boxes)
    assert svg_texts(svg) == ["a", "f32[3]", "0 <exp>", "x & y", "1 add", ""]
    tops = [int(e.attrib["y"]) for e in Xml.fromstring(svg).iter() if e.tag.endswith("rect")]
    assert tops == sorted(set(tops))
    assert svg.count("<path") == 3
    assert as_svg([]).startswith("<svg")
    page = as_html("a < b", "x < y", boxes)
    assert "<h1>a &lt; b</h1>" in page
    assert "<pre>x &lt; y</pre>" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize("show", [show_graph, show_tape])
def test_every_box_of_a_model_is_drawn(show: Callable[[Task], tuple[str, list[Box]]]) -> None:
    _, boxes = show(load_workload("cnn").task("loss_and_grad", 2))
    assert len(boxes) > 15
    assert svg_texts(as_svg(boxes))[::2] == [box.title for box in boxes]


def test_the_command_writes_files_and_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, svg = tmp_path / "page.html", tmp_path / "graph.svg"
    assert main(["show", "mlp", "--batch", "2", "--html", str(page), "--svg", str(svg)]) == 0
    assert "== source" in capsys.readouterr().out
    assert svg.read_text() in page.read_text()


def test_a_workload_may_live_in_any_module(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "suites.workloads.mlp:WORKLOAD", "--batch", "1"]) == 0
    assert "graph mlp(" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["cmn"], 4, "no workload named 'cmn'; there are cnn, .*did you mean 'cnn'"),
        (["no.such:WORKLOAD"], 4, "no workload at 'no.such:WORKLOAD': No module named 'no'"),
        (["suites.workloads.mlp:MODEL"], 4, "no workload at .* no attribute 'MODEL'"),
        (["tests.test_show:SMALL", "--quantity", "step"], 5, "needs an optimizer"),
        (["mlp", "--svg", "/no/such/folder/x.svg"], 12, "/no/such/folder/x.svg: No such file"),
    ],
)
def test_what_cannot_be_shown_is_one_line_and_an_exit_code(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", *arguments]) == code
    found = capsys.readouterr()
    assert found.out == ""
    assert re.fullmatch(rf"python -m engines: .*{message}.*\n", found.err)


@pytest.mark.parametrize("arguments", [[], ["show"], ["show", "cnn", "--batch", "0"], ["show", "cnn", "--engine", "x"]])
def test_bad_usage_is_exit_code_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)


def test_ctrl_c_ends_with_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(ENGINES, "tape", interrupted)
    assert main(["show", "mlp", "--engine", "tape"]) == INTERRUPTED
    assert capsys.readouterr().err == "python -m engines: interrupted\n"


def test_a_process_of_its_own_prints_no_traceback() -> None:
    command = [sys.executable, "-m", "engines", "show", "lenet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent)
    assert done.returncode == 4
    assert "did you mean 'lenet5'?" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_engines_know_every_workload_of_the_suites_by_name() -> None:
    assert all(load_workload(name) is workload for name, workload in WORKLOADS.items())
    with pytest.raises(UnknownWorkloadError, match="did you mean 'chain_tree'"):
        load_workload("chain_trea")
