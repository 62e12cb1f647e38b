"""When what came and went in a round by the server's clock, as the timeline shows it, and the
shares of the next one."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple, dataclass, field, replace
from typing import final

import numpy as np
from jaxtyping import Float64

from cutlayer.channel.rates import LinkRates, RateCurves, check_shares
from cutlayer.errors import ConfigError
from cutlayer.net.wire.frames import Kind
from cutlayer.net.wire.messages import Activation, Adapter, DeviceTimes, Position
from cutlayer.planner.allocation import (
    Allocation,
    ObservedRound,
    Shares,
    ask_shares,
    observed_work,
)
from cutlayer.rounds.result import END, START, DeviceTimeline, RoundTimeline, TimelineEvent
from cutlayer.rounds.schemes import SPLIT_STEP, Phase, Scheme
from cutlayer.rounds.work import DeviceRates, DeviceWork, SharingRules
from cutlayer.training.state import RunState
from cutlayer.units import BITS_PER_BYTE

# Notes when what of each device came and went in a round, by the server's clock.
#
# Knows one clock, and neither links nor tensors. A server that is started again within a round has
# not seen all of it, and measures the devices that it has seen whole.


@dataclass(frozen=True)
class MicroBatchTimes:
    """One micro-batch at the server [s]: it arrived, its computation began, its answer left; and
    the bytes of what came and went."""

    arrived_s: float
    started_s: float
    replied_s: float
    up_bytes: int
    down_bytes: int


@dataclass(frozen=True)
class SeenDevice:
    """A device's whole round at the server [s].

    Its probe arrived at `asked_s` and was answered at `answered_s`; its adapter came at `took_s`.
    `steps`: every micro-batch in its order. `times`: what the device says itself.
    """

    asked_s: float
    answered_s: float
    took_s: float
    adapter_bytes: int
    steps: tuple[tuple[Position, MicroBatchTimes], ...]
    times: DeviceTimes | None


@dataclass(frozen=True)
class SeenRound:
    """A round at the server: its first opening left at `began_s`; the devices whose adapters
    came."""

    began_s: float
    devices: Mapping[int, SeenDevice]


@dataclass
class _Own:
    """A device's round so far."""

    asked_s: float = 0.0
    answered_s: float = 0.0
    arrived_s: float = 0.0
    started_s: float = 0.0
    steps: dict[Position, MicroBatchTimes] = field(default_factory=dict)
    took: SeenDevice | None = None


@final
class ServerWatch:
    """`clock`: seconds, from any beginning, that never go back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began_s: float | None = None
        self._own: dict[int, _Own] = {}

    def now(self) -> float:
        """The clock."""
        return self._clock()

    def arrived(self, device: int, arrived_s: float) -> None:
        """A frame of the device is looked at, which came at `arrived_s`."""
        self._of(device).arrived_s = arrived_s

    def sends(self, device: int, kind: Kind) -> None:
        """A frame to the device begins to leave."""
        own, now_s = self._of(device), self._clock()
        match kind:
            case Kind.OPEN:
                self._own[device] = _Own()
                self._began_s = now_s if self._began_s is None else self._began_s
            case Kind.ECHO:
                own.asked_s, own.answered_s = own.arrived_s, now_s
            case Kind.GRADIENT if own.steps:
                last, seen = own.steps.popitem()
                own.steps[last] = replace(seen, replied_s=now_s)
            case _:
                pass

    def starts(self, device: int) -> None:
        """The computation for the frame that is looked at begins."""
        self._of(device).started_s = self._clock()

    def trained(self, device: int, message: Activation, packet: bytes) -> None:
        """That computation has ended, in the gradient `packet`."""
        own = self._of(device)
        own.steps[message.position] = MicroBatchTimes(
            arrived_s=own.arrived_s,
            started_s=own.started_s,
            replied_s=self._clock(),
            up_bytes=len(message.packet) + len(message.labels),
            down_bytes=len(packet),
        )

    def took(self, device: int, message: Adapter) -> None:
        """The frame that is looked at is the device's adapter."""
        own = self._of(device)
        own.took = SeenDevice(
            asked_s=own.asked_s,
            answered_s=own.answered_s,
            took_s=own.arrived_s,
            adapter_bytes=len(message.packet),
            steps=tuple(own.steps.items()),
            times=message.times,
        )

    def close(self) -> SeenRound | None:
        """The round closes; None if its beginning was not seen."""
        began_s, owns = self._began_s, self._own
        self._began_s, self._own = None, {}
        if began_s is None:
            return None
        # a server that was started again within the round opens it late, for who comes anew: others
        # may have ended it by then
        took = {number: own.took for number, own in owns.items()}
        seen = {n: own for n, own in took.items() if own is not None and own.took_s >= began_s}
        return SeenRound(began_s, seen)

    def _of(self, device: int) -> _Own:
        return self._own.setdefault(device, _Own())


