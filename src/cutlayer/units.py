"""Conversions between the units that names carry (`_hz`, `_s`, `_bytes`, `_db`) and those we print.

Knows no model and no scheme.
"""

import math

KIB = 1024
MIB = 1024**2
GIB = 1024**3
BITS_PER_BYTE = 8
MS_PER_S = 1000


def linear_from_db(ratio_db: float) -> float:
    """A power ratio as a plain number, `10^(ratio_db / 10)`."""
    return float(10.0 ** (ratio_db / 10.0))


def format_bytes(count: float) -> str:
    """A byte count to three digits in binary units, for tables: `36.9 MiB`."""
    for unit, size in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if abs(count) >= size:
            return f"{_three_digits(count / size)} {unit}"
    return f"{count:.0f} B"


# beyond which a duration is told in the next unit
_MANY_HOURS, _MANY_DAYS = 1000, 3 * 365


def format_seconds(seconds: float) -> str:
    """A duration for tables: `850 ms`, `12.3 s`, `4 min 05 s`, `2 h 03 min`, `41 days`."""
    if seconds < 1.0:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 100.0:
        return f"{_three_digits(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    if hours < _MANY_HOURS:
        return f"{hours} h {minutes:02d} min"
    days = hours / 24
    return f"{days:,.0f} days" if days < _MANY_DAYS else f"{days / 365.25:,.0f} years"


def format_joules(joules: float) -> str:
    """An energy to three digits: `850 mJ`, `12.3 J`, `4.05 kJ`, `1.20 MJ`."""
    for unit, size in (("MJ", 1e6), ("kJ", 1e3), ("J", 1.0)):
        if abs(joules) >= size:
            return f"{_three_digits(joules / size)} {unit}"
    return f"{_three_digits(joules * 1e3)} mJ"


def roughly(seconds: float) -> str:
    """A duration nobody knows to a part of a second: `12 s`, `4 min 05 s`."""
    return f"{max(seconds, 1.0):.0f} s" if seconds < 100.0 else format_seconds(seconds)


def _three_digits(value: float) -> str:
    digits = 2 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"
