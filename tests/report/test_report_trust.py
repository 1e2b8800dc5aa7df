"""How far to trust the numbers, what is missing, and the machine in groups: all follow from the stored run."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from report.gaps import gaps
from report.labels import Labels
from report.page import render
from report.repayment import repayments, steps_text
from report.results import Results
from report.surroundings import surroundings, value_text
from report.trust import Remark, interruptions, remarks
from report.verdict import verdict

Json = dict[str, Any]
Read = Callable[..., Results]


def plain(text: str) -> str:
    """Text with ordinary spaces and a plain x."""
    text = text.replace("\N{MULTIPLICATION SIGN}", "x")
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{NARROW NO-BREAK SPACE}", " ")


def said(results: Results) -> dict[str, Remark]:
    """All remarks by the first words of their subject."""
    return {remark.subject.split(" ")[-1]: remark for remark in remarks(results, Labels.of(results.records))}


def test_the_control_says_what_can_be_seen(second_results: Results) -> None:
    remark = said(second_results)["itself?"]
    assert plain(remark.word) == "1.8 %"
    assert plain(remark.sentence) == (
        "The same engine stood against itself in 20 control cells, 1 of which came out as different all the same: "
        "0 of 19 over several launches, where 1 in 20 would by chance and 1 of 1 in a single launch, where 1 in 20 "
        "would, did intervals hold what differs from process to process. In 95 % of all these cells its interval "
        "stayed within 1.8 % of 1. Each verdict is held against its own cell: what lies within that of others may "
        "still be told."
    )
    assert [plain(it) for it in remark.details] == [
        "False alarm: tape, step mlp, cpu, batch 20: 1.030 x [1.018, 1.042] in 12 rounds"
    ]


def test_no_page_says_that_what_it_tells_cannot_be_seen(second_page: str) -> None:
    """The control's reach is over many cells; the page tells smaller differences where the cell itself allows it."""
    text = plain(second_page)
    assert "faster" in text
    for claim in ("cannot be seen", "can be seen", "cannot show", "smallest effect"):
        assert claim not in text
    assert "Grey: within 1.8 % of 1, as 95 % of the intervals are." in text


def test_two_runs_are_no_better_than_the_worse(second_run: Json, results_of: Read) -> None:
    better = second_run | {"control": second_run["control"] | {"smallest_effect": 0.004, "false_alarms": 0}}
    remark = said(results_of(second_run, better))["itself?"]
    assert plain(remark.word) == "1.8 %"
    assert "[2] The same engine" in remark.sentence


def test_a_control_of_too_few_cells_cannot_tell(second_run: Json, results_of: Read) -> None:
    second_run["control"]["smallest_effect"] = None
    assert said(results_of(second_run))["itself?"].word == "cannot tell"


def test_what_measuring_cost_is_said_of_rounds_and_of_cells(second_run: Json, results_of: Read) -> None:
    remark = said(results_of(second_run))["cost?"]
    assert plain(remark.word) == "0.6 %"
    assert plain(remark.sentence) == (
        "No engine was at work in 0.6 % of the 125 s of rounds, and in 62.5 ms of a whole cell "
        "(250 ms at most, in step: mlp-b1-cpu). It is in no sample."
    )
    worse = {**second_run, "overhead": second_run["overhead"] | {"own_round_seconds": 2.5}}
    assert plain(said(results_of(second_run, worse))["cost?"].word) == "2.0 %"
    del second_run["overhead"]
    assert said(results_of(second_run))["cost?"].word == "not stored"


def test_cautions_say_what_was_seen_and_what_to_do(second_run: Json, results_of: Read) -> None:
    remark = said(results_of(second_run))["way?"]
    assert (remark.word, remark.tone) == ("yes", "bad")
    assert "other load: load 1.9 on 2 cores. Stop other programs." in remark.details
    second_run["cautions"] = []
    assert (said(results_of(second_run))["way?"].word, said(results_of(second_run))["way?"].tone) == ("no", "good")


def test_a_run_that_stores_no_cautions_gives_no_all_clear(second_run: Json, results_of: Read) -> None:
    recovered = {key: value for key, value in second_run.items() if key != "cautions"}
    remark = said(results_of(recovered))["way?"]
    assert (remark.word, remark.tone) == ("not stored", "unknown")
    calm = said(results_of(second_run | {"cautions": []}, recovered))["way?"]
    assert (calm.word, calm.tone) == ("not stored", "unknown")
    assert calm.sentence.endswith("build. [2] did not store whether anything was.")
    warned = said(results_of(recovered, second_run))["way?"]
    assert (warned.word, warned.tone) == ("yes", "bad")
    assert plain(warned.sentence).startswith("The runs give 2 cautions. [1] did not store whether anything was.")


