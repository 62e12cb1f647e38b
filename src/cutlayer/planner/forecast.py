"""What a decision comes to: a round's seconds by the timeline, its bytes, each device's memory.

Knows no search. Rates are those of the mean channel; amounts are those of the cost models.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float64

from cutlayer.channel.curves import Curves
from cutlayer.channel.rates import link_rates
from cutlayer.cost.memory import DeviceMemory
from cutlayer.planner.decision import Decision, Held
from cutlayer.planner.workload import Workload
from cutlayer.schemes.scheme import DeviceOrder, Phase, Place, Scheme
from cutlayer.timeline.amounts import round_work
from cutlayer.timeline.result import RoundTimeline
from cutlayer.timeline.simulate import simulate
from cutlayer.timeline.work import DeviceRates, DeviceWork

# a round of more micro-batches than this, over all devices, is simulated in part
MOST_VISITS = 150_000
PHASES = tuple(Phase)


@dataclass(frozen=True, eq=False)
class Forecast:
    """A decision's rounds: the first, which distributes the model, and each later one.

    `whole`: whether a round was simulated whole; else its first local steps were, and the others
    take as long each as the last of these.
    """

    workload: Workload
    decision: Decision
    first: "Round"
    later: "Round"
    whole: bool

    @property
    def delay_s(self) -> float:
        """Of a round after the first [s]."""
        return self.later.delay_s

    @property
    def training_s(self) -> float:
        """Of all rounds [s]."""
        return self.first.delay_s + (self.workload.rounds - 1) * self.later.delay_s

    @cached_property
    def memory(self) -> tuple[DeviceMemory, ...]:
        """What each device holds at its peak."""
        scheme, cuts = self.decision.scheme, self.decision.cuts
        known = {
            cut: device_need(self.workload, scheme, cut, self.decision.held) for cut in set(cuts)
        }
        return tuple(known[cut] for cut in cuts)

    @property
    def fits(self) -> bool:
        """Whether every device holds its part."""
        return all(
            device.memory_bytes is None or need.total <= device.memory_bytes
            for device, need in zip(self.workload.devices, self.memory, strict=True)
        )


@dataclass(frozen=True, eq=False)
class Round:
    """A round's seconds: `delay_s`, the server's busy part, and each device's by phase.

    `uplink_bytes`, `downlink_bytes`: of all devices, a broadcast once.
    """

    delay_s: float
    server_busy: float
    uplink_bytes: float
    downlink_bytes: float
    device_phase_s: Float64[np.ndarray, "device phase"]

    @property
    def device_delay_s(self) -> Float64[np.ndarray, " device"]:
        """Until each device has closed the round [s]."""
        return np.asarray(self.device_phase_s.sum(axis=1))


def forecast(workload: Workload, decision: Decision, curves: Curves | None = None) -> Forecast:
    """Simulate both kinds of round. `curves`: the channel's (None: its mean).

    Raises ConfigError for a decision that the scheme or the model cannot take.
    """
    curves = curves or workload.channel.mean_curves()
    first = _played(workload, decision, curves, first_round=True)
    later = later_round(workload, decision, curves)
    return Forecast(workload, decision, first, later, _part(workload, decision) == 1.0)


def later_round(workload: Workload, decision: Decision, curves: Curves) -> Round:
    """A round after the first."""
    return _played(workload, decision, curves, first_round=False)


def round_delay_s(
    workload: Workload, decision: Decision, curves: Curves, *, first_round: bool = False
) -> float:
    """A round's delay alone [s]: what a search compares."""
    timelines = _timelines(workload, decision, curves, first_round=first_round)
    return _extrapolated([line.delay_s for line in timelines], _part(workload, decision))


def device_need(workload: Workload, scheme: Scheme, cut: int, held: Held) -> DeviceMemory:
    """What a device holds at the peak of a local step; of schemes that do not split, all."""
    model = workload.model
    return workload.accounting.memory(
        model,
        cut if scheme.splits else model.blocks,
        workload.batch,
        optimizer_slots=workload.optimizer_slots,
        holding=held.holding,
        micro_batches=held.micro_batches,
        in_flight=held.in_flight,
        trained=scheme.trained,
    )


