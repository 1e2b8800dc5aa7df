"""Measuring a cell: every engine in a process of its own, made ready, checked, warmed up, then timed in dealt rounds.

    with Conductor() as conductor:
        found = measure(Measuring(conductor, cell, contenders, EFFORTS["quick"], show))
    found["tape"].samples

Within a round every engine is timed once, one after the other, in an order that is random and balanced, so that a
machine which drifts drifts for all alike. After some rounds everyone gets a new process, made ready in a new order: a
launch. How far launches lie apart is what an interval has to hold. An engine that fails costs its own row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from suites.harness.agreement import Agreement
from suites.harness.cell import Cell
from suites.harness.conductor import Conductor, Guest, Worker
from suites.harness.contender import Contender
from suites.harness.deal import blocks
from suites.harness.effort import Effort
from suites.harness.row import Paired, Row, add_ratios, always, closing
from suites.harness.statistics import FEWEST_ROUNDS, Ratio, paired_ratio, verdict

BASELINE = "tape"
"""The engine that ratios are watched against, and that runs twice, where a cell has it; else the cell's first."""

SLOWEST_SAMPLE = 20.0
"""A sample may take this many times what it took in the warm-up, and `Limits.sample_seconds` more, before its worker is
taken to hang."""

SOONER = 0.5
"""Whether intervals are narrow enough is looked at after this share of the rounds that seem to be needed: what seems so
after a few rounds is uncertain. A look takes as long as a sample or two, so there are few."""
LEAST_GROWTH = 1.25
"""But not before there are this many times as many rounds."""

Show = Callable[[str], None]
Dealt = Iterator[list[list["Arm"]]]


@dataclass(frozen=True, slots=True)
class Measuring:
    """What is to be measured, and by what means; `paired` says which rows get a ratio to which."""

    conductor: Conductor
    cell: Cell
    contenders: Sequence[Contender]
    effort: Effort
    show: Show
    paired: Paired = always


Measure = Callable[[Measuring], Mapping[str, Row]]
"""How a suite's cell becomes rows, by engine; the row of an A/A control is named like its engine with " again"."""


@dataclass(slots=True)
class Arm:
    """One contender at work in a cell, until its row has failed."""

    contender: Contender
    worker: Worker | Guest
    row: Row
    fresh: Worker = field(init=False)  # where a sample takes a new process: the one at hand
    sample_seconds: float = 0.0
    preparations: list[Mapping[str, Any]] = field(default_factory=list)  # of each sample, where one is a preparation


def measure(job: Measuring) -> dict[str, Row]:
    """Rows by engine, all with the same number of samples, and the control's."""
    if job.cell.question == "memory":
        return _each_fresh(job)
    arms = [
        Arm(who, job.conductor.worker(who), Row(who.label, formulation=who.formulation)) for who in with_control(job)
    ]
    if job.cell.cold or job.cell.rounds is not None:
        _make_ready(job, arms)
        _fixed_rounds(job, arms, _cold_sample if job.cell.cold else _sample)
    else:
        _launches_until_precise(job, arms)
    for stage in (_split, _counters):
        for arm in arms:
            _attempt(job, arm, stage)
    return finish(job, [arm.row for arm in arms])


def with_control(job: Measuring) -> list[Contender]:
    """The contenders, and one of them a second time where rounds are not few and long."""
    if job.cell.rounds is not None:
        return list(job.contenders)
    return [*job.contenders, baseline(job.contenders).again()]


def baseline(contenders: Sequence[Contender]) -> Contender:
    """The contender that the others' ratios are watched against."""
    return next((who for who in contenders if who.name == BASELINE), contenders[0])


