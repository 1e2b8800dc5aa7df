"""What may have spoiled a run: a closed list of cautions, each with what was seen and what to do.

    for caution in cautions(before, after, cells):
        print(caution)

Every judge is a function of two snapshots, taken before and after the run (by `watch.py`), and gives one caution or
None. What a system does not tell is None in a snapshot, and raises no caution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from suites.harness.gpu import THROTTLES, Gpu
from suites.harness.system import CoreTime, Frequency, Swapped, Throttling

LARGEST_OTHER_SHARE = 0.05
"""Of the time of the cores; daemons and the kernel's own threads stay well below it."""

LARGEST_STOLEN_SHARE = 0.01
"""Of the time of the cores."""

LEAST_SECONDS = 0.1
"""CPU time is counted in ticks of 10 ms for each core and process: less than this may be rounding."""

LARGEST_FREQUENCY_SPREAD = 0.05
"""Of the lower of two clocks; what the same clock reads twice differs by less."""

NAMED = 3
"""How many cells or GPUs a caution names; it counts the others."""


class Kind(StrEnum):
    """Everything that this harness warns of."""

    OTHER_LOAD = "other load"
    STOLEN_TIME = "stolen time"
    ANOTHER_RUN = "another run"
    TOO_FEW_SAMPLES = "too few samples"
    QUOTA = "quota spent"
    HEAT = "heat"
    GPU_THROTTLED = "GPU throttled"
    SWAP = "swap"
    DEBUG_BUILD = "debug build"
    FREQUENCY_SCALING = "frequency scaling"


ADVICE: Mapping[Kind, str] = MappingProxyType(
    {
        Kind.OTHER_LOAD: "stop other programs, or move to a quiet machine, and measure again",
        Kind.STOLEN_TIME: "the host ran other machines on these cores: measure where nobody shares them",
        Kind.ANOTHER_RUN: "let one run end before the next one starts: runs at the same time slow each other",
        Kind.TOO_FEW_SAMPLES: "measure with more effort (--effort standard or full), or on a quieter machine",
        Kind.QUOTA: "raise the container's CPU quota, or use no more threads than it has cores",
        Kind.HEAT: "let the machine cool down, see to its cooling, or measure at a lower fixed clock",
        Kind.GPU_THROTTLED: "let the GPU cool down, or fix a clock that it can hold (nvidia-smi --lock-gpu-clocks)",
        Kind.SWAP: "free memory, or measure smaller batches: a page from disk takes longer than most calls",
        Kind.DEBUG_BUILD: "use release builds, without -X dev: the times of a debug build say nothing of theirs",
        Kind.FREQUENCY_SCALING: "set the governor to performance and turn boost off; without that trust ratios only",
    }
)
"""What to do about each."""


@dataclass(frozen=True, slots=True)
class Caution:
    """One thing that may have spoiled a run: what was seen, with numbers, and what to do."""

    kind: Kind
    seen: str
    advice: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.seen}; {self.advice}"


