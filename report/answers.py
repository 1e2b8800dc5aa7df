"""Answer one question of the page from the stored results: one function for each, all of the same kind.

    answer = step(results, labels)
    answer.word, answer.sentence       # "depends", "Of 9 cells, graph takes less time than tape in 5, ..."

No figure stands here that the results do not give; where they give none, the answer is `cannot tell`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from report import units
from report.attribution import Attribution, attributions, signed
from report.comparing import CANNOT_TELL, DEPENDS, Comparison, compare
from report.labels import Labels
from report.repayment import repayments, steps_text
from report.results import COLLECTED, Results, cells, uncollected
from report.statistics import share_interval, time_of
from report.stored import BY_WAYS, Cell, Question, Record

MOST_NAMED = 3
STATIC, DYNAMIC, OUTSIDE, PLAIN = "graph", "tape", "torch_eager", "torch_module"
COMPILED, RECOMPUTED = ("torch_compile", "torch_compile_reduce_overhead"), "tape+recompute"
TONES = {
    **dict.fromkeys(("faster", "less", "equal", "within tolerance", "agrees", "pays off"), "good"),
    **dict.fromkeys(("slower", "more", "never", "wrong"), "bad"),
    CANNOT_TELL: "unknown",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A question in words, one word for an answer, the sentence behind it, small print, and the section to look at."""

    anchor: str
    question: str
    word: str
    sentence: str
    details: tuple[str, ...] = ()

    @property
    def tone(self) -> str:
        """How the page colours the word: good, bad, unknown or plain. The word alone says it all."""
        return TONES.get(self.word, "plain")


def step(results: Results, labels: Labels) -> Answer:
    """Whether a training step is faster, for the graph in full and for other static engines in short."""
    others = dict.fromkeys(row.engine for row in results.of("step") if row.style == "static" and row.engine != STATIC)
    details = [compare(results, labels, "step", engine, DYNAMIC).short() for engine in others]
    comparison = compare(results, labels, "step", STATIC, DYNAMIC)
    return compared("step", "Is a graph step faster than a tape step?", comparison, details)


def break_even(results: Results, labels: Labels) -> Answer:
    """After how many steps the graph has caught up with the tape, for each cell where preparing was measured."""
    asked = "After how many steps has preparing the graph paid for itself?"
    found = [repayment for repayment in repayments(results) if repayment.engine == STATIC]
    cells_used = {it.prepare.cell for it in found}
    unused = [row.cell for row in results.of("preparing") if row.engine == STATIC and row.cell not in cells_used]
    details = [f"{labels.cell(cell)}: {CANNOT_TELL}, a step or preparing row is missing." for cell in unused]
    if not found:
        sentence = f"No cell has both a preparing row and a step row of {STATIC} and of {DYNAMIC}."
        return Answer("break-even", asked, CANNOT_TELL, sentence, tuple(details))
    listed = "; ".join(f"{labels.cell(it.cell)}: {steps_text(it.result)}" for it in found)
    counts = [len(row.seconds_per_call) for it in found for row in (it.prepare, it.other_prepare)]
    details.append(
        "Derived: the extra time of getting ready, which holds the first step, over what each further step saves. "
        f"Samples of getting ready: {_range(counts)}; a single one counts as exact."
    )
    return Answer("break-even", asked, _one(it.result.word for it in found), f"{listed}.", tuple(details))


def outside(results: Results, labels: Labels) -> Answer:
    """How graph and tape stand against PyTorch, eager and compiled, and what our interface costs PyTorch eager."""
    ours = compare(results, labels, "step", STATIC, OUTSIDE)
    details = [
        compare(results, labels, "step", DYNAMIC, OUTSIDE).sentence(),
        *against_compiled(results, labels, "step"),
        _interface_cost(results, labels),
    ]
    return compared("outside", "Is a graph step faster than one of PyTorch eager?", ours, details)


def forward(results: Results, labels: Labels) -> Answer:
    """Whether the forward pass alone is faster."""
    ours = compare(results, labels, "forward", STATIC, DYNAMIC)
    return compared("forward", "And forward alone?", ours, against_compiled(results, labels, "forward"))


def backward(results: Results, labels: Labels) -> Answer:
    """Whether loss and gradients, without the update, are faster."""
    ours = compare(results, labels, "backward", STATIC, DYNAMIC)
    return compared("backward", "And loss with gradients?", ours, against_compiled(results, labels, "backward"))


