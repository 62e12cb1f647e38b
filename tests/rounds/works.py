"""Devices' work in seconds: a unit of anything takes a second anywhere."""

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from cutlayer.channel.rates import LinkRates
from cutlayer.rounds.result import RoundTimeline, TimelineEvent
from cutlayer.rounds.schemes import SPLIT_STEP, Phase
from cutlayer.rounds.work import DeviceRates, DeviceWork, Duplex, Sharing, SharingRules

UNIT = DeviceRates(1.0, 1.0, LinkRates(8.0, 8.0, 8.0, 8.0, 8.0))
LOCAL = tuple(step.phase for step in SPLIT_STEP)


def work(
    local: Sequence[float],
    steps: int = 1,
    opening: float = 0.0,
    closing: float = 0.0,
    *,
    micro_batches: int = 1,
    in_flight: int | None = None,
    rates: DeviceRates = UNIT,
) -> DeviceWork:
    """Forward, up, server, down, backward of each micro-batch, the same every time."""
    repeats = steps * micro_batches
    amounts = {phase: np.full(repeats, s) for phase, s in zip(LOCAL, local, strict=True)}
    amounts[Phase.UPPER_COMPUTE] = amounts[Phase.SERVER_COMPUTE]
    amounts[Phase.MODEL_DISTRIBUTION] = np.array([opening])
    amounts[Phase.ADAPTER_DOWN] = amounts[Phase.ADAPTER_UP] = np.array([closing])
    return DeviceWork(amounts, rates, steps, micro_batches, in_flight)


def of(timeline: RoundTimeline, phase: Phase, device: int | None = None) -> list[TimelineEvent]:
    """The events of a phase, of one device or all, in the order of `events`."""
    return [
        event
        for event in timeline.events()
        if event.phase is phase and device in (None, event.device)
    ]


def spans(timeline: RoundTimeline, phase: Phase, device: int | None = None) -> list[tuple]:
    """(start, end) [s] of each event of a phase."""
    return [(event.start_s, event.end_s) for event in of(timeline, phase, device)]


RULES = [
    SharingRules(workers, sharing, other, duplex)
    for workers in (1, 2)
    for sharing in Sharing
    for other in Sharing
    for duplex in Duplex
    if duplex is Duplex.FULL or sharing is other
]
rules = st.sampled_from(RULES)


@st.composite
def works(draw: st.DrawFn, *, whole: bool = False, micro_batches: int = 3) -> list[DeviceWork]:
    """Up to five devices with up to four local steps; whole seconds add up exactly anywhere."""
    # nothing, or something that is still something in another unit of time
    part = st.just(0.0) | st.floats(1e-6, 100.0)
    value = st.integers(0, 50).map(float) if whole else part

    def device() -> DeviceWork:
        steps = draw(st.integers(1, 4))
        parts = draw(st.integers(1, micro_batches))
        flight = draw(st.sampled_from([None, 1, 2]))
        sums = st.lists(value, min_size=steps * parts, max_size=steps * parts).map(np.array)
        amounts = {phase: draw(sums) for phase in (*LOCAL, Phase.UPPER_COMPUTE)}
        for phase in (Phase.MODEL_DISTRIBUTION, Phase.ADAPTER_DOWN, Phase.ADAPTER_UP):
            amounts[phase] = np.array([draw(value)])
        return DeviceWork(amounts, UNIT, steps, parts, flight)

    return [device() for _ in range(draw(st.integers(1, 5)))]
