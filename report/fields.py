"""Walk through parsed JSON so that every complaint names the file, the field, what was found and what was expected.

The path grows as one walks, so a complaint needs no help from the code that walks:

    root = load(Path("run.json"))
    root["benchmarks"].items()[3]["extra_info"]["engine"].text()
    # run.json: benchmarks[3].extra_info.engine: found 7, expected text
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

Choice = TypeVar("Choice", bound=str)
Found = TypeVar("Found")

LONGEST_SHOWN = 60  # characters of a found value; a whole list in an error hides the error


class ReportError(Exception):
    """A stored file that cannot be used; its text is one line that names file, field, found and expected."""

    def __init__(self, file: Path, field: str, found: str, expected: str) -> None:
        """Keep the four facts as attributes; all are text but `file`."""
        super().__init__(f"{file}: {field}: found {found}, expected {expected}")
        self.file, self.field, self.found, self.expected = file, field, found, expected


@dataclass(frozen=True, slots=True)
class Field:
    """One value inside a file, with the path that leads to it (`benchmarks[3].extra_info.engine`)."""

    file: Path
    path: str
    value: object

    def fail(self, expected: str, found: str | None = None) -> NoReturn:
        """Raise the `ReportError` of this field; `found` defaults to the value itself."""
        raise ReportError(self.file, self.path or "the whole file", found or shown(self.value), expected)

    def __getitem__(self, key: str) -> Field:
        """The member `key` of an object; raises ReportError where there is none."""
        members = self.members()
        if key not in members:
            Field(self.file, self._below(key), None).fail("a value", "no such field")
        return members[key]

    def optional(self, key: str) -> Field | None:
        """The member `key` of an object, or None where it is absent or null."""
        member = self.members().get(key)
        return None if member is None or member.value is None else member

    def maybe(self, key: str, read: Callable[[Field], Found]) -> Found | None:
        """What `read` makes of the member `key`, or None where it is absent or null."""
        member = self.optional(key)
        return None if member is None else read(member)

    def members(self) -> dict[str, Field]:
        """All members of an object in stored order; raises ReportError where this is no object."""
        if not isinstance(self.value, Mapping):
            self.fail("an object")
        return {str(key): Field(self.file, self._below(str(key)), value) for key, value in self.value.items()}

    def items(self) -> list[Field]:
        """All items of a list; raises ReportError where this is no list."""
        if not isinstance(self.value, list):
            self.fail("a list")
        return [Field(self.file, f"{self.path}[{index}]", value) for index, value in enumerate(self.value)]

    def text(self) -> str:
        """Read text; raises ReportError where it is empty or of another type."""
        if not isinstance(self.value, str) or not self.value:
            self.fail("text")
        return self.value

    def one_of(self, allowed: tuple[Choice, ...]) -> Choice:
        """Read one of the `allowed` words; raises ReportError otherwise."""
        chosen = next((choice for choice in allowed if self.value == choice), None)
        if chosen is None:
            self.fail("one of " + ", ".join(allowed))
        return chosen

    def flag(self) -> bool:
        """Read true or false; raises ReportError otherwise."""
        if not isinstance(self.value, bool):
            self.fail("true or false")
        return self.value

    def whole(self, least: int = 0) -> int:
        """Read a whole number of at least `least`; raises ReportError otherwise."""
        if isinstance(self.value, bool) or not isinstance(self.value, int) or self.value < least:
            self.fail(f"a whole number of at least {least}")
        return self.value

    def number(self) -> float:
        """Read a finite number; raises ReportError otherwise (NaN, Infinity and true are no numbers)."""
        number = as_float(self.value)
        if number is None:
            self.fail("a finite number")
        return number

    def knob(self) -> float:
        """A size as it was chosen: a whole number, or a share."""
        value = self.not_negative()
        return int(value) if value.is_integer() else value

    def positive(self) -> float:
        """Read a finite number above zero; raises ReportError otherwise."""
        number = as_float(self.value)
        if number is None or number <= 0:
            self.fail("a finite number above 0")
        return number

    def not_negative(self) -> float:
        """Read a finite number of at least zero; raises ReportError otherwise."""
        number = as_float(self.value)
        if number is None or number < 0:
            self.fail("a finite number of at least 0")
        return number

    def error(self) -> float:
        """Read how far something is off: at least zero, and Infinity where it is off beyond measure."""
        if self.value == math.inf:
            return math.inf
        return self.not_negative()

    def _below(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key


def as_float(value: object) -> float | None:
    """`value` as a finite float, or None where it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:  # a whole number with hundreds of digits
        return None
    return number if math.isfinite(number) else None


def shown(value: object) -> str:
    """A short one-line picture of a JSON value for an error text."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."


def load(file: Path) -> Field:
    """The whole of a JSON file as one field; raises ReportError where it cannot be opened or is not JSON."""
    whole = Field(file, "", None)
    try:
        return Field(file, "", json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        whole.fail("a file that can be opened", f"{error.strerror or error}")
    except json.JSONDecodeError as error:
        whole.fail("a stored run in JSON", f"{error.msg} at line {error.lineno} column {error.colno}")
    except (ValueError, RecursionError) as error:  # not UTF-8; endless digits; endless nesting
        whole.fail("a stored run in JSON", f"{type(error).__name__}: {str(error)[:LONGEST_SHOWN]}")
