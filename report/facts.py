"""What a page says at its top about its runs, and a picture at its foot: which they are, of what code, on what machine.

facts(results)                       # [("run", "0014"), ("machine", "Example CPU, Linux 6.1"), ("threads", "2"), ...]
source(results, {"cpu"})             # Stored run 0014 of commit 0123456789ab, effort standard, on Example CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from pathlib import Path

from report import units
from report.results import Results
from report.stored import Run
from report.surroundings import value_text
from report.wording import NOT_STORED

SHORT = 12  # characters of a commit; the sources have all of it
NUMBER = 4  # digits that the name of a stored run begins with
HOST = "cpu"


def facts(results: Results) -> list[tuple[str, str]]:
    """What the top of the page says about the runs: machine, versions, commit, effort, when, and how many rows."""
    last = results.runs[-1]
    measured = sum(row.status == "measured" for row in results.records)
    chosen: Mapping[str, str | None] = {
        "run": _all(map(_name, results.runs)),
        "machine": ", ".join(last.machine[name] for name in ("processor", "system") if name in last.machine),
        "threads": _environment(last.environment, "threads"),
        "gpu": _environment(last.environment, "gpu"),
        "python": last.machine.get("python"),
        "torch": _environment(last.environment, "torch", "versions"),
        "commit": _all(map(_commit, results.runs)),
        "effort": _all(run.effort or NOT_STORED for run in results.runs),
        "taken": _all(run.taken_at[:16].replace("T", " ") if run.taken_at else NOT_STORED for run in results.runs),
        "rows": f"{measured} measured of {len(results.records)}",
    }
    return [(name, value) for name, value in chosen.items() if value]


def source(results: Results, devices: Set[str]) -> str:
    """One line that says where the figures of these devices come from, for a picture that is shown without its page."""
    runs = "; ".join(
        f"{_name(run)} of commit {_commit(run)}, effort {run.effort or NOT_STORED}" for run in results.runs
    )
    last = results.runs[-1]
    threads = _environment(last.environment, "threads")
    host = [last.machine.get("processor"), threads and f"{threads}{units.FIXED}threads"]
    gpu = _environment(last.environment, "gpu") if devices - {HOST} else None
    place = ", ".join(fact for fact in (gpu, *host) if fact)
    return f"Stored {'run' if len(results.runs) == 1 else 'runs'} {runs}{f', on {place}' if place else ''}."


def _name(run: Run) -> str:
    """The number under which a run is stored, or the name of a file that is stored under none."""
    name = Path(run.file).stem
    return name[:NUMBER] if name[:NUMBER].isdigit() else name


def _commit(run: Run) -> str:
    return run.commit[:SHORT] + (", uncommitted changes" if run.dirty else "")


def _environment(environment: Mapping[str, object], *names: str) -> str | None:
    for name in names:
        value = environment.get(name)
        if isinstance(value, Mapping):
            value = value.get("torch", value.get("name"))
        if isinstance(value, (str, int, float)):
            return value_text(value, name)
    return None


def _all(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts))
