"""The page: self-contained, complete, and made of nothing but what is stored."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from report.page import render, write
from report.results import Results

Json = dict[str, Any]
Read = Callable[..., Results]
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Reader(HTMLParser):
    """Collects what a test asks of a page: ids, addresses, tags in order, text, and whether tags are closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: Counter[str] = Counter()
        self.addresses: list[tuple[str, str, str]] = []
        self.references: set[str] = set()
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = {name: value or "" for name, value in attrs}
        if "id" in facts:
            self.ids[facts["id"]] += 1
        for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            if name in facts:
                self.addresses.append((tag, name, facts[name]))
        self.references |= {name for value in facts.values() for name in re.findall(r"url\(#([^)]+)\)", value)}
        self.references |= set(facts.get("aria-labelledby", "").split())
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        """All text of the page with ordinary spaces."""
        joined = " ".join(self.words).replace("\N{NO-BREAK SPACE}", " ").replace("\N{NARROW NO-BREAK SPACE}", " ")
        return re.sub(r"\s+", " ", joined)


@pytest.fixture(scope="session")
def reader(whole_page: str) -> Reader:
    return Reader(whole_page)


def test_every_tag_is_closed(reader: Reader) -> None:
    assert reader.open == []


def test_every_id_is_unique(reader: Reader) -> None:
    assert len(reader.ids) > 50
    assert [name for name, times in reader.ids.items() if times > 1] == []


def test_every_link_inside_the_page_leads_somewhere(reader: Reader) -> None:
    inside = {address.removeprefix("#") for _, _, address in reader.addresses if address.startswith("#")}
    assert len(inside) > 10
    assert (inside | reader.references) - set(reader.ids) == set()


