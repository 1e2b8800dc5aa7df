"""Which kernels of MKL's vector functions run is settled by one thread, before models call them on several."""

from __future__ import annotations

import json
import mmap
import re
import subprocess
import sys
from pathlib import Path

import torch

from engines.ops.settle import FUNCTIONS

MKL_NAMES = {"ln": "log"}
"""What MKL calls otherwise than torch."""

CALLS = """
import json, sys, torch
calls = []
def watched(name, function):
    return lambda x: calls.append((name, str(x.dtype), x.numel())) or function(x)
for name in sys.argv[1:]:
    setattr(torch, name, watched(name, getattr(torch, name)))
import engines.ops
print(json.dumps(calls))
"""


def test_importing_the_ops_calls_each_function_on_one_number_in_each_dtype() -> None:
    made = subprocess.run([sys.executable, "-c", CALLS, *FUNCTIONS], capture_output=True, text=True, check=True)
    calls = {tuple(call) for call in json.loads(made.stdout)}
    assert calls == {(name, dtype, 1) for name in FUNCTIONS for dtype in ("torch.float32", "torch.float64")}


def test_every_function_that_torch_leaves_to_mkl_is_settled() -> None:
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = {name.decode().lower() for name in re.findall(rb"\0vms([A-Z][A-Za-z0-9]{2,})(?=\0)", content)}
    assert {MKL_NAMES.get(name, name) for name in found} <= set(FUNCTIONS)
    assert found or not torch.backends.mkl.is_available()
