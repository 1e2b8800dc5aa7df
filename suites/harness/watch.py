"""Watch the machine during a run, for what may spoil it.

watch = Watch.start()
...  # the run
for caution in watch.finish([Sampled("forward: cnn-b64-cpu", "10 launches", 0.031, 0.02)]):
    print(caution)

Looking takes some milliseconds (with a GPU some tenths of a second, for nvidia-smi), at the start and at the end.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

import psutil

from suites.harness.cautions import Caution, Sampled, Snapshot, cautions
from suites.harness.environment import debug_builds
from suites.harness.gpu import gpus
from suites.harness.system import (
    HERE,
    Files,
    allowed_cores,
    core_time,
    frequency,
    own_seconds,
    swapped,
    throttling,
)


@dataclass(frozen=True, slots=True)
class Watch:
    """A run being watched: the cores it may use, and the machine as it was at the start."""

    files: Files
    cores: tuple[int, ...]
    before: Snapshot

    @classmethod
    def start(cls, files: Files = HERE) -> Watch:
        """Look for the first time. The run is this process and all that it starts."""
        cores = allowed_cores()
        return cls(files, cores, snapshot(files, cores))

    def finish(self, cells: Sequence[Sampled] = ()) -> tuple[Caution, ...]:
        """Look again, and judge what happened in between; `cells` tell how wide their intervals are."""
        return cautions(self.before, snapshot(self.files, self.cores), cells)


def snapshot(files: Files, cores: Sequence[int]) -> Snapshot:
    """The machine at this moment."""
    return Snapshot(
        gpus=gpus(),  # first, since it may take long
        frequency=frequency(files, cores),
        other_runs=other_runs(),
        throttling=throttling(files, cores),
        swapped=swapped(files),
        debug_builds=debug_builds(),
        cores=len(cores),
        own_seconds=own_seconds(),
        core_time=core_time(files, cores),
        seconds=time.monotonic(),
    )


def other_runs() -> tuple[int, ...]:
    """Processes on this machine that are timed runs of these suites and neither above nor below this process."""
    own = psutil.Process()
    family = {process.pid for process in (own, *own.parents(), *own.children(recursive=True))}
    found = psutil.process_iter(["pid", "cmdline"])
    return tuple(p.pid for p in found if p.pid not in family and is_timed_run(p.info["cmdline"] or ()))


def is_timed_run(command: Sequence[str]) -> bool:
    """Whether a command line runs these suites with the clock on: `python -m pytest suites --benchmark-only`.

    Whatever starts it for somebody else (make, a shell, timeout) holds the same words and is none.
    """
    if not command or not PurePath(command[0]).name.lower().startswith("python") or "--benchmark-only" not in command:
        return False
    paths = [PurePath(argument.partition("::")[0]) for argument in command[1:]]
    return any(path.name == "pytest" for path in paths) and any("suites" in path.parts for path in paths)
