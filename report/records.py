"""Turn one stored run (pytest-benchmark JSON with our `extra_info`) into typed, frozen records.

    run = read_run(Path("results/box/0001_run.json"))
    for record in run.records:
        print(record.cell, record.engine, record.status, len(record.seconds_per_call))

All checks happen here, once: whatever comes out of `read_run` can be used without looking twice.
"""

from __future__ import annotations

from pathlib import Path

from report.fields import Field, load
from report.memory_fields import read_memory
from report.method_fields import (
    confidence,
    launches,
    ordered,
    read_cautions,
    read_check,
    read_clock,
    read_control,
    read_interval,
    read_overhead,
    read_parts,
    read_sparse,
    read_stopped,
    read_warm_up,
    times,
)
from report.statistics import judge
from report.stored import (
    BY_WAYS,
    COUNTED_IN_OPS,
    GAPS,
    JUDGEMENTS,
    QUANTITIES,
    QUESTIONS,
    SHARED,
    STYLES,
    VERDICTS,
    Agreement,
    Cell,
    Learning,
    Memory,
    Question,
    Ratio,
    Record,
    Run,
    Start,
    Status,
    Stream,
)

SCHEMAS = (1, 2)


def read_run(file: Path) -> Run:
    """Read one stored run; raises ReportError, naming file and field, where it is not exactly what it should be."""
    root = load(file)
    measured = [_record(row, measured=True) for row in root["benchmarks"].items()]
    gaps = [_record(row, measured=False) for row in root.maybe("missing", Field.items) or []]
    _refuse_twins(root, measured + gaps)
    environment = root["machine_info"]["environment"]
    commit = root["commit_info"]
    return Run(
        file=str(file),
        taken_at=_text(root, "datetime"),
        machine=_machine(root["machine_info"]),
        fingerprint=environment["fingerprint"].text(),
        environment={key: member.value for key, member in environment.members().items()},
        commit=commit["id"].text(),
        branch=_text(commit, "branch"),
        dirty=commit["dirty"].flag() or bool(environment.maybe("dirty", Field.flag)),
        effort=environment.maybe("effort", Field.text),
        records=tuple(record for _, record in measured + gaps),
        control=root.maybe("control", lambda control: read_control(control, _cell)),
        overhead=root.maybe("overhead", read_overhead),
        cautions=root.maybe("cautions", read_cautions),
        interrupted=_text(root, "interrupted"),
    )


def _record(row: Field, *, measured: bool) -> tuple[Field, Record]:
    extra = row["extra_info"]
    schema = _schema(extra)
    status: Status = extra["status"].one_of(("measured",) if measured else GAPS)
    samples = tuple(sample.positive() for sample in row["stats"]["data"].items()) if measured else ()
    if measured and not samples:
        row["stats"]["data"].fail("at least one sample (store runs with --benchmark-save-data)")
    record = Record(
        schema=schema,
        file=str(row.file),
        name=row["name"].text(),
        cell=_cell(extra),
        engine=extra["engine"].text(),
        style=extra["style"].one_of(STYLES) if measured else extra.maybe("style", lambda style: style.one_of(STYLES)),
        status=status,
        reason=_text(extra, "reason") if measured else extra["reason"].text(),
        seconds_per_call=samples,
        calls_per_sample=extra["calls_per_sample"].whole(1) if measured else 1,
        phase_seconds=extra.maybe("phases", read_parts) or {},
        counters=extra.maybe("counters", _counters) or {},
        memory=_memory(extra) if measured else None,
        agreement=_agreement(extra, measured=measured),
        ratios=_ratios(extra) if measured else (),
        learning=_learning(extra) if measured else None,
        stream=_stream(extra) if measured else None,
        collector=extra.maybe("collector", Field.flag) or False,
        clock=extra.maybe("clock", read_clock),
        first_call_seconds=extra.maybe("first_call_seconds", Field.not_negative),
        warm_up=extra.maybe("warm_up", read_warm_up),
        stopped=extra.maybe("stopped", read_stopped),
        launches=_launches(extra, len(samples)),
        positions=tuple(position.whole() for position in extra.maybe("positions", Field.items) or []),
        device_seconds=extra.maybe("device_seconds", times) or (),
        every=extra.maybe("every", read_sparse),
        phases_check=extra.maybe("phases_check", read_check),
        split_seconds=extra.maybe("split", read_parts) or {},
        split_check=extra.maybe("split_check", read_check),
        interval=extra.maybe("interval", read_interval),
        notes=extra.maybe("notes", _notes),
    )
    return row, record


def _launches(extra: Field, samples: int) -> tuple[int, ...]:
    found = tuple(rounds.whole(1) for rounds in extra.maybe("launches", Field.items) or [])
    if found and sum(found) != samples:
        extra["launches"].fail(f"as many rounds in all as there are samples, which is {samples}")
    return found


