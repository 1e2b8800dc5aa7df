"""Turn one stored run (pytest-benchmark JSON with our `extra_info`) into typed, frozen records.

    run = read_run(Path("results/box/0001_run.json"))
    for record in run.records:
        print(record.cell, record.engine, record.status, len(record.seconds_per_call))

All checks happen here, once: whatever comes out of `read_run` can be used without looking twice.
"""

from __future__ import annotations

from pathlib import Path

from report.fields import Field, load
from report.stored import (
    COUNTED_IN_OPS,
    GAPS,
    QUANTITIES,
    QUESTIONS,
    STYLES,
    VERDICTS,
    Agreement,
    Cell,
    Learning,
    Memory,
    Ratio,
    Record,
    Run,
    Status,
)

SCHEMA = 1


def read_run(file: Path) -> Run:
    """Read one stored run; raises ReportError, naming file and field, where it is not exactly what it should be."""
    root = load(file)
    measured = [_record(row, measured=True) for row in root["benchmarks"].items()]
    gaps = [_record(row, measured=False) for row in _list(root, "missing")]
    _refuse_twins(root, measured + gaps)
    environment = root["machine_info"]["environment"]
    commit = root["commit_info"]
    dirty, effort = environment.optional("dirty"), environment.optional("effort")
    return Run(
        file=str(file),
        taken_at=_text(root, "datetime"),
        machine=_machine(root["machine_info"]),
        fingerprint=environment["fingerprint"].text(),
        environment={key: member.value for key, member in environment.members().items()},
        commit=commit["id"].text(),
        branch=_text(commit, "branch"),
        dirty=commit["dirty"].flag() or (dirty is not None and dirty.flag()),
        effort=effort.text() if effort else None,
        records=tuple(record for _, record in measured + gaps),
    )


def _record(row: Field, *, measured: bool) -> tuple[Field, Record]:
    extra = row["extra_info"]
    _check_schema(extra)
    status: Status = extra["status"].one_of(("measured",) if measured else GAPS)
    samples = tuple(sample.positive() for sample in row["stats"]["data"].items()) if measured else ()
    if measured and not samples:
        row["stats"]["data"].fail("at least one sample (store runs with --benchmark-save-data)")
    record = Record(
        file=str(row.file),
        name=row["name"].text(),
        cell=_cell(extra),
        engine=extra["engine"].text(),
        style=extra["style"].one_of(STYLES),
        status=status,
        reason=_text(extra, "reason") if measured else extra["reason"].text(),
        seconds_per_call=samples,
        calls_per_sample=extra["calls_per_sample"].whole(1),
        phase_seconds={name: phase.not_negative() for name, phase in extra["phases"].members().items()},
        counters={name: counter.whole() for name, counter in extra["counters"].members().items()},
        memory=_memory(extra) if measured else None,
        agreement=_agreement(extra["agreement"], measured=measured),
        ratios=_ratios(extra) if measured else (),
        learning=_learning(extra) if measured else None,
    )
    return row, record


def _check_schema(extra: Field) -> None:
    if "schema" not in extra.members():
        keys = ", ".join(extra.members()) or "no fields"
        extra.fail(f"the fields of schema {SCHEMA}", f"a row that this suite did not write ({keys})")
    if extra["schema"].whole() != SCHEMA:
        extra["schema"].fail(f"schema {SCHEMA}, the only one this version reads")


def _cell(extra: Field) -> Cell:
    question = extra["question"].one_of(QUESTIONS)
    size = {key: member.whole() for key, member in extra["size"].members().items()}
    if question in COUNTED_IN_OPS:
        extra["size"]["ops"].whole(1)
    return Cell(
        question=question,
        workload=extra["workload"].text(),
        formulation=extra["formulation"].text(),
        device=extra["device"].text(),
        dtype=extra["dtype"].text(),
        quantity=extra["quantity"].one_of(QUANTITIES),
        size=tuple(sorted(size.items())),
        batch_size=extra["batch_size"].whole(1),
    )