# A round over a network as the timeline shows one: what was measured in the place of what is
# simulated.
#
# The server's times and each device's are of two clocks; a probe and its echo tell how far they are
# apart, as in NTP: exactly, where both ways took as long, and within half of the round trip of two
# frames without content in any case. The sum of both ways does not depend on it. Source: RFC 5905,
# section 8 (offset = ((t1 - t0) + (t2 - t3)) / 2).


# what `check_scheme` lets through has these steps, or the first three of them where the devices'
# part is frozen; and one before, and one after them if devices send an adapter
_PHASES = tuple(step.phase for step in SPLIT_STEP)
# a second of computing is so much work
_UNIT = 1.0


@dataclass(frozen=True)
class RoundShape:
    """What a round of a run is made of: `steps` local steps of a device in `micro_batches`;
    `adapter_bytes`: of the adapter that opened it."""

    scheme: Scheme
    rules: SharingRules
    steps: tuple[int, ...]
    micro_batches: int
    adapter_bytes: int


@dataclass(frozen=True, eq=False)
class MeasuredRound:
    """A closed round [s]. `devices`: those whose whole round both ends have seen, each as a round
    of its own."""

    delay_s: float
    slowest_device: int
    took_s: Mapping[int, float]
    devices: Mapping[int, RoundTimeline]

    def phase_seconds(self, device: int) -> dict[Phase, float] | None:
        """The device's seconds by phase, which sum to its delay; None: not seen whole."""
        own = self.devices.get(device)
        return None if own is None else own.phase_seconds(0)

    def events(self) -> Iterator[TimelineEvent]:
        """Every step and wait that was seen."""
        for device, own in sorted(self.devices.items()):
            for event in own.device_events(0):
                yield replace(event, device=device)


def measured_round(seen: SeenRound, shape: RoundShape) -> MeasuredRound:
    """What was seen of a round that closed with the devices in it, at least one."""
    took_s = {number: _took_s(own, shape) - seen.began_s for number, own in seen.devices.items()}
    slowest = max(took_s, key=lambda number: took_s[number])
    devices = {
        number: _device(own, times, seen.began_s, shape, shape.steps[number])
        for number, own in sorted(seen.devices.items())
        if (times := own.times) is not None and 0 < len(times.steps) == len(own.steps)
    }
    return MeasuredRound(took_s[slowest], slowest, took_s, devices)


def _took_s(seen: SeenDevice, shape: RoundShape) -> float:
    """When a device's round ended: its adapter came, or, if it sends none, its last mini-batch was
    through."""
    if shape.scheme.closing or not seen.steps:
        return seen.took_s
    return max(step.replied_s for _, step in seen.steps)


def observed_round(measured: MeasuredRound, before: ObservedRound) -> ObservedRound:
    """What the next round is expected to take: as much as this one, and for devices that were not
    seen whole as much as `before`."""
    rows = np.array(astuple(before))
    for number, own in measured.devices.items():
        rows[:, number] = np.array(astuple(observed_work(own.scheme, own.work)))[:, 0]
    return ObservedRound(*rows)


def _device(
    seen: SeenDevice, times: DeviceTimes, began_s: float, shape: RoundShape, steps: int
) -> RoundTimeline:
    """One device's round; the seconds that it computed are its amounts of work. Where local steps
    overlap, each moment is the first one's that is not through."""
    moments = _moments(seen, times, began_s, shape)
    closing = [[moments.began_s[-1], moments.began_s[-1], moments.took_s]]
    line = DeviceTimeline(
        opening_s=np.array([[0.0, 0.0, moments.began_s[0]]]),
        local_s=_local(moments, seen, shape, steps * shape.micro_batches),
        closing_s=np.array(closing if shape.scheme.closing else np.zeros((0, 3))),
        overlaps=False,
    )
    work = _work(seen, line, moments.up_s, shape, steps)
    return RoundTimeline(shape.scheme, (work,), shape.rules, (line,))


@dataclass(frozen=True, eq=False)
class _Moments:
    """Seconds since the round began, none before the one that it follows. `began_s`: of each
    micro-batch's forward, and of the adapter's upload at last; the others in the order of a local
    step. `up_s`: how long each activation was on its way."""

    began_s: Float64[np.ndarray, " edge"]
    sent_s: Float64[np.ndarray, " step"]
    arrived_s: Float64[np.ndarray, " step"]
    started_s: Float64[np.ndarray, " step"]
    replied_s: Float64[np.ndarray, " step"]
    got_s: Float64[np.ndarray, " step"]
    took_s: float
    up_s: Float64[np.ndarray, " step"]


