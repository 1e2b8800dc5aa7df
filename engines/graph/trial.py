"""Which of several graphs of the same function is the fastest here, found by running them; remembered on disk.

    fastest([[as_it_is, another], ...])     # for each contest 0 or 1

What is remembered stands beside the compiled code, under the hash of what was asked: the graphs without their lines in
the user's source, how they are written in C, torch's version, the processor and the number of threads. So a model is
measured once on a machine, and from then on the same choice is made in every process.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from engines.graph.executable import Executable
from engines.graph.ir import Graph
from engines.graph.lower.compiler import FLAGS, cache_folder, cpu_features, find_compiler
from engines.graph.lower.native import regions_in_c
from engines.value import Spec

FEWEST_ROUNDS, MOST_ROUNDS, BUDGET_SECONDS = 3, 15, 0.06
"""How often each graph is run, and after how many seconds there are no more rounds than the fewest. Nor are there where
the first is ahead by then: another would have to be faster by a margin."""

DECIDED = 0.5
"""What one graph takes of every other's time where that is beyond any chance: after two rounds there are no more."""

MARGIN = 0.9
"""What another graph must take of the first one's time to be chosen: less would be chance."""


def fastest(contests: Sequence[Sequence[Graph]]) -> list[int]:
    """Of each contest the index of the fastest graph; 0 unless another is faster by a margin.

    All graphs of a contest take and give the same. Everything is compiled first, at the same time, so that the
    processor is quiet while graphs run.
    """
    in_c = {graph: "\n".join(regions_in_c(graph)) for graphs in contests for graph in graphs}
    keys = [_key(graphs, [in_c[graph] for graph in graphs]) for graphs in contests]
    chosen = {key: _remembered(_path(key), len(graphs)) for key, graphs in zip(keys, contests, strict=True)}
    unknown = {key: graphs for key, graphs in zip(keys, contests, strict=True) if chosen[key] is None}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # The longest C first: begun last, it would have all others wait for it.
        ordered = sorted(
            (graph for graphs in unknown.values() for graph in graphs), key=lambda graph: -len(in_c[graph])
        )
        building = {graph: pool.submit(Executable.build, graph) for graph in ordered}
    for key, graphs in unknown.items():
        seconds = _race([building[graph].result() for graph in graphs])
        best = min(range(len(seconds)), key=seconds.__getitem__)
        chosen[key] = best if seconds[best] < MARGIN * seconds[0] else 0
        _remember(_path(key), {"chosen": chosen[key], "seconds": seconds})
    return [chosen[key] or 0 for key in keys]


def _race(executables: Sequence[Executable]) -> list[float]:
    """The least seconds of each over some rounds, in which each runs once."""
    inputs = [_example(var.spec, seed) for seed, var in enumerate(executables[0].graph.inputs.values())]
    seconds = [float("inf")] * len(executables)
    for executable in executables:
        executable(*inputs)
    end = time.perf_counter() + BUDGET_SECONDS
    for rounds in range(1, MOST_ROUNDS + 1):
        for number, executable in enumerate(executables):
            start = time.perf_counter()
            executable(*inputs)
            seconds[number] = min(seconds[number], time.perf_counter() - start)
        enough = rounds >= FEWEST_ROUNDS and (time.perf_counter() > end or seconds[0] == min(seconds))
        if enough or (rounds > 1 and _is_decided(seconds)):
            break
    return seconds


def _is_decided(seconds: Sequence[float]) -> bool:
    first, *others = sorted(seconds)
    return bool(others) and first < DECIDED * others[0]


def _example(spec: Spec, seed: int) -> torch.Tensor:
    if not spec.dtype.is_floating_point:
        return torch.zeros(spec.shape, dtype=spec.dtype, device=spec.device)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(spec.shape, generator=generator, dtype=spec.dtype).to(spec.device)


def _path(key: str) -> Path:
    return cache_folder() / f"{key}.choice"


def _key(graphs: Sequence[Graph], in_c: Sequence[str]) -> str:
    texts = [re.sub(r"  # .*", "", str(graph)) for graph in graphs]
    plain = [re.sub(r"//.*", "", text) for text in in_c]
    about = [torch.__version__, str(torch.get_num_threads()), str(find_compiler()), cpu_features(), *FLAGS]
    return hashlib.sha256("\n".join([*about, *texts, *plain]).encode()).hexdigest()[:40]


def _remembered(path: Path, count: int) -> int | None:
    try:
        chosen = json.loads(path.read_text())["chosen"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return chosen if type(chosen) is int and 0 <= chosen < count else None


def _remember(path: Path, found: dict[str, object]) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        unfinished.write_text(json.dumps(found))
        unfinished.replace(path)
    except OSError:  # a full disk costs a second measuring, no more
        unfinished.unlink(missing_ok=True)
