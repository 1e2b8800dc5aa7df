"""How near each engine comes to a limit: shares follow from stored ratios and counts, and from nothing else."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from report.charts import share
from report.charts.palette import Palette
from report.charts.scene import Scene
from report.labels import Labels
from report.limits import shares
from report.results import Results
from report.verdict import verdict

Json = dict[str, Any]
Read = Callable[..., Results]


def plain(text: str) -> str:
    """Text with ordinary spaces and a plain x."""
    text = text.replace("\N{MULTIPLICATION SIGN}", "x")
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{NARROW NO-BREAK SPACE}", " ")


def answers(results: Results) -> Json:
    """All answers by the section they point to."""
    return {answer.anchor: answer for answer in verdict(results, Labels.of(results.records))}


def scene_of(results: Results) -> Scene:
    """What the page gives its charts."""
    return Scene(results, Palette.of(results.engines), Labels.of(results.records))


@pytest.fixture
def limits(empty_run: Json, make: SimpleNamespace) -> Json:
    """A run of nothing but the questions about limits; the network has 1.5 times the operations of the product."""
    return empty_run | {"benchmarks": make.limits()}


def test_a_share_is_the_operations_times_the_stored_ratio(limits: Json, results_of: Read) -> None:
    ((cell, found),) = shares(results_of(limits)).items()
    assert (cell.workload, cell.batch_size) == ("cnn", 64)
    assert [it.engine for it in found] == ["tape", "graph", "torch_eager"]
    graph = found[1]
    assert (graph.value, graph.low, graph.high) == pytest.approx((0.6, 0.6 * 0.98, 0.6 * 1.02), rel=1e-3)
    assert graph.flops_per_second == pytest.approx(3e9 / 0.05, rel=0.05)
    assert graph.rounds == 12


def test_nobody_divides_medians(limits: Json, results_of: Read) -> None:
    for row in limits["benchmarks"]:
        row["stats"]["data"] = [1.0] * 12
    (found,) = shares(results_of(limits)).values()
    assert found[1].value == pytest.approx(0.6, rel=1e-3)


@pytest.mark.parametrize(("times", "told"), [(1, False), (2, True)])
def test_a_share_beyond_all_of_the_rate_says_how_that_can_be(
    limits: Json, results_of: Read, times: int, told: bool
) -> None:
    for row in limits["benchmarks"]:
        counters = row["extra_info"]["counters"]
        if "task_flops" in counters:
            counters["task_flops"] *= times
    answer = answers(results_of(limits))["rate"]
    assert ("for the same counts as the sum that it stands for" in answer.sentence) == told


def test_the_picture_shows_shares_and_rates(limits: Json, results_of: Read) -> None:
    (picture,) = share.pictures(scene_of(results_of(limits)))
    assert picture.title.endswith("loss_and_grad: share of the rate of matrix products")
    svg = plain(picture.svg)
    assert "60.0 %" in svg
    assert "TFLOP/s" not in svg
    assert "GFLOP/s" in svg
    product, counted = map(plain, picture.notes)
    assert product.startswith("The product of 1 000 rows and columns: ")
    assert counted.startswith("One call is 3 000 000 000 floating-point operations")
    assert [key.text for key in picture.keys] == ["tape", "graph", "torch_eager"]
    assert picture.missing == ()


def test_a_row_that_was_not_paired_is_named(limits: Json, results_of: Read) -> None:
    network = [row["extra_info"] for row in limits["benchmarks"] if row["extra_info"]["question"] == "rate"]
    network[0]["ratios"] = []
    network[-1]["ratios"] = [ratio for ratio in network[-1]["ratios"] if ratio["to"] != "tape"]
    (picture,) = share.pictures(scene_of(results_of(limits)))
    assert picture.missing == ("tape: no stored ratio to sgemm",)


@pytest.mark.parametrize("without", ["the row", "its counts"])
def test_without_the_product_nothing_can_be_told(limits: Json, results_of: Read, without: str) -> None:
    product = next(row for row in limits["benchmarks"] if row["extra_info"]["engine"] == "sgemm")
    if without == "the row":
        limits["benchmarks"].remove(product)
    else:
        product["extra_info"]["counters"] = {}
    results = results_of(limits)
    assert share.pictures(scene_of(results)) == []
    assert answers(results)["rate"].word == "cannot tell"


def test_the_answers_name_the_figures(limits: Json, results_of: Read) -> None:
    found = answers(results_of(limits))
    rate, call, elementwise = (found[name] for name in ("rate", "call", "elementwise"))
    assert plain(rate.word) == "60 %"
    assert plain(rate.sentence) == "cnn, batch 64, loss_and_grad: 60.0 % [58.8, 61.2] (derived)."
    assert plain(rate.details[0]).startswith(
        "cnn, batch 64, loss_and_grad: tape 30.0 % [29.4, 30.6], torch_eager 37.5 %"
    )
    assert (call.word, elementwise.word) == ("faster", "faster")
    assert "0.333 x [0.327, 0.340] (scalars, 10 inputs)" in plain(call.sentence)
    assert "0.667 x" in plain(call.details[0])
