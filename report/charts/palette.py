"""One colour and one marker for each engine, the same in all pictures, tables and legends of a page.

A palette is made once a page:

    palette = Palette.of(["tape", "graph", "jax"])
    palette.engine("tape").colour       # what matplotlib draws with; the page swaps it for a CSS variable
    palette.variables(dark=True)        # the CSS variables of one theme

Hues are those of Okabe and Ito and of Paul Tol, which colour-blind readers tell apart, shifted until each has a
contrast of 3 to 1 against its background; markers and line ends tell engines apart in grey, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from report.results import engine_rank, uncollected

INK = "#1b1b1f"  # becomes `currentColor`
PAPER = "#fefefd"  # becomes the page's background


@dataclass(frozen=True, slots=True)
class Paint:
    """A colour on light and on dark pages, with a marker in matplotlib's terms and the same shape as a character."""

    variable: str
    colour: str
    dark: str
    marker: str = "s"
    glyph: str = "■"


OURS: Mapping[str, tuple[str, str, str, str]] = {
    "tape": ("#c2500c", "#f28c4b", "o", "●"),
    "graph": ("#0b5ea8", "#58a9ea", "s", "■"),
    "graph_replay": ("#2a93c9", "#a5daf7", "D", "◆"),
    "torch_eager": ("#6d6d74", "#a9a9b2", "^", "▲"),
    "torch_compile": ("#1f7d5c", "#63c79d", "X", "✖"),
    "torch_compile_reduce_overhead": ("#5b7f1d", "#a3c763", "d", "♦"),
    "torch_module": ("#9c4f96", "#d79ad2", "v", "▼"),
}
OTHERS: tuple[tuple[str, str, str, str], ...] = (
    ("#117733", "#5cc27f", "P", "✚"),
    ("#882255", "#e07aa9", "H", "⬣"),
    ("#7f7a1c", "#cfc95e", "p", "⬟"),
    ("#2a8c7e", "#6fd0c2", "h", "⬢"),
    ("#4b3aa0", "#a79bf0", "*", "★"),
)
PHASES: tuple[tuple[str, str], ...] = (
    ("#4b3a9b", "#7a6ad6"),
    ("#7cc0e4", "#7cc0e4"),
    ("#36927f", "#44aa99"),
    ("#d8c35f", "#ddcc77"),
    ("#c8606f", "#cc6677"),
    ("#146b32", "#2f9a55"),
    ("#9a9530", "#b5b04a"),
    ("#7d1f4e", "#b0487f"),
    ("#a5429a", "#c066b6"),
)
PARTS: Mapping[str, tuple[str, str]] = {
    "forward": ("#5f8fbf", "#7fa8d2"),
    "backward": ("#bd6a4e", "#d08a70"),
    "update": ("#5a6b3c", "#93a86b"),
}
REST = ("#85858e", "#84848f")
OUTSIDE = "outside any phase"
EMPTY = ("#d5d5da", "#4a4a53")


@dataclass(frozen=True, slots=True)
class Palette:
    """The paints of one page, for engines, for phases of getting ready and for parts of a step, by name."""

    engines: Mapping[str, Paint]
    phases: Mapping[str, Paint]
    parts: Mapping[str, Paint]
    rest: Paint

    @classmethod
    def of(cls, engines: Sequence[str], phases: Sequence[str] = ()) -> Palette:
        """Give each engine its paint, and the phases theirs in order; those beyond the last colour share `rest`."""
        known = list(dict.fromkeys(map(uncollected, engines)))
        outside = sorted((name for name in known if name not in OURS), key=engine_rank)
        looks = {name: OURS[name] if name in OURS else OTHERS[outside.index(name) % len(OTHERS)] for name in known}
        return cls(
            engines={name: Paint(f"--engine-{place}", *look) for place, (name, look) in enumerate(looks.items())},
            phases={
                name: Paint(f"--phase-{place}", *look)
                for place, (name, look) in enumerate(zip(phases, PHASES, strict=False))
            }
            | {OUTSIDE: Paint("--phase-none", *EMPTY)},
            parts={name: Paint(f"--part-{name}", *look) for name, look in PARTS.items()},
            rest=Paint("--phase-rest", *REST),
        )

    def engine(self, name: str) -> Paint:
        """The paint of an engine, with its garbage collector on or off; `rest` where it has none of its own."""
        return self.engines.get(uncollected(name), self.rest)

    def phase(self, name: str) -> Paint:
        """The paint of a phase; `rest` where there are more phases than colours."""
        return self.phases.get(name, self.rest)

    def part(self, name: str) -> Paint:
        """The paint of a part of a step; `rest` for a part that the palette does not know."""
        return self.parts.get(name, self.rest)

    def phase_rank(self, phase: str) -> int:
        """A key that sorts phases with a colour of their own first, and what is outside any phase last."""
        return 2 if phase == OUTSIDE else int(phase not in self.phases)

    def variables(self, *, dark: bool) -> list[tuple[str, str]]:
        """All CSS variables with their colours in one theme."""
        return [(paint.variable, paint.dark if dark else paint.colour) for paint in self._paints()]

    def css_colours(self) -> dict[str, str]:
        """What each colour that matplotlib drew with becomes on the page."""
        fixed = {INK: "currentColor", PAPER: "var(--paper)"}
        return fixed | {paint.colour: f"var({paint.variable})" for paint in self._paints()}

    def _paints(self) -> list[Paint]:
        return [*self.engines.values(), *self.phases.values(), *self.parts.values(), self.rest]