def _moments(seen: SeenDevice, times: DeviceTimes, began_s: float, shape: RoundShape) -> _Moments:
    """Both ends' times on one clock. What is a little out of order, because the clocks are not
    told apart exactly, is put at the same moment."""
    ahead_s = ((seen.asked_s - times.asked_s) + (seen.answered_s - times.answered_s)) / 2
    rows = [
        (
            own.began_s + ahead_s,
            own.sent_s + ahead_s,
            step.arrived_s,
            step.started_s,
            step.replied_s,
            # where nothing comes back, a local step ends at the server
            own.got_s + ahead_s if shape.scheme.trains_device else step.replied_s,
        )
        for own, (_, step) in zip(times.steps, seen.steps, strict=True)
    ]
    ends = [times.ended_s + ahead_s, seen.took_s]
    if not shape.scheme.closing:
        ends = [_took_s(seen, shape)] * 2
    up_s = np.array([max(arrived - sent, 0.0) for _, sent, arrived, *_ in rows])
    flat = np.concatenate([np.ravel(rows), ends]) - began_s
    flat = np.maximum.accumulate(np.clip(flat, 0.0, flat[-1]))
    began, sent, arrived, started, replied, got = flat[:-2].reshape(len(rows), -1).T
    edges = np.append(began, flat[-2])
    if not shape.scheme.trains_device:  # one is the first from the end of the one before on
        edges = np.append(began[:1], replied)
    return _Moments(edges, sent, arrived, started, replied, got, float(flat[-1]), up_s)


def _local(
    moments: _Moments, seen: SeenDevice, shape: RoundShape, repeats: int
) -> Float64[np.ndarray, "repeat leg 3"]:
    """The legs of the local steps; those of micro-batches without samples take nothing."""
    m, next_s, indices = moments, moments.began_s[1:], _indices(seen, shape)
    edges = [m.began_s[:-1], m.sent_s, m.arrived_s, m.replied_s, m.got_s, next_s]
    edges = edges[: len(shape.scheme.local) + 1]
    ready = np.stack(edges[:-1], axis=1)
    start = ready.copy()
    start[:, list(_PHASES).index(Phase.SERVER_COMPUTE)] = m.started_s
    spans = np.stack([ready, start, np.stack(edges[1:], axis=1)], axis=2)
    # where nothing was sent: the moment at which the micro-batch before ended
    grid = np.empty((repeats, *spans.shape[1:]))
    at = np.searchsorted(indices, np.arange(repeats), side="right") - 1
    grid[:] = np.where(at >= 0, m.began_s[at + 1], m.began_s[0])[:, None, None]
    grid[indices] = spans
    return grid


def _indices(seen: SeenDevice, shape: RoundShape) -> list[int]:
    """Which repeat of the local steps each micro-batch is."""
    return [place.step * shape.micro_batches + place.micro for place, _ in seen.steps]


def _work(
    seen: SeenDevice,
    line: DeviceTimeline,
    up_s: Float64[np.ndarray, " step"],
    shape: RoundShape,
    steps: int,
) -> DeviceWork:
    """Seconds of computing at a rate of one a second, bytes at the mean rates that they went at."""
    repeats, indices = steps * shape.micro_batches, _indices(seen, shape)
    up, down, sending_s = np.zeros(repeats), np.zeros(repeats), np.zeros(repeats)
    up[indices] = [step.up_bytes for _, step in seen.steps]
    down[indices] = [step.down_bytes for _, step in seen.steps]
    local_s = (line.local_s[:, :, END] - line.local_s[:, :, START]).T
    spent = dict(zip(_PHASES[: len(local_s)], local_s, strict=True))
    sending_s[indices] = up_s
    uplink = _rate_bit_per_s(up, sending_s)
    downlink = _rate_bit_per_s(down, spent.get(Phase.GRADIENT_DOWN, np.zeros(repeats)))
    link = LinkRates(uplink, downlink, downlink, uplink, downlink)
    amounts = {
        **spent,
        Phase.MODEL_DISTRIBUTION: np.array([float(shape.adapter_bytes)]),
        Phase.ACTIVATION_UP: up,
        Phase.GRADIENT_DOWN: down,
        Phase.ADAPTER_UP: np.array([float(seen.adapter_bytes)]),
    }
    return DeviceWork(amounts, DeviceRates(_UNIT, _UNIT, link), steps, shape.micro_batches)


