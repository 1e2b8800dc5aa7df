"""Exit codes. Those below 10 are pytest's own: 1 failed, 2 interrupted, 3 internal error, 4 usage, 5 no tests."""

from __future__ import annotations

from typing import Final

USAGE: Final = 4
WRONG_NUMERICS: Final = 10
NOTHING_MEASURED: Final = 11
UNWRITABLE_RESULTS: Final = 12
BAD_DATA: Final = 13
UNREADABLE_RESULTS: Final = 14
INTERRUPTED: Final = 130
"""What shells say of a program that Ctrl-C ended; pytest says 2."""