def finish(job: Measuring, rows: Sequence[Row]) -> dict[str, Row]:
    """Ratios of every row to every other, judged beside the control."""
    twin = baseline(job.contenders).again()
    by_name = {row.engine: row for row in rows}
    control = _between(by_name.get(twin.label), by_name.get(twin.name))
    add_ratios([row for row in rows if row.engine != twin.label], control, job.effort.precision, job.paired)
    if control is not None:
        for row in rows:
            row.control = {"engine": twin.name, **asdict(control), "false_alarm": control.excludes_one}
    job.conductor.note("store", job.cell.name)
    return by_name


def _between(row: Row | None, other: Row | None) -> Ratio | None:
    if row is None or other is None or len(row.samples) != len(other.samples):
        return None
    return paired_ratio(row.samples, other.samples, row.launches)


def _make_ready(job: Measuring, order: Sequence[Arm]) -> None:
    """Everything that comes before an engine may be timed, in this order."""
    for stage in (_prepare, _agree, _first_call, _warm_up):
        for arm in order:
            _attempt(job, arm, stage)


def _attempt(job: Measuring, arm: Arm, stage: Callable[[Measuring, Arm], None]) -> None:
    """One stage of one arm, if it is still running."""
    if not arm.row.running:
        return
    job.show(f"{job.cell.name}: {arm.contender.label}: {stage.__name__.strip('_').replace('_', ' ')}")
    with arm.row.at_its_cost():
        stage(job, arm)


def _identity(job: Measuring, arm: Arm) -> dict[str, Any]:
    return {"cell": asdict(job.cell), "contender": arm.contender.data()}


def _prepare(job: Measuring, arm: Arm) -> None:
    found = arm.worker.ask("prepare", **_identity(job, arm))
    arm.sample_seconds = found["seconds"]
    if found["warnings"]:  # such as that no C compiler works, and the kernels are timed in its code's stead
        arm.row.notes["prepare"] = "; ".join(found["warnings"])
    if not arm.row.launches:  # of the first launch: what compilers keep on disk may be there for the others
        arm.row.style, arm.row.phases = found["style"], found["phases"]
        arm.row.phases_check = closing(found["phases"], found["seconds"])


def _agree(job: Measuring, arm: Arm) -> None:
    if arm.contender.yardstick:
        return
    results = arm.worker.ask("results")
    found = Agreement(**job.conductor.judge.ask("judge", cell=asdict(job.cell), **results))
    arm.row.agreement = found
    if found.wrong:
        arm.row.refuse("wrong", f"{found.worst} is off by {found.error:.2e} relative, {found.allowed:.2e} is allowed")


def _first_call(job: Measuring, arm: Arm) -> None:
    if job.cell.prepares:
        return
    arm.sample_seconds = arm.worker.ask("first_call")["seconds"]
    if not arm.row.launches:
        arm.row.first_call_seconds = arm.sample_seconds


def _warm_up(job: Measuring, arm: Arm) -> None:
    if job.cell.cold:
        return
    found = arm.worker.ask("warm_up", level_seconds=arm.sample_seconds, budget_seconds=job.effort.warm_up_seconds)
    if not arm.row.launches:
        arm.row.clock = {key: found[key] for key in ("resolution_seconds", "share_of_sample")}
        arm.row.calls_per_sample = found["calls"]
    if arm.row.warm_up is None or not found["stable"]:  # that of the first launch, or of one that never settled
        arm.row.warm_up = {"seconds": found["seconds"], "stable": found["stable"]}
    arm.sample_seconds = found["seconds"][-1] * arm.row.calls_per_sample


def _sample(job: Measuring, arm: Arm) -> None:
    limit = job.conductor.limits.sample_seconds + SLOWEST_SAMPLE * arm.sample_seconds
    found = arm.worker.ask("sample", limit, calls=arm.row.calls_per_sample)
    arm.row.samples.append(found["seconds"])
    if found["device_seconds"] is not None:
        arm.row.device_samples.append(found["device_seconds"])
        arm.row.every_samples.append(found["every_seconds"])
    if found["preparation"] is not None:
        arm.preparations.append(found["preparation"])


