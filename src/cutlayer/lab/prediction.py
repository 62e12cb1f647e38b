"""A round over the lab's links as the timeline plays it: what the measured one is compared with.

Bytes are what the codec expects, link rates the channel's on each device's share. Seconds of
computing are those of the calibration round, the run's first: the same processes on the same
machine, which share its cores. Knows no file and no clock.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cutlayer.channel.rates import LinkRates
from cutlayer.errors import RunError
from cutlayer.schemes.scheme import Phase, Scheme
from cutlayer.timeline.result import RoundTimeline
from cutlayer.timeline.simulate import simulate
from cutlayer.timeline.work import DeviceRates, DeviceWork
from cutlayer.train.expected import expected_work
from cutlayer.train.setup import Setup

# mean seconds of a micro-batch by phase
Seconds = Mapping[Phase, float]

# an amount of work is given in the seconds that it takes
_UNIT = 1.0


def unicast(links: Sequence[LinkRates]) -> tuple[LinkRates, ...]:
    """The channel's rates with a link of its own for each device: what a radio broadcasts on the
    whole band goes to each on its share."""
    return tuple(replace(link, broadcast_bit_per_s=link.downlink_bit_per_s) for link in links)


def computing(scheme: Scheme) -> tuple[Phase, ...]:
    """The phases whose seconds are calibrated."""
    return tuple(step.phase for step in scheme.local if not step.sends)


def calibrate(
    scheme: Scheme, trace: Sequence[Mapping[str, Any]], devices: int
) -> tuple[Seconds, ...]:
    """Each device's mean seconds of a micro-batch, by phase that computes, in one round's trace.

    `trace`: lines as `train.record.trace_lines` makes them. The first local step, in which a
    process computes for the first time, is left out if there is another. Raises RunError for a
    device or phase that is not in the trace.
    """
    seconds: dict[tuple[int, Phase], list[float]] = defaultdict(list)
    warm = max((line["local_step"] or 0 for line in trace), default=0) > 0
    for line in trace:
        if line["local_step"] is not None and (line["local_step"] > 0 or not warm):
            key = line["device"], Phase(line["phase"])
            seconds[key].append(line["end_s"] - line["start_s"])

    def mean(device: int, phase: Phase) -> float:
        if not seconds[device, phase]:
            raise RunError(
                f"device {device} was not seen through the calibration round ({phase} is not in"
                " trace.jsonl): run the lab again"
            )
        return float(np.mean(seconds[device, phase]))

    return tuple(
        {phase: mean(device, phase) for phase in computing(scheme)} for device in range(devices)
    )


def predict(
    setup: Setup, links: Sequence[LinkRates], compute_s: Sequence[Seconds]
) -> RoundTimeline:
    """A round after the first over `links`, with each device's seconds of computing."""
    work = [
        _with_seconds(own, seconds)
        for own, seconds in zip(
            expected_work(setup, links, first_round=False), compute_s, strict=True
        )
    ]
    return simulate(setup.scheme, work, setup.rules)


def _with_seconds(work: DeviceWork, seconds: Seconds) -> DeviceWork:
    measured = {phase: np.full(work.repeats, each_s) for phase, each_s in seconds.items()}
    rates = DeviceRates(_UNIT, _UNIT, work.rates.link)
    return replace(work, amounts={**work.amounts, **measured}, rates=rates)
