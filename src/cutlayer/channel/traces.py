"""Measured rates: traces, files of them, and the channel that replays them.

The one place of this package that opens a file. Knows no SNR.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Float64, Int64

from cutlayer.channel.rates import Channel, ProportionalRates, RateCurves
from cutlayer.errors import ConfigError
from cutlayer.units import BITS_PER_BYTE

CSV_HEADING = "time_s,rate_bit_per_s"
# what one line of a Mahimahi trace lets through
PACKET_BYTES = 1500
_MS_PER_S = 1000
# a day: a number far beyond is a time of another kind, and would take memory for its seconds
_LONGEST_MS = 24 * 3600 * _MS_PER_S


@dataclass(frozen=True, eq=False)
class Trace:
    """A rate over time, constant on pieces: `rate_bit_per_s[i]` from `edges_s[i]` to the next edge.

    The first edge is 0, the last is the length of the trace, after which it begins again. Raises
    ConfigError for edges that do not increase, and for rates that are negative, not finite, or 0
    throughout (nothing could ever be sent).
    """

    edges_s: Float64[np.ndarray, " edge"]
    rate_bit_per_s: Float64[np.ndarray, " piece"]

    def __post_init__(self) -> None:
        edges, rates = self.edges_s, self.rate_bit_per_s
        if len(rates) == 0 or len(edges) != len(rates) + 1:
            raise ConfigError(
                f"a trace of {len(rates)} rates and {len(edges)} edges: it needs a rate for each "
                "piece, and an edge more"
            )
        if edges[0] != 0 or not np.isfinite(edges).all() or not (np.diff(edges) > 0).all():
            raise ConfigError("a trace's edges must start at 0 s and increase")
        if not (np.isfinite(rates).all() and (rates >= 0).all()):
            raise ConfigError("a trace's rates must be finite and at least 0")
        if not (rates > 0).any():
            raise ConfigError("a trace whose rate is always 0 lets nothing through")

    @property
    def length_s(self) -> float:
        """Seconds until it begins again."""
        return float(self.edges_s[-1])

    def mean_bit_per_s(self, start_s: float, window_s: float) -> float:
        """The mean rate over the `window_s` seconds from `start_s`; always above 0.

        A window without a positive rate is doubled until it has one: who begins to send in an
        outage waits for its end. Raises ConfigError for a negative or infinite start, and for a
        window that is not positive and finite.
        """
        if not (start_s >= 0 and math.isfinite(start_s)):
            raise ConfigError(f"a time in a trace must be finite and at least 0 s, not {start_s}")
        if not (window_s > 0 and math.isfinite(window_s)):
            raise ConfigError(f"a trace's window must be positive and finite, not {window_s} s")
        start_s = math.fmod(start_s, self.length_s)
        while (bits := self._bits(start_s, window_s)) == 0:
            window_s *= 2
        return bits / window_s

    def _bits(self, start_s: float, window_s: float) -> float:
        """What goes through in a window that starts within the trace."""
        end_s = start_s + window_s
        whole, rest_s = divmod(end_s, self.length_s)
        if whole == 0:
            return self._within(start_s, end_s)
        bits = self._within(start_s, self.length_s) + self._within(0.0, rest_s)
        # a window shorter than a trace goes through none as a whole
        return bits + ((whole - 1) * self._within(0.0, self.length_s) if whole > 1 else 0.0)

    def _within(self, start_s: float, end_s: float) -> float:
        """The same where the trace does not begin again: a sum of what is never negative."""
        first = int(np.searchsorted(self.edges_s, start_s, side="right")) - 1
        last = int(np.searchsorted(self.edges_s, end_s, side="left"))
        edges = np.clip(self.edges_s[first : last + 1], start_s, end_s)
        return float(np.diff(edges) @ self.rate_bit_per_s[first:last])


@final
@dataclass(frozen=True, eq=False)
class TraceChannel(Channel):
    """The rates at the second a round begins; past its end a trace begins again.

    A trace is what its device would have with the whole bandwidth to itself, as a device alone in a
    cell measures it; on a share of the bandwidth it has that share of the rate. Rates are constant
    within a round, so each is the trace's mean over `window_s` seconds from the round's start
    (longer where all of that is an outage; see `Trace.mean_bit_per_s`). Rounds that last far longer
    than the window see only how their first seconds were: give it about a round's length. Raises
    ConfigError unless there is a trace each way for each device and the window is positive.
    """

    uplink: tuple[Trace, ...]
    downlink: tuple[Trace, ...]
    window_s: float = 1.0

    def __post_init__(self) -> None:
        if not self.uplink or len(self.uplink) != len(self.downlink):
            raise ConfigError(
                f"{len(self.uplink)} uplink and {len(self.downlink)} downlink traces: give one "
                "each way for each device"
            )
        # the window is checked where it is used; here so that a run does not begin with a wrong one
        self.uplink[0].mean_bit_per_s(0.0, self.window_s)

    def curves(self, round_number: int, start_s: float) -> RateCurves:
        """By the clock alone: the round's number says nothing.

        Raises ConfigError for a start before 0.
        """
        return RateCurves(
            _mean(self.uplink, start_s, self.window_s), _mean(self.downlink, start_s, self.window_s)
        )

    def mean_curves(self) -> RateCurves:
        """Each trace's mean over its whole length."""
        return RateCurves(_mean(self.uplink), _mean(self.downlink))

    @property
    def devices(self) -> int:
        """How many devices it serves."""
        return len(self.uplink)