@dataclass(frozen=True, slots=True)
class Sampled:
    """How wide the widest interval of a cell's ratios is after so many samples, and how wide it should be at most.

    `taken` says how many of what, as "30 rounds" or "10 launches"; widths are relative.
    """

    name: str
    taken: str
    width: float
    wanted: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The machine at one moment. Counters run since some moment in the past: only their growth means something.

    `seconds` is a monotonic clock; `core_time` is of the `cores` that the run may use, `own_seconds` the CPU time of
    its process tree; `other_runs` are process ids.
    """

    seconds: float
    cores: int
    core_time: CoreTime | None
    own_seconds: float
    other_runs: tuple[int, ...]
    throttling: Throttling
    swapped: Swapped | None
    frequency: Frequency
    debug_builds: tuple[str, ...]
    gpus: tuple[Gpu, ...] | None


Judge = Callable[[Snapshot, Snapshot], Caution | None]


def cautions(before: Snapshot, after: Snapshot, cells: Sequence[Sampled] = ()) -> tuple[Caution, ...]:
    """All cautions of a run, in a fixed order."""
    found = (*(judge(before, after) for judge in JUDGES), too_few_samples(cells))
    return tuple(caution for caution in found if caution is not None)


def other_load(before: Snapshot, after: Snapshot) -> Caution | None:
    """Work on our cores by processes outside our own tree."""
    if before.core_time is None or after.core_time is None:
        return None
    busy = after.core_time.busy_seconds - before.core_time.busy_seconds
    seconds = busy - (after.own_seconds - before.own_seconds)
    return _taken(Kind.OTHER_LOAD, "other processes worked", seconds, LARGEST_OTHER_SHARE, before, after)


def stolen_time(before: Snapshot, after: Snapshot) -> Caution | None:
    """Time at which our cores had work and their host did not let them run."""
    if before.core_time is None or after.core_time is None:
        return None
    seconds = after.core_time.stolen_seconds - before.core_time.stolen_seconds
    return _taken(Kind.STOLEN_TIME, "cores with work were not run", seconds, LARGEST_STOLEN_SHARE, before, after)


def _taken(
    kind: Kind, what: str, seconds: float, largest_share: float, before: Snapshot, after: Snapshot
) -> Caution | None:
    run_seconds = after.seconds - before.seconds
    allowed_seconds = largest_share * after.cores * run_seconds
    if seconds <= max(allowed_seconds, LEAST_SECONDS):
        return None
    share = seconds / (after.cores * run_seconds)
    return _caution(
        kind,
        f"{what} for {seconds:.1f} s of CPU time while {_cores(after.cores)} ran for {run_seconds:.1f} s: "
        f"{share:.1%} of their time, {largest_share:.0%} is allowed",
    )


def another_run(before: Snapshot, after: Snapshot) -> Caution | None:
    """Other timed runs of these suites, alive at the start or at the end of this one."""
    pids = sorted({*before.other_runs, *after.other_runs})
    if not pids:
        return None
    return _caution(Kind.ANOTHER_RUN, f"these suites were also run by process {', '.join(map(str, pids))}")


def quota_spent(before: Snapshot, after: Snapshot) -> Caution | None:
    """Times at which our control groups had used up their CPU quota and everything in them stood still."""
    periods = _growth(before.throttling.quota_periods, after.throttling.quota_periods)
    seconds = _growth(before.throttling.quota_seconds, after.throttling.quota_seconds)
    if not periods:
        return None
    length = "" if seconds is None else f", for {seconds:.2f} s in all"
    return _caution(Kind.QUOTA, f"the CPU quota of the control group was used up {periods} times{length}")


def heat(before: Snapshot, after: Snapshot) -> Caution | None:
    """Times at which cores, or the whole processor, were too hot for their clock."""
    cores = _growth(before.throttling.core_events, after.throttling.core_events)
    package = _growth(before.throttling.package_events, after.throttling.package_events)
    if not cores and not package:
        return None
    return _caution(Kind.HEAT, f"too hot: cores {cores or 0} times, the whole processor {package or 0} times")


def gpu_throttled(before: Snapshot, after: Snapshot) -> Caution | None:
    """GPUs held back, by what their driver counted during the run or gave as a reason at its start or end."""
    known = {gpu.uuid: gpu for gpu in before.gpus or ()}
    held = [(gpu, list(_held_back(known.get(gpu.uuid), gpu))) for gpu in after.gpus or ()]
    texts = [f"GPU {gpu.index} ({gpu.name}) was held back by {', '.join(why)}" for gpu, why in held if why]
    return _caution(Kind.GPU_THROTTLED, _some(texts, "GPUs")) if texts else None


def _held_back(before: Gpu | None, after: Gpu) -> Iterator[str]:
    readings = [gpu.reading for gpu in (before, after) if gpu is not None and gpu.reading is not None]
    if not readings:
        return
    counted = [reading.throttled_seconds or {} for reading in readings]
    for name in THROTTLES:
        seconds = _growth(counted[0].get(name), counted[-1].get(name))
        if seconds:
            yield f"{name} for {seconds:.2f} s"
        for reading in readings:
            if not seconds and name in (reading.reasons or ()):
                yield f"{name} when looked at ({reading.celsius} °C, {reading.watts} W, {reading.sm_mhz} MHz)"


def swap(before: Snapshot, after: Snapshot) -> Caution | None:
    """Memory that went to disk or came back, for whichever process."""
    if before.swapped is None or after.swapped is None:
        return None
    pages_in = after.swapped.pages_in - before.swapped.pages_in
    pages_out = after.swapped.pages_out - before.swapped.pages_out
    if not pages_in and not pages_out:
        return None
    return _caution(Kind.SWAP, f"{pages_in} pages came back from swap and {pages_out} went there")


def debug_build(before: Snapshot, after: Snapshot) -> Caution | None:
    """Code that was built, or is run, for finding faults."""
    found = sorted({*before.debug_builds, *after.debug_builds})
    return _caution(Kind.DEBUG_BUILD, f"{len(found)} found: {', '.join(found)}") if found else None


def frequency_scaling(before: Snapshot, after: Snapshot) -> Caution | None:
    """A governor that saves power, or clocks that differ between cores or between start and end."""
    both = (before.frequency, after.frequency)
    saving = sorted({name for each in both for name in each.governors or () if name != "performance"})
    lowest = min((each.lowest_mhz for each in both if each.lowest_mhz), default=None)
    highest = max((each.highest_mhz for each in both if each.highest_mhz), default=None)
    seen = [f"the governor is {', '.join(saving)}"] if saving else []
    if lowest and highest and highest / lowest - 1 > LARGEST_FREQUENCY_SPREAD:
        seen.append(
            f"clocks lay between {lowest:.0f} and {highest:.0f} MHz, {highest / lowest - 1:.0%} apart, "
            f"{LARGEST_FREQUENCY_SPREAD:.0%} is allowed"
        )
    return _caution(Kind.FREQUENCY_SCALING, " and ".join(seen)) if seen else None


JUDGES: tuple[Judge, ...] = (
    other_load,
    stolen_time,
    another_run,
    quota_spent,
    heat,
    gpu_throttled,
    swap,
    debug_build,
    frequency_scaling,
)
"""All judges of two snapshots, in the order in which they speak."""


def too_few_samples(cells: Sequence[Sampled]) -> Caution | None:
    """Cells whose intervals are wider than they should be, the widest first."""
    poor = sorted((cell for cell in cells if cell.width > cell.wanted), key=lambda cell: -cell.width)
    if not poor:
        return None
    texts = [f"{cell.name}: {cell.width:.1%} after {cell.taken}" for cell in poor]
    wanted = ", ".join(f"{width:.0%}" for width in sorted({cell.wanted for cell in poor}))
    return _caution(Kind.TOO_FEW_SAMPLES, f"intervals wider than the {wanted} wanted: {_some(texts, 'cells')}")


def _caution(kind: Kind, seen: str) -> Caution:
    return Caution(kind, seen, ADVICE[kind])


def _growth(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _some(texts: Sequence[str], things: str) -> str:
    rest = f", and {len(texts) - NAMED} more {things}" if len(texts) > NAMED else ""
    return ", ".join(texts[:NAMED]) + rest


def _cores(number: int) -> str:
    return f"{number} core" if number == 1 else f"{number} cores"