def attribution(results: Results, labels: Labels) -> Answer:
    """Which switches between the tape and the full compiler change most."""
    asked = "Where does the difference between tape and graph come from?"
    found = attributions(results)
    if not found:
        return Answer("attribution", asked, CANNOT_TELL, "No cell was taken apart from the tape to the full compiler.")
    largest = [min(one.steps, key=lambda step: step.seconds).name for one in found]
    sentence = " ".join(f"{labels.cell(one.cell)}: {_taken_apart(one)}" for one in found)
    return Answer(
        "attribution", asked, _one(largest), sentence, tuple(f"{labels.cell(o.cell)}: {_rest(o)}" for o in found)
    )


def _taken_apart(one: Attribution) -> str:
    told = sorted((step for step in one.steps if step.told), key=lambda step: -abs(step.seconds))[:MOST_NAMED]
    whole = f"from {units.seconds(one.base_seconds)} to {units.seconds(one.full_seconds)}"
    listed = ", ".join(f"{step.name} {signed(step)}" for step in told) or "no switch by itself more than its interval"
    return f"{whole}; {listed}."


def _rest(one: Attribution) -> str:
    quiet = [step.name for step in one.steps if not step.told]
    rest = f"No change beyond its interval and the control: {', '.join(quiet)}. " if quiet else ""
    return f"{rest}Interaction: {signed(one.interaction)}; {units.plural(one.rounds, 'round')}."


def construction(results: Results, labels: Labels) -> Answer:
    """What building the graph costs against recording, with the times of the largest chain of each shape."""
    largest: dict[str, Cell] = {}
    for cell in sorted(cells(results.measured("construction")), key=lambda cell: dict(cell.size)["ops"]):
        largest[labels.place(cell)] = cell
    details = [f"{labels.cell(cell)}: {_times(results, cell)}." for cell in largest.values()]
    comparison = compare(results, labels, "construction", STATIC, DYNAMIC)
    return compared("construction", "Is building a graph faster than recording a tape?", comparison, details)


def dispatch(results: Results, labels: Labels) -> Answer:
    """What one op costs each engine to dispatch."""
    measured = cells(results.measured("dispatch"))
    details = [f"{labels.cell(cell)}, per op (derived): {_times(results, cell, per_op=True)}." for cell in measured]
    details += against_compiled(results, labels, "dispatch")
    comparison = compare(results, labels, "dispatch", STATIC, DYNAMIC)
    return compared("dispatch", "Does an op cost a graph less to dispatch?", comparison, details)


def memory(results: Results, labels: Labels) -> Answer:
    """Which style holds fewer bytes at the peak of a step."""
    asked = "Does the graph need less memory?"
    texts, words = [], []
    for cell, rows in cells(results.measured("memory")).items():
        found = [(row.engine, row.memory.peak_bytes) for row in rows if row.memory]
        peaks = {engine: peak for engine, peak in found if peak is not None}
        if {STATIC, DYNAMIC} <= peaks.keys():
            word, share = _less(peaks[STATIC], peaks[DYNAMIC])
            words.append(word)
            listed = ", ".join(f"{engine} {units.size(peak)}" for engine, peak in peaks.items())
            texts.append(f"{labels.cell(cell)}: {listed}{share}")
    if not texts:
        return Answer("memory", asked, CANNOT_TELL, f"No cell has a peak of {STATIC} and of {DYNAMIC}.")
    detail = "Peak bytes of one step in a fresh process: one figure a row, so no interval."
    return Answer("memory", asked, _one(words), "; ".join(texts) + ".", (detail,))


def recompute(results: Results, labels: Labels) -> Answer:
    """What recomputing costs a tape in time, and what it saves in memory."""
    asked = "Does recomputing instead of keeping pay on a tape?"
    texts, words = [], []
    for cell, rows in cells(results.measured("recompute")).items():
        peaks = {row.engine: row.memory.peak_bytes for row in rows if row.memory and row.memory.peak_bytes}
        ratio = results.ratio(cell, RECOMPUTED, to=DYNAMIC)
        if ratio and {RECOMPUTED, DYNAMIC} <= peaks.keys():
            share = peaks[RECOMPUTED] / peaks[DYNAMIC]
            words.append("less memory" if share < 1 else "more memory")
            listed = ", ".join(f"{engine} {units.size(peak)}" for engine, peak in peaks.items())
            time = units.ratio(ratio.value, ratio.low, ratio.high)
            texts.append(f"{labels.cell(cell)}: {time} of the time, {units.ratio(share)} of the peak ({listed})")
    if not texts:
        return Answer("recompute", asked, CANNOT_TELL, f"No cell has times and peaks of {DYNAMIC} and {RECOMPUTED}.")
    return Answer("recompute", asked, _one(words), "; ".join(texts) + ".")


