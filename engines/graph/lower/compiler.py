"""The system's C compiler: from source to a loaded library, by way of a cache on disk.

    library = load(source)          # None where there is no compiler, or it refuses; said once
    library.some_function(...)

A library is kept under the hash of its source, the compiler, its flags and the processor's features, so that a changed
one is never mistaken for another. It is written whole or not at all: two processes may compile the same source at once.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from pathlib import Path

COMPILERS = ("cc", "gcc", "clang")

FLAGS = (
    *("-O3", "-march=native", "-std=gnu11", "-shared", "-fPIC", "-fopenmp"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fno-strict-aliasing", "-w"),
)
"""No -ffast-math: NaN, infinities and signed zeros keep their meaning, and sums their order unless asked otherwise."""

LIMIT_SECONDS = 150
"""Far less than whoever waits for an engine may wait, since a graph's choices are compiled before it is; the kernels
are there. It is spent but once on a source: one that takes too long is not tried again."""


def load(source: str) -> ctypes.CDLL | None:
    """The library that `source` compiles to; None where that cannot be done."""
    compiler = find_compiler()
    if compiler is None:
        say_once(f"no C compiler found ({', '.join(COMPILERS)}): fused regions run as single kernels")
        return None
    path = cached(source, compiler)
    for attempt in (0, 1):
        try:
            if not path.exists():
                compile_to(path, source, compiler)
            return ctypes.CDLL(str(path))
        except (
            OSError,
            subprocess.SubprocessError,
        ) as error:  # a file in the cache may be damaged: once more without it
            path.unlink(missing_ok=True)
            if attempt or isinstance(error, subprocess.TimeoutExpired):
                say_once(f"{compiler} failed: {_reason(error)}: fused regions run as single kernels")
                break
    return None


def load_all(sources: Sequence[str]) -> Sequence[ctypes.CDLL] | None:
    """The library of each source, compiled at the same time; None where one of them cannot be had."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        libraries = list(pool.map(load, sources))
    found = [library for library in libraries if library is not None]
    return found if len(found) == len(sources) else None


@lru_cache(maxsize=1)
def find_compiler() -> str | None:
    """The path of the C compiler, if there is one."""
    return next((path for path in map(shutil.which, COMPILERS) if path is not None), None)


def cached(source: str, compiler: str) -> Path:
    """Where the library of a source stands in the cache, or will stand."""
    identity = "\n".join([_signature(compiler), *FLAGS, cpu_features(), source])
    return cache_folder() / f"{hashlib.sha256(identity.encode()).hexdigest()[:40]}.so"


def cache_folder() -> Path:
    """The user's cache, or the folder for temporary files where there is no home to write to."""
    try:
        caches = os.environ.get("XDG_CACHE_HOME")  # where a user's caches lie, by the XDG base directory specification
        folder = (Path(caches) if caches else Path.home() / ".cache") / "tape-vs-graph"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):  # no home at all is a RuntimeError
        pass
    return _private_folder()


@lru_cache(maxsize=1)
def _private_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="tape-vs-graph-"))


def _signature(compiler: str) -> str:
    """Which compiler it is: asking for its version would cost a process each time."""
    real = Path(compiler).resolve()
    status = real.stat()
    return f"{real} {status.st_size} {status.st_mtime_ns}"


@lru_cache(maxsize=1)
def cpu_features() -> str:
    """What tells apart processors that cannot run each other's code."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    found = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    return "\n".join([platform.machine(), *dict.fromkeys(found)])


def compile_to(path: Path, source: str, compiler: str) -> None:
    """Compile a source to a shared library at `path`. Raises SubprocessError or OSError."""
    with tempfile.TemporaryDirectory(prefix="tape-vs-graph-") as folder:
        text = Path(folder) / "graph.c"
        text.write_text(source)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
        try:
            _run([compiler, *FLAGS, str(text), "-o", str(unfinished), "-lm"])
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=LIMIT_SECONDS)


def _reason(error: Exception) -> str:
    """The first line of what a compiler said."""
    said = getattr(error, "stderr", None) or str(error)
    lines = str(said).strip().splitlines()
    return next((line for line in lines if "error" in line), lines[0] if lines else type(error).__name__)


@cache
def say_once(message: str) -> None:
    """Warn, but not again in this process."""
    warnings.warn(message, RuntimeWarning, stacklevel=2)
