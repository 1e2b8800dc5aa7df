"""The tape's record of one step, as it stands when the backward pass begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from engines.engine import Task, place_arrays, place_batch
from engines.ops.random import step_key
from engines.show.drawing import Box
from engines.tape import LEAF, Tape, Tensor
from engines.value import Location, Spec, user_location


class LinedEntries(list[Any]):
    """The entries of a tape, with the user's line of each."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[Location] = []

    def append(self, entry: Any) -> None:
        """As for any list, noting the line."""
        super().append(entry)
        self.lines.append(user_location())


@dataclass(frozen=True, slots=True)
class Row:
    """One entry: its slot, its op, the slots it reads, what it keeps, and the user's line."""

    slot: int
    op: str
    reads: tuple[int, ...]
    kept: tuple[str, ...]
    kept_bytes: int
    line: str


def show_tape(task: Task) -> tuple[str, list[Box]]:
    """The record as a table in text, and as boxes. Raises EngineError."""
    tape, lines, parameters = _record(task)
    names = {tensor.slot: name for name, tensor in parameters.items()}
    rows = list(_rows(tape, lines, names))
    ops = sum(row.op != LEAF for row in rows)
    kept = _kept_bytes(tape, {_storage(tensor.data)[0] for tensor in parameters.values()})
    heading = (
        f"== the tape: {ops} ops and {len(rows) - ops} parameters; the record itself takes {tape.record_bytes} bytes "
        f"({tape.record_bytes / max(ops, 1):.0f} an op) and keeps {kept} bytes of tensors beside the parameters"
    )
    columns = [("slot", "op", "reads", "bytes", "keeps", "line")]
    columns += [
        (f"{row.slot}", row.op, " ".join(map(str, row.reads)), f"{row.kept_bytes}", ", ".join(row.kept), row.line)
        for row in rows
    ]
    widths = [max(len(cells[i]) for cells in columns) for i in range(len(columns[0]))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) for cells in columns]
    boxes = [Box(row.slot, f"{row.slot} {row.op}", ", ".join(row.kept) or row.line, row.reads) for row in rows]
    return "\n".join([heading, "", *(line.rstrip() for line in table)]) + "\n", _joined(boxes, tape)


def _record(task: Task) -> tuple[Tape, list[Location], Mapping[str, Tensor]]:
    placed = place_batch(task, task.batch, step_key(0, 0))
    with Tape(task.device) as tape:
        tape.entries = entries = LinedEntries()
        ours = {name: tape.parameter(value) for name, value in place_arrays(task.parameters, task.device).items()}
        theirs = {name: tape.constant(value) for name, value in placed.batch.items()}
        task.loss(tape.ops, ours, theirs, None if placed.key is None else tape.constant(placed.key))
    return tape, entries.lines, ours


def _rows(tape: Tape, lines: list[Location], names: Mapping[int, str]) -> Iterator[Row]:
    for slot, (entry, line) in enumerate(zip(tape.entries, lines, strict=True)):
        if entry == LEAF:
            yield Row(slot, LEAF, (), (names[slot],), 0, "")
        elif isinstance(entry, tuple):
            pull = entry[0]
            kept = dict(zip(pull.saved, pull.kept(entry), strict=True))
            sizes = [tensor.nbytes for value in kept.values() for tensor in _tensors(value)]
            texts = tuple(f"{name}={_text(value)}" for name, value in kept.items())
            yield Row(slot, pull.name, pull.slots(entry), texts, sum(sizes), str(line))


def _tensors(value: Any) -> list[torch.Tensor]:
    """The tensors in a saved value, which for some ops is all that a rule reads."""
    parts = value if isinstance(value, tuple) else (value,)
    return [part for part in parts if isinstance(part, torch.Tensor)]


def _text(value: Any) -> str:
    found = ", ".join(str(Spec.of(tensor)) for tensor in _tensors(value))
    return found or (str(tuple(value)) if isinstance(value, tuple) else type(value).__name__)


def _kept_bytes(tape: Tape, parameters: set[int]) -> int:
    """Bytes of all storages that entries keep alive, each once, but for those of the parameters."""
    entries = [entry for entry in tape.entries if isinstance(entry, tuple)]
    storages = dict(_storage(t) for entry in entries for value in entry[0].kept(entry) for t in _tensors(value))
    return sum(size for address, size in storages.items() if address not in parameters)


def _storage(tensor: torch.Tensor) -> tuple[int, int]:
    """Address and bytes of what a tensor, or a view, stands in."""
    return tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()


def _joined(boxes: list[Box], tape: Tape) -> list[Box]:
    """The boxes, an arrow to an op's second output going to the op."""
    owners: dict[int | str, int | str] = {}
    last: int | str = 0
    for slot, entry in enumerate(tape.entries):
        last = last if entry is None else slot
        owners[slot] = last
    return [Box(box.key, box.title, box.detail, tuple(owners[key] for key in box.reads)) for box in boxes]