def learning(results: Results, labels: Labels) -> Answer:
    """Whether the engines give the same losses as the tape, and what accuracy each reaches."""
    asked = "Do both learn the same?"
    words, sentences, details = [], [], []
    for cell, rows in cells(results.measured("learning")).items():
        trained = {row.engine: row for row in rows}
        if {STATIC, DYNAMIC} <= trained.keys():
            word, text = _same_learning(trained[STATIC])
            words.append(word)
            sentences.append(f"{labels.cell(cell)}: {text}.")
        others = [row for engine, row in trained.items() if engine not in (STATIC, DYNAMIC)]
        details += [f"{labels.cell(cell)}: {_same_learning(row)[1]}." for row in others]
        details.append(f"{labels.cell(cell)}: {'; '.join(map(_accuracy, rows))}.")
    if not sentences:
        return Answer("learning", asked, CANNOT_TELL, "No cell has both styles trained.", tuple(details))
    return Answer("learning", asked, _one(words), " ".join(sentences), tuple(details))


def collector(results: Results, labels: Labels) -> Answer:
    """What the garbage collector costs a step: the same engine with it on and off."""
    engines = [row.engine for row in results.of("collector") if row.engine.endswith(COLLECTED)]
    others = dict.fromkeys(engine for engine in engines if uncollected(engine) != DYNAMIC)
    details = [compare(results, labels, "collector", engine, uncollected(engine)).sentence() for engine in others]
    comparison = compare(results, labels, "collector", DYNAMIC + COLLECTED, DYNAMIC)
    return compared("collector", "Is a step slower with the garbage collector on?", comparison, details)


def shapes(results: Results, labels: Labels) -> Answer:
    """Whether a graph gets through a stream of shapes sooner than the tape, by policy, compilations included."""
    engines = dict.fromkeys(row.engine for row in results.of("shapes") if row.style == "static")
    compared = {engine: compare(results, labels, "shapes", engine, DYNAMIC) for engine in engines}
    found = [comparison for comparison in compared.values() if comparison.ratios]
    asked = "Does a graph get through changing shapes sooner?"
    if not found:
        return Answer("shapes", asked, CANNOT_TELL, f"No stream has a paired ratio to {DYNAMIC}.")
    details = [comparison.sentence() for comparison in found]
    details += [f"{labels.cell(row.cell)}: {novelty(row)}." for row in results.measured("shapes")]
    sentence = " ".join(comparison.short() for comparison in found)
    return Answer("shapes", asked, _one(comparison.word for comparison in found), sentence, tuple(details))


def control_flow(results: Results, labels: Labels) -> Answer:
    """Whether the graph's own branches, loops and recursion take less time than Python's on the tape."""
    compared = {question: compare(results, labels, question, STATIC, DYNAMIC) for question in BY_WAYS}
    found = {question: comparison for question, comparison in compared.items() if comparison.ratios}
    asked = "Is data-dependent control flow faster in a graph?"
    if not found:
        return Answer("branches", asked, CANNOT_TELL, f"No branch or loop has a paired ratio to {DYNAMIC}.")
    sentence = " ".join(f"{question.capitalize()}: {it.short()}" for question, it in found.items())
    details = tuple(f"{question.capitalize()}: {it.sentence()}" for question, it in found.items())
    return Answer("branches", asked, _one(it.word for it in found.values()), sentence, details)


def novelty(row: Record) -> str:
    """What it costs to meet shapes for the first time: the first passage over the second (derived)."""
    assert row.stream is not None  # the reader refuses measured rows of streams without
    ready = units.seconds(row.stream.prepare_seconds)
    first, again = sum(row.stream.first_seconds), sum(row.stream.again_seconds)
    return (
        f"{row.engine} gets ready in {ready}, then takes {units.seconds(first)} for the stream, "
        f"{units.seconds(again)} for the same once more, {units.ratio(first / again)} (derived)"
    )


