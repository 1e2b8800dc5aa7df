"""Say in plain sentences what the stored results do not show, before anybody reads their tables."""

from __future__ import annotations

from report import units
from report.method import Stopped
from report.results import Results
from report.statistics import CONFIDENCE, RESAMPLES
from report.stored import ControlRow, Ratio

OWN_INTERVAL = (
    "A time is the median of a row's samples. Its interval is a bootstrap over these samples "
    f"({100 * CONFIDENCE:g} %, {RESAMPLES} resamples): it covers the spread inside one run, and treats samples "
    "that follow each other as independent."
)
STORED_INTERVAL = (
    "A time is the median of a row's samples, or of launches the geometric mean of their medians, with the interval "
    "that the run stored: it covers the spread inside one run, not that from run to run."
)
ONE_PROCESS = (
    "Apart from memory, all samples of a run come from one process. What changes from process to process, such as the "
    "layout of memory, is in no interval."
)
OWN_PROCESS = (
    "Where a cell had a single launch, an engine has one process for all its rounds. What changes from process to "
    "process, such as which pages of memory it gets, is then in no interval."
)
OWN_PROCESSES = (
    "Where a cell had several launches, an engine has a new process in each. Its interval is over launches "
    "(Student's, of the mean logarithm of their medians), and so holds what changes from process to process, such as "
    "which pages of memory it gets. But all processes of a run, those of the control too, are forks of one: where "
    "libraries, stack and heap lie is drawn once a run, and is in no interval."
)
UNTIL_PRECISE = (
    "Launches are added until every ratio to the tape (or, without it, to the first engine) is narrow enough and lets "
    "something be said, or there have been the most; other ratios are not waited for. At a true difference of just "
    "what the effort means to resolve, looking again makes a claim somewhat oftener than the interval's 5 in 100."
)
SINGLE = (
    "The interval of a ratio from a single launch is of the rounds between these two processes: two others may well "
    "give a ratio outside. So a difference is claimed only where the interval also lies further from 1 than that of "
    "the cell's control or, in a cell without one, beyond a wide fixed margin; and equality, only beside a control, "
    "of an interval that says so even when it is made wider by as much."
)
WIDE_MARGIN = 1.25
"""What newer runs take for that margin. The words of older ones are counted that would not be given any more."""
KEPT_MEMORY = (
    "Every engine's process keeps the memory that it frees, and hashes names alike in every run. In a program that "
    "gives memory back to the system, as many do, an engine that frees and asks more often loses more than is shown."
)
GENERAL = (
    "Only ratios that were paired by round inside one run support faster or slower. Other tenants of the machine, its "
    "clock and its temperature act on both sides of such a ratio, but on every time as it stands.",
    "Figures marked as derived are computed from the medians or peaks of several rows, not measured as one.",
)


def limitations(results: Results) -> list[str]:
    """All limitations of a page, those of these very runs first."""
    own = (*_of_effort(results), *_of_sources(results), *_of_rows(results), *_of_sizes(results))
    return [*own, *_of_ratios(results), *_of_times(results), *GENERAL]


def _of_effort(results: Results) -> list[str]:
    efforts = sorted({run.effort for run in results.runs if run.effort})
    if efforts == ["full"]:
        return []
    if not efforts:
        return ["The files do not say with how much effort they were measured."]
    meaning = ": a first look, with few samples a row" if "quick" in efforts else ""
    return [f"Measured with effort {', '.join(efforts)}{meaning}."]


def _of_sources(results: Results) -> list[str]:
    found = []
    if any(run.dirty for run in results.runs):
        found.append(
            "The code had changes that no commit holds, so the commit alone does not give these figures again."
        )
    commits = {run.commit for run in results.runs}
    if len(commits) > 1:
        found.append(f"The rows come from {len(commits)} commits; figures derived from rows of two commits mix them.")
    elif len(results.runs) > 1:
        found.append(f"The rows come from {len(results.runs)} runs; figures derived from rows of two runs mix them.")
    return found


def _of_rows(results: Results) -> list[str]:
    found = []
    gaps = sum(row.status != "measured" for row in results.records)
    if gaps:
        found.append(
            f"{gaps} of {len(results.records)} rows hold no time; each is named with its reason where it would stand."
        )
    unchecked = sum(row.agreement.verdict == "unchecked" for row in results.checkable)
    if unchecked:
        found.append(f"{units.plural(unchecked, 'measured row')} went without a check against the reference.")
    return found


def _of_sizes(results: Results) -> list[str]:
    counts = sorted(len(row.seconds_per_call) for row in results.records if row.status == "measured")
    lone = sum(count == 1 for count in counts)
    found = [f"{units.plural(lone, 'row')} with a single sample cannot have an interval."] if lone else []
    seeds = {row.learning.seed for row in results.records if row.learning}
    if len(seeds) == 1:
        found.append("Learning was tried with one seed; how far seeds differ is not shown.")
    return found


def _of_ratios(results: Results) -> list[str]:
    confidences = sorted({ratio.confidence for row in results.records for ratio in row.ratios})
    if not confidences:
        return []
    shares = " or ".join(f"{100 * confidence:g} %" for confidence in confidences)
    found = [f"A ratio and its interval ({shares}) are shown as the run that measured both engines stored them."]
    if any(ratio.launches == 1 for row in results.records for ratio in row.ratios):
        found.append(SINGLE)
    alone = _on_rounds_alone(results)
    if alone:
        found.append(
            f"That rule is newer than a run shown here: in {units.plural(alone, 'comparison')} its word rests on the "
            "rounds of one launch alone."
        )
    return found


def _on_rounds_alone(results: Results) -> int:
    """How many pairs of engines have a word from a single launch that nothing but its own interval supports."""
    controls = {(run.file, it.cell): it for run in results.runs if run.control for it in run.control.rows}
    return len(
        {
            (row.cell, frozenset((row.engine, ratio.to)))
            for row in results.records
            for ratio in row.ratios
            if ratio.launches == 1 and not _is_supported(ratio, controls.get((row.file, row.cell)), row.stopped)
        }
    )


def _is_supported(ratio: Ratio, control: ControlRow | None, stopped: Stopped | None) -> bool:
    apart = max(control.high, 1 / control.low) if control else WIDE_MARGIN
    if ratio.verdict in ("faster", "slower"):
        return ratio.high < 1 / apart or ratio.low > apart
    if ratio.verdict == "no difference":
        most = 1 + (stopped.wanted or 0 if stopped else 0)  # what the effort means to resolve
        return ratio.high * apart <= most and ratio.low / apart >= 1 / most
    return True


def _of_times(results: Results) -> list[str]:
    measured = [row for row in results.records if row.status == "measured"]
    said = {
        OWN_INTERVAL: any(row.interval is None and len(row.seconds_per_call) > 1 for row in measured),
        STORED_INTERVAL: any(row.interval for row in measured),
        ONE_PROCESS: any(row.schema == 1 for row in measured),
        OWN_PROCESS: any(row.schema > 1 and len(row.launches) <= 1 for row in measured),
        OWN_PROCESSES: any(len(row.launches) > 1 for row in measured),
        UNTIL_PRECISE: any(len(row.launches) > 1 and row.stopped and row.stopped.why != "fixed" for row in measured),
        KEPT_MEMORY: any(row.schema > 1 for row in measured),
    }
    return [text for text, holds in said.items() if holds]
