"""What a session says at its end, in a few lines."""

from __future__ import annotations

from collections.abc import Iterator

from suites.harness.session import Session
from suites.harness.statistics import FEWEST_LAUNCHES

MOST_TOLD = 12
"""Rows without a number that are told one by one, and notes of those that have one."""


def summary(session: Session) -> Iterator[str]:
    """Lines for the terminal: rows, controls, what is missing and why."""
    facts = session.facts()
    control, missing, cost = facts["control"], facts["missing"], facts["overhead"]
    yield f"{len(session.benchmarks)} rows measured, {len(missing)} without a number"
    if control["cells"]:
        yield (
            f"A/A control: the same engine ran twice in {control['cells']} cells, and its interval left 1 out in "
            f"{control['false_alarms']} ({_expected(session)}); in 95 % of the cells it stayed within "
            f"{100 * control['smallest_effect']:.1f} %; each verdict is held against its own cell"
        )
    if cost["round_seconds"]:
        yield (
            f"own cost: {100 * cost['own_round_seconds'] / cost['round_seconds']:.1f} % of the time of rounds, "
            f"{cost['cell_seconds_median']:.2f} s a cell, {cost['cell_seconds_most']:.2f} s in {cost['most_in']}"
        )
    for caution in session.cautions:
        yield f"caution: {caution}"
    yield from _noted(session)
    for record in missing[:MOST_TOLD]:
        info = record["extra_info"]
        yield f"  {info['status']}: {record['name']}: {info['reason']}"
    if len(missing) > MOST_TOLD:
        yield f"  and {len(missing) - MOST_TOLD} more; all stand in the stored run"


def _noted(session: Session) -> Iterator[str]:
    """What rows that have a number say besides."""
    notes = [(row["name"], *note) for row in session.benchmarks for note in row["extra_info"]["notes"].items()]
    for name, stage, note in notes[:MOST_TOLD]:
        yield f"  note: {name}: {stage}: {note}"
    if len(notes) > MOST_TOLD:
        yield f"  and {len(notes) - MOST_TOLD} more notes; all stand in the stored run"


def _expected(session: Session) -> str:
    """What of intervals that leave 1 out is to be expected."""
    fewest, _ = session.effort.launches
    if fewest >= FEWEST_LAUNCHES:
        return "1 in 20 would by chance"
    return "1 in 20 would, were processes alike: a claim also exceeds the control, or a wide margin without"
