"""Group what a run says about its machine: CPU, threads, memory, GPU, versions, variables, and whatever else there is.

for group in surroundings(run):
    group.title, group.facts           # "Versions", (("torch", "2.13.0+cpu"), ...)

A key that no line of `CLAIMS` knows is shown all the same: a dictionary under its own name, a plain value under Other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from report import units
from report.fields import shown
from report.stored import Run

ORDER = ("Machine", "CPU", "Threads", "Memory", "GPU", "Versions", "Variables", "Other")
CLAIMS: tuple[tuple[str, tuple[str, ...]], ...] = (  # the first line that has a part of a key claims it
    ("Variables", ("variable", "environ", "omp_", "mkl_", "openblas_", "ld_preload", "malloc")),
    ("Threads", ("thread",)),
    ("GPU", ("gpu", "cuda", "nvidia", "cudnn")),
    ("Memory", ("memory", "swap", "ram")),
    ("Versions", ("version", "python", "torch", "numpy", "scipy", "compiler", "package", "debug_build")),
    ("CPU", ("cpu", "core", "machine", "frequency", "governor", "vector", "load", "affinity", "cgroup", "turbo")),
)
ELSEWHERE = ("effort", "fingerprint", "dirty")  # stand beside the commit
DEEPEST = 3  # levels of a value that become facts of their own; what lies below is one text
BYTES = "_bytes"


@dataclass(frozen=True, slots=True)
class Group:
    """Facts that belong together, each a name and a text."""

    title: str
    facts: tuple[tuple[str, str], ...]


def surroundings(run: Run) -> list[Group]:
    """All that a run says about its machine, in groups."""
    groups: dict[str, list[tuple[str, str]]] = {"Machine": list(run.machine.items())}
    for key, value in run.environment.items():
        if key in ELSEWHERE:
            continue
        title = _title(key, value)
        groups.setdefault(title, []).extend(_facts(_name(key, title, value), key, value, DEEPEST))
    ranked = sorted(groups, key=lambda title: ORDER.index(title) if title in ORDER else len(ORDER))
    return [Group(title, tuple(groups[title])) for title in ranked if groups[title]]


def value_text(value: object, key: str = "") -> str:
    """One value in words: bytes in binary units, yes and no, a dash where there is nothing, and text as it is."""
    if value is None:
        return units.DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)) and key.endswith(BYTES):
        return units.size(value)
    if isinstance(value, list) and all(isinstance(item, (str, int, float)) for item in value):
        return ", ".join(value_text(item, key) for item in value) or units.DASH
    return value if isinstance(value, str) else shown(value)


def _title(key: str, value: object) -> str:
    name = key.lower()
    claimed = next((title for title, parts in CLAIMS if any(part in name for part in parts)), None)
    if claimed is None:
        return key.replace("_", " ").capitalize() if isinstance(value, Mapping) else "Other"
    return claimed


def _name(key: str, title: str, value: object) -> str:
    name = _words(key)
    repeats = name.lower().rstrip("s") == title.lower().rstrip("s") and isinstance(value, (Mapping, list))
    return "" if repeats else name


def _facts(name: str, key: str, value: object, levels: int) -> Iterator[tuple[str, str]]:
    for part, content in _parts(value) if levels else ():
        yield from _facts(f"{name} {_words(part)}".strip(), part, content, levels - 1)
    if not levels or not _parts(value):
        yield _without_unit(name or key), value_text(value, key)


def _parts(value: object) -> Sequence[tuple[str, object]]:
    if isinstance(value, Mapping):
        return [(str(key), content) for key, content in value.items()]
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return [(str(place), content) for place, content in enumerate(value, 1)]
    return []


def _words(key: str) -> str:
    return key if key.isupper() else key.replace("_", " ")  # the name of a variable stays as it is


def _without_unit(name: str) -> str:
    return name.removesuffix(_words(BYTES)).removesuffix(BYTES)
