"""Numbers in words, the same in the terminal and on the page: scores, factors, columns of numbers.

Knows no layout.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cutlayer.training.records import RoundRecord, Score, Summary, TrainedRound
from cutlayer.units import GIB, KIB, MIB, format_bytes, format_seconds

_TIMES = (("ms", 1e-3), ("s", 1.0), ("min", 60.0), ("h", 3600.0))
_BYTES = (("B", 1.0), ("KiB", KIB), ("MiB", MIB), ("GiB", GIB))

_FAR = 1.5


@dataclass(frozen=True)
class Scale:
    """A unit for a whole column or axis: `value * unit_size` is in the base unit."""

    unit: str
    unit_size: float


def time_scale(largest_s: float) -> Scale:
    """The unit in which the largest of some durations [s] has few digits before the point."""
    unit = "ms" if largest_s < 1 else "s" if largest_s < 1e4 else "min" if largest_s < 6e5 else "h"
    return Scale(unit, dict(_TIMES)[unit])


def byte_scale(largest_bytes: float) -> Scale:
    """The binary unit in which the largest of some byte counts is at least one."""
    unit, size = max((row for row in _BYTES if row[1] <= max(largest_bytes, 1.0)), key=_size)
    return Scale(unit, size)


def column(values: Sequence[float | None], unit_size: float = 1.0) -> list[str]:
    """Numbers of a column, four characters at most up to 9999; None: `-`.

    All have the decimals with which the largest shows three digits. Where that would leave a
    smaller one less than two digits (a first round that sends the weights), each has its own.
    """
    scaled = [None if value is None else value / unit_size for value in values]
    known = [value for value in scaled if value is not None]
    decimals = decimals_for(known)
    lost = decimals < 2 and any(0 < abs(value) < 10 ** (1 - decimals) for value in known)
    return [
        "-" if value is None else f"{value:.{decimals_for([value]) if lost else decimals}f}"
        for value in scaled
    ]


def decimals_for(values: Sequence[float]) -> int:
    """Decimals (0, 1 or 2) with which the largest finite value shows three digits."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    # 9.995 and 99.95 would round up to one digit more
    return 2 if largest < 9.995 else 1 if largest < 99.95 else 0


def score_text(score: Score) -> str:
    """`82.9 %` or `31.4`."""
    if score.measure == "accuracy":
        return f"{100 * score.value:.1f} %"
    return f"{score.value:.{decimals_for([score.value])}f}"


def score_change(first: Score, final: Score) -> str:
    """What training gained: `+72.7 points`, or for a perplexity `-35 %`."""
    if final.measure == "accuracy":
        return f"{100 * (final.value - first.value):+.1f} points"
    if not (math.isfinite(first.value) and math.isfinite(final.value) and first.value > 0):
        return "diverged"
    return f"{100 * (final.value / first.value - 1):+.0f} %"


def factor_text(sent_bytes: int, uncompressed_bytes: int) -> str:
    """How much compression saved: `12.3x smaller`; without compression `as much`."""
    if sent_bytes == uncompressed_bytes:
        return "as much"
    if sent_bytes == 0 or uncompressed_bytes == 0:
        return "smaller" if sent_bytes == 0 else "larger"
    factor = uncompressed_bytes / sent_bytes
    return f"{_times(factor)} smaller" if factor > 1 else f"{_times(1 / factor)} larger"


def times_text(size_bytes: int, peak_bytes: int) -> str:
    """A size against the peak of a device: `3.74x the peak`."""
    return f"{_times(size_bytes / peak_bytes)} the peak" if peak_bytes else "-"


def share_text(part: float, whole: float) -> str:
    """A share in percent: `26 %`; below one percent two digits, `0.31 %`, or `<0.01 %`."""
    if whole == 0:
        return "-"
    percent = 100 * part / whole
    if 0 < percent < 0.01:
        return "<0.01 %"
    return f"{percent:.0f} %" if percent >= 0.995 or percent == 0 else f"{percent:.2f} %"


def bar_span(longest_bytes: int, limit_bytes: int | None) -> int:
    """Where an axis of memory ends: at the longest bar, or at the limit if that is not far beyond.

    A limit far beyond the bars would leave nothing of them to see.
    """
    limit = limit_bytes or 0
    return max(limit if limit <= _FAR * longest_bytes else 0, longest_bytes, 1)


def headline(summary: Summary) -> str:
    """`sft: dinov2-small on fashion-mnist`."""
    return f"{summary.scheme}: {summary.model} on {summary.data}"


def counted(count: int, noun: str) -> str:
    """`1 device`, `8 devices`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def round_line(record: RoundRecord, rounds: int) -> str:
    """`round 1 of 5: accuracy 41.2 %, loss 1.71; up 4.67 MiB, down 5.51 MiB; simulated round 855 ms
    (wall-clock 17.8 s)`."""
    score = f"{record.score.measure} {score_text(record.score)}"
    wall = f"(wall-clock {format_seconds(record.wall_s)})"
    if not isinstance(record, TrainedRound):
        return f"before training: {score} {wall}"
    return (
        f"round {record.round} of {rounds}: {score}, loss {record.train_loss:.2f};"
        f" up {format_bytes(record.uplink_bytes)}, down {format_bytes(record.downlink_bytes)};"
        f" simulated round {format_seconds(record.delay_s)} {wall}"
    )


def _times(factor: float) -> str:
    return f"{factor:.{decimals_for([factor])}f}x"


def _size(row: tuple[str, float]) -> float:
    return row[1]