def device_works(
    workload: Workload,
    decision: Decision,
    curves: Curves,
    *,
    first_round: bool = False,
    part: float = 1.0,
) -> list[DeviceWork]:
    """Each device's work in a round, or in the first `part` of its local steps."""
    links = link_rates(curves, decision.shares)
    if decision.scheme.devices is DeviceOrder.IN_TURN:
        links = tuple(link.alone() for link in links)
    templates: dict[tuple[int, int], DeviceWork] = {}
    works = []
    for n, (device, link) in enumerate(zip(workload.devices, links, strict=True)):
        rates = DeviceRates(device.flops_per_s, workload.server_flops_per_s, link)
        kind = decision.cuts[n], max(1, round(part * workload.local_steps[n]))
        if kind not in templates:
            templates[kind] = _work(workload, decision, *kind, rates, first_round)
        works.append(replace(templates[kind], rates=rates))
    return works


def _work(
    workload: Workload,
    decision: Decision,
    cut: int,
    local_steps: int,
    rates: DeviceRates,
    first_round: bool,
) -> DeviceWork:
    return round_work(
        decision.scheme,
        workload.model,
        cut,
        workload.batch,
        local_steps,
        workload.accounting,
        rates,
        compression_up=decision.codec.up,
        compression_down=decision.codec.down,
        first_round=first_round,
        micro_batches=decision.held.micro_batches,
        in_flight=decision.held.in_flight,
        holding=decision.held.holding,
    )


def _part(workload: Workload, decision: Decision) -> float:
    """How much of a round is simulated."""
    visits = sum(workload.local_steps) * decision.held.micro_batches
    most = max(workload.local_steps)
    # an even number, since half of them are played too
    steps = max(2, 2 * int(most * MOST_VISITS / (2 * visits)))
    return 1.0 if visits <= MOST_VISITS or steps >= most else steps / most


def _timelines(
    workload: Workload, decision: Decision, curves: Curves, *, first_round: bool
) -> list[RoundTimeline]:
    """The round; of one simulated in part, that part and the half of it."""
    part = _part(workload, decision)
    return [
        simulate(
            decision.scheme,
            device_works(workload, decision, curves, first_round=first_round, part=each),
            decision.rules,
        )
        for each in ([part] if part == 1.0 else [part / 2, part])
    ]


def _extrapolated(values: Sequence[float], part: float) -> float:
    """A sum over the round from those over a part and over its half: steps go on as they went."""
    if len(values) == 1:
        return values[0]
    half, whole = values
    return whole + (whole - half) * (1.0 - part) / (part / 2)


def _played(workload: Workload, decision: Decision, curves: Curves, *, first_round: bool) -> Round:
    timelines = _timelines(workload, decision, curves, first_round=first_round)
    part = _part(workload, decision)
    phase_s = [
        np.array([list(line.phase_seconds(n).values()) for n in range(len(workload.devices))])
        for line in timelines
    ]
    spread = phase_s[0] if part == 1.0 else _extrapolated_rows(phase_s, part)
    up, down = _bytes(timelines[-1], workload, decision, part)
    return Round(
        delay_s=float(spread.sum(axis=1).max()),
        server_busy=timelines[-1].busy().server,
        uplink_bytes=up,
        downlink_bytes=down,
        device_phase_s=spread,
    )


def _extrapolated_rows(
    phase_s: Sequence[Float64[np.ndarray, "device phase"]], part: float
) -> Float64[np.ndarray, "device phase"]:
    half, whole = phase_s
    return np.asarray(whole + (whole - half) * (1.0 - part) / (part / 2))


def _bytes(
    timeline: RoundTimeline, workload: Workload, decision: Decision, part: float
) -> tuple[float, float]:
    """Up and down; local steps' in proportion where some of them were simulated."""
    sent = {Place.UPLINK: 0.0, Place.DOWNLINK: 0.0}
    scheme = decision.scheme
    for number, work in enumerate(timeline.work):
        whole = workload.local_steps[number] / work.local_steps
        for step in (*scheme.opening, *scheme.local, *scheme.closing):
            if not step.sends:
                continue
            size = float(work.payload_bytes(step).sum())
            if step.place is Place.BROADCAST:
                sent[Place.DOWNLINK] += size if number == 0 else 0.0
            else:
                sent[step.place] += size * (whole if step in scheme.local else 1.0)
    return sent[Place.UPLINK], sent[Place.DOWNLINK]