def _schema(extra: Field) -> int:
    known = " or ".join(map(str, SCHEMAS))
    if "schema" not in extra.members():
        keys = ", ".join(extra.members()) or "no fields"
        extra.fail(f"the fields of schema {known}", f"a row that this suite did not write ({keys})")
    schema = extra["schema"].whole()
    if schema not in SCHEMAS:
        extra["schema"].fail(f"schema {known}, which is all that this version reads")
    return schema


def _cell(extra: Field) -> Cell:
    question = extra["question"].one_of(QUESTIONS)
    size = {key: member.knob() for key, member in extra["size"].members().items()}
    if question in COUNTED_IN_OPS:
        extra["size"]["ops"].whole(1)
    return Cell(
        question=question,
        workload=extra["workload"].text(),
        formulation=SHARED if question in BY_WAYS else extra["formulation"].text(),
        device=extra["device"].text(),
        dtype=extra["dtype"].text(),
        quantity=extra["quantity"].one_of(QUANTITIES),
        size=tuple(sorted(size.items())),
        batch_size=extra["batch_size"].whole(1),
        start=_start(extra, question),
    )


def _start(extra: Field, question: Question) -> Start:
    cold = extra.maybe("cold", Field.flag)
    if cold is None or question != "preparing":
        return ""
    return "cold" if cold else "warm"


def _notes(notes: Field) -> dict[str, str]:
    return {stage: note.text() for stage, note in notes.members().items()}


def _counters(counters: Field) -> dict[str, int]:
    return {name: counter.whole() for name, counter in counters.members().items()}


def _memory(extra: Field) -> Memory | None:
    memory = extra.maybe("memory", read_memory)
    if memory is None and extra["question"].value == "memory":
        extra["memory"].fail("an object with peak_bytes, in a row of the question memory")
    return memory


def _agreement(extra: Field, *, measured: bool) -> Agreement:
    if not measured and extra.optional("agreement") is None:
        return Agreement("unchecked", None, None, None, None)
    agreement = extra["agreement"]
    verdict = agreement["verdict"].one_of(VERDICTS)
    if measured and verdict == "wrong":
        agreement["verdict"].fail("agrees or unchecked, since a wrong row gets no time")
    return Agreement(
        verdict=verdict,
        worst=_text(agreement, "worst"),
        error=agreement.maybe("error", Field.error),
        allowed=agreement.maybe("allowed", Field.not_negative),
        reference=_text(agreement, "reference"),
    )


def _ratios(extra: Field) -> tuple[Ratio, ...]:
    if extra["question"].value == "learning":  # older files pair its steps, which are of different epochs and no pairs
        return ()
    single = extra.optional("ratio")
    fields = extra["ratios"].items() + ([single] if single else [])
    by_engine = {ratio.to: ratio for ratio in map(_ratio, fields)}  # `ratio` repeats one of `ratios`
    return tuple(by_engine.values())


def _ratio(field: Field) -> Ratio:
    low, high = ordered(field)
    return Ratio(
        to=field["to"].text(),
        value=field["value"].positive(),
        low=low,
        high=high,
        confidence=confidence(field),
        rounds=field["rounds"].whole(1),
        launches=launches(field),
        verdict=field.maybe("verdict", lambda word: word.one_of(JUDGEMENTS)) or judge(low, high),
    )


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
    return Learning(
        losses=losses,
        steps_per_epoch=learning["steps_per_epoch"].whole(1),
        epochs=learning["epochs"].whole(1),
        test_accuracy=accuracy,
        seed=learning["seed"].whole(),
        train_samples=learning["train_samples"].whole(1),
        test_samples=learning["test_samples"].whole(1),
        equal_bits_to=_text(learning, "equal_bits_to"),
        largest_relative_difference=learning.maybe("largest_relative_difference", Field.not_negative),
        compared_steps=learning.maybe("compared_steps", Field.whole),
    )


def _stream(extra: Field) -> Stream | None:
    stream = extra.optional("stream")
    if stream is None:
        if extra["question"].value == "shapes":
            extra["stream"].fail("an object with first_seconds, in a row of the question shapes")
        return None
    first, again = (times(stream[f"{passage}_seconds"]) for passage in ("first", "again"))
    if len(first) != len(again) or not first:
        stream["again_seconds"].fail(f"a time for each of the {len(first)} steps of first_seconds, and at least one")
    return Stream(stream["prepare_seconds"].not_negative(), first, again)


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


def _text(parent: Field, key: str) -> str | None:
    member = parent.optional(key)
    if member is None or member.value == "":  # pytest-benchmark leaves, for instance, `processor` empty
        return None
    return member.text()
