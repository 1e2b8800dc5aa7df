"""Whether two runs may be compared: what must be equal in the environments that they store.

differences(stored, other)  # [] where they may be compared, else what differs: ["threads", "versions.torch_git"]
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

IDENTITY = (
    "cpu",
    "machine",
    "vector_instructions",
    "cores_allowed",
    "frequency.governors",
    "frequency.boost",
    "threads",
    "interop_threads",
    "gpu",
    "versions.gpu_driver",
    "debug_builds",
    "python",
    "versions.implementation",
    "versions.python_compiler",
    "torch",
    "versions.torch_git",
    "versions.cuda",
    "versions.cudnn",
    "versions.mkl",
    "versions.onednn",
    "numpy",
    "versions.libc",
    "versions.c_compiler",
)
"""What must be equal for two runs to be comparable, beside the environment variables.

Not among them are what a run is made to compare (commit, effort), what changes by the minute and has cautions of its
own (load, clocks, free memory), the kernel's release, which machines change by themselves week by week, and Triton's
version, which torch's decides.
"""

VARIABLES_WITHOUT_SAY = (
    "CUDA_CACHE_PATH",
    "CUDA_HOME",
    "CUDA_PATH",
    "CUDA_VERSION",
    "KMP_DUPLICATE_LIB_OK",
    "KMP_INIT_AT_FORK",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TORCHINDUCTOR_CACHE_DIR",
    "TORCH_EXTENSIONS_DIR",
    "TORCH_HOME",
    "TRITON_CACHE_DIR",
    "TRITON_HOME",
)
"""Stored, but no part of the identity: folders, what other fields show the effect of, and what threadpoolctl and
scikit-learn set in their own process when they are imported."""


def fingerprint(stored: Mapping[str, Any]) -> str:
    """A short name of the identity: runs with the same one may be compared."""
    return hashlib.sha256(json.dumps(identity(stored), sort_keys=True).encode()).hexdigest()[:16]


def differences(stored: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What keeps two stored environments from being compared, by name; empty where their fingerprints are equal."""
    one, two = identity(stored), identity(other)
    return [name for name in (one | two) if one.get(name) != two.get(name)]


def identity(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an environment that must be equal, by name; what an older file lacks is None."""
    variables = {
        f"variables.{name}": value
        for name, value in (stored.get("variables") or {}).items()
        if name not in VARIABLES_WITHOUT_SAY
    }
    return {name: _field(stored, name) for name in IDENTITY} | variables


def _field(stored: Mapping[str, Any], name: str) -> Any:
    outer, _, inner = name.partition(".")
    value = stored.get(outer)
    return (value or {}).get(inner) if inner else value
