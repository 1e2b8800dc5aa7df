"""Write numbers with their unit, to three significant digits.

For instance:

    seconds(0.003617)                        # 3.62 ms
    spread(0.003617, 0.0035, 0.0038, TIME)   # 3.62 ms [3.50, 3.80]
    ratio(0.8, 0.78, 0.83)                   # 0.800 x [0.780, 0.830], with a true multiplication sign
"""

from __future__ import annotations

import math

DIGITS = 3
THIN = "\N{NARROW NO-BREAK SPACE}"
FIXED = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"
CROSS = "\N{MULTIPLICATION SIGN}"
DASH = "\N{EN DASH}"

Units = tuple[tuple[float, str], ...]
TIME: Units = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
BYTES: Units = ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))
TIMES: Units = ((1.0, CROSS),)
SHARE: Units = ((0.01, "%"),)
RATE: Units = ((1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1e6, "MFLOP/s"), (1.0, "FLOP/s"))


def unit_of(value: float, units: Units) -> tuple[float, str]:
    """The largest unit (its size and name) of which `value` holds at least one; the smallest where none fits."""
    return next((unit for unit in units if abs(value) >= unit[0]), units[-1])


def significant(value: float, decimals: int | None = None) -> str:
    """`value` to three significant digits, or to a given number of decimals, with thin spaces between thousands."""
    places = decimals_of(value) if decimals is None else decimals
    return f"{value:,.{places}f}".replace(",", THIN).replace("-", MINUS)


def decimals_of(value: float) -> int:
    """How many decimals show `value` to three significant digits."""
    if value == 0:
        return 0
    return max(0, DIGITS - 1 - math.floor(math.log10(abs(value))))


def spread(value: float, low: float | None, high: float | None, units: Units) -> str:
    """A value with its interval in one unit and to the same decimals; without interval where there is none."""
    size, name = unit_of(value, units)
    decimals = decimals_of(value / size)
    if units is TIMES and decimals == DIGITS - 1:
        decimals += 1  # so that [1.001, 1.02] does not read as if it held 1
    text = f"{significant(value / size, decimals)}{FIXED}{name}"
    return text if low is None or high is None else f"{text} {interval(low, high, size, decimals)}"


def interval(low: float, high: float, size: float, decimals: int) -> str:
    """An interval in multiples of `size`, in brackets, without the unit's name."""
    return f"[{significant(low / size, decimals)},{FIXED}{significant(high / size, decimals)}]"


def tick(value: float, units: Units) -> str:
    """A round number beside an axis, without zeros at its end."""
    size, name = unit_of(value, units)
    return f"{value / size:.{DIGITS + 1}g}{FIXED}{name}"


def seconds(value: float) -> str:
    """A time in the unit that suits it; `value` is in seconds."""
    return spread(value, None, None, TIME)


def size(value: float) -> str:
    """An amount of memory in binary units; `value` is in bytes."""
    return spread(value, None, None, BYTES)


def rate(value: float) -> str:
    """How fast something computes; `value` is in floating-point operations per second."""
    return spread(value, None, None, RATE)


def ratio(value: float, low: float | None = None, high: float | None = None) -> str:
    """A ratio with its interval, where there is one."""
    return spread(value, low, high, TIMES)


def percent(share: float, decimals: int = 1) -> str:
    """A share of 1 in percent."""
    return f"{significant(100 * share, decimals)}{FIXED}%"


def count(number: float) -> str:
    """A whole number with thin spaces between thousands; infinity is the word never."""
    return "never" if math.isinf(number) else significant(number, 0)


def amount(number: float) -> str:
    """A size as it was chosen: a count, or a share such as `0.5`."""
    return count(number) if float(number).is_integer() else f"{number:g}"


def plural(number: int, noun: str, several: str = "") -> str:
    """A count with its noun, as in `1 sample` and `3 samples`; `several` is its plural where an s is not enough."""
    return f"{count(number)}{FIXED}{noun if number == 1 else several or f'{noun}s'}"
