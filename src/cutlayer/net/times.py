"""When a device did what in a round, by its own clock: what it tells the server with its adapter.

Knows no clock and no link. The server lays these times beside its own (`measured`); the probe, a
frame without content that is answered at once, tells how far apart the two clocks are.
"""

from collections.abc import Iterator
from dataclasses import astuple, dataclass

import numpy as np

from cutlayer.errors import FrameError

_VALUE = np.dtype("<f8")
_PROBE = 3
_STEP = 3
# no clock of a machine that runs shows more: 30,000 years
_LATEST_S = 1e12


@dataclass(frozen=True)
class StepTimes:
    """One micro-batch [s]: its forward begins, its activation begins to leave, its gradient has
    come."""

    began_s: float
    sent_s: float
    got_s: float


@dataclass(frozen=True)
class DeviceTimes:
    """A device's round [s], by a clock of its own that never goes back.

    Its probe left at `asked_s` and was answered by `heard_s`; its adapter began to leave at
    `ended_s`. `steps`: every micro-batch in its order.
    """

    asked_s: float
    heard_s: float
    ended_s: float
    steps: tuple[StepTimes, ...]


def times_bytes(steps: int) -> int:
    """Bytes of the times of so many micro-batches."""
    return _VALUE.itemsize * (_PROBE + _STEP * steps)


def times_to_bytes(times: DeviceTimes | None) -> bytes:
    """Nothing for None, else float64 by float64, little endian."""
    return b"" if times is None else np.fromiter(_values(times), _VALUE).tobytes()


def times_from_bytes(data: bytes) -> DeviceTimes | None:
    """The inverse of `times_to_bytes`. Raises FrameError: no times."""
    if not data:
        return None
    steps, rest = divmod(len(data) - times_bytes(0), times_bytes(1) - times_bytes(0))
    if rest or steps < 0:
        raise FrameError(f"times of a round in {len(data)} bytes")
    values = np.frombuffer(data, _VALUE)
    # NaN is not either
    if not (np.abs(values) <= _LATEST_S).all():
        raise FrameError("times of a round that no clock shows")
    asked_s, heard_s, ended_s = values[:_PROBE].tolist()
    rows = values[_PROBE:].reshape(steps, _STEP).tolist()
    return DeviceTimes(asked_s, heard_s, ended_s, tuple(StepTimes(*row) for row in rows))


def _values(times: DeviceTimes) -> Iterator[float]:
    yield from (times.asked_s, times.heard_s, times.ended_s)
    for step in times.steps:
        yield from astuple(step)