def test_a_run_that_was_cut_off_may_not_know_what_was_still_to_come(second_run: Json, results_of: Read) -> None:
    second_run["missing"] = [row for row in second_run["missing"] if row["extra_info"]["status"] != "not run"]
    assert interruptions(results_of(second_run)) == [
        "Ctrl-C after 310 s. It lists no row that never ran: which rows were still to come, if any, is not known."
    ]


def test_the_end_of_rounds_is_counted_by_cell(second_results: Results) -> None:
    ended = {row.cell: row.stopped for row in second_results.records if row.stopped}
    early = sum(it.why == "budget" for it in ended.values())
    remark = said(second_results)["rounds?"]
    assert (
        f"in {len(ended) - early} because every ratio to the tape was precise enough and in {early} because"
        in remark.sentence
    )
    assert plain(remark.sentence).endswith("an interval 2.0 % wide.")
    assert any(plain(it).startswith("Out of time, step: cnn, cpu, batch 1: 4.1 % wide") for it in remark.details)


def test_what_a_measured_row_lacks_is_named_with_the_reason(second_run: Json, results_of: Read) -> None:
    rows = [row["extra_info"] for row in second_run["benchmarks"]]
    for extra in rows:
        extra["notes"] = {}
    calm = said(results_of(second_run))["well?"]
    assert (calm.word, calm.tone) == ("yes", "good")
    rows[0]["notes"] = {"split": "crashed: worker was killed by signal 9 (SIGKILL) in 'split'"}
    found = said(results_of(second_run))["well?"]
    assert (found.word, found.tone) == ("not all", "bad")
    (detail,) = found.details
    assert detail.startswith(f"split of {rows[0]['engine']}, {rows[0]['question']} ")
    assert detail.endswith(": crashed: worker was killed by signal 9 (SIGKILL) in 'split'")


def test_restless_warm_ups_and_open_sums_are_named(second_results: Results) -> None:
    restless = [row for row in second_results.records if row.warm_up and not row.warm_up.stable]
    remark = said(second_results)["settle?"]
    assert restless
    assert remark.sentence.startswith(f"{len(restless)} of ")
    assert {it.split(":")[0] for it in remark.details} == {row.engine for row in restless}
    sums = said(second_results)["up?"]
    assert sums.word == "not all"
    assert "phases of graph, preparing cnn, cpu, batch 64, cold: 1.44 s of 1.80 s, does not close" in map(
        plain, sums.details
    )


def test_older_files_are_said_to_store_none_of_it(whole_results: Results) -> None:
    assert [remark.word for remark in remarks(whole_results, Labels.of(whole_results.records))] == [
        "cannot tell", *["not stored"] * 6,
    ]  # fmt: skip
    assert interruptions(whole_results) == []


def test_an_interrupted_run_says_so_at_the_top(second_page: str, whole_page: str) -> None:
    assert plain(second_page.split('<p class="alert">')[1]).startswith(
        "<strong>Interrupted:</strong> Ctrl-C after 310 s. 2 rows never ran."
    )
    assert second_page.index('class="alert"') < second_page.index('id="verdict"')
    assert 'class="alert"' not in whole_page


def test_missing_rows_stand_once_for_each_reason(second_results: Results) -> None:
    found = gaps(second_results, Labels.of(second_results.records))
    assert [(gap.status, len(gap.rows)) for gap in found] == [("skipped", 1), ("failed", 1), ("not run", 2)]
    assert plain(found[2].rows[0]) == "graph_replay, step cnn, cpu, batch 512"
    assert found[2].reason == "the run was interrupted"


def test_break_even_is_told_cold_and_warm_with_intervals(second_results: Results) -> None:
    found = {(it.cell.workload, it.cell.start): it.result for it in repayments(second_results) if it.engine == "graph"}
    cold, warm = found["mlp", "cold"], found["mlp", "warm"]
    assert cold.steps - 1 == pytest.approx(4 * (warm.steps - 1))  # getting ready holds the first step
    for result in (cold, warm):
        assert result.low is not None
        assert result.high is not None
        assert result.low < result.steps < result.high
    answer = next(it for it in verdict(second_results, Labels.of(second_results.records)) if it.anchor == "break-even")
    assert "mlp, cpu, batch 64, cold: after 1 840 steps [1 480, 2 010]; " in plain(answer.sentence)


def test_break_even_may_be_never(second_run: Json, results_of: Read) -> None:
    for row in second_run["benchmarks"]:
        if row["extra_info"]["question"] == "step" and row["extra_info"]["engine"] == "graph":
            row["stats"]["data"] = [2 * sample for sample in row["stats"]["data"]]
    found = [it.result for it in repayments(results_of(second_run)) if it.engine == "graph"]
    assert [steps_text(result) for result in found] == ["never"] * 4
    assert {result.steps for result in found} == {float("inf")}


def test_the_collector_has_an_answer(second_results: Results, whole_results: Results) -> None:
    for results, word in ((second_results, "slower"), (whole_results, "cannot tell")):
        answers = {it.anchor: it for it in verdict(results, Labels.of(results.records))}
        assert answers["collector"].word == word


