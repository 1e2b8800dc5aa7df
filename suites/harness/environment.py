"""The machine and the process that a number came from.

    environment("quick")  # plain JSON values, as they are stored, with the fingerprint

What cannot be found out is None, never a guess.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import sysconfig
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from threadpoolctl import threadpool_info

from suites.harness.fingerprint import fingerprint
from suites.harness.gpu import Gpu, gpus
from suites.harness.system import (
    HERE,
    Ask,
    Files,
    Frequency,
    allowed_cores,
    ask,
    cores_quota,
    cpu_model,
    frequency,
    memory_limit_bytes,
)

REPOSITORY = Path(__file__).parents[2]

MEASURED_CODE = ("engines", "suites", "pyproject.toml", "constraints.txt")
"""What makes a repository dirty here: a run that stores its results does not spoil the next one."""

PACKAGES = ("scipy", "pandas", "psutil", "pytest", "pytest-benchmark", "memray", "threadpoolctl", "triton")

VARIABLE_NAMES = (
    "ATEN_CPU_CAPABILITY",
    "DYLD_INSERT_LIBRARIES",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "NVIDIA_TF32_OVERRIDE",
    "PYTHONDEVMODE",
    "PYTHONHASHSEED",
    "PYTHONMALLOC",
    "PYTHONOPTIMIZE",
    "PYTHON_GIL",
    "PYTHON_JIT",
)
VARIABLE_PREFIXES = (
    "CUBLAS_",
    "CUDA_",
    "CUDNN_",
    "DNNL_",
    "GOMP_",
    "KMP_",
    "MALLOC_",
    "MKL_",
    "OMP_",
    "ONEDNN_",
    "OPENBLAS_",
    "PYTORCH_",
    "TORCH",
    "TRITON_",
)
"""The environment variables that are stored, with those above: they choose code, threads or allocator."""


@dataclass(frozen=True, slots=True)
class Library:
    """A library that runs threads of its own, as threadpoolctl finds it in this process."""

    user_api: str
    internal_api: str
    prefix: str
    version: str | None
    num_threads: int | None
    threading_layer: str | None
    architecture: str | None


@dataclass(frozen=True, slots=True)
class Cores:
    """Cores of the machine, those that this process may run on, and the time on them that control groups allow."""

    machine: int | None
    affinity: int
    quota: float | None


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory and swap of the machine, and the limit of the control groups."""

    available_bytes: int
    limit_bytes: int | None
    swap_total_bytes: int
    swap_used_bytes: int


@dataclass(frozen=True, slots=True)
class Environment:
    """Everything about this machine that can move a number.

    `threads` and `interop_threads` are torch's; `gpu` is the one that torch uses unless told otherwise; `commit` and
    `dirty` are None outside a checkout.
    """

    effort: str
    commit: str | None
    dirty: bool | None
    cpu: str | None
    machine: str
    vector_instructions: str
    cores_allowed: float
    cores: Cores
    frequency: Frequency
    load_1min: float | None
    load_5min: float | None
    load_15min: float | None
    threads: int
    interop_threads: int
    libraries: tuple[Library, ...]
    memory_bytes: int
    memory: Memory
    gpu: str | None
    gpus: tuple[Gpu, ...] | None
    python: str
    torch: str
    numpy: str
    versions: Mapping[str, str | None]
    debug_builds: tuple[str, ...]
    variables: Mapping[str, str]


def environment(effort: str, files: Files = HERE) -> dict[str, Any]:
    """This machine and this process, as plain JSON values, with the fingerprint."""
    facts: dict[str, Any] = json.loads(json.dumps(asdict(look(effort, files))))  # tuples become what a reader will get
    return {"fingerprint": fingerprint(facts), **facts}


