"""One line that says what is running and how long it will take; silent where nobody is looking."""

from __future__ import annotations

import time
from collections.abc import Callable


class Progress:
    """Progress over a known number of cells. `write` receives whole lines without a line end; None is silence."""

    def __init__(self, total: int, write: Callable[[str], None] | None) -> None:
        self._total = total
        self._done = 0
        self._write = write
        self._start = time.monotonic()
        self._last = 0.0

    def show(self, what: str) -> None:
        """Replace the line, at most ten times a second."""
        now = time.monotonic()
        if self._write is None or now - self._last < 0.1:
            return
        self._last = now
        self._write(f"[{self._done}/{self._total}] {what}{self._left(now)}")

    def finish_cell(self) -> None:
        """One more cell is done."""
        self._done += 1
        self._last = 0.0

    def _left(self, now: float) -> str:
        if not self._done:
            return ""
        left = (now - self._start) / self._done * (self._total - self._done)
        return f", about {left / 60:.0f} min left" if left > 90 else f", about {left:.0f} s left"
