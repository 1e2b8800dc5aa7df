"""Exit codes, and how a command ends that Ctrl-C strikes.

Codes below 10 are pytest's own: 1 failed, 2 interrupted, 3 internal error, 4 usage, 5 no tests.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import wraps
from typing import Final, Protocol

from engines.interrupt import forget_interrupt

USAGE: Final = 4
WRONG_NUMERICS: Final = 10
NOTHING_MEASURED: Final = 11
UNWRITABLE_RESULTS: Final = 12
BAD_DATA: Final = 13
UNREADABLE_RESULTS: Final = 14
INTERRUPTED: Final = 130
"""What shells say of a program that Ctrl-C ended; pytest says 2."""


class Command(Protocol):
    """A command line: takes its arguments, or those of the process, and gives an exit code."""

    def __call__(self, arguments: Sequence[str] | None = None) -> int:
        """Run it."""
        ...


def interruptible(command: Command) -> Command:
    """A command that Ctrl-C ends with one line and its own exit code."""

    @wraps(command)
    def run(arguments: Sequence[str] | None = None) -> int:
        try:
            return command(arguments)
        except KeyboardInterrupt:
            forget_interrupt()
            sys.stderr.write("\ninterrupted\n")
            return INTERRUPTED

    return run
