"""The words of the first screen follow from the stored rows, and from nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from report.answers import Answer
from report.labels import Labels
from report.limitations import limitations
from report.page import render
from report.results import Results
from report.verdict import headline, verdict

Json = dict[str, Any]
Read = Callable[..., Results]


def plain(text: str) -> str:
    """Text with ordinary spaces and a plain x."""
    text = text.replace("\N{MULTIPLICATION SIGN}", "x")
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{NARROW NO-BREAK SPACE}", " ")


def answers(results: Results) -> dict[str, Answer]:
    """All answers by the section they point to."""
    return {answer.anchor: answer for answer in verdict(results, Labels.of(results.records))}


def top(results: Results) -> str:
    """The headline."""
    return headline(results, Labels.of(results.records))


def pair(make: SimpleNamespace, question: str, batch: int, bounds: tuple[float, float], **changes: Any) -> list[Json]:
    """A tape row, and a graph row with a ratio to it that has these bounds."""
    low, high = bounds
    ratios = [make.ratio("tape", (low + high) / 2, low, high)]
    return [
        make.row(make.extra(question, "mlp", "tape", batch, **changes), [0.3] * 5),
        make.row(make.extra(question, "mlp", "graph", batch, ratios=ratios, **changes), [0.2] * 5),
    ]


CASES = {
    "below": ((0.8, 0.9), "faster", "A graph step is faster than a tape step in the one cell measured."),
    "above": ((1.1, 1.2), "slower", "A graph step is slower than a tape step in the one cell measured."),
    "around": ((0.9, 1.1), "no difference", "A graph step is no different from a tape step in the one cell measured."),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("question", ["step", "forward", "backward"])
def test_the_word_follows_from_the_interval(
    empty_run: Json, make: SimpleNamespace, results_of: Read, name: str, question: str
) -> None:
    bounds, word, sentence = CASES[name]
    results = results_of(empty_run | {"benchmarks": pair(make, question, 8, bounds)})
    answer = answers(results)[question]
    assert answer.word == word
    value = f"{sum(bounds) / 2:.3f} x [{bounds[0]:.3f}, {bounds[1]:.3f}] (mlp, batch 8); 12 paired rounds a cell."
    assert plain(answer.sentence).endswith(value)
    if question == "step":
        assert top(results) == sentence


def test_ratios_over_launches_tell_how_many(empty_run: Json, make: SimpleNamespace, results_of: Read) -> None:
    rows = pair(make, "step", 8, (0.4, 0.5))
    for row in rows:
        for ratio in row["extra_info"]["ratios"]:
            ratio |= {"rounds": 60, "launches": 5}
    answer = answers(results_of(empty_run | {"benchmarks": rows}))["step"]
    assert plain(answer.sentence).endswith("(mlp, batch 8); 60 paired rounds a cell, in launches: 5.")


def test_cells_that_differ_make_it_depend(empty_run: Json, make: SimpleNamespace, results_of: Read) -> None:
    bounds = [(0.4, 0.5), (0.6, 0.7), (0.9, 1.1), (1.2, 1.3)]
    rows = [row for batch, it in enumerate(bounds, 1) for row in pair(make, "step", batch, it)]
    results = results_of(empty_run | {"benchmarks": rows})
    answer = answers(results)["step"]
    assert answer.word == "depends"
    assert plain(answer.sentence) == (
        "Of 4 cells, graph takes less time than tape in 2, more in 1 and shows no difference in 1. "
        "From 0.450 x [0.400, 0.500] (mlp, batch 1) to 1.250 x [1.200, 1.300] (mlp, batch 4); 12 paired rounds a cell."
    )
    assert (
        top(results) == "Of 4 cells, a graph step is faster than a tape step in 2, slower in 1 and no different in 1."
    )


def test_nobody_divides_medians(empty_run: Json, make: SimpleNamespace, results_of: Read) -> None:
    rows = [make.row(make.extra("step", "mlp", name, 8), [time]) for name, time in (("tape", 9.0), ("graph", 1.0))]
    results = results_of(empty_run | {"benchmarks": rows})
    assert answers(results)["step"].word == "cannot tell"
    assert "cannot tell" in top(results)


def test_a_cell_without_ratio_is_counted(empty_run: Json, make: SimpleNamespace, results_of: Read) -> None:
    gap = make.gap(make.extra("step", "cnn", "graph", 8), "failed", "crash")
    results = results_of(empty_run | {"benchmarks": pair(make, "step", 8, (0.8, 0.9)), "missing": [gap]})
    assert plain(answers(results)["step"].sentence).find("No ratio is stored for 1 further cell.") > 0


def test_without_rows_no_answer_can_tell(empty_run: Json, make: SimpleNamespace, results_of: Read) -> None:
    gap = make.gap(make.extra("step", "cnn", "graph", 8), "failed", "crash")
    results = results_of(empty_run | {"missing": [gap]})
    assert {answer.word for answer in answers(results).values()} == {"cannot tell"}


def test_the_interface_cost_stands_in_the_small_print(run: Json, results_of: Read) -> None:
    details = [plain(detail) for detail in answers(results_of(run))["outside"].details]
    assert details[-1] == (
        "The torch_eager line costs 3.0 % [0.9 %, 5.1 %] (mlp, batch 64; 12 rounds) over a plain torch.nn.Module."
    )


def break_even(
    make: SimpleNamespace, step_of_graph: float, prepare_batch: int = 8, step_of_tape: float = 0.3
) -> list[Json]:
    """Rows whose break-even is 1 + (5 - 1) / (0.3 - step_of_graph): getting ready holds the first step."""
    rows = []
    for engine, prepare, step in (("tape", 1.0, step_of_tape), ("graph", 5.0, step_of_graph)):
        rows.append(make.row(make.extra("preparing", "mlp", engine, prepare_batch), [prepare]))
        rows.append(make.row(make.extra("step", "mlp", engine, 8), [step]))
    return rows


@pytest.mark.parametrize("case", [(0.1, "pays off", "after 21 steps"), (0.3, "never", "never")])
def test_break_even(empty_run: Json, make: SimpleNamespace, results_of: Read, case: tuple[float, str, str]) -> None:
    step, word, text = case
    answer = answers(results_of(empty_run | {"benchmarks": break_even(make, step)}))["break-even"]
    assert (answer.word, plain(answer.sentence)) == (word, f"mlp, batch 8: {text}.")
    assert "Derived" in answer.details[-1]


@pytest.mark.parametrize(
    ("value", "verdict", "word", "text"),
    [
        (0.99, "faster", "pays off", "after 401 steps"),
        (0.99, "no difference", "cannot tell", "cannot tell [1, never]"),
        (1.01, "cannot tell", "cannot tell", "cannot tell [1, never]"),
        (1.01, "slower", "never", "never"),
    ],
)
def test_break_even_is_no_surer_than_the_word_on_the_steps(
    empty_run: Json, make: SimpleNamespace, results_of: Read, value: float, verdict: str, word: str, text: str
) -> None:
    rows = break_even(make, 1.0 * value, step_of_tape=1.0)
    rows[-1]["extra_info"]["ratios"] = [make.ratio("tape", value) | {"verdict": verdict}]
    answer = answers(results_of(empty_run | {"benchmarks": rows}))["break-even"]
    assert (answer.word, plain(answer.sentence)) == (word, f"mlp, batch 8: {text}.")


def test_break_even_never_mixes_batch_sizes(empty_run: Json, make: SimpleNamespace, results_of: Read) -> None:
    answer = answers(results_of(empty_run | {"benchmarks": break_even(make, 0.1, prepare_batch=64)}))["break-even"]
    assert answer.word == "cannot tell"
    assert plain(answer.details[0]) == "mlp, batch 64: cannot tell, a step or preparing row is missing."


def test_dispatch_is_per_op(run: Json, results_of: Read) -> None:
    answer = answers(results_of(run))["dispatch"]
    assert answer.word == "faster"
    assert plain(answer.details[0]).startswith("chain, 1 000 ops, 1 element, per op (derived): tape 6.")
    assert re.search(r"graph 59\d ns ", plain(answer.details[0]))


def test_construction_shows_the_longest_chain_of_each_shape(run: Json, results_of: Read) -> None:
    answer = answers(results_of(run))["construction"]
    assert answer.word == "slower"
    assert [plain(detail).split(":")[0] for detail in answer.details] == [
        "chain, 1 000 ops, 1 element", "chain_tree, 1 000 ops, 1 element", "chain_wide, 1 000 ops, 1 element",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("graph", "word"), [(50 * 2**20, "less"), (200 * 2**20, "more"), (100 * 2**20 + 1, "no difference"), (0, "less")]
)
def test_memory(empty_run: Json, make: SimpleNamespace, results_of: Read, graph: int, word: str) -> None:
    rows = []
    for engine, peak in (("tape", 100 * 2**20), ("graph", graph)):
        memory = {"peak_bytes": peak, "live_bytes_before": 7, "method": "memray"}
        rows.append(make.row(make.extra("memory", "mlp", engine, 8, memory=memory), [0.1]))
    answer = answers(results_of(empty_run | {"benchmarks": rows}))["memory"]
    assert answer.word == word
    assert "no interval" in answer.details[0]


@pytest.mark.parametrize(
    ("stored", "agreement", "word"),
    [
        (("tape", 0.0), "agrees", "equal"),
        ((None, 3.2e-6), "agrees", "within tolerance"),
        ((None, 3.2e-6), "unchecked", "not to the bit"),
        ((None, None), "unchecked", "cannot tell"),
    ],
)
def test_learning(
    run: Json, results_of: Read, stored: tuple[str | None, float | None], agreement: str, word: str
) -> None:
    equal, difference = stored
    for row in run["benchmarks"]:
        if row["extra_info"]["question"] == "learning" and row["extra_info"]["engine"] == "graph":
            row["extra_info"]["learning"] |= {"equal_bits_to": equal, "largest_relative_difference": difference}
            row["extra_info"]["agreement"] |= {"verdict": agreement, "allowed": 1e-3}
    answer = answers(results_of(run))["learning"]
    assert answer.word == word
    assert "94.0 % [91.6 %, 95.8 %] of 500 test samples" in plain(answer.details[-1])


def test_a_wrong_row_is_named(run: Json, make: SimpleNamespace, results_of: Read) -> None:
    assert answers(results_of(run))["rows"].word == "agrees"
    run["missing"].append(make.gap(make.extra("forward", "rnn", "graph", 8), "wrong", "w2 is off by 0.3"))
    answer = answers(results_of(run))["rows"]
    assert (answer.word, plain(answer.details[0])) == ("wrong", "Wrong: graph, rnn, batch 8: w2 is off by 0.3")


def test_limitations_follow_from_the_runs(run: Json, results_of: Read) -> None:
    texts = " ".join(limitations(results_of(run)))
    assert "effort quick" in texts
    assert "interval (95 %)" in texts
    assert f"2 of {len(run['benchmarks']) + 2} rows hold no time" in texts
    assert "no commit holds" not in texts
    assert "commits;" not in texts
    schemas = {row.schema for row in results_of(run).records}
    assert ("keeps the memory that it frees" in texts) == (max(schemas) > 1)
    launches = {len(row.launches) for row in results_of(run).records if row.schema > 1}
    assert ("Where a cell had a single launch" in texts) == (0 in launches)
    assert ("Where a cell had several launches" in texts) == (3 in launches)
    assert "a difference is claimed only where the interval also lies further from 1" in texts
    run["benchmarks"][0]["extra_info"]["agreement"]["verdict"] = "unchecked"
    second = run | {"commit_info": {"id": "fedcba9876543210", "dirty": True}}
    texts = plain(" ".join(limitations(results_of(run, second))))
    assert "no commit holds" in texts
    assert "2 commits" in texts
    assert "1 measured row went without a check" in texts


def claimed(make: SimpleNamespace, low: float, high: float, verdict: str, launches: int = 1) -> list[Json]:
    """Two rows of one cell, of which one stores this ratio to the other with this word."""
    rows: list[Json] = make.cell("step", "mlp", 8, {"tape": 1e-3, "graph": 1e-3})
    for row in rows:
        row["extra_info"] |= {"stopped": {"why": "precise", "rounds": 12, "width": 0.01, "wanted": 0.05}, "ratios": []}
    ratio = make.ratio("tape", (low + high) / 2, low, high)
    rows[1]["extra_info"]["ratios"] = [ratio | {"verdict": verdict, "launches": launches}]
    return rows


@pytest.mark.parametrize(
    ("low", "high", "verdict", "reach", "launches", "supported"),
    [
        (0.70, 0.79, "faster", None, 1, True),
        (0.85, 0.90, "faster", None, 1, False),  # within what two processes that run the same may differ by
        (1.10, 1.20, "slower", None, 1, False),
        (1.10, 1.20, "slower", 1.02, 1, True),
        (1.10, 1.20, "slower", 1.15, 1, False),
        (0.99, 1.01, "no difference", None, 1, False),
        (0.99, 1.01, "no difference", 1.02, 1, True),
        (0.99, 1.01, "no difference", 1.10, 1, False),
        (0.99, 1.01, "cannot tell", None, 1, True),
        (0.85, 0.90, "faster", None, 5, True),
    ],
)
def test_words_that_rest_on_one_launch_alone_are_counted(
    empty_run: Json,
    make: SimpleNamespace,
    results_of: Read,
    low: float,
    high: float,
    verdict: str,
    reach: float | None,
    launches: int,
    supported: bool,
) -> None:
    rows = claimed(make, low, high, verdict, launches)
    whole = empty_run | {"benchmarks": rows}
    if reach is not None:
        seen = {"value": 1.0, "low": 1 / reach, "high": reach, "rounds": 12, "false_alarm": False}
        twin = {**rows[0]["extra_info"], **seen}
        whole["control"] = {"cells": 1, "false_alarms": 0, "smallest_effect": 0.1, "rows": [twin]}
    texts = plain(" ".join(limitations(results_of(whole))))
    assert ("in 1 comparison its word rests on the rounds of one launch alone" in texts) != supported
    assert ("equality, only beside a control" in texts) == (launches == 1)


def test_what_launches_share_and_when_they_end_is_said(second_results: Results, whole_results: Results) -> None:
    told, untold = (" ".join(limitations(results)) for results in (second_results, whole_results))
    for text in (
        "where libraries, stack and heap lie is drawn once a run, and is in no interval",
        "until every ratio to the tape (or, without it, to the first engine) is narrow enough and",
        "somewhat oftener than the interval's 5 in 100",
    ):
        assert text in told
        assert text not in untold


def test_steps_of_learning_are_no_pairs_even_where_an_older_file_stores_ratios(run: Json, results_of: Read) -> None:
    trained = [row["extra_info"] for row in run["benchmarks"] if row["extra_info"]["question"] == "learning"]
    page = render(results_of(run))
    ratio = {"to": "tape", "value": 0.5, "low": 0.49, "high": 0.51, "confidence": 0.95, "rounds": 240}
    trained[1]["ratios"] = [ratio | {"verdict": "faster"}]
    results = results_of(run)
    assert all(row.ratios == () for row in results.of("learning"))
    assert render(results) == page
    table = page.split('id="rows-learning"')[1].split("</table>")[0]
    assert "94.0" in table
    assert not {"faster", "slower", "ratio to tape"} & set(re.findall(r"ratio to \w+|\w+", table))
    assert answers(results)["learning"].word == "equal"


def test_rows_that_went_unchecked_are_counted_by_question(run: Json, results_of: Read) -> None:
    rows = [row for row in run["benchmarks"] if row["extra_info"]["engine"] != "sgemm"]
    for row in rows:
        row["extra_info"]["agreement"]["verdict"] = "agrees"
    rows[0]["extra_info"]["agreement"]["verdict"] = "unchecked"
    told = plain(answers(results_of(run))["rows"].sentence)
    assert f"{len(rows) - 1} of {len(rows)} measured rows with results to check" in told
    assert f"1 went unchecked ({rows[0]['extra_info']['question']}); 0 rows turned out wrong" in told
    rows[0]["extra_info"]["agreement"]["verdict"] = "agrees"
    assert "0 went unchecked; 0 rows" in plain(answers(results_of(run))["rows"].sentence)


def test_a_name_says_only_what_differs(run: Json, results_of: Read) -> None:
    results = results_of(run)
    cell = results.of("step")[0].cell
    assert plain(Labels.of(results.records).cell(cell)) == "cnn, batch 1"
    run["benchmarks"][0]["extra_info"]["device"] = "cuda"
    assert plain(Labels.of(results_of(run).records).cell(cell)) == "cnn, cpu, batch 1"


def test_recompute_is_answered_with_its_time_and_its_peak(second_results: Results) -> None:
    answer = answers(second_results)["recompute"]
    assert answer.word == "less memory"
    assert "1.400 x [1.350, 1.450] of the time, 0.250 x of the peak" in plain(answer.sentence)


def test_bytes_of_the_record_per_entry_are_derived_and_told(second_results: Results) -> None:
    row = next(row for row in second_results.of("memory") if row.engine == "tape")
    assert row.memory is not None
    assert row.memory.bytes_per_entry == 18_000 / 36
