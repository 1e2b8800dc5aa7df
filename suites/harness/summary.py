"""What a session says at its end, in a few lines."""

from __future__ import annotations

from collections.abc import Iterator

from suites.harness.session import Session

MOST_TOLD = 12
"""Rows without a number that are told one by one."""


def summary(session: Session) -> Iterator[str]:
    """Lines for the terminal: rows, controls, what is missing and why."""
    facts = session.facts()
    control, missing = facts["control"], facts["missing"]
    yield f"{len(session.benchmarks)} rows measured, {len(missing)} without a number"
    if control["cells"]:
        yield (
            f"A/A control: the same engine in two processes differed by its 95 % interval in {control['false_alarms']} "
            f"of {control['cells']} cells; effects below {100 * control['smallest_effect']:.1f} % cannot be seen today"
        )
    for caution in session.cautions:
        yield f"caution: {caution}"
    for record in missing[:MOST_TOLD]:
        info = record["extra_info"]
        yield f"  {info['status']}: {record['name']}: {info['reason']}"
    if len(missing) > MOST_TOLD:
        yield f"  and {len(missing) - MOST_TOLD} more; all stand in the stored run"
