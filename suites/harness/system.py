"""What the operating system tells of this machine and of this process. What cannot be read is None, never a guess.

    files = Files()  # or Files(folder), for a /proc and a /sys of one's own
    cores_quota(files), frequency(files, allowed_cores()), core_time(files, allowed_cores())

The files are Linux's. A system without them, such as macOS, gets None for what stands in them alone.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TypeVar

import psutil

ANSWER_SECONDS = 10.0
"""How long a command may take to tell something."""

UNLIMITED_BYTES = 2**60
"""Control groups of version 1 say "no limit" with the largest number of whole pages; no machine has this much."""

LIMITS = ("memory.max", "memory.limit_in_bytes")
"""Where control groups of version 2 and of version 1 say how much memory they allow."""

CPUS = "sys/devices/system/cpu"

Ask = Callable[..., str | None]
"""A function that is given a command and tells what it prints, as `ask` does."""

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class Files:
    """The one place that reads what the kernel shows as files, below `root`."""

    root: Path = Path("/")

    def text(self, path: str) -> str | None:
        """A file's text without the space around it, or None where it cannot be read."""
        try:
            return (self.root / path).read_text(encoding="utf8", errors="replace").strip()
        except OSError:
            return None

    def number(self, path: str) -> int | None:
        """A file's whole number, or None where it holds none."""
        return whole(self.text(path))

    def table(self, path: str) -> dict[str, int]:
        """A file of lines `name number` by name; empty where it cannot be read."""
        pairs = (line.split() for line in (self.text(path) or "").splitlines())
        return {pair[0]: number for pair in pairs if len(pair) == 2 and (number := whole(pair[1])) is not None}


HERE = Files()
"""The files of this machine."""


@dataclass(frozen=True, slots=True)
class Frequency:
    """Clocks of the allowed cores: how fast they are at this moment, how fast they may be, and who decides."""

    governors: tuple[str, ...] | None
    boost: bool | None
    lowest_mhz: float | None
    highest_mhz: float | None
    min_mhz: float | None
    max_mhz: float | None


@dataclass(frozen=True, slots=True)
class CoreTime:
    """Seconds that cores have been at work since the machine started, and that its host has kept from them."""

    busy_seconds: float
    stolen_seconds: float


@dataclass(frozen=True, slots=True)
class Throttling:
    """How often, and how long, this process's control groups ran out of quota, and how often cores were too hot."""

    quota_periods: int | None
    quota_seconds: float | None
    core_events: int | None
    package_events: int | None


@dataclass(frozen=True, slots=True)
class Swapped:
    """Pages read from and written to swap since the machine started."""

    pages_in: int
    pages_out: int


def ask(*command: str) -> str | None:
    """What a command prints; None where it is not there, fails or takes too long."""
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf8", errors="replace", timeout=ANSWER_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def whole(text: str | None) -> int | None:
    """A whole number, or None where the text is something else."""
    return int(text) if text is not None and text.isascii() and text.removeprefix("-").isdigit() else None


def allowed_cores() -> tuple[int, ...]:
    """The numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def cpu_model(files: Files) -> str | None:
    """The processor's name as the kernel gives it."""
    return next(_cpuinfo(files, "model name"), None)


def frequency(files: Files, cores: Sequence[int]) -> Frequency:
    """Clocks of these cores. Virtual machines have no governor, and what they call their clock may be a constant."""

    def each(name: str) -> list[str]:
        found = (files.text(f"{CPUS}/cpu{core}/cpufreq/{name}") for core in cores)
        return [text for text in found if text]

    def mhz(name: str) -> list[float]:
        return [khz / 1000 for text in each(name) if (khz := whole(text)) is not None]

    now = mhz("scaling_cur_freq") or _cpuinfo_mhz(files, cores)
    return Frequency(
        governors=tuple(sorted(set(each("scaling_governor")))) or None,
        boost=_boost(files),
        lowest_mhz=min(now, default=None),
        highest_mhz=max(now, default=None),
        min_mhz=min(mhz("scaling_min_freq"), default=None),
        max_mhz=max(mhz("scaling_max_freq"), default=None),
    )


def _boost(files: Files) -> bool | None:
    boost, no_turbo = files.number(f"{CPUS}/cpufreq/boost"), files.number(f"{CPUS}/intel_pstate/no_turbo")
    if boost is not None:
        return boost == 1
    return None if no_turbo is None else no_turbo == 0


def _cpuinfo(files: Files, name: str) -> Iterator[str]:
    fields = (line.partition(":") for line in (files.text("proc/cpuinfo") or "").splitlines())
    return (value.strip() for key, _, value in fields if key.strip() == name)


def _cpuinfo_mhz(files: Files, cores: Sequence[int]) -> list[float]:
    clocks = zip(_cpuinfo(files, "processor"), _cpuinfo(files, "cpu MHz"), strict=False)  # other systems have no MHz
    return [float(mhz) for number, mhz in clocks if whole(number) in cores]


