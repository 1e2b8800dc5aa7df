"""Turn the made-up run of schema 1 into one of schema 2: every new field filled, and rows that only schema 2 has."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

Json = dict[str, Any]
MIB = 2**20
ALLOWED = 2.0  # percent
SPLIT = {"forward": 0.4, "backward": 0.5, "update": 0.1}
CONTROLS = 20
OVERHEAD = {
    "cells": 24, "round_seconds": 125.0, "own_round_seconds": 0.75, "cell_seconds_median": 0.0625,
    "cell_seconds_most": 0.25, "most_in": "step: mlp-b1-cpu",
}  # fmt: skip


def enrich(run: Json) -> Json:
    """The same run as schema 2 stores it, with a control, cautions, and an end before its time."""
    run = copy.deepcopy(run)
    for place, row in enumerate(run["benchmarks"]):
        _fill(row["extra_info"], row["stats"]["data"], place)
    for row in run["missing"]:
        _fill(row["extra_info"], [], 0)
        row["extra_info"] |= {"calls_per_sample": 1, "agreement": None}
    run["benchmarks"] += [*_cold(run), *_collected(run), *_on_a_gpu(run), *_walk(run), *_recomputed(run)]
    run["missing"] += _never_ran(run)
    run |= {
        "control": control(),
        "cautions": cautions(),
        "interrupted": "Ctrl-C after 310 s",
        "overhead": dict(OVERHEAD),
    }
    run["machine_info"]["environment"] = environment()
    return run


def control() -> Json:
    """An A/A control in which the last cell is a false alarm."""
    rng = np.random.default_rng(8)
    rows = []
    for place, drawn in enumerate(rng.normal(1, 0.006, CONTROLS)):
        alarm = place == CONTROLS - 1
        value = 1.03 if alarm else float(drawn)
        rows.append(
            {
                "question": "step", "workload": "mlp", "formulation": "static", "device": "cpu", "dtype": "float32",
                "batch_size": place + 1, "size": {}, "quantity": "step", "name": f"control[{place}]", "engine": "tape",
                "value": value, "low": value - 0.012, "high": value + 0.012, "rounds": 12, "false_alarm": alarm,
                "launches": 1 if alarm else 3, "samples": [[1e-3] * 12, [1e-3] * 12],
            }
        )  # fmt: skip
    return {"cells": CONTROLS, "false_alarms": 1, "smallest_effect": 0.018, "rows": rows}


def cautions() -> list[Json]:
    """Two cautions of the closed list."""
    return [
        {"kind": "other load", "seen": "load 1.9 on 2 cores", "advice": "Stop other programs."},
        {"kind": "frequency scaling", "seen": "governor powersave", "advice": "Set the governor to performance."},
    ]


def environment() -> Json:
    """A grouped environment, with keys that no reader has heard of."""
    return {
        "fingerprint": "00c0ffee", "effort": "quick", "dirty": False,
        "cpu": {"model": "Example CPU", "governor": "powersave", "quota_cores": 2.0},
        "cores_allowed": 2, "threads": {"torch": 2, "openmp": 2}, "memory": {"total_bytes": 8 * 2**30},
        "gpus": [{"name": "Example GPU", "clocks": {"sm_megahertz": 1410}, "throttled": False}],
        "versions": {"torch": "2.13.0+cpu", "numpy": "2.4.6", "gcc": None},
        "variables": {"OMP_NUM_THREADS": "2"}, "moon": {"phase": "full"}, "luck": 0.5,
    }  # fmt: skip


def _fill(extra: Json, samples: list[float], place: int) -> None:
    median = float(np.median(samples)) if samples else None
    measured = median is not None
    extra |= {
        "schema": 2, "collector": False, "cold": False, "positions": [0, 1, 2, 1, 0, 2], "device_seconds": None,
        "every": None, "first_call_seconds": 0.02 if measured else None, "split": None, "split_check": None,
        "clock": {"resolution_seconds": 5e-8, "share_of_sample": 2e-5} if measured else None,
        "warm_up": {"seconds": [median] * 4, "stable": place % 40 != 3} if measured else None,
        "stopped": {"why": "precise", "rounds": 12, "width": 0.015, "wanted": 0.02} if measured else None,
        "phases_check": _check(extra["phases"], 0.98) if extra["phases"] else None,
        "interval": {"value": median, "low": median * 0.99, "high": median * 1.01, "confidence": 0.95}
        if measured else None,
    }  # fmt: skip
    if extra["workload"] == "cnn" and measured:
        extra["stopped"] = {"why": "budget", "rounds": 12, "width": 0.041, "wanted": 0.02}
        extra["launches"] = [5, 4, 3] if len(samples) == sum([5, 4, 3]) else [1] * len(samples)
        extra["interval"]["value"] = median * 1.002  # over launches, a level is not the median of all samples
        extra["ratios"] = [ratio | {"launches": 3} for ratio in extra["ratios"]]
    if extra["question"] == "step" and extra["engine"] != "graph_replay" and measured:
        extra["split"] = {name: share * median for name, share in SPLIT.items()}
        closes = not (extra["engine"] == "torch_eager" and extra["batch_size"] == 1)
        extra["split_check"] = _check(extra["split"], 1.0 if closes else 0.9)
    if extra["memory"]:
        extra["memory"] |= _memory(extra["engine"], extra["memory"]["peak_bytes"])
    for ratio in extra["ratios"]:
        ratio["verdict"] = _word(ratio["value"])


def _word(value: float) -> str:
    if abs(value - 1) < 0.018:
        return "no difference"
    return "faster" if value < 1 else "slower"


def _check(parts: Json, share: float) -> Json:
    found = sum(parts.values())
    return {"total_seconds": found / share, "sum_seconds": found, "closes": share > 0.95}


def _memory(engine: str, peak: int) -> Json:
    steps = 40 if engine == "tape" else 30
    rise = [int(0.9 * peak * np.sin(np.pi * at / steps) ** 0.8) for at in range(steps + 1)]
    tape = engine == "tape"
    return {
        "curve": [[place, size] for place, size in enumerate(rise)], "allocations": 420 if tape else None,
        "allocated_bytes": 3 * peak, "record_bytes": 18_000 if tape else 240_000,
        "record_entries": 36 if tape else 400, "lower_bound_bytes": 600 * MIB,
        "peak_bytes_by_call": [peak, peak + MIB], "notes": {} if tape else {"allocations": "the plan allocates once"},
    }  # fmt: skip


def _copies(run: Json, wanted: Callable[[Json], bool], change: Callable[[Json], Json]) -> list[Json]:
    found = []
    for row in run["benchmarks"]:
        if wanted(row["extra_info"]):
            new = copy.deepcopy(row)
            new["extra_info"] |= change(new["extra_info"])
            new["name"] += "-2"
            found.append(new)
    return found


def _cold(run: Json) -> list[Json]:
    def change(extra: Json) -> Json:
        phases = {name: 4 * seconds for name, seconds in extra["phases"].items()}
        return {"cold": True, "phases": phases, "phases_check": _check(phases, 0.8) if phases else None}

    rows = _copies(run, lambda extra: bool(extra["question"] == "preparing"), change)
    for row in rows:
        row["stats"]["data"] = [4 * sample for sample in row["stats"]["data"]]
        row["extra_info"]["interval"] = None
    return rows


def _collected(run: Json) -> list[Json]:
    def change(extra: Json, *, on: bool) -> Json:
        to, name = extra["engine"], extra["engine"] + "+gc"
        ratio = {"value": 1.05, "low": 1.03, "high": 1.07, "confidence": 0.95, "rounds": 12}
        stored = [ratio | {"to": to, "verdict": "slower"}] if on else []
        return {"question": "collector", "engine": name if on else to, "collector": on, "ratios": stored}

    def wanted(extra: Json) -> bool:
        return extra["question"] == "step" and extra["batch_size"] == 8 and extra["engine"] in ("tape", "graph")

    return _copies(run, wanted, lambda it: change(it, on=False)) + _copies(run, wanted, lambda it: change(it, on=True))


def _walk(run: Json) -> list[Json]:
    def wanted(extra: Json) -> bool:
        return (extra["question"], extra["batch_size"], extra["engine"]) == ("step", 8, "tape")

    found = []
    for name in ("tape", "replay", "straight line", "native", "without straight line", "without native"):
        facts = {"question": "attribution", "engine": name, "style": "static", "ratios": [], "split": None}
        found += _copies(run, wanted, lambda _, facts=facts: facts | {"split_check": None})
    return found


def _recomputed(run: Json) -> list[Json]:
    def wanted(extra: Json) -> bool:
        return (extra["question"], extra["workload"], extra["engine"]) == ("memory", "cnn", "tape")

    plain = _copies(run, wanted, lambda _: {"question": "recompute"})
    ratio = {"to": "tape", "value": 1.4, "low": 1.35, "high": 1.45, "confidence": 0.95, "rounds": 12}
    facts = {"question": "recompute", "engine": "tape+recompute", "ratios": [ratio | {"verdict": "slower"}]}
    parts = _copies(run, wanted, lambda _: copy.deepcopy(facts))
    for row in parts:
        row["extra_info"]["memory"] |= {"peak_bytes": row["extra_info"]["memory"]["peak_bytes"] // 4}
    return plain + parts


def _on_a_gpu(run: Json) -> list[Json]:
    def wanted(extra: Json) -> bool:
        return extra["question"] == "step" and extra["workload"] == "mlp" and extra["batch_size"] == 64

    rows = _copies(run, wanted, lambda _: {"device": "cuda"})
    for row in rows:
        samples = row["stats"]["data"]
        row["extra_info"]["device_seconds"] = [0.6 * sample for sample in samples]
        row["extra_info"]["every"] = {"calls": 10, "samples": [0.7 * sample for sample in samples]}
    return rows


def _never_ran(run: Json) -> list[Json]:
    gap = copy.deepcopy(run["missing"][0])
    rows = []
    for batch in (512, 1024):
        row = copy.deepcopy(gap)
        row["extra_info"] |= {"batch_size": batch, "status": "not run", "reason": "the run was interrupted"}
        rows.append(row)
    return rows