def _mean(
    traces: tuple[Trace, ...], start_s: float = 0.0, window_s: float | None = None
) -> ProportionalRates:
    """Each trace's mean over a window; None: over its length."""
    # of many devices some share a trace, which is read once
    known: dict[int, float] = {}
    for trace in traces:
        if id(trace) not in known:
            known[id(trace)] = trace.mean_bit_per_s(start_s, window_s or trace.length_s)
    return ProportionalRates(np.array([known[id(trace)] for trace in traces]))


def read_trace(path: Path) -> Trace:
    """The trace in a file: Mahimahi's if its first line is a whole number, else CSV.

    Raises ConfigError for a file that cannot be read or is neither, with its line.
    """
    try:
        # a mark at the beginning, as spreadsheets write one, is no part of the text
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read the trace {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the trace {path} is not text in UTF-8") from error
    first = text.lstrip().split("\n", 1)[0].strip()
    if not first:
        raise ConfigError(
            f"the trace {path} is empty: it must hold {CSV_HEADING} and lines of them, or a "
            "packet's millisecond on each line"
        )
    return (mahimahi_trace if first.isdigit() else csv_trace)(text, str(path))


def csv_trace(text: str, name: str) -> Trace:
    """A trace from lines of `time_s,rate_bit_per_s`, under exactly that heading.

    Each rate holds until the next line's time; the last one for as long as the one before it (a
    single line: one second, for ever again). Times may start anywhere and must increase; the trace
    starts at the first. Raises ConfigError with the line for anything else.
    """
    lines = text.splitlines()
    if not lines or lines[0].strip() != CSV_HEADING:
        found = repr(lines[0].strip()[:60]) if lines else "an empty file"
        raise ConfigError(f"{name}: line 1 must be {CSV_HEADING}, not {found}")
    times_s: list[float] = []
    rates: list[float] = []
    for place, line in _filled(lines, start=2):
        where = f"{name}: line {place}"
        cells = line.split(",")
        if len(cells) != 2:
            raise ConfigError(f"{where} has {len(cells)} values, not the 2 of {CSV_HEADING}")
        time_s, rate = (_finite(cell, where) for cell in cells)
        if times_s and time_s <= times_s[-1]:
            raise ConfigError(f"{where}: the time {time_s:g} s does not follow {times_s[-1]:g} s")
        if rate < 0:
            raise ConfigError(f"{where}: a rate must be at least 0, not {rate:g} bit/s")
        times_s.append(time_s)
        rates.append(rate)
    if not times_s:
        raise ConfigError(f"{name}: no line follows the heading")
    last_s = times_s[-1] - times_s[-2] if len(times_s) > 1 else 1.0
    edges = np.array([*times_s, times_s[-1] + last_s]) - times_s[0]
    return _named(lambda: Trace(edges, np.array(rates)), name)


def mahimahi_trace(text: str, name: str, bin_s: float = 1.0) -> Trace:
    """The rate of a packet schedule: each line is a millisecond in which 1500 bytes may pass.

    Lines do not decrease (equal ones are several packets in one millisecond), and the schedule
    begins again after its last line's time, as in `mm-link`. A packet at t belongs to the time up
    to and with t. Packets are counted in equal bins as near `bin_s` as divide the whole, so a rate
    over the whole schedule is exact. Raises ConfigError with the line for anything else, for a
    schedule of 0 ms or over a day, and for a bin that is not positive.

    Source: R. Netravali et al., "Mahimahi: accurate record-and-replay for HTTP", USENIX ATC 2015;
    the manual page mm-link(1).
    """
    if not (bin_s > 0 and math.isfinite(bin_s)):
        raise ConfigError(f"a bin of a trace must be positive and finite, not {bin_s} s")
    times_ms = _packet_times_ms(text, name)
    length_ms = int(times_ms[-1])
    # a bin of less than a millisecond would be empty or full for no reason
    bins = max(1, min(length_ms, round(length_ms / (bin_s * _MS_PER_S))))
    # whole numbers, rounded up: a packet on an edge belongs to the bin that ends there
    places = np.maximum(-(-times_ms * bins // length_ms) - 1, 0)
    edges = np.arange(bins + 1) * (length_ms / bins / _MS_PER_S)
    packets = np.bincount(places, minlength=bins)
    bits = packets * float(PACKET_BYTES * BITS_PER_BYTE)
    return _named(lambda: Trace(edges, bits / np.diff(edges)), name)


def _packet_times_ms(text: str, name: str) -> Int64[np.ndarray, " packet"]:
    times_ms: list[int] = []
    for place, line in _filled(text.splitlines(), start=1):
        where = f"{name}: line {place}"
        # int() would take "1_000", "+5" and other scripts' digits
        if not (line.isascii() and line.isdigit() and len(line) <= 12):
            raise ConfigError(f"{where}: {line[:60]!r} is not a whole number of milliseconds")
        time_ms = int(line)
        if times_ms and time_ms < times_ms[-1]:
            raise ConfigError(f"{where}: {time_ms} ms comes after {times_ms[-1]} ms: sort the file")
        times_ms.append(time_ms)
    if not times_ms:
        raise ConfigError(f"{name} holds no packet times: one millisecond a line")
    if not 0 < times_ms[-1] <= _LONGEST_MS:
        raise ConfigError(
            f"{name} ends at {times_ms[-1]} ms: a packet schedule must last from 1 ms to a day"
        )
    return np.array(times_ms, dtype=np.int64)


def _filled(lines: Sequence[str], start: int) -> list[tuple[int, str]]:
    """Lines from number `start` on that are not blank, with their numbers."""
    numbered = enumerate(lines[start - 1 :], start=start)
    return [(place, line.strip()) for place, line in numbered if line.strip()]


def _finite(cell: str, where: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        raise ConfigError(f"{where}: {cell.strip()[:60]!r} is not a number") from None
    if not math.isfinite(value):
        raise ConfigError(f"{where}: {cell.strip()} is not a finite number")
    return value


def _named(make: Callable[[], Trace], name: str) -> Trace:
    """A trace, or its error with the file's name."""
    try:
        return make()
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
