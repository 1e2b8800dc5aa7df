"""The door between suites and engines: what every engine refuses of a task or a batch, in one line that says what."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from engines.graph import Executable
from engines.registry import load_engine
from engines.value import EngineError
from suites.harness.contender import everyone
from suites.workloads import load_workload
from suites.workloads.modules import TorchModule

TASK = load_workload("lenet5").task("step", 4)
OURS = ("tape", "graph", "graph_replay")
EVERYONE = (*everyone("cpu", slow=False), "torch_module")


def engine(name: str) -> Any:
    return TorchModule("lenet5") if name == "torch_module" else load_engine(name)


def told(call: Any) -> str:
    """The one line that a refusal says."""
    with pytest.raises(EngineError) as refused:
        call()
    text = str(refused.value)
    assert len(text.splitlines()) == 1, text
    return text


@pytest.mark.parametrize("name", EVERYONE)
def test_a_device_that_is_not_there_or_not_known_is_refused_by_name(name):
    there = torch.cuda.device_count()
    for device in (f"cuda:{there}", "toaster"):
        said = told(lambda device=device: engine(name).prepare(replace(TASK, device=device)))
        assert f"device {device!r} cannot be used: " in said


@pytest.mark.parametrize("name", EVERYONE)
def test_a_batch_that_lacks_an_entry_or_holds_no_numbers_is_refused_by_name(name):
    program = engine(name).prepare(TASK)
    said = told(lambda: program.place({"image": TASK.batch["image"]}, 0))
    assert said == "batch: entry 'label' is missing; found image"
    said = told(lambda: program.place({**TASK.batch, "label": np.array(["three"])}, 0))
    assert said == "label: found <U5, expected an array of numbers or truth values"


def test_a_quantity_that_there_is_not_is_refused_whoever_is_asked():
    said = told(lambda: replace(TASK, quantity="backwards"))
    assert said == "task: quantity: found 'backwards', expected one of forward, loss_and_grad, step"


COMPILED = "input 'image' is compiled for f32[4,1,28,28], found "
BATCHES = {
    "wrong size": ({"image": TASK.batch["image"][:, :, :20]}, "linear: ", COMPILED + "f32[4,1,20,28]"),
    "wrong rank": ({"image": TASK.batch["image"][0]}, "linear: ", COMPILED + "f32[1,28,28]"),
    "wider floats": ({"image": TASK.batch["image"].astype("float64")}, "f64[4,1,28,28]", COMPILED + "f64[4,1,28,28]"),
    "float labels": (
        {"label": TASK.batch["label"].astype("float32")},
        "nll_loss: ",
        "input 'label' is compiled for i64[4], found f32[4]",
    ),
    "label too high": ({"label": TASK.batch["label"] * 0 + 10}, *2 * ("nll_loss: Target 10 is out of bounds",)),
    "label below 0": ({"label": TASK.batch["label"] * 0 - 1}, *2 * ("nll_loss: Target -1 is out of bounds",)),
}
"""Changed entries, and what tape and graph say: a tape meets it in the model, a graph at its door."""


@pytest.mark.parametrize("fault", BATCHES)
@pytest.mark.parametrize("name", OURS)
def test_a_batch_that_does_not_fit_says_what_was_found_and_where(name, fault):
    changed, by_tape, by_graph = BATCHES[fault]
    program = engine(name).prepare(TASK)
    said = told(lambda: program.run(program.place({**TASK.batch, **changed}, 0)))
    assert (by_tape if name == "tape" else by_graph) in said
    assert "lenet5" in said


def test_data_that_holds_a_nan_gives_a_nan_and_not_a_number():
    image = TASK.batch["image"].copy()
    image[0, 0, 3, 3] = np.nan
    for name in EVERYONE:
        program = engine(name).prepare(TASK)
        assert torch.isnan(program.run(program.place({**TASK.batch, "image": image}, 0)).loss), name


@pytest.mark.parametrize("name", EVERYONE)
def test_what_getting_ready_took_is_named_by_phase(name):
    phases = engine(name).prepare(TASK).phases
    assert "place" in phases
    assert all(seconds >= 0 for seconds in phases.values())
    if name == "torch_module":
        assert list(phases) == ["make module", "place", "make optimizer"]


def test_counting_is_no_part_of_getting_ready(monkeypatch):
    def count(executable: Executable) -> dict[str, int]:
        return {"counted": 1}

    monkeypatch.setattr(Executable, "counters", None)
    program = engine("graph_replay").prepare(TASK)
    monkeypatch.setattr(Executable, "counters", count)
    assert program.counters["counted"] == 1
    assert program.counters["nodes"] == len(program.executable.graph.nodes)
