"""Say how far the numbers of a page can be trusted: what the runs found out about themselves.

for remark in remarks(results, labels):
    remark.subject, remark.word, remark.sentence, remark.details

A new remark is a function here and a line in `REMARKS`; what older files do not store is said to be not stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from report import units
from report.labels import Labels
from report.method import Check, Why
from report.results import Results
from report.stored import Cell, Control, ControlRow, Overhead, Record, Run
from report.wording import NOT_STORED, check_text, listed, width_text

REASONS: dict[Why, str] = {
    "precise": "because every ratio to the tape was precise enough",
    "budget": "because the time allowed was spent",
    "fixed": "after a fixed number",
}
HELD = "Each verdict is held against its own cell: what lies within that of others may still be told."
MOST_OPEN = 6
"""Sums that do not close and are named, those that miss most first; the others are counted."""


@dataclass(frozen=True, slots=True)
class Remark:
    """One subject with a word on it, the sentence behind it, and small print; `tone` is good, bad, unknown or plain."""

    subject: str
    word: str
    tone: str
    sentence: str
    details: tuple[str, ...] = ()


def remarks(results: Results, labels: Labels) -> list[Remark]:
    """All remarks, in the order of the page."""
    return [remark(results, labels) for remark in REMARKS]


def control(results: Results, labels: Labels) -> Remark:
    """What happens where an engine stands against itself: how far its intervals reach, and how often beside 1."""
    subject = "How far does an engine seem to be from itself?"
    tried = [(mark, run, run.control) for mark, run in _marked(results) if run.control and run.control.cells]
    if not tried:
        sentence = "No control that pits an engine against itself is stored, so that is unknown."
        return Remark(subject, "cannot tell", "unknown", sentence)
    reaches = [it.smallest_effect for _, _, it in tried if it.smallest_effect is not None]
    sentences = [
        f"{mark}The same engine stood against itself in {units.plural(it.cells, 'control cell')}, "
        f"{it.false_alarms} of which came out as different all the same: {listed(list(_expected(it)))}. "
        f"{_reach(it.smallest_effect)}"
        for mark, _, it in tried
    ]
    alarms = [_alarm(row, labels) for _, _, it in tried for row in it.rows if row.false_alarm]
    word = units.percent(max(reaches)) if reaches else "cannot tell"
    return Remark(subject, word, "plain" if reaches else "unknown", " ".join(sentences), tuple(alarms))


def cautions(results: Results, _: Labels) -> Remark:
    """What the runs warn of, with what was seen and what to do."""
    subject = "Was anything in the way?"
    silent = [mark for mark, run in _marked(results) if run.cautions is None]
    if len(silent) == len(results.runs):
        return Remark(subject, NOT_STORED, "unknown", "These files do not say what else the machine was doing.")
    rest = f" {listed([mark.strip() for mark in silent])} did not store whether anything was." if silent else ""
    found = [f"{mark}{it.kind}: {it.seen}. {it.advice}" for mark, run in _marked(results) for it in run.cautions or ()]
    if found:
        sentence = f"The runs give {units.plural(len(found), 'caution')}.{rest} What was seen, and what to do:"
        return Remark(subject, "yes", "bad", sentence, tuple(found))
    word, tone = (NOT_STORED, "unknown") if silent else ("no", "good")
    return Remark(subject, word, tone, f"The runs give no caution about load, throttling, swapping or build.{rest}")


def rounds(results: Results, labels: Labels) -> Remark:
    """Why the rounds of each cell ended, and how wide the ratios were that ended too early."""
    subject = "Were there enough rounds?"
    ended = {row.cell: row.stopped for row in results.records if row.stopped}
    if not ended:
        return Remark(subject, NOT_STORED, "unknown", "These files do not say why the rounds of a cell ended.")
    counts = Counter(it.why for it in ended.values())
    parts = [f"in {counts[why]} {text}" for why, text in REASONS.items() if counts[why]]
    early = {cell: it for cell, it in ended.items() if it.why == "budget"}
    details = [
        f"Out of time, {question}: "
        + "; ".join(
            f"{labels.cell(cell)}: {width_text(it.width, None)}"
            for cell, it in early.items()
            if cell.question == question
        )
        for question in dict.fromkeys(cell.question for cell in early)
    ]
    word = "mostly" if counts["budget"] else "yes"
    if counts["budget"] * 2 > len(ended):
        word = "rarely"
    tone = {"yes": "good", "rarely": "bad"}.get(word, "plain")
    aims = " or ".join(sorted({units.percent(it.wanted) for it in ended.values() if it.wanted is not None}))
    wanted = f" Precise enough is an interval {aims} wide." if aims else ""
    sentence = f"Of {units.plural(len(ended), 'cell')}, rounds ended {listed(parts)}.{wanted}"
    return Remark(subject, word, tone, sentence, tuple(details))


def warm_ups(results: Results, labels: Labels) -> Remark:
    """Which rows were timed although their warm-up never became stable."""
    subject = "Did warming up settle?"
    known = [row for row in results.records if row.warm_up]
    if not known:
        return Remark(subject, NOT_STORED, "unknown", "These files do not hold the warm-up of a row.")
    restless = [row for row in known if row.warm_up and not row.warm_up.stable]
    if not restless:
        return Remark(subject, "yes", "good", f"The level became stable in all {units.plural(len(known), 'row')}.")
    sentence = f"{len(restless)} of {units.plural(len(known), 'row')} never became stable; their times may still drift."
    return Remark(subject, "not all", "bad", sentence, _by_engine(restless, labels))


def stages(results: Results, labels: Labels) -> Remark:
    """What measured rows lack all the same, and what their engines warned of while they got ready."""
    subject = "Did every stage of a row go well?"
    known = [row for row in results.records if row.status == "measured" and row.notes is not None]
    if not known:
        return Remark(subject, NOT_STORED, "unknown", "These files do not hold what a measured row lacks.")
    details = tuple(
        f"{stage} of {row.engine}, {_cell(row.cell, labels)}: {note}"
        for row in known
        for stage, note in (row.notes or {}).items()
    )
    if not details:
        text = f"None of {units.plural(len(known), 'measured row')} lacks a part, and no engine warned of anything."
        return Remark(subject, "yes", "good", text)
    return Remark(subject, "not all", "bad", "Rows that lack a part, or whose engine warned of something:", details)


def sums(results: Results, labels: Labels) -> Remark:
    """Which phases and splits do not add up to their total."""
    subject = "Do the parts add up?"
    checks = [
        (f"{kind} of {row.engine}, {_cell(row.cell, labels)}", check)
        for row in results.records
        for kind, check in (("phases", row.phases_check), ("split", row.split_check))
        if check
    ]
    if not checks:
        return Remark(subject, NOT_STORED, "unknown", "These files hold no check of phases against their total.")
    off = sorted(
        ((name, check) for name, check in checks if not check.closes), key=lambda it: _gap(it[1]), reverse=True
    )
    failed = [f"{name}: {check_text(check)}" for name, check in off[:MOST_OPEN]]
    if off[MOST_OPEN:]:
        failed.append(f"{units.plural(len(off) - MOST_OPEN, 'further sum')} off by less.")
    word, tone = ("not all", "bad") if failed else ("yes", "good")
    sentence = f"{_closed(check for _, check in checks)} phases and splits add up to their total within 5 %."
    return Remark(subject, word, tone, sentence, tuple(failed))


def _gap(check: Check) -> float:
    return abs(check.total_seconds - check.sum_seconds)


def overhead(results: Results, _: Labels) -> Remark:
    """How much of the time of rounds, and of each cell, the harness itself took."""
    subject = "What did measuring itself cost?"
    found = [(mark, run.overhead) for mark, run in _marked(results) if run.overhead and run.overhead.round_seconds]
    if not found:
        return Remark(subject, NOT_STORED, "unknown", "These files do not say what their harness took for itself.")
    shares = [it.own_round_seconds / it.round_seconds for _, it in found]
    sentences = [f"{mark}{_own(it, share)}" for (mark, it), share in zip(found, shares, strict=True)]
    return Remark(subject, units.percent(max(shares)), "plain", " ".join(sentences))


def _own(it: Overhead, share: float) -> str:
    rounds = f"No engine was at work in {units.percent(share)} of the {units.seconds(it.round_seconds)} of rounds"
    if it.cell_seconds_median is None or it.cell_seconds_most is None:
        return f"{rounds}."
    most = f"{units.seconds(it.cell_seconds_most)} at most, in {it.most_in}"
    return f"{rounds}, and in {units.seconds(it.cell_seconds_median)} of a whole cell ({most}). It is in no sample."


def interruptions(results: Results) -> list[str]:
    """For each run that ended early, why, and how many of its rows never ran, where it lists them."""
    ended = [(mark, run.interrupted.rstrip("."), run) for mark, run in _marked(results) if run.interrupted]
    return [f"{mark}{why}. {_never_ran(run, results)}" for mark, why, run in ended]


def _never_ran(run: Run, results: Results) -> str:
    lost = [row for row in run.records if row.status == "not run"]
    if not lost:  # a run that was killed could not list what was still to come
        return "It lists no row that never ran: which rows were still to come, if any, is not known."
    here = [results.find(row.cell, row.engine) for row in lost]
    elsewhere = sum(row is not None and row.status != "not run" for row in here)
    rows = f"{units.plural(len(lost), 'row')} never ran"
    return f"{rows}, {units.count(elsewhere)} of them did in another run of this page." if elsewhere else f"{rows}."


REMARKS: tuple[Callable[[Results, Labels], Remark], ...] = (
    control,
    cautions,
    rounds,
    warm_ups,
    stages,
    sums,
    overhead,
)


def _marked(results: Results) -> list[tuple[str, Run]]:
    several = len(results.runs) > 1
    return [(f"[{place}] " if several else "", run) for place, run in enumerate(results.runs, 1)]


def _expected(control: Control) -> Iterator[str]:
    """How many of the intervals over launches, and of those of a single one, said so, and how many would by chance."""
    over = [row.false_alarm for row in control.rows if row.launches > 1]
    single = [row.false_alarm for row in control.rows if row.launches == 1]
    if over:
        yield f"{sum(over)} of {len(over)} over several launches, where 1 in 20 would by chance"
    if single:
        yield (
            f"{sum(single)} of {len(single)} in a single launch, where 1 in 20 would, did intervals hold what differs "
            "from process to process"
        )


def _reach(reach: float | None) -> str:
    if reach is None:
        return "These are too few to say how far its intervals reach."
    return f"In 95 % of all these cells its interval stayed within {units.percent(reach)} of 1. {HELD}"


def _alarm(row: ControlRow, labels: Labels) -> str:
    found = f"{units.ratio(row.value, row.low, row.high)} in {units.plural(row.rounds, 'round')}"
    return f"False alarm: {row.engine}, {_cell(row.cell, labels)}: {found}"


def _cell(cell: Cell, labels: Labels) -> str:
    return f"{cell.question} {labels.cell(cell)}"


def _by_engine(rows: list[Record], labels: Labels) -> tuple[str, ...]:
    engines = dict.fromkeys(row.engine for row in rows)
    return tuple(
        f"{engine}: {'; '.join(_cell(row.cell, labels) for row in rows if row.engine == engine)}." for engine in engines
    )


def _closed(checks: Iterable[Check]) -> str:
    closes = [check.closes for check in checks]
    return f"All {len(closes)}" if all(closes) else f"{sum(closes)} of {len(closes)}"