def test_the_machine_is_shown_in_groups(second_results: Results) -> None:
    found = {group.title: dict(group.facts) for group in surroundings(second_results.runs[0])}
    assert list(found) == ["Machine", "CPU", "Threads", "Memory", "GPU", "Versions", "Variables", "Other", "Moon"]
    assert found["CPU"] == {"model": "Example CPU", "governor": "powersave", "quota cores": "2.0", "cores allowed": "2"}
    assert found["Threads"] == {"torch": "2", "openmp": "2"}
    assert plain(found["Memory"]["total"]) == "8.00 GiB"
    assert found["GPU"] == {"1 name": "Example GPU", "1 clocks sm megahertz": "1410", "1 throttled": "no"}
    assert found["Versions"]["gcc"] == "\N{EN DASH}"
    assert found["Variables"] == {"OMP_NUM_THREADS": "2"}
    assert (found["Other"], found["Moon"]) == ({"luck": "0.5"}, {"phase": "full"})


def test_nothing_of_the_environment_is_lost(second_results: Results) -> None:
    deep: Json = {"a": {"b": {"c": {"d": {"e": 1}}}}, "none": [], "mixed": [1, {"x": 2}], "cpu_threads": 3}
    run = replace(second_results.runs[0], environment=deep, machine={})
    facts = {(group.title, name): text for group in surroundings(run) for name, text in group.facts}
    assert facts == {
        ("A", "b c d"): '{"e": 1}', ("Other", "none"): "\N{EN DASH}", ("Other", "mixed 1"): "1",
        ("Other", "mixed 2 x"): "2", ("Threads", "cpu threads"): "3",
    }  # fmt: skip
    assert value_text(value=True) == "yes"


def test_the_page_of_the_second_schema_is_whole(second_page: str) -> None:
    ids = re.findall(r' id="([^"]+)"', second_page)
    assert len(ids) == len(set(ids))
    links = set(re.findall(r'href="#([^"]+)"', second_page))
    assert links - set(ids) == set()
    assert set(re.findall(r"https?://[^\s\"'<]+", second_page)) <= {"http://www.w3.org/2000/svg"}
    places = [second_page.index(it) for it in ('id="verdict"', 'id="trust"', 'id="limitations"', 'id="step"', "<table")]
    assert places == sorted(places)
    assert "no control" not in second_page.lower()


@pytest.mark.parametrize(
    "fact",
    [
        "\N{EN DASH} the plan allocates once",
        "0.800 x [0.784, 0.816] faster",
        "1.050 x [1.030, 1.070] slower",
        "1.44 s of 1.80 s, does not close",
        "budget, 12 rounds in 3 launches, 4.1 % wide of 2.0 % wanted",
        "4 samples, never stable",
        "50.0 ns, 0.0020 % of a sample",
        "0: 2x, 1: 2x, 2: 2x",
        "every 10 steps",
        "900 MiB to 901 MiB in 2 calls of one fresh process",
    ],
)
def test_tables_show_what_schema_2_stores(second_page: str, fact: str) -> None:
    assert fact in plain(second_page.split('id="rows"')[1])


def test_what_a_row_says_of_a_peak_that_it_has_stands_beside_it(second_run: Json, results_of: Read) -> None:
    rows = [row["extra_info"] for row in second_run["benchmarks"] if row["extra_info"]["question"] == "memory"]
    (told,) = [row for row in rows if (row["workload"], row["engine"]) == ("mlp", "tape")]
    told["memory"]["notes"]["peak_bytes"] = "calls differ by 70 MB"
    page = plain(render(results_of(second_run)))
    picture, table = page.split('<figure id="memory-mlp')[1], page.split('id="rows-memory"')[1]
    assert "calls differ by 70 MB." in picture.split("</figure>")[0].split("<figcaption>")[1]
    assert "900 MiB, calls differ by 70 MB" in table
    assert "fresh processes" not in page
    assert "The table has the peaks of all 2 calls" in page


def test_a_run_that_stores_little_still_makes_a_page(empty_run: Json, make: SimpleNamespace, results_of: Read) -> None:
    lean = dict.fromkeys(("clock", "warm_up", "stopped", "split", "device_seconds", "every", "interval"))
    rows = make.cell("step", "mlp", 8, {"tape": 1e-3, "graph": 2e-3})
    for row in rows:
        row["extra_info"] |= {"schema": 2, **lean}
    memory = {"peak_bytes": None, "live_bytes_before": None, "method": "none", "notes": {"peak_bytes": "no memray"}}
    rows.append(make.row(make.extra("memory", "mlp", "tape", 8, schema=2, memory=memory), [0.1]))
    page = render(results_of(empty_run | {"benchmarks": rows}))
    assert "\N{EN DASH} no memray" in page
    assert "No row stores device time" in page
