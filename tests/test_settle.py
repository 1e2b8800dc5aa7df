"""A kernel's first call in a process is as right as its second, whichever threads make it."""

from __future__ import annotations

import mmap
import re
import subprocess
import sys
from pathlib import Path

import torch

from engines.ops.settle import FUNCTIONS

MKL_NAMES = {"ln": "log", "erfinv": "erfinv"}
"""What MKL calls otherwise than torch."""

FORKS = 300
STORM = f"""
import os, torch, engines.ops
wrong = 0
for _ in range({FORKS}):
    pid = os.fork()
    if pid == 0:
        x = torch.linspace(-3, 3, 1 << 14)
        first, second = [(x.tanh(), x.exp(), x.sin(), x.erf()) for _ in range(2)]
        os._exit(not all(torch.equal(one, other) for one, other in zip(first, second)))
    wrong += os.waitpid(pid, 0)[1] != 0
print(wrong)
"""


def test_first_calls_on_several_threads_are_right() -> None:
    """Without `settle` this fails nearly always: about one process in sixty is wrong."""
    found = subprocess.run([sys.executable, "-c", STORM], capture_output=True, text=True, check=True)
    assert int(found.stdout) == 0


def test_every_function_that_torch_leaves_to_mkl_is_settled() -> None:
    (library,) = Path(torch.__file__).parent.glob("lib/libtorch_cpu.so")
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = {name.decode().lower() for name in re.findall(rb"\0vms([A-Z][A-Za-z0-9]{2,})(?=\0)", content)}
    assert {MKL_NAMES.get(name, name) for name in found} <= set(FUNCTIONS)