def _cold_sample(job: Measuring, arm: Arm) -> None:
    """A preparation in a fresh process whose caches on disk are empty."""
    found = arm.fresh.ask("prepare_cold", **_identity(job, arm))
    arm.row.samples.append(found["total_seconds"])
    arm.preparations.append(found)


def _launches_until_precise(job: Measuring, arms: Sequence[Arm]) -> None:
    """Launches until every interval is narrow enough, and says something, or there have been the most.

    In a single launch narrow enough will do: there the control decides what may be said, and more rounds change little.
    """
    least, most = job.effort.launches
    dealt, done = blocks(arms, job.cell.name), 0
    readied = (order for block in blocks(arms, f"{job.cell.name}, made ready") for order in block)
    for number in range(1, most + 1):
        if number > 1:
            # A process that ends gives its memory back meanwhile: of a GPU there may not be enough for both.
            (job.conductor.renew_workers if job.cell.device == "cpu" else job.conductor.end_workers)()
        _make_ready(job, next(readied))
        if most == 1:
            done = _rounds_until_precise(job, arms, dealt)
        else:
            done += _rounds_for_a_time(job, arms, dealt, f"launch {number} of at most {most}, ")
        if number < least:
            continue
        ratios = _watched(arms)
        enough = _widest(ratios) <= job.effort.precision and (most == 1 or not _is_open(job, ratios))
        if enough or number == most:
            facts = {"rounds": done, "width": _widest(ratios) if ratios else None, "wanted": job.effort.precision}
            _stop(arms, {"why": "precise" if enough and ratios else "budget", **facts})
            return


def _rounds_until_precise(job: Measuring, arms: Sequence[Arm], dealt: Dealt) -> int:
    """Blocks of rounds until their intervals are narrow enough, or the time is spent."""
    look_at = 0.0
    for rounds in _blocks_of_rounds(job, arms, dealt, ""):
        if rounds >= look_at:
            ratios = _watched(arms)
            if _widest(ratios) <= job.effort.precision:
                break
            grown = SOONER * (_widest(ratios) / job.effort.precision) ** 2  # widths shrink as the root
            look_at = rounds * max(LEAST_GROWTH, grown)
    _end_launches(arms, [rounds])
    return rounds


def _rounds_for_a_time(job: Measuring, arms: Sequence[Arm], dealt: Dealt, which: str) -> int:
    """Blocks of rounds until the time is spent: where there are several launches, more rounds in one tell little."""
    *_, rounds = _blocks_of_rounds(job, arms, dealt, which)
    _end_launches(arms, [rounds])
    return rounds


def _blocks_of_rounds(job: Measuring, arms: Sequence[Arm], dealt: Dealt, which: str) -> Iterator[int]:
    """Whole blocks of rounds until the time is spent; after each, once they are enough, how many rounds there were."""
    effort, began, rounds = job.effort, time.monotonic(), 0
    budget = effort.seconds_per_engine * len(arms)
    for block in dealt:
        for order in block:
            rounds += 1
            left = budget - (time.monotonic() - began)
            _round(job, order, f"{which}round {rounds}, {left:.0f} s at most", _sample)
        if rounds >= effort.min_rounds:
            yield rounds
            if rounds >= effort.max_rounds or time.monotonic() - began >= budget:
                return


def _end_launches(arms: Sequence[Arm], rounds: Sequence[int]) -> None:
    for arm in arms:
        if arm.row.running:
            arm.row.launches.extend(rounds)


def _fixed_rounds(job: Measuring, arms: Sequence[Arm], take: Callable[[Measuring, Arm], None]) -> None:
    """As many rounds as the cell says: of what takes long."""
    wanted = job.cell.rounds or FEWEST_ROUNDS
    orders = (order for block in blocks(arms, job.cell.name) for order in block)
    for number in range(1, wanted + 1):
        with _all_fresh(job, arms) if job.cell.cold else nullcontext():
            _round(job, next(orders), f"round {number} of {wanted}", take)
    _end_launches(arms, [1] * wanted if job.cell.cold else [wanted])
    ratios = _watched(arms)
    _stop(arms, {"why": "fixed", "rounds": wanted, "width": _widest(ratios) if ratios else None, "wanted": None})