def test_nothing_is_fetched(reader: Reader, whole_page: str) -> None:
    outward = [it for it in reader.addresses if not it[2].startswith("#")]
    assert outward == [("link", "href", "data:,")]
    assert "@import" not in whole_page
    assert re.findall(r"url\((?!#)", whole_page) == []
    assert set(re.findall(r"https?://[^\s\"'<]+", whole_page)) <= {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in whole_page


def test_the_page_has_both_themes_and_prints(whole_page: str) -> None:
    assert whole_page.count("prefers-color-scheme: dark") == 2
    assert "@media print" in whole_page
    assert 'name="viewport"' in whole_page
    declared, used = (set(re.findall(it, whole_page)) for it in (r"(--[\w-]+):", r"var\((--[\w-]+)\)"))
    assert used
    assert used <= declared


def test_only_the_overview_stands_before_the_limitations(whole_page: str) -> None:
    pictures = [match.start() for match in re.finditer("<figure", whole_page)]
    assert whole_page[pictures[0] :].startswith('<figure id="overview">')
    verdict, limitations = (whole_page.index(f'id="{it}"') for it in ("verdict", "limitations"))
    places = [pictures[0], verdict, limitations, pictures[1], whole_page.index("<table")]
    assert places == sorted(places)


def test_small_print_is_there_without_javascript_and_behind_a_click(whole_page: str) -> None:
    answers = whole_page[whole_page.index('id="verdict"') : whole_page.index('id="trust"')]
    assert answers.count("<details>") == answers.count("</details>") > 0
    assert "details::details-content" in whole_page, "what is folded is printed all the same"


def test_every_answer_has_its_section(reader: Reader) -> None:
    for anchor in ("step", "break-even", "outside", "forward", "backward", "construction", "dispatch", "memory"):
        assert reader.ids[anchor] == 1
        assert any(address == f"#{anchor}" for _, _, address in reader.addresses)


@pytest.mark.parametrize(
    "fact",
    [
        "Example CPU, Linux 6.1",
        "2.13.0+cpu",
        "0123456789abcdef0123",
        "quick",
        "2026-11-23 12:00",
        "8.00 GiB",
        "out of memory: wanted 9 GiB",
        "needs a plan that this machine cannot hold",
        "nodes 312, entries 4",
        "trace 50.0 ms, autodiff 30.0 ms",
        "w1: 1.0e-07 of 1.0e-05 allowed",
        "float64 torch autograd",
        "2 epochs of 120 steps",
        "memray, fresh process",
    ],
)
def test_what_is_stored_is_shown(reader: Reader, fact: str) -> None:
    assert fact in reader.text


def test_every_row_stands_in_a_table(whole_page: str, make: SimpleNamespace) -> None:
    run = make.run()
    bodies = re.findall(r"<tbody>(.*?)</tbody>", whole_page, flags=re.DOTALL)
    assert sum(body.count("<tr>") for body in bodies) == len(run["benchmarks"]) + len(run["missing"])
    for table in re.findall(r"<table>(.*?)</table>", whole_page, flags=re.DOTALL):
        columns = table.count("<th ")
        for row in re.findall(r"<tr>(.*?)</tr>", table.split("<tbody>")[1], flags=re.DOTALL):
            spans = [int(it) for it in re.findall(r'colspan="(\d+)"', row)]
            assert row.count("<td") + sum(spans) - len(spans) == columns


def test_a_gap_shows_a_dash_and_its_reason(whole_page: str) -> None:
    assert re.search('<td colspan="[0-9]+">\N{EN DASH} failed: out of memory: wanted 9 GiB</td>', whole_page)


def test_figures_stand_under_their_heads(whole_page: str) -> None:
    table = whole_page.split('id="rows-memory"', 1)[1].partition("</table>")[0]
    heads = re.findall(r"<th[^>]*>(.*?)</th>", table)
    bodies = re.findall(r"<tr>(.*?)</tr>", table.split("<tbody>")[1], flags=re.DOTALL)
    graph = next(row for row in bodies if ">■</span> graph</td>" in row)
    row = dict(zip(heads, re.findall(r"<td[^>]*>(.*?)</td>", graph), strict=True))
    assert (row["peak"], row["live before"]) == ("700\N{NO-BREAK SPACE}MiB", "30.0\N{NO-BREAK SPACE}MiB")
    assert (row["workload"], row["batch"], row["samples"]) == ("cnn", "64", "3")


def small(make: SimpleNamespace, empty_run: Json) -> Json:
    """A run that makes a page quickly."""
    return empty_run | {"benchmarks": make.cell("step", "mlp", 8, {"tape": 1e-3, "graph": 2e-3})}


def test_a_stored_number_that_changes_changes_the_page(
    empty_run: Json, make: SimpleNamespace, results_of: Read
) -> None:
    run = small(make, empty_run)
    before = render(results_of(run))
    assert render(results_of(run)) == before
    run["benchmarks"][0]["stats"]["data"] = [0.777] * 12
    assert "777\N{NO-BREAK SPACE}ms" not in before
    assert "777\N{NO-BREAK SPACE}ms" in render(results_of(run))
    graph = run["benchmarks"][1]["extra_info"]["ratios"][0]
    graph |= {"value": 0.444, "low": 0.432, "high": 0.456}
    assert "0.444\N{NO-BREAK SPACE}\N{MULTIPLICATION SIGN} [0.432,\N{NO-BREAK SPACE}0.456]" in render(results_of(run))


def test_a_merged_page_says_which_file_each_row_comes_from(
    empty_run: Json, make: SimpleNamespace, results_of: Read
) -> None:
    run = small(make, empty_run)
    second = empty_run | {"benchmarks": [make.row(make.extra("step", "mlp", "graph", 8), [0.5])]}
    page = render(results_of(run, second))
    rows = re.findall(r"<tr>(.*?)</tr>", page.split('id="rows-step"')[1], flags=re.DOTALL)
    assert [("[1]" in row, "[2]" in row) for row in rows[1:3]] == [(True, False), (False, True)]
    assert ['data-order="2">[2]' in row for row in rows[1:3]] == [False, True]
    assert "0001_run.json" in page
    assert "0002_run.json" in page
    assert "[1]" not in render(results_of(run)).split('id="rows-step"')[1].split('id="sources"')[0]


def test_stored_text_cannot_become_markup(empty_run: Json, make: SimpleNamespace, results_of: Read) -> None:
    evil = "<script>alert(1)</script>"
    run = small(make, empty_run)
    run["missing"] = [make.gap(make.extra("step", "mlp", evil, 8), "failed", evil)]
    run["machine_info"]["environment"]["note"] = evil
    run["benchmarks"] += make.cell("step", f"{evil}&", 8, {"tape": 1e-3, "graph": 2e-3})
    page = render(results_of(run))
    assert "<script>alert" not in page
    assert Reader(page).open == []


def test_a_page_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old", encoding="utf-8")
    with path.open(encoding="utf-8") as reading:  # whoever reads the old page meanwhile reads all of it
        write(path, "new \N{MULTIPLICATION SIGN}")
        assert reading.read() == "old"
    assert path.read_text(encoding="utf-8") == "new \N{MULTIPLICATION SIGN}"
    assert list(tmp_path.iterdir()) == [path]


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(UnicodeEncodeError):
        write(path, "half \ud800")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        write(tmp_path, "page")
