"""Where programs keep on disk what they have compiled, so that getting ready can be measured with nothing there.

variables(folder)               # for a process that shall find nothing
temporary(folder)               # for one whose temporary files shall go with the folder, and nothing else
with empty_caches(): ...        # the same in this process, for what our own graphs compile to
"""

from __future__ import annotations

import getpass
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OURS = ("XDG_CACHE_HOME", "TRITON_CACHE_DIR")
"""Variables that say where libraries compiled from C lie, and Triton's kernels."""

INDUCTOR = "TORCHINDUCTOR_CACHE_DIR"
OTHERS = (INDUCTOR, "CUDA_CACHE_PATH")
"""The same for PyTorch's compiler, and for what CUDA's driver compiles."""

NOT_IN_NAMES = r'[\\/:*?"<>|]'
"""What PyTorch's compiler replaces in a user's name."""


def temporary(folder: Path) -> dict[str, str]:
    """Environment variables that put temporary files there, and leave the caches where they are.

    PyTorch's compiler has its own among the temporary files, by default, and is to find it again in the next session.
    """
    usual = Path(tempfile.gettempdir()) / f"torchinductor_{re.sub(NOT_IN_NAMES, '_', _user())}"
    return {"TMPDIR": str(folder), INDUCTOR: os.environ.get(INDUCTOR, str(usual))}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in a container
        return f"uid_{os.getuid()}"


def variables(folder: Path) -> dict[str, str]:
    """Environment variables that put every cache below this folder."""
    return {name: str(folder / name.lower()) for name in (*OURS, *OTHERS)}


@contextmanager
def empty_caches() -> Iterator[None]:
    """Within, what our graphs keep on disk between runs is not there, and goes nowhere that lasts."""
    before = {name: os.environ.get(name) for name in OURS}
    with tempfile.TemporaryDirectory(prefix="tape-vs-graph-") as folder:
        os.environ |= {name: variables(Path(folder))[name] for name in OURS}
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