@contextmanager
def _all_fresh(job: Measuring, arms: Sequence[Arm]) -> Iterator[None]:
    """Within, every arm has a worker in a new process, started before one is asked."""
    with ExitStack() as stack:
        for arm in arms:
            arm.fresh = stack.enter_context(job.conductor.fresh(arm.contender))
            with arm.row.at_its_cost():
                arm.fresh.greet()
        yield


def _round(job: Measuring, order: Sequence[Arm], which: str, take: Callable[[Measuring, Arm], None]) -> None:
    """Everyone still running once, in this order."""
    for position, arm in enumerate(arm for arm in order if arm.row.running):
        job.show(f"{job.cell.name}: {which}: {arm.contender.label}")
        with arm.row.at_its_cost():
            take(job, arm)
            arm.row.positions.append(position)


def _watched(arms: Sequence[Arm]) -> dict[str, Ratio]:
    """The ratio to the baseline of everyone else who is running, by label."""
    running = [arm for arm in arms if arm.row.running]
    against = next((arm for arm in running if arm.contender.name == BASELINE), next(iter(running), None))
    others = [arm for arm in running if arm is not against]
    ratios = {arm.contender.label: _between(arm.row, against.row) for arm in others if against is not None}
    return {label: ratio for label, ratio in ratios.items() if ratio is not None}


def _widest(ratios: Mapping[str, Ratio]) -> float:
    """The width of the widest interval; 0 where there is nothing to compare."""
    return max((ratio.width for ratio in ratios.values()), default=0.0)


def _is_open(job: Measuring, ratios: Mapping[str, Ratio]) -> bool:
    """Whether of some ratio to the baseline nothing could be said yet: an interval may be narrow, and lie badly."""
    twin = baseline(job.contenders).again().label
    return any(
        verdict(ratio, ratios.get(twin), job.effort.precision) == "cannot tell"
        for label, ratio in ratios.items()
        if label != twin
    )


def _stop(arms: Sequence[Arm], facts: dict[str, Any]) -> None:
    for arm in arms:
        arm.row.stopped = facts


def _split(job: Measuring, arm: Arm) -> None:
    with arm.row.at_a_note_s_cost("split"):  # the samples are there: what fails now takes none of them back
        found = arm.worker.ask("split")
        if found is not None:
            arm.row.split, arm.row.split_check = found, closing(found, median(arm.row.samples))


def _counters(job: Measuring, arm: Arm) -> None:
    with arm.row.at_a_note_s_cost("counters"):
        arm.row.counters = arm.worker.ask("counters")
    if arm.preparations:
        totals = sorted(arm.preparations, key=lambda one: float(one["total_seconds"]))
        typical = totals[len(totals) // 2]  # medians phase by phase would not add up
        arm.row.phases, total = typical["phases"], typical["total_seconds"]
        arm.row.phases_check = closing(arm.row.phases, total)


def _each_fresh(job: Measuring) -> dict[str, Row]:
    """Memory: each row in a fresh process, where nothing has been allocated or timed before."""
    arms = [Arm(who, job.conductor.worker(who), Row(who.label, formulation=who.formulation)) for who in job.contenders]
    with _all_fresh(job, arms):
        for arm in arms:
            _attempt(job, arm, _memory)
    job.conductor.note("store", job.cell.name)
    return {arm.row.engine: arm.row for arm in arms}


def _memory(job: Measuring, arm: Arm) -> None:
    found = arm.fresh.ask("memory", **_identity(job, arm))
    arm.row.style, arm.row.samples = found.pop("style"), found.pop("seconds")
    arm.row.memory = found