def core_time(files: Files, cores: Sequence[int]) -> CoreTime | None:
    """What these cores have done since the machine started; the kernel counts in ticks of mostly 10 ms."""
    rows = [line.split() for line in (files.text("proc/stat") or "").splitlines()]
    wanted = {f"cpu{core}" for core in cores}
    ticks = [[int(number) for number in row[1:9]] for row in rows if row and row[0] in wanted]
    if not ticks:
        return None
    second = os.sysconf("SC_CLK_TCK")
    # user, nice, system, irq and softirq; idle and iowait lie between; what guests use is part of user
    busy = sum(user + nice + system + irq + soft for user, nice, system, _, _, irq, soft, _ in ticks)
    return CoreTime(busy / second, sum(row[7] for row in ticks) / second)


def own_seconds() -> float:
    """CPU time of this process, of all below it, and of those of them that have ended and been waited for."""
    own = psutil.Process()
    return sum(map(_process_seconds, (own, *own.children(recursive=True))))


def _process_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:  # ended since it was listed: its parent has its time
        return 0.0
    return times.user + times.system + times.children_user + times.children_system


def control_groups(files: Files, controller: str) -> tuple[str, ...]:
    """Folders of the control group of this process and of all groups around it; the limits of each hold.

    Version 1 has one tree per controller, version 2 one tree for all, and a machine may have both.
    """
    memberships = [line.split(":", 2) for line in (files.text("proc/self/cgroup") or "").splitlines()]
    paths = {name: path for _, names, path in memberships for name in names.split(",")}
    tree = controller if controller in paths else ""  # the one tree of version 2 has no name
    if tree not in paths:
        return ()
    for line in (files.text("proc/self/mountinfo") or "").splitlines():
        mount, _, source = line.partition(" - ")
        kind, _, options = source.split(" ", 2)
        if (kind == "cgroup" and tree in options.split(",")) if tree else kind == "cgroup2":
            top, mounted_at = mount.split()[3:5]
            return tuple(_and_above(mounted_at.lstrip("/"), _below(paths[tree], top)))
    return ()


def _below(path: str, top: str) -> PurePath:
    """The path of a group below the group that is mounted; a container may see its own path from outside."""
    inside = PurePath(path).is_relative_to(top) and ".." not in PurePath(path).parts
    return PurePath(path).relative_to(top) if inside else PurePath()


def _and_above(mounted_at: str, group: PurePath) -> Iterator[str]:
    yield from (str(PurePath(mounted_at, part)) for part in (group, *group.parents) if part.parts)
    yield mounted_at


def cores_quota(files: Files) -> float | None:
    """How many cores' time the control groups allow; None where none sets a limit that can be read."""
    return min(_known(_quota(files, group) for group in control_groups(files, "cpu")), default=None)


def _quota(files: Files, group: str) -> float | None:
    both = files.text(f"{group}/cpu.max")  # version 2: "150000 100000", or "max 100000"
    if both is not None:
        quota, _, period = both.partition(" ")
        return _cores(whole(quota), whole(period))
    return _cores(files.number(f"{group}/cpu.cfs_quota_us"), files.number(f"{group}/cpu.cfs_period_us"))


def _cores(quota: int | None, period: int | None) -> float | None:
    return quota / period if quota and period and quota > 0 else None  # version 1 says -1 for no limit


def memory_limit_bytes(files: Files) -> int | None:
    """How much memory the control groups allow; None where none sets a limit that can be read."""
    names = [f"{group}/{name}" for group in control_groups(files, "memory") for name in LIMITS]
    return min((limit for limit in _known(map(files.number, names)) if limit < UNLIMITED_BYTES), default=None)


def throttling(files: Files, cores: Sequence[int]) -> Throttling:
    """What has slowed these cores since the machine, or the control groups of this process, started."""
    stats = [files.table(f"{group}/cpu.stat") for group in control_groups(files, "cpu")]
    periods = [stat["nr_throttled"] for stat in stats if "nr_throttled" in stat]
    micro = [stat["throttled_usec"] / 1e6 for stat in stats if "throttled_usec" in stat]
    nano = [stat["throttled_time"] / 1e9 for stat in stats if "throttled_time" in stat]  # version 1
    hot = [f"{CPUS}/cpu{core}/thermal_throttle" for core in cores]
    core_events = list(_known(files.number(f"{folder}/core_throttle_count") for folder in hot))
    package_events = list(_known(files.number(f"{folder}/package_throttle_count") for folder in hot))
    return Throttling(
        quota_periods=sum(periods) if periods else None,
        quota_seconds=sum(micro + nano) if micro or nano else None,
        core_events=sum(core_events) if core_events else None,
        package_events=max(package_events, default=None),  # every core of a package repeats the package's count
    )


def swapped(files: Files) -> Swapped | None:
    """What has gone through swap, for all processes of the machine."""
    found = files.table("proc/vmstat")
    if "pswpin" not in found or "pswpout" not in found:
        return None
    return Swapped(found["pswpin"], found["pswpout"])


def _known(numbers: Iterable[Number | None]) -> Iterator[Number]:
    return (number for number in numbers if number is not None)
