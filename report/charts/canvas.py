"""Draw one picture with matplotlib and get it as SVG text that lives inside an HTML page.

There is one door:

    svg = draw("step-mlp", "Step time of mlp by batch size", palette, lambda axes: axes.plot([1, 2], color=INK))

The text of the page and of the picture have one colour and one typeface, in a light and in a dark page; two pictures
share no id; the same input gives the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from report.charts.palette import INK, Palette
from report.units import Units, count, tick

WIDTH, HEIGHT = 4.7, 3.0  # inches; half the page, so that letters stay readable on a phone
FAINT = 0.35  # opacity of raw samples
GRID = 0.13  # opacity of grid lines
FEWEST_TICKS = 3
ROOM_UPWARDS, ROOM_ALONG, ROOM_OF_VALUES = 0.07, 0.1, 0.2  # of an axis, between two ticks
LOOK: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # comes with matplotlib, so sizes are the same on every machine
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 5.0,
    "hatch.color": INK,
}
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
COLOUR = re.compile(r"#[0-9a-f]{6}\b")
REFERENCE = re.compile(r"url\(#([^)]+)\)")


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of a legend: a CSS variable, a character, and what it stands for."""

    variable: str
    glyph: str
    text: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawn picture with the words around it. `missing` names every point that is not there, and why."""

    name: str
    title: str
    svg: str
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    keys: tuple[Key, ...] = ()


def draw(
    name: str,
    description: str,
    palette: Palette,
    paint: Callable[[Axes], None],
    height: float = HEIGHT,
    width: float = WIDTH,
) -> str:
    """Let `paint` fill a pair of axes, and give the picture as SVG text.

    `name` is unique on the page and prefixes every id; `description` is read out to those who do not see the picture;
    `height` and `width` are in inches. Raises ValueError where `paint` used a colour that the palette does not have.
    """
    with matplotlib.rc_context(LOOK | {"svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure.add_subplot())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True)
    return _inline(file.getvalue(), name, description, palette)


def ticks(
    axis: Axis, low: float, high: float, scale: Units, *, always: float | None = None, room: float = ROOM_UPWARDS
) -> None:
    """Put readable ticks in a unit of `scale` on a logarithmic axis from `low` to `high`, however short or long it is.

    There is a tick at `always`, whatever else there is; `room` is the least distance of two ticks, in axes.
    """
    places = tick_places(low, high)
    least = room * float(np.log(high / low))
    if always is not None:
        places = [place for place in places if abs(np.log(place / always)) >= least] + [always]
    at_values(axis, _thinned(places, least), lambda value: tick(value, scale))


def tick_places(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, both above zero: decades where they suffice, finer steps where not."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5)):
        places = [digit * 10.0**decade for decade in decades for digit in digits]
        inside = [place for place in places if low <= place <= high]
        if len(inside) >= FEWEST_TICKS:
            return inside
    return [float(place) for place in MaxNLocator(5).tick_values(low, high) if low <= place <= high]


def at_values(axis: Axis, values: Sequence[float], text: Callable[[float], str]) -> None:
    """Put a tick at each of `values` and nowhere else."""
    axis.set_major_locator(FixedLocator(sorted(set(values))))
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.set_minor_locator(NullLocator())


def at_knobs(axis: Axis, values: Sequence[float], low: float, high: float) -> None:
    """Put a tick at each value of a swept knob on a logarithmic axis, and the number where there is room for it."""
    named = _thinned(values, ROOM_ALONG * float(np.log(high / low)))
    at_values(axis, values, lambda value: count(value) if any(np.isclose(value, named)) else "")


def _thinned(places: Sequence[float], least: float) -> list[float]:
    kept: list[float] = []
    for place in sorted(set(places)):
        if not kept or np.log(place / kept[-1]) >= least:
            kept.append(place)
    return kept


def _inline(text: str, name: str, description: str, palette: Palette) -> str:
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(text)  # noqa: S314  (matplotlib's own text)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)  # the date changes; a style would reach out into the whole page
    colours = palette.css_colours()
    for element in root.iter():
        _adapt(element, name, colours)
    _drop_idle_ids(root)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.attrib |= {"role": "img", "aria-label": description, "style": "stroke-linejoin:round;stroke-linecap:butt"}
    return ElementTree.tostring(root, encoding="unicode")


def _adapt(element: ElementTree.Element, name: str, colours: dict[str, str]) -> None:
    attributes = element.attrib
    if "id" in attributes:
        attributes["id"] = f"{name}.{attributes['id']}"
    link = f"{{{XLINK}}}href"
    if link in attributes:
        attributes["href"] = "#" + f"{name}.{attributes.pop(link).removeprefix('#')}"
    for key in ("style", "clip-path", "fill", "stroke"):
        if key in attributes:
            value = REFERENCE.sub(rf"url(#{name}.\1)", attributes[key])
            attributes[key] = COLOUR.sub(lambda match: _swap(match[0], colours, name), value)
    if "style" in attributes and element.tag == f"{{{SVG}}}text":
        attributes["style"] = attributes["style"].replace("'DejaVu Sans'", "inherit")


def _drop_idle_ids(root: ElementTree.Element) -> None:
    text = ElementTree.tostring(root, encoding="unicode")
    used = set(REFERENCE.findall(text)) | {element.get("href", "").removeprefix("#") for element in root.iter()}
    for element in root.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)


def _swap(colour: str, colours: dict[str, str], name: str) -> str:
    if colour not in colours:
        raise ValueError(f"picture {name}: found colour {colour}, expected one of the palette: {', '.join(colours)}")
    return colours[colour]
