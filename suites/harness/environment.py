"""The machine a number came from, and a fingerprint that says whether two runs may be compared."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

IDENTITY = ("cpu", "machine", "cores_allowed", "threads", "gpu", "python", "torch", "numpy")
"""What must be equal for two runs to be comparable."""


def environment(effort: str) -> dict[str, Any]:
    """Everything about this machine that can move a number."""
    facts: dict[str, Any] = {
        "effort": effort,
        "cpu": _cpu_model(),
        "machine": platform.machine(),
        "cores_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
    }
    identity = json.dumps({key: facts[key] for key in IDENTITY}, sort_keys=True)
    return {"fingerprint": hashlib.sha256(identity.encode()).hexdigest()[:16], **facts}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf8").splitlines()
        return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    except OSError:
        return platform.processor() or "unknown"
