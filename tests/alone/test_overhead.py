"""What measuring costs by itself: how it is read from the protocol's log, and how much it is."""

from __future__ import annotations

import pytest

from suites.harness.cautions import Sampled
from suites.harness.cell import Cell
from suites.harness.conductor import Conductor, Event
from suites.harness.contender import Contender
from suites.harness.effort import EFFORTS
from suites.harness.measure import measure
from suites.harness.overhead import BEGUN, ENDED, Overhead, overhead
from suites.harness.progress import Progress
from suites.harness.session import Session, Wanted
from suites.harness.summary import summary

CELL = Cell("step", "cnn", "step", 64)


def asked(began: float, took: float, what: str) -> Event:
    return Event(began, took, "tape", 1, what, "answered")


def noted(at: float, what: str, about: str) -> Event:
    return Event(at, 0.0, "conductor", 2, what, about)


def test_own_time_is_what_lies_between_answers_and_the_next_request():
    log = [
        asked(0.0, 5.0, "start"),  # before any cell
        noted(10.0, BEGUN, "one"),
        asked(10.25, 1.0, "prepare"),
        asked(12.0, 1.0, "sample"),
        asked(13.125, 1.0, "sample"),
        asked(14.25, 0.75, "sample"),
        asked(15.0, 0.0, "prepare"),  # of a second launch
        asked(15.0, 0.0, "sample"),
        asked(15.125, 0.125, "sample"),
        asked(15.5, 0.5, "counters"),
        noted(16.5, "store", "one"),
        noted(17.0, ENDED, "one"),
        noted(20.0, BEGUN, "two"),
        asked(20.5, 3.0, "memory"),
        noted(24.0, ENDED, "two"),
        noted(25.0, BEGUN, "cut off"),
        asked(25.0, 3.0, "sample"),
    ]
    assert overhead(log) == Overhead(
        cells=2,
        round_seconds=3.0 + 0.25,
        own_round_seconds=0.25 + 0.125,
        cell_seconds_median=(2.625 + 1.0) / 2,
        cell_seconds_most=2.625,
        most_in="one",
    )
    assert overhead([]) == Overhead(0, 0.0, 0.0, None, None, None)


def is_little() -> bool:
    """Whether a session of one cell says that measuring it cost less than 1 % of its rounds, and half a second."""
    with Conductor() as conductor:
        session = Session(EFFORTS["quick"], Progress(1, None), conductor)
        session.wanted = [Wanted(name, name, CELL, Contender(name)) for name in ("tape", "torch_eager")]
        session.row(CELL, Contender("tape"), measure)
        found = session.facts()["overhead"]
    assert found["cells"] == 1
    assert found["round_seconds"] > 0.2
    assert found["own_round_seconds"] > 0.0
    return found["own_round_seconds"] < 0.01 * found["round_seconds"] and found["cell_seconds_most"] < 0.5


def test_a_session_stores_what_measuring_cost_it_and_that_is_little():
    assert any(is_little() for _ in range(3))  # other work on the machine delays the conductor too


@pytest.mark.parametrize(
    ("effort", "expected"),
    [
        ("quick", "1 in 20 would, were processes alike: a claim also exceeds the control, or a wide margin without"),
        ("standard", "1 in 20 would by chance"),
    ],
)
def test_the_summary_says_what_an_interval_is_worth_and_what_measuring_cost(effort, expected):
    session = Session(EFFORTS[effort], Progress(1, None), Conductor())
    inside = {"value": 1.0, "low": 0.98, "high": 1.02, "confidence": 0.95, "rounds": 30, "launches": 1}
    session.controls = [inside, {**inside, "value": 1.04, "low": 1.01, "high": 1.06}]
    session.conductor.log += [
        noted(0.0, BEGUN, "step: one"),
        asked(0.25, 1.0, "sample"),
        asked(1.5, 2.5, "sample"),
        noted(4.5, ENDED, "step: one"),
    ]
    control, cost = list(summary(session))[1:3]
    assert "ran twice in 2 cells, and its interval left 1 out in 1 (" in control
    assert f"({expected}); in 95 % of the cells it stayed within 5.8 %; each verdict is held against" in control
    assert cost == "own cost: 6.7 % of the time of rounds, 1.00 s a cell, 1.00 s in step: one"


def test_the_summary_says_what_measured_rows_lack():
    session = Session(EFFORTS["quick"], Progress(1, None), Conductor())
    notes = {"split": "crashed: worker killed by SIGKILL at 'split'"}
    row = {"name": "test_step[a]", "group": "step: a", "extra_info": {"notes": notes}}
    session.benchmarks = [{**row, "extra_info": {"notes": {}}}, *[row] * 13]
    told = [line for line in summary(session) if "note" in line]
    assert told == [
        *["  note: test_step[a]: split: crashed: worker killed by SIGKILL at 'split'"] * 12,
        "  and 1 more notes; all stand in the stored run",
    ]


def test_only_cells_that_ended_with_the_budget_say_how_wide_their_intervals_are():
    def row(group: str, why: str, launches: list[int]) -> dict[str, object]:
        stopped = {"why": why, "rounds": sum(launches), "width": 0.03, "wanted": 0.02}
        return {"group": group, "extra_info": {"stopped": stopped, "launches": launches}}

    session = Session(EFFORTS["standard"], Progress(4, None), Conductor())
    session.benchmarks = [
        *[row("step: one", "budget", [9, 8, 9])] * 2,
        row("step: two", "budget", [40]),
        row("step: three", "precise", [9, 8, 9]),
        {"group": "memory: four", "extra_info": {"stopped": None, "launches": []}},
    ]
    assert session.sampled() == [
        Sampled("step: one", "3 launches", 0.03, 0.02),
        Sampled("step: two", "40 rounds", 0.03, 0.02),
    ]
