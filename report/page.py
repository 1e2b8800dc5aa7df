"""Make the page: one HTML file that needs no network and no JavaScript.

The text comes first, the file second:

    write(Path("report.html"), render(results))
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from errno import EISDIR
from os import strerror
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from report.charts import control, overview
from report.charts.canvas import Picture
from report.charts.palette import Palette
from report.charts.scene import Scene
from report.facts import facts
from report.gaps import gaps
from report.labels import Labels
from report.limitations import limitations
from report.results import Results
from report.sections import TITLES, sections
from report.sheets import Sheets
from report.surroundings import surroundings
from report.tables import tables
from report.trust import interruptions, remarks
from report.verdict import headline, verdict


def render(results: Results, sheets: Sequence[Sheets] = ()) -> str:
    """The whole page as text; the same results and sheets give the same text."""
    labels = Labels.of(results.records)
    palette = Palette.of(results.engines, longest_phases(results))
    environment = Environment(
        loader=PackageLoader("report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"svg": Markup, "surroundings": surroundings}
    scene = Scene(results, palette, labels)
    return environment.get_template("page.html.j2").render(
        headline=headline(results, labels),
        interruptions=interruptions(results),
        overview=overview.picture(scene),
        answers=verdict(results, labels),
        remarks=remarks(results, labels),
        controls=controls(scene),
        limitations=limitations(results),
        sections=sections(scene),
        sheets=sheets,
        gaps=gaps(results, labels),
        tables=tables(results, palette, TITLES),
        tabled={row.cell.question for row in results.records},
        facts=facts(results),
        runs=results.runs,
        palette=palette,
    )


def controls(scene: Scene) -> list[Picture]:
    """The picture of each run's control, where it stores one."""
    runs = enumerate(scene.results.runs, 1)
    found = [control.picture(scene, run.control, place) for place, run in runs if run.control]
    return [picture for picture in found if picture]


def longest_phases(results: Results) -> list[str]:
    """All phases of getting ready, the one that takes most time over all rows first, so that it gets a colour."""
    total: Counter[str] = Counter()
    for row in results.measured("preparing"):
        total.update(row.phase_seconds)
    return [name for name, _ in total.most_common()]


def write(path: Path, text: str) -> None:
    """Write a page whole or not at all; raises OSError where that fails, and leaves an older page as it was."""
    if path.is_dir():
        raise IsADirectoryError(EISDIR, strerror(EISDIR), str(path))
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
