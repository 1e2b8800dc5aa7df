"""Made-up stored runs: a plausible one with a row for every question, to be changed by a test before it is stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from report.page import render
from report.records import read_run
from report.results import Results, merge
from tests.report.enriched import enrich

Json = dict[str, Any]

STYLES = {"tape": "dynamic", "graph": "static", "graph_replay": "static"}
SPEED = {"tape": 1.0, "graph": 0.8, "graph_replay": 0.9, "torch_eager": 1.05, "torch_module": 1.02}
STEP = {"mlp": 0.3e-3, "cnn": 3.0e-3}  # seconds at batch 1
QUANTITY = {
    "construction": "construct", "dispatch": "step", "preparing": "prepare", "memory": "step", "learning": "train",
    "forward": "forward", "backward": "loss_and_grad", "step": "step", "interface": "step",
    "shapes": "stream", "attribution": "step",
    "branches": "loss_and_grad", "loops": "loss_and_grad", "recursion": "loss_and_grad", "recompute": "loss_and_grad",
    "call": "forward", "elementwise": "loss_and_grad", "rate": "loss_and_grad",
}  # fmt: skip
ROUNDS = 12


def make_extra(question: str, workload: str, engine: str, batch_size: int, **changes: Any) -> Json:
    """The `extra_info` of one row of schema 1."""
    extra = {
        "schema": 1, "question": question, "workload": workload, "formulation": "static", "engine": engine,
        "style": STYLES.get(engine, "dynamic"), "device": "cpu", "dtype": "float32", "batch_size": batch_size,
        "size": {}, "quantity": QUANTITY[question], "calls_per_sample": 1, "phases": {}, "counters": {}, "memory": None,
        "agreement": {
            "verdict": "agrees", "worst": "w1", "error": 1e-7, "allowed": 1e-5, "reference": "float64 torch autograd",
        },
        "ratio": None, "ratios": [], "learning": None, "status": "measured", "reason": None,
    }  # fmt: skip
    return extra | changes


def make_row(extra: Json, samples: list[float]) -> Json:
    """One entry of `benchmarks`."""
    name = f"test_{extra['question']}[{extra['workload']}-{extra['engine']}-{extra['batch_size']}]"
    return {
        "group": extra["question"], "name": name, "fullname": f"suites/test_{extra['question']}.py::{name}",
        "params": None, "param": None, "extra_info": extra, "options": {}, "stats": {"data": samples},
    }  # fmt: skip


def make_ratio(to: str, value: float, low: float | None = None, high: float | None = None) -> Json:
    """A paired ratio, by default with an interval of 2 % to each side."""
    bounds = {"low": low or value * 0.98, "high": high or value * 1.02}
    return {"to": to, "value": value, **bounds, "confidence": 0.95, "rounds": ROUNDS}


def timed_cell(question: str, workload: str, batch_size: int, seconds: dict[str, float], **changes: Any) -> list[Json]:
    """One row for each engine in `seconds`, with noise and with the ratios to all the others."""
    rng = np.random.default_rng([len(question), batch_size])
    rows = []
    for engine, time in seconds.items():
        ratios = [make_ratio(other, time / theirs) for other, theirs in seconds.items() if other != engine]
        extra = make_extra(question, workload, engine, batch_size, ratios=ratios, **changes)
        rows.append(make_row(extra, [float(time * it) for it in rng.lognormal(0.0, 0.03, ROUNDS)]))
    return rows


def make_gap(extra: Json, status: str, reason: str) -> Json:
    """One entry of `missing`."""
    row = make_row(extra | {"status": status, "reason": reason, "ratios": []}, [])
    return {key: row[key] for key in ("name", "fullname", "group", "extra_info")}


def _steps() -> list[Json]:
    rows = []
    for question, share in (("step", 1.0), ("forward", 0.3), ("backward", 0.9)):
        for workload, base in STEP.items():
            for batch in (1, 8, 64):
                engines = ("tape", "graph", "graph_replay", "torch_eager")
                times = {engine: share * base * batch**0.7 * SPEED[engine] for engine in engines}
                rows += timed_cell(question, workload, batch, times)
    return rows


def _chains() -> list[Json]:
    rows = []
    for workload in ("chain", "chain_wide", "chain_tree"):
        for ops in (10, 100, 1000):
            size = {"ops": ops, "elements": 1}
            rows += timed_cell("construction", workload, 1, {"tape": 6e-6 * ops, "graph": 150e-6 * ops}, size=size)
    per_op = {"tape": 6.0e-6, "graph": 0.6e-6, "torch_eager": 12e-6}
    size = {"ops": 1000, "elements": 1}
    return rows + timed_cell("dispatch", "chain", 1, {name: 1000 * it for name, it in per_op.items()}, size=size)


def _single_rows() -> list[Json]:
    rows = []
    for workload in STEP:
        extra = make_extra("preparing", workload, "tape", 64)
        rows.append(make_row(extra, [0.02, 0.021, 0.019]))
        phases = {"trace": 0.05, "autodiff": 0.03, "simplify": 0.01, "fuse": 0.02, "lower": 0.25}
        extra = make_extra("preparing", workload, "graph", 64, phases=phases, counters={"nodes": 312, "entries": 4})
        rows.append(make_row(extra, [0.5, 0.51, 0.49]))
        for engine, peak in (("tape", 900 * 2**20), ("graph", 700 * 2**20)):
            memory = {"peak_bytes": peak, "live_bytes_before": 30 * 2**20, "method": "memray, fresh process"}
            rows.append(make_row(make_extra("memory", workload, engine, 64, memory=memory), [0.05] * 3))
    losses = [float(2.3 * np.exp(-step / 60) + 0.1) for step in range(240)]
    for engine in ("tape", "graph"):
        learning = {
            "losses": losses, "steps_per_epoch": 120, "epochs": 2, "test_accuracy": 0.94, "seed": 3,
            "train_samples": 3840, "test_samples": 500, "equal_bits_to": "tape" if engine == "graph" else None,
            "largest_relative_difference": 0.0 if engine == "graph" else None,
        }  # fmt: skip
        rows.append(make_row(make_extra("learning", "mlp", engine, 32, learning=learning), [0.001] * len(losses)))
    return rows + timed_cell("interface", "mlp", 64, {"torch_eager": 1.03e-3, "torch_module": 1.0e-3})


def stream_rows(distinct: int = 3, **changes: Any) -> list[Json]:
    """A stream of five steps, gone through by the tape and by a graph that compiles three times."""
    found = []
    for engine, prepare, first, again in (
        ("tape", 0.001, [0.01] * 5, 0.01), ("graph_exact", 0.3, [0.3, 0.008, 0.3, 0.008, 0.3], 0.008),
    ):  # fmt: skip
        static = engine != "tape"
        counters = {"compilations": 3, "hits": 12, "evictions": 1, "useful_elements": 200, "padded_elements": 50}
        stream = {"prepare_seconds": prepare, "first_seconds": first, "again_seconds": [again] * len(first)}
        extra = make_extra(
            "shapes", "shape_stream", engine, 1, size={"distinct": distinct, "steps": len(first)},
            style="static" if static else "dynamic", stream=stream | changes, counters=counters if static else {},
            ratios=[make_ratio("tape", 24.0)] if static else [],
        )  # fmt: skip
        found.append(make_row(extra, [prepare + sum(first)] * 3))
    return found


def ways_rows() -> list[Json]:
    """Branches, a loop with its preparing at two lengths, and recursion, each row in a formulation of its own."""
    written = {"tape": "dynamic", "graph": "static", "graph+masked": "masked"}
    times = dict(zip(written, (3e-3, 2e-3, 2.5e-3), strict=True))
    rows = [
        *timed_cell("branches", "early_exit", 16, times, size={"exit_rate": 0.5}),
        *timed_cell("loops", "lstm_stack", 1, times, size={"steps": 16}),
        *timed_cell("recursion", "tree_lstm", 8, times),
    ]
    for row in rows:
        row["extra_info"]["formulation"] = written[row["extra_info"]["engine"]]
    for steps in (8, 32):
        ready = {"graph": 0.01, "graph+unrolled": 0.002 * steps}
        rows += timed_cell(
            "loops", "dynamic_rnn", 4, ready, size={"steps": steps}, quantity="construct", style="static"
        )
    return rows


def limit_rows() -> list[Json]:
    """A call that computes nothing, a chain of large ops, and a network beside a product of matrices."""
    times = {"tape": 24e-6, "graph": 8e-6, "torch_eager": 12e-6}
    beside = {"tape": 0.1, "graph": 0.05, "torch_eager": 0.08, "sgemm": 0.02}
    network = timed_cell("rate", "cnn", 64, beside)
    network[-1]["extra_info"]["counters"] = {"order": 1000, "flops": 2 * 10**9, "task_flops": 3 * 10**9}
    network[-1]["extra_info"]["agreement"] |= {"verdict": "unchecked", "error": None, "allowed": None}
    return [
        *timed_cell("call", "scalars", 1, times, size={"inputs": 10}),
        *timed_cell("elementwise", "chain", 1, times, size={"elements": 262144, "ops": 32}),
        *network,
    ]


def make_run() -> Json:
    """A whole stored run: every question, one failed and one skipped row."""
    failed = make_extra("step", "cnn", "graph_replay", 256)
    skipped = make_extra("memory", "cnn", "graph_replay", 64)
    environment = {
        "fingerprint": "00c0ffee", "torch": "2.13.0+cpu", "numpy": "2.4.6", "python": "3.11.7", "threads": 2,
        "cores_allowed": 2, "memory_bytes": 8 * 2**30, "gpu": None, "effort": "quick", "dirty": False, "load_1min": 0.4,
    }  # fmt: skip
    return {
        "machine_info": {
            "node": "box", "processor": "", "machine": "x86_64", "python_version": "3.11.7", "release": "6.1",
            "system": "Linux", "cpu": {"brand_raw": "Example CPU", "count": 2}, "environment": environment,
        },
        "commit_info": {"id": "0123456789abcdef0123", "time": None, "dirty": False, "branch": "main"},
        "benchmarks": _steps() + _chains() + _single_rows() + stream_rows() + ways_rows() + limit_rows(),
        "missing": [
            make_gap(failed, "failed", "out of memory: wanted 9 GiB"),
            make_gap(skipped, "skipped", "needs a plan that this machine cannot hold"),
        ],
        "datetime": "2026-11-23T12:00:00+00:00",
        "version": "5.3.1",
    }  # fmt: skip


@pytest.fixture(scope="session")
def run_text() -> str:
    """The plausible run as it is stored."""
    return json.dumps(make_run())


@pytest.fixture
def run(run_text: str) -> Json:
    """A fresh plausible run; a test may change it."""
    fresh: Json = json.loads(run_text)
    return fresh


@pytest.fixture
def second_run(run: Json) -> Json:
    """The plausible run as schema 2 stores it; a test may change it."""
    return enrich(run)


@pytest.fixture
def empty_run(run: Json) -> Json:
    """A run without rows, to which a test adds its own."""
    return run | {"benchmarks": [], "missing": []}


@pytest.fixture
def store(tmp_path: Path) -> Callable[..., Path]:
    """Store a run under a name and give its path."""

    def write(content: Json, name: str = "0001_run.json") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    return write


@pytest.fixture
def results_of(store: Callable[..., Path]) -> Callable[..., Results]:
    """Store runs, read them back and merge them."""

    def read(*contents: Json) -> Results:
        return merge([read_run(store(content, f"{place:04}_run.json")) for place, content in enumerate(contents, 1)])

    return read


@pytest.fixture
def make() -> SimpleNamespace:
    """The makers of rows, for tests that need rows of their own."""
    return SimpleNamespace(
        extra=make_extra,
        row=make_row,
        ratio=make_ratio,
        cell=timed_cell,
        gap=make_gap,
        run=make_run,
        streams=stream_rows,
        limits=limit_rows,
    )


@pytest.fixture(scope="session")
def whole_results(tmp_path_factory: pytest.TempPathFactory, run_text: str) -> Results:
    """The plausible run, stored and read back; never changed, so read once."""
    path = tmp_path_factory.mktemp("page") / "0001_run.json"
    path.write_text(run_text, encoding="utf-8")
    return merge([read_run(path)])


@pytest.fixture(scope="session")
def whole_page(whole_results: Results) -> str:
    """The page of the plausible run: slow to make, so made once."""
    return render(whole_results)


@pytest.fixture(scope="session")
def second_results(tmp_path_factory: pytest.TempPathFactory, run_text: str) -> Results:
    """The plausible run of schema 2, stored and read back; never changed, so read once."""
    path = tmp_path_factory.mktemp("second") / "0001_run.json"
    path.write_text(json.dumps(enrich(json.loads(run_text))), encoding="utf-8")
    return merge([read_run(path)])


@pytest.fixture(scope="session")
def second_page(second_results: Results) -> str:
    """The page of the plausible run of schema 2."""
    return render(second_results)