def _memory(extra: Field) -> Memory | None:
    memory = extra.optional("memory")
    if memory is None:
        if extra["question"].value == "memory":
            extra["memory"].fail("an object with peak_bytes, in a row of the question memory")
        return None
    return Memory(memory["peak_bytes"].whole(), memory["live_bytes_before"].whole(), memory["method"].text())


def _agreement(agreement: Field, *, measured: bool) -> Agreement:
    verdict = agreement["verdict"].one_of(VERDICTS)
    if measured and verdict == "wrong":
        agreement["verdict"].fail("agrees or unchecked, since a wrong row gets no time")
    error, allowed = agreement.optional("error"), agreement.optional("allowed")
    return Agreement(
        verdict=verdict,
        worst=_text(agreement, "worst"),
        error=error.error() if error else None,
        allowed=allowed.not_negative() if allowed else None,
        reference=_text(agreement, "reference"),
    )


def _ratios(extra: Field) -> tuple[Ratio, ...]:
    single = extra.optional("ratio")
    fields = extra["ratios"].items() + ([single] if single else [])
    by_engine = {ratio.to: ratio for ratio in map(_ratio, fields)}  # `ratio` repeats one of `ratios`
    return tuple(by_engine.values())


def _ratio(field: Field) -> Ratio:
    low, high = field["low"].positive(), field["high"].positive()
    if low > high:
        field["low"].fail(f"at most {field.path}.high, which is {high}")
    confidence = field["confidence"].positive()
    if confidence >= 1:
        field["confidence"].fail("a share between 0 and 1")
    return Ratio(field["to"].text(), field["value"].positive(), low, high, confidence, field["rounds"].whole(1))


def _learning(extra: Field) -> Learning | None:
    learning = extra.optional("learning")
    if learning is None:
        if extra["question"].value == "learning":
            extra["learning"].fail("an object with losses, in a row of the question learning")
        return None
    losses = tuple(loss.number() for loss in learning["losses"].items())
    if not losses:
        learning["losses"].fail("at least one loss")
    accuracy = learning["test_accuracy"].not_negative()
    if accuracy > 1:
        learning["test_accuracy"].fail("a share between 0 and 1")
    difference = learning.optional("largest_relative_difference")
    return Learning(
        losses=losses,
        steps_per_epoch=learning["steps_per_epoch"].whole(1),
        epochs=learning["epochs"].whole(1),
        test_accuracy=accuracy,
        seed=learning["seed"].whole(),
        train_samples=learning["train_samples"].whole(1),
        test_samples=learning["test_samples"].whole(1),
        equal_bits_to=_text(learning, "equal_bits_to"),
        largest_relative_difference=difference.not_negative() if difference else None,
    )


def _machine(info: Field) -> dict[str, str]:
    cpu = info.optional("cpu")
    facts = {
        "node": _text(info, "node"),
        "processor": _text(cpu, "brand_raw") if cpu else _text(info, "processor"),
        "architecture": _text(info, "machine"),
        "system": " ".join(part for part in (_text(info, "system"), _text(info, "release")) if part),
        "python": _text(info, "python_version"),
        "logical CPUs": str(cpu["count"].whole(1)) if cpu and cpu.optional("count") else None,
    }
    return {name: fact for name, fact in facts.items() if fact}


def _refuse_twins(root: Field, rows: list[tuple[Field, Record]]) -> None:
    seen: dict[tuple[Cell, str], Field] = {}
    for field, record in rows:
        first = seen.setdefault((record.cell, record.engine), field)
        if first is not field:
            field.fail("each row once in a file", f"the same cell and engine as {first.path}")


def _list(parent: Field, key: str) -> list[Field]:
    member = parent.optional(key)
    return member.items() if member else []


def _text(parent: Field, key: str) -> str | None:
    member = parent.optional(key)
    if member is None or member.value == "":  # pytest-benchmark leaves, for instance, `processor` empty
        return None
    return member.text()
