"""The GPUs that torch may use: what they are, and how they are at this moment.

    gpus()  # None without CUDA

What a GPU is comes from torch; clocks, temperature, power and what holds it back from `nvidia-smi`, which comes with
the driver. Without it, and for a slice of a GPU (MIG), which it does not list, `reading` is None.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from suites.harness.system import Ask, ask

MIB = 2**20

FIELDS = (
    "driver_version",
    "memory.used",
    "clocks.sm",
    "clocks.max.sm",
    "clocks.mem",
    "temperature.gpu",
    "power.draw",
    "power.limit",
)
"""What every driver tells; a single unknown field makes nvidia-smi refuse the whole question."""

REASONS_FIELDS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
"""Why clocks are not at their highest, as a bit mask; the second is the name that older drivers know."""

REASONS: Mapping[int, str] = {
    0x001: "gpu_idle",
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}
"""The bits, from NVIDIA's NVML reference, "NvmlClocksEventReasons"."""

COUNTED = ("sw_power_cap", "sync_boost", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown")
"""The reasons for which newer drivers count microseconds."""

THROTTLES = (*COUNTED, "hw_slowdown")
"""The reasons that slow a GPU against the user's will; idling and clocks that somebody has set are none."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A GPU at one moment, as its driver tells it. `throttled_seconds` add up: only their growth tells."""

    driver: str | None
    memory_used_bytes: int | None
    sm_mhz: float | None
    sm_max_mhz: float | None
    memory_mhz: float | None
    celsius: float | None
    watts: float | None
    watts_limit: float | None
    reasons: tuple[str, ...] | None
    throttled_seconds: Mapping[str, float] | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, numbered as torch numbers it."""

    index: int
    name: str
    uuid: str
    capability: str
    multiprocessors: int
    memory_bytes: int
    reading: Reading | None


def gpus(ask: Ask = ask) -> tuple[Gpu, ...] | None:
    """All GPUs that torch sees; None without CUDA."""
    if not torch.cuda.is_available():
        return None
    known = readings(ask)
    return tuple(_gpu(index, known) for index in range(torch.cuda.device_count()))


def _gpu(index: int, known: Mapping[str, Reading]) -> Gpu:
    facts = torch.cuda.get_device_properties(index)
    uuid = f"GPU-{facts.uuid}"  # torch leaves out the prefix that the driver writes
    return Gpu(
        index=index,
        name=facts.name,
        uuid=uuid,
        capability=f"{facts.major}.{facts.minor}",
        multiprocessors=facts.multi_processor_count,
        memory_bytes=facts.total_memory,
        reading=known.get(uuid),
    )


def readings(ask: Ask) -> dict[str, Reading]:
    """What nvidia-smi tells of each GPU of the machine, by uuid; empty where it is not there."""
    plain = _query(FIELDS, ask)
    if not plain:
        return {}
    active = _query(REASONS_FIELDS[:1], ask) or _query(REASONS_FIELDS[1:], ask)
    counters = _query([f"clocks_event_reasons_counters.{name}" for name in COUNTED], ask)
    return {uuid: _reading(row, active.get(uuid), counters.get(uuid)) for uuid, row in plain.items()}


def _query(fields: Sequence[str], ask: Ask) -> dict[str, list[str]]:
    answer = ask("nvidia-smi", f"--query-gpu={','.join(('uuid', *fields))}", "--format=csv,noheader,nounits")
    rows = csv.reader((answer or "").splitlines(), skipinitialspace=True)
    return {row[0]: row[1:] for row in rows if len(row) == len(fields) + 1}


def _reading(row: Sequence[str], active: Sequence[str] | None, counters: Sequence[str] | None) -> Reading:
    driver, (used_mib, *numbers) = row[0], map(_number, row[1:])
    sm_mhz, sm_max_mhz, memory_mhz, celsius, watts, watts_limit = numbers
    return Reading(
        driver=driver or None,
        memory_used_bytes=None if used_mib is None else round(used_mib * MIB),
        sm_mhz=sm_mhz,
        sm_max_mhz=sm_max_mhz,
        memory_mhz=memory_mhz,
        celsius=celsius,
        watts=watts,
        watts_limit=watts_limit,
        reasons=reasons(active[0]) if active else None,
        throttled_seconds=_throttled_seconds(counters) if counters else None,
    )


def reasons(mask: str) -> tuple[str, ...] | None:
    """The reasons in a bit mask such as `0x0000000000000044`; None where it is no mask."""
    try:
        bits = int(mask, 16)
    except ValueError:  # [N/A]
        return None
    return tuple(name for bit, name in REASONS.items() if bits & bit)


def _throttled_seconds(counters: Sequence[str]) -> dict[str, float] | None:
    micro = {name: count for name, text in zip(COUNTED, counters, strict=True) if (count := _number(text)) is not None}
    return {name: count / 1e6 for name, count in micro.items()} or None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # [N/A], [Not Supported], [Unknown Error]
        return None
