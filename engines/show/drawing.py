"""A drawing of boxes and the arrows between them, as SVG of our own: nothing has to be installed.

Every box stands one layer below the lowest of those it reads, in the order in which the boxes were made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 190, 44
"""Of a box, in pixels."""

ACROSS, DOWN = 20, 34
"""Between boxes."""

STYLE = (
    "text{font:11px ui-monospace,monospace;fill:#1b1b1b}text.small{font-size:9px;fill:#5a5a5a}"
    "rect{fill:#f4f1ea;stroke:#8a8372}rect.input{fill:#e3edf7;stroke:#6486ab}"
    "path{fill:none;stroke:#8a8372;stroke-opacity:.6}"
)


@dataclass(frozen=True, slots=True)
class Box:
    """One op or input: what stands in it, and the keys of the boxes it reads."""

    key: int | str
    title: str
    detail: str
    reads: tuple[int | str, ...] = ()


def as_svg(boxes: Sequence[Box]) -> str:
    """The drawing as the text of one SVG element."""
    places = _places(boxes)
    width = max((x for x, _ in places.values()), default=0) + WIDTH + ACROSS
    height = max((y for _, y in places.values()), default=0) + HEIGHT + ACROSS
    arrows = [_arrow(places[key], places[box.key]) for box in boxes for key in box.reads]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" role="img">',
            f"<style>{STYLE}</style>",
            *arrows,
            *(_drawn(box, places[box.key]) for box in boxes),
            "</svg>",
        ]
    )


def as_html(title: str, text: str, boxes: Sequence[Box]) -> str:
    """One page without anything from outside: the text, then the drawing."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        "<style>body{font:14px/1.5 system-ui,sans-serif;margin:2em}pre{overflow-x:auto;font-size:12px}"
        "figure{margin:0;overflow-x:auto}</style>"
        f"<h1>{escape(title)}</h1>\n<pre>{escape(text)}</pre>\n<figure>{as_svg(boxes)}</figure></html>\n"
    )


def _places(boxes: Iterable[Box]) -> dict[int | str, tuple[int, int]]:
    layers: dict[int | str, int] = {}
    filled: dict[int, int] = {}
    places = {}
    for box in boxes:
        layer = layers[box.key] = 1 + max((layers[key] for key in box.reads), default=-1)
        column = filled[layer] = filled.get(layer, -1) + 1
        places[box.key] = (ACROSS + column * (WIDTH + ACROSS), ACROSS + layer * (HEIGHT + DOWN))
    return places


def _drawn(box: Box, place: tuple[int, int]) -> str:
    x, y = place
    kind = "" if box.reads else ' class="input"'
    return (
        f'<rect{kind} x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="4"/>'
        f'<text x="{x + 8}" y="{y + 18}">{escape(box.title)}</text>'
        f'<text class="small" x="{x + 8}" y="{y + 34}">{escape(box.detail)}</text>'
    )


def _arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    (x1, y1), (x2, y2) = (start[0] + WIDTH // 2, start[1] + HEIGHT), (end[0] + WIDTH // 2, end[1])
    middle = (y1 + y2) // 2
    return f'<path d="M{x1} {y1}C{x1} {middle} {x2} {middle} {x2} {y2}"/>'
