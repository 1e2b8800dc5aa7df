"""Hold one engine against another over all cells of a question, by stored paired ratios only.

The outcome is one word, and a sentence with the figures behind it:

    comparison = compare(results, labels, "step", "graph", "tape")
    comparison.word         # "faster", "slower", "no difference", "depends" or "cannot tell"
    comparison.sentence()   # Of 9 cells, graph takes less time than tape in 5 ...
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from report import units
from report.labels import Labels
from report.results import Results, cells
from report.stored import Cell, Judgement, Question, Ratio

CANNOT_TELL = "cannot tell"
DEPENDS = "depends"
SHORT: dict[Judgement, str] = {
    "faster": "less",
    "slower": "more",
    "no difference": "shows no difference",
    "cannot tell": "cannot be told apart",
}
ALL_LISTED = 3  # up to so many cells are each named; beyond that only the two ends are


@dataclass(frozen=True, slots=True)
class Comparison:
    """The ratios of `engine` to `to` by cell, and how many cells have a row of one of them but no ratio."""

    engine: str
    to: str
    ratios: tuple[tuple[Cell, Ratio], ...]
    untold: int
    labels: Labels

    @property
    def word(self) -> str:
        """What all cells say, `depends` where they do not say the same, `cannot tell` where there is none."""
        words = list(self.counts())
        if not words:
            return CANNOT_TELL
        return words[0] if len(words) == 1 else DEPENDS

    def counts(self) -> Counter[Judgement]:
        """How many cells say faster, slower, no difference, and that they cannot tell."""
        return Counter(ratio.verdict for _, ratio in self.ratios)

    def sentence(self) -> str:
        """The tally over cells, and the ratios with interval and rounds: of all cells if few, else of the two ends."""
        shown = sorted(self.ratios, key=lambda pair: pair[1].value)
        if not shown:
            return self.short()
        counted = f"{_numbers(ratio.rounds for _, ratio in shown)} paired rounds a cell"
        if any(ratio.launches > 1 for _, ratio in shown):
            counted += f", in launches: {_numbers(ratio.launches for _, ratio in shown)}"
        if len(shown) <= ALL_LISTED:
            return f"{self.short()} {'; '.join(self._one(*pair) for pair in shown)}; {counted}."
        return f"{self.short()} From {self._one(*shown[0])} to {self._one(*shown[-1])}; {counted}."

    def short(self) -> str:
        """Only the tally over cells."""
        counts, total = self.counts(), len(self.ratios)
        if not total:
            return f"No paired ratio of {self.engine} to {self.to} is stored."
        phrases: dict[Judgement, str] = {
            "faster": f"takes less time than {self.to}",
            "slower": f"takes more time than {self.to}",
            "no difference": f"shows no difference to {self.to}",
            "cannot tell": f"cannot be told apart from {self.to}",
        }
        rest = f" No ratio is stored for {units.plural(self.untold, 'further cell')}." if self.untold else ""
        if len(counts) == 1:
            return f"{self.engine} {phrases[next(iter(counts))]} in {all_of(total)} compared.{rest}"
        found = [word for word in phrases if counts[word]]
        parts = [f"{SHORT[word] if place else phrases[word]} in {counts[word]}" for place, word in enumerate(found)]
        return f"Of {total} cells, {self.engine} {', '.join(parts[:-1])} and {parts[-1]}.{rest}"

    def _one(self, cell: Cell, ratio: Ratio) -> str:
        return f"{units.ratio(ratio.value, ratio.low, ratio.high)} ({self.labels.cell(cell)})"


def all_of(cells_compared: int) -> str:
    """`the one cell`, `both cells` or `all 9 cells`."""
    return {1: "the one cell", 2: "both cells"}.get(cells_compared, f"all {cells_compared} cells")


def compare(results: Results, labels: Labels, question: Question, engine: str, to: str) -> Comparison:
    """Collect the stored ratios of `engine` to `to`; a cell with a row of one of them but no ratio counts as untold."""
    found, untold = [], 0
    for cell, rows in cells(results.of(question)).items():
        ratio = results.ratio(cell, engine, to=to)
        if ratio is not None:
            found.append((cell, ratio))
        elif {engine, to} & {row.engine for row in rows}:
            untold += 1
    return Comparison(engine, to, tuple(found), untold, labels)


def _numbers(found: Iterable[int]) -> str:
    return " or ".join(map(str, sorted(set(found))))