def _rate_bit_per_s(
    payload_bytes: Float64[np.ndarray, " step"], seconds: Float64[np.ndarray, " step"]
) -> float:
    total_s = float(seconds.sum())
    return BITS_PER_BYTE * float(payload_bytes.sum()) / total_s if total_s > 0 else math.inf


# What a server makes of a round that has closed: how long it took, and the next one's shares.
#
# Knows no link and no tensor. Shares are the allocation's, decided on what was measured: computing
# times, bytes, and how much of the bandwidth each device's own line can carry.


_LOG = logging.getLogger(__name__)
# of its pace: who sends faster than this has a line that carries its share. The rest is for what
# latency takes of short payloads
_KEEPS_PACE = 0.75
# a line that carried its share may carry so much more: it is tried
_GROWTH = 1.25
# of its share: less is a device that hardly sends
_LEAST = 0.01


@final
class Controller:
    """A run's rounds. `curves`: each device's rates by its share, in round 1, 2, ... at so many
    seconds of the run; `scheme_of`: each round's (None: all as the shape's); `shares`: those of the
    round in progress. `passed_s`: from the close before
    the last one, or the server's start, to the last one [s]."""

    def __init__(
        self,
        watch: ServerWatch,
        shape: RoundShape,
        allocation: Allocation,
        curves: Callable[[int, float], RateCurves],
        state: RunState,
        scheme_of: Callable[[int], Scheme] | None = None,
    ) -> None:
        self.watch = watch
        self._shape = shape
        self._scheme_of = scheme_of or (lambda number: shape.scheme)
        self._round = state.round + 1
        self._allocation = allocation
        self._curves = curves
        self.passed_s = 0.0
        self._closed_s = watch.now()
        self._most = np.ones(len(shape.steps))
        self.shares = self._allocated(state)

    def close(self) -> MeasuredRound | None:
        """How long the round took, which closes now; None if its beginning was not seen."""
        seen, now_s = self.watch.close(), self.watch.now()
        self.passed_s, self._closed_s = now_s - self._closed_s, now_s
        if seen is None or not seen.devices:
            return None
        scheme, before = (self._scheme_of(max(n, 1)) for n in (self._round, self._round - 1))
        again = scheme.trains_device or before.trains_device
        shape = replace(
            self._shape, scheme=scheme, adapter_bytes=self._shape.adapter_bytes if again else 0
        )
        return measured_round(seen, shape)

    def reopen(
        self, state: RunState, measured: MeasuredRound | None, adapter_bytes: int | None = None
    ) -> Shares:
        """The shares of the round after `state`, of which the last one was `measured`.
        `adapter_bytes`: of the adapter that opens it (None: as many as before)."""
        self._round = state.round + 1
        if adapter_bytes is not None:
            self._shape = replace(self._shape, adapter_bytes=adapter_bytes)
        if measured is not None:
            self._learn(measured)
        try:
            self.shares = self._allocated(state)
        except ConfigError as error:
            _LOG.warning("the bandwidth allocation stays as it is: %s", error)
        return self.shares

    def _allocated(self, state: RunState) -> Shares:
        curves = self._curves(state.round + 1, state.virtual_time_s)
        # what no line carries is nobody's: it is left to all
        most = self._most / min(1.0, self._most.sum())
        allocation = self._allocation.within(tuple(np.minimum(most, 1.0).tolist()))
        shares = ask_shares(allocation, state.round + 1, state.observed, curves)
        check_shares(shares, len(most))
        self._paces = np.array(
            [curve.rate_bit_per_s(np.array(shares)) for curve in (curves.uplink, curves.downlink)]
        )
        return shares

    def _learn(self, measured: MeasuredRound) -> None:
        """How large a share each device's line can carry: less than it had, if nothing that went
        either way kept its pace; else a little more than was thought."""
        for device, own in measured.devices.items():
            kept = float((np.array(_fastest_bit_s(own)) / self._paces[:, device]).max())
            if kept < _KEEPS_PACE:
                self._most[device] = max(kept, _LEAST) * self.shares[device]
            else:
                self._most[device] = min(1.0, _GROWTH * self._most[device])


def _fastest_bit_s(own: RoundTimeline) -> tuple[float, float]:
    """The best rate of each way: short payloads wait more than they send."""
    link, seconds = own.work[0].rates.link, own.phase_seconds(0)
    adapter_bits = BITS_PER_BYTE * float(own.work[0].amounts[Phase.ADAPTER_UP].sum())
    upload_s = seconds[Phase.ADAPTER_UP]
    upload_bit_s = adapter_bits / upload_s if upload_s > 0 else math.inf
    return max(link.uplink_bit_per_s, upload_bit_s), link.downlink_bit_per_s
