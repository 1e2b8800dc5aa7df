"""What conductor and worker say to each other: one JSON object a line, over a pipe each way.

A worker greets first, then answers each request in turn:

    <- {"id": 0, "hello": 1, "pid": 4711, "python": "3.11.7", "torch": "2.13.0", ...}
    -> {"id": 1, "do": "prepare", "cell": {...}, "contender": {...}}
    <- {"id": 1, "answer": {"style": "dynamic", "phases": {...}, "seconds": 0.004, ...}}
    -> {"id": 2, "do": "sample", "calls": 25}
    <- {"id": 2, "answer": {"seconds": 0.00081, ...}}
    <- {"id": 2, "refused": "failed", "reason": "ValueError: ..."}        # instead, where the engine did not manage

Requests, in the order in which a cell asks for them (`worker.py` has one method for each):

    start        settings of this process: the arrays' folder, a limit on memory, threads
    prepare      make the cell's engine and program; phases, total, style, warnings
    prepare_cold the same with the first call, asked of a fresh process only; phases and total
    results      run it once; loss, gradients, parameters go into a file of arrays
    judge        hold such a file against the float64 reference
    first_call   the first call that is timed
    warm_up      calls until the level is stable; the level of each sample, and the calls that make one
    sample       one sample of a round
    split        forward, backward and update apart, where the program can
    counters     exact counts
    memory       what one call needs (asked of a fresh process only)
    train        one epoch of training on digits
    accuracy     test accuracy of what was trained
    stream       a stream of batches that change in shape, twice, from empty caches

Where several contenders share a process, a request also names the `guest` that is meant.

Anything else on the pipe is nonsense, and costs the worker its life and the cell this one row.
"""

from __future__ import annotations

import json
from typing import Any, Literal

VERSION = 1

Status = Literal["measured", "wrong", "failed", "crashed", "timed out", "out of memory", "skipped", "not run"]
"""What can become of a row. Only a measured one has a time; every other has a reason."""


class WorkerError(Exception):
    """A worker that gave no usable answer: what became of it (a `Status`), and why."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status: Status = status
        self.reason = reason


def encode(message: dict[str, Any]) -> bytes:
    """A message as one line."""
    return json.dumps(message).encode() + b"\n"


def decode_request(line: bytes) -> tuple[int, str, dict[str, Any]]:
    """A request's number, what is to be done, and what is given for it."""
    message = json.loads(line)
    return message.pop("id"), message.pop("do"), message


def decode(line: bytes, wanted: int) -> dict[str, Any]:
    """The message on a line. Raises WorkerError where it is not the answer that was waited for."""
    try:
        message = json.loads(line)
    except ValueError:
        message = None
    if not isinstance(message, dict) or message.get("id") != wanted:
        said = line[:80].decode(errors="replace").rstrip()
        raise WorkerError("failed", f"nonsense from the worker: found {said!r}, expected the answer to {wanted}")
    return message