def look(effort: str, files: Files = HERE) -> Environment:
    """Find out everything."""
    cores = allowed_cores()
    quota = cores_quota(files)
    commit, dirty = repository(REPOSITORY)
    load = _load()
    found = gpus()
    return Environment(
        effort=effort,
        commit=commit,
        dirty=dirty,
        cpu=cpu_model(files) or ask("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor() or None,
        machine=platform.machine(),
        vector_instructions=torch.backends.cpu.get_cpu_capability(),
        cores_allowed=_cores_allowed(len(cores), quota),
        cores=Cores(os.cpu_count(), len(cores), quota),
        frequency=frequency(files, cores),
        load_1min=load[0],
        load_5min=load[1],
        load_15min=load[2],
        threads=torch.get_num_threads(),
        interop_threads=torch.get_num_interop_threads(),
        libraries=libraries(),
        memory_bytes=psutil.virtual_memory().total,
        memory=_memory(files),
        gpu=torch.cuda.get_device_name() if found else None,
        gpus=found,
        python=platform.python_version(),
        torch=torch.__version__,
        numpy=np.__version__,
        versions=_versions(found),
        debug_builds=debug_builds(),
        variables=variables(os.environ),
    )


def repository(folder: Path, ask: Ask = ask) -> tuple[str | None, bool | None]:
    """The commit that is checked out at `folder`, and whether the code differs from it."""
    git = ("git", "-C", str(folder))
    top = ask(*git, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != folder.resolve():  # installed into an environment inside another checkout
        return None, None
    changes = ask(*git, "status", "--porcelain", "--", *MEASURED_CODE)
    return ask(*git, "rev-parse", "--verify", "HEAD"), None if changes is None else changes != ""


def libraries() -> tuple[Library, ...]:
    """Threads per library: BLAS and OpenMP runtimes that this process has loaded, in a fixed order."""
    found = [
        Library(
            user_api=info["user_api"],
            internal_api=info["internal_api"],
            prefix=info["prefix"],
            version=info["version"],
            num_threads=info["num_threads"],
            threading_layer=info.get("threading_layer"),
            architecture=info.get("architecture"),
        )
        for info in threadpool_info()
    ]
    return tuple(sorted(found, key=lambda library: (library.user_api, library.prefix, library.version or "")))


def debug_builds() -> tuple[str, ...]:
    """What in this process was built, or is run, for finding faults and is slower for it."""
    debugging = {
        "python": bool(sysconfig.get_config_var("Py_DEBUG")) or hasattr(sys, "gettotalrefcount"),
        "python's development mode": sys.flags.dev_mode,
        "torch": bool(torch.version.debug),
    }
    return tuple(name for name, found in debugging.items() if found)


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that matter, by name."""
    return {
        name: environ[name] for name in sorted(environ) if name in VARIABLE_NAMES or name.startswith(VARIABLE_PREFIXES)
    }


def _cores_allowed(affinity: int, quota: float | None) -> float:
    if quota is None or quota >= affinity:
        return affinity
    return int(quota) if quota.is_integer() else quota  # 2 and 2.0 would be two fingerprints


def _load() -> tuple[float | None, float | None, float | None]:
    try:
        one, five, fifteen = os.getloadavg()
    except (AttributeError, OSError):  # not on this system; not at this moment
        return None, None, None
    return round(one, 2), round(five, 2), round(fifteen, 2)


def _memory(files: Files) -> Memory:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of pages swapped, which psutil adds and nobody reads here
        swap = psutil.swap_memory()
    return Memory(psutil.virtual_memory().available, memory_limit_bytes(files), swap.total, swap.used)


def _versions(found: tuple[Gpu, ...] | None) -> dict[str, str | None]:
    config = torch.__config__.show()
    drivers = {gpu.reading.driver for gpu in found or () if gpu.reading and gpu.reading.driver}
    return {
        "implementation": platform.python_implementation(),
        "python_compiler": platform.python_compiler(),
        "torch_git": torch.version.git_version,
        "cuda": torch.version.cuda,
        "cudnn": _first(r"CuDNN (\S+)", config),
        "gpu_driver": ", ".join(sorted(drivers)) or None,
        "mkl": _first(r"Math Kernel Library Version (.+?) for ", config),
        "onednn": _first(r"(?:MKL-DNN|oneDNN) (v\S+)", config),
        "openmp": _first(r"- OpenMP (\d+)", config),
        **{name.replace("-", "_"): _installed(name) for name in PACKAGES},
        "kernel": f"{platform.system()} {platform.release()}",
        "libc": " ".join(platform.libc_ver()).strip() or None,
        "c_compiler": (ask("cc", "--version") or "").partition("\n")[0] or None,
    }


def _first(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text)
    return found.group(1) if found else None


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