def agreement(results: Results, labels: Labels) -> Answer:
    """How many measured rows agree with the reference, and which rows were found wrong and so got no time."""
    measured = results.checkable
    wrong = [row for row in results.records if row.status == "wrong"]
    unchecked = [row.cell.question for row in measured if row.agreement.verdict != "agrees"]
    agreed, questions = len(measured) - len(unchecked), ", ".join(dict.fromkeys(unchecked))
    sentence = (
        f"{agreed} of {units.plural(len(measured), 'measured row')} with results to check agree with the reference and "
        f"{len(unchecked)} went unchecked{f' ({questions})' if questions else ''}; "
        f"{units.plural(len(wrong), 'row')} turned out wrong and got no time."
    )
    details = tuple(f"Wrong: {row.engine}, {labels.cell(row.cell)}: {row.reason}" for row in wrong)
    word = "wrong" if wrong else "agrees" if agreed else CANNOT_TELL
    return Answer("rows", "Do the results agree with the reference?", word, sentence, details)


def compared(anchor: str, asked: str, comparison: Comparison, details: Sequence[str] = ()) -> Answer:
    """The answer that a comparison gives to a question."""
    return Answer(anchor, asked, comparison.word, comparison.sentence(), tuple(details))


def _one(words: Iterable[str]) -> str:
    different = set(words)
    return different.pop() if len(different) == 1 else DEPENDS


def _less(peak: int, other: int) -> tuple[str, str]:
    if not other:
        return ("more" if peak else "no difference"), ""
    share = units.ratio(peak / other)
    word = "less" if peak < other else "more"
    same = share == units.ratio(1.0)  # no more than the digits shown can tell
    return ("no difference" if same else word), f"; {STATIC} holds {share} what {DYNAMIC} holds (derived)"


def _interface_cost(results: Results, labels: Labels) -> str:
    comparison = compare(results, labels, "interface", OUTSIDE, PLAIN)
    if not comparison.ratios:
        return f"What the {OUTSIDE} line costs over a plain torch.nn.Module: {CANNOT_TELL}."
    texts = []
    for cell, it in comparison.ratios:
        bounds = f"[{units.percent(it.low - 1)},{units.FIXED}{units.percent(it.high - 1)}]"
        shown = f", {it.verdict}" if it.verdict in ("no difference", CANNOT_TELL) else ""
        where = f"({labels.cell(cell)}; {units.plural(it.rounds, 'round')}{shown})"
        texts.append(f"{units.percent(it.value - 1)} {bounds} {where}")
    return f"The {OUTSIDE} line costs {'; '.join(texts)} over a plain torch.nn.Module."


def against_compiled(results: Results, labels: Labels, question: Question) -> list[str]:
    """How the graph stands against PyTorch's compiler, in each of the modes that have rows."""
    there = {row.engine for row in results.of(question)}
    return [compare(results, labels, question, STATIC, name).sentence() for name in COMPILED if name in there]


def _times(results: Results, cell: Cell, *, per_op: bool = False) -> str:
    texts = []
    for row in cells(results.measured(cell.question))[cell]:
        time = time_of(row).per(row.ops if per_op else 1)
        text = units.spread(time.value, time.low, time.high, units.TIME)
        texts.append(f"{row.engine} {text} ({units.plural(time.samples, 'sample')})")
    return ", ".join(texts)


def _same_learning(row: Record) -> tuple[str, str]:
    learning, agreement = row.learning, row.agreement
    if learning and learning.equal_bits_to == DYNAMIC:
        return "equal", f"every loss of {row.engine} equals that of {DYNAMIC} to the bit"
    if learning is None or learning.largest_relative_difference is None:
        return CANNOT_TELL, f"nothing is stored on how the losses of {row.engine} differ from those of {DYNAMIC}"
    text = f"losses of {row.engine} and {DYNAMIC} differ by at most {learning.largest_relative_difference:.1e} relative"
    if learning.compared_steps is not None and learning.compared_steps < len(learning.losses):
        text = f"through the first {learning.compared_steps} steps, before roundings have grown, {text}"
    if agreement.verdict != "agrees" or agreement.allowed is None:
        return "not to the bit", text
    return "within tolerance", f"{text}, where {agreement.allowed:.1e} is allowed"


def _accuracy(row: Record) -> str:
    assert row.learning is not None  # the reader refuses measured learning rows without
    right, tried = row.learning.test_accuracy, row.learning.test_samples
    low, high = share_interval(round(right * tried), tried)
    bounds = f"[{units.percent(low)},{units.FIXED}{units.percent(high)}]"
    return f"{row.engine} gets {units.percent(right)} {bounds} of {units.plural(tried, 'test sample')} right"


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"
