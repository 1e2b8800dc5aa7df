"""Which of several graphs of the same function is fastest here, found by running them; remembered on disk.

    fastest([as_it_is, another])     # 0 or 1

What is remembered stands beside the compiled code, under the hash of what was asked: the graphs without their lines in
the user's source, torch's version, the processor and the number of threads. So a model is measured once on a machine,
and from then on the same choice is made in every process.
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
from engines.graph.lower.compiler import cache_folder, cpu_features, find_compiler
from engines.value import Spec

FEWEST_ROUNDS, MOST_ROUNDS, BUDGET_SECONDS = 3, 7, 0.06
"""How often each graph is run, and after how many seconds there are no more rounds than the fewest."""

MARGIN = 0.95
"""What another graph must take of the first one's time to be chosen: less would be chance."""


def fastest(graphs: Sequence[Graph]) -> int:
    """The index of the fastest graph; 0 unless another is faster by a margin. All take and give the same."""
    path = cache_folder() / f"{_key(graphs)}.choice"
    known = _remembered(path, len(graphs))
    if known is not None:
        return known
    seconds = _race(graphs)
    best = min(range(len(graphs)), key=seconds.__getitem__)
    chosen = best if seconds[best] < MARGIN * seconds[0] else 0
    _remember(path, {"chosen": chosen, "seconds": seconds})
    return chosen


def _race(graphs: Sequence[Graph]) -> list[float]:
    """The least seconds of each over some rounds, in which each runs once."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        executables = list(pool.map(Executable.build, graphs))
    inputs = [_example(var.spec, seed) for seed, var in enumerate(graphs[0].inputs.values())]
    seconds = [float("inf")] * len(graphs)
    for executable in executables:
        executable(*inputs)
    end = time.perf_counter() + BUDGET_SECONDS
    for rounds in range(1, MOST_ROUNDS + 1):
        for number, executable in enumerate(executables):
            start = time.perf_counter()
            executable(*inputs)
            seconds[number] = min(seconds[number], time.perf_counter() - start)
        if rounds >= FEWEST_ROUNDS and time.perf_counter() > end:
            break
    return seconds


def _example(spec: Spec, seed: int) -> torch.Tensor:
    if not spec.dtype.is_floating_point:
        return torch.zeros(spec.shape, dtype=spec.dtype, device=spec.device)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(spec.shape, generator=generator, dtype=spec.dtype).to(spec.device)


def _key(graphs: Sequence[Graph]) -> str:
    texts = [re.sub(r"  # .*", "", str(graph)) for graph in graphs]
    about = [torch.__version__, str(torch.get_num_threads()), str(find_compiler()), cpu_features()]
    return hashlib.sha256("\n".join([*about, *texts]).encode()).hexdigest()[:40]


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
