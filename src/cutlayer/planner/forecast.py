"""What a decision comes to: seconds by the timeline, bytes by payload, memory."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float64

from cutlayer.channel.rates import LinkRates, RateCurves, link_rates
from cutlayer.planner.allocation import ObservedRound, bandwidth_problem, best_shares
from cutlayer.planner.decision import (
    Decision,
    PlanLimits,
    RoundKind,
    Workload,
    device_needs,
    fits_memory,
    mean_of,
    round_kinds,
    server_need,
)
from cutlayer.planner.estimate import Amounts, amounts_of, device_seconds, heard_s, server_part
from cutlayer.rounds.memory import PartMemory
from cutlayer.rounds.result import RoundTimeline
from cutlayer.rounds.schemes import DeviceOrder, Phase, Place
from cutlayer.rounds.simulate import simulate
from cutlayer.rounds.work import (
    DeviceRates,
    DeviceWork,
    SharingRules,
    first_adapter_ratio,
    legs_of,
    round_work,
    trained_model,
)
from cutlayer.spec import Trained
from cutlayer.units import BITS_PER_BYTE

# What a decision comes to: a round's seconds by the timeline, its bytes, each device's memory.
#
# Rates are those of the mean channel; amounts are those of the cost models. Of thousands of devices
# some stand for many: each meets the same queue when fewer of them share a server and a bandwidth
# that are slower in proportion; what one device takes there is longer, by less than the round over
# the number that are played, and everyone's together is the same. Knows no search.


MOST_DEVICES = 128
# devices whose seconds differ by less are told apart by their computing
_DIGITS = 6
# a round of more micro-batches than this, over the devices played, is simulated in part
MOST_MICRO_BATCHES = 4_000
# solving again moves shares most at first; after four times they go to and fro
_REFINEMENTS = 4
PHASES = tuple(Phase)

_Values = Float64[np.ndarray, "..."]


@dataclass(frozen=True)
class DeviceSample:
    """The devices that are played, by number, and how many each of them stands for."""

    devices: tuple[int, ...]
    stands_for: float

    def rates(self, own: DeviceRates, decision: Decision) -> DeviceRates:
        """A device's rates at what it shares; of devices in turn, at everything."""
        link, factor = own.link, 1.0 / self.stands_for
        in_turn = decision.scheme.devices is DeviceOrder.IN_TURN
        rules, shares_passes = decision.rules, decision.shares_passes and not in_turn
        up, down = (
            factor if in_turn or rules.whole_bandwidth(place) else 1.0
            for place in (Place.UPLINK, Place.DOWNLINK)
        )
        return DeviceRates(
            own.device_flops_per_s * (factor if in_turn else 1.0),
            own.server_flops_per_s * factor,
            LinkRates(
                uplink_bit_per_s=up * link.uplink_bit_per_s,
                downlink_bit_per_s=down * link.downlink_bit_per_s,
                broadcast_bit_per_s=link.broadcast_bit_per_s,
                uplink_alone_bit_per_s=up * link.uplink_alone_bit_per_s,
                downlink_alone_bit_per_s=down * link.downlink_alone_bit_per_s,
            ),
            # as many passes of each that stands for several, unless they share one
            own.server_floor_s * (1.0 if shares_passes else self.stands_for),
        )

    def rules(self, rules: SharingRules) -> SharingRules:
        """What they share: a batch of theirs is of all that they stand for."""
        tokens = max(1, round(rules.batching.most_tokens / self.stands_for))
        return replace(rules, batching=replace(rules.batching, most_tokens=tokens))


def device_sample_of(workload: Workload, decision: Decision, curves: RateCurves) -> DeviceSample:
    """All devices; of more than `MOST_DEVICES` the middle one of each of as many equal parts.

    Parts are by the seconds that devices take without a queue, and the last part's is the slowest.
    """
    count = len(workload.devices)
    if count <= MOST_DEVICES:
        return DeviceSample(tuple(range(count)), 1.0)
    amounts = amounts_of(workload, decision)
    seconds = device_seconds(amounts, decision, curves)
    order = np.lexsort((amounts.device_s, np.round(seconds / seconds.max(), _DIGITS)))
    places = ((np.arange(MOST_DEVICES) + 0.5) * count / MOST_DEVICES).astype(int)
    places[-1] = count - 1
    chosen: list[int] = np.sort(order[places]).tolist()
    return DeviceSample(tuple(chosen), count / MOST_DEVICES)


@dataclass(frozen=True, eq=False)
class Forecast:
    """A decision's rounds: the first, which distributes the model, and each later one; where
    devices come to do less, `later` those in which they do, and `early` those before. `turn_s`:
    what the first of the former takes longer, since adapters that are frozen then are heard once
    more.

    `whole`: whether a round was simulated whole; else its first local steps were, the others taking
    as long each as the last of these, with a `DeviceSample` if devices are many.
    """

    workload: Workload
    decision: Decision
    first: "RoundForecast"
    later: "RoundForecast"
    whole: bool
    early: "RoundForecast | None" = None
    turn_s: float = 0.0

    @property
    def delay_s(self) -> float:
        """Of a round after the first, the mean where they differ [s]."""
        return mean_of([(kind.rounds, each.delay_s) for kind, each in self.by_kind])

    @property
    def training_s(self) -> float:
        """Of all rounds [s]."""
        more = self.workload.rounds - 1
        turn_s = 0.0 if self.rounds_early == self.workload.rounds else self.turn_s
        return self.first.delay_s + more * self.delay_s + turn_s

    @property
    def by_kind(self) -> "tuple[tuple[RoundKind, RoundForecast], ...]":
        """The kinds of rounds after the first, and a round of each."""
        rounds = (self.later,) if self.early is None else (self.early, self.later)
        return tuple(zip(round_kinds(self.workload, self.decision), rounds, strict=True))

    @property
    def rounds_early(self) -> int:
        """In how many rounds, from the first on, devices do all that they ever do."""
        later = 0 if self.early is None else self.by_kind[-1][0].rounds
        return self.workload.rounds - later

    @property
    def usual(self) -> "RoundForecast":
        """A later round, or, if none is reached, one before."""
        reached = self.early is None or self.rounds_early < self.workload.rounds
        return self.later if reached or self.early is None else self.early

    def after(self, rounds: int) -> "Forecast":
        """Of so many rounds."""
        return replace(self, workload=replace(self.workload, rounds=rounds))

    @cached_property
    def memory(self) -> tuple[PartMemory[float], ...]:
        """What each device holds at its peak."""
        return device_needs(self.workload, self.decision)

    @cached_property
    def server_memory(self) -> PartMemory[float]:
        """What the server holds at its peak."""
        decision = self.decision
        return server_need(self.workload, decision.scheme, min(decision.cuts), decision.policy)

    @property
    def fits(self) -> bool:
        """Whether every device holds its part, and the server its own."""
        return fits_memory(self.workload, self.decision)


@dataclass(frozen=True)
class SentBytes:
    """Bytes by payload, without labels, frames and checksums: of what comes before the server's
    first block, of its gradient, of adapters up and down, of frozen weights."""

    activation: float = 0.0
    gradient: float = 0.0
    adapter_up: float = 0.0
    adapter_down: float = 0.0
    weights: float = 0.0

    @property
    def total(self) -> float:
        """All of them, up and down."""
        return float(sum(astuple(self)))

    def plus(self, other: "SentBytes", times: float = 1.0) -> "SentBytes":
        """With so many times what the other has."""
        both = zip(astuple(self), astuple(other), strict=True)
        return SentBytes(*(one + times * more for one, more in both))


@dataclass(frozen=True, eq=False)
class RoundForecast:
    """A round's seconds: `delay_s`, the server's busy part, and by phase those of some devices.

    `devices`: whose rows these are, by number: those that were played, the slowest among them.
    `sent`: of all devices, a broadcast once.
    """

    delay_s: float
    server_busy: float
    sent: SentBytes
    devices: tuple[int, ...]
    device_phase_s: Float64[np.ndarray, "played phase"]

    @property
    def uplink_bytes(self) -> float:
        """What all devices send."""
        return self.sent.activation + self.sent.adapter_up

    @property
    def downlink_bytes(self) -> float:
        """What the server sends, a broadcast once."""
        return self.sent.gradient + self.sent.adapter_down + self.sent.weights

    @property
    def device_delay_s(self) -> Float64[np.ndarray, " played"]:
        """Until each of them has closed the round [s]."""
        return np.asarray(self.device_phase_s.sum(axis=1))


@dataclass(frozen=True, eq=False)
class PlayedRounds:
    """A decision's rounds on the timeline: with all devices or a sample, whole or in part."""

    workload: Workload
    decision: Decision
    curves: RateCurves

    @cached_property
    def sample(self) -> DeviceSample:
        """The devices that are played."""
        return device_sample_of(self.workload, self.decision, self.curves)

    @cached_property
    def part(self) -> float:
        """How much of a round is simulated."""
        counts = [self.workload.local_steps[n] for n in self.sample.devices]
        micro_batches, most = sum(counts) * self.decision.policy.micro_batches, max(counts)
        # an even number, since half of them are played too
        steps = max(2, 2 * int(most * MOST_MICRO_BATCHES / (2 * micro_batches)))
        return 1.0 if micro_batches <= MOST_MICRO_BATCHES or steps >= most else steps / most

    @property
    def whole(self) -> bool:
        """Whether all of it is simulated, with all devices."""
        return self.sample.stands_for == 1.0 and self.part == 1.0

    def delay_s(self, *, first_round: bool) -> float:
        """Until the last device has closed the round [s]."""
        return self._delay_s(self._timelines(first_round))

    def forecast(self, *, first_round: bool) -> RoundForecast:
        """All that the timeline says of a round."""
        timelines = self._timelines(first_round)
        rows = range(len(self.sample.devices))
        phase_s = [
            np.array([list(line.phase_seconds(n).values()) for n in rows]) for line in timelines
        ]
        spread, delay_s = _extrapolated(phase_s, self.part), self._delay_s(timelines)
        amounts = self._amounts(first_round)
        return RoundForecast(
            delay_s=delay_s,
            server_busy=(
                timelines[-1].utilisation().server
                if self.decision.shares_passes
                else server_part(amounts, self.decision, delay_s)
            ),
            sent=self.sent(first_round=first_round),
            devices=self.sample.devices,
            device_phase_s=_own_parts(self.decision, spread, self.sample.stands_for),
        )

    def sent(self, *, first_round: bool) -> SentBytes:
        """What all devices send and hear in a round; of broadcasts the largest that anyone played
        hears."""
        decision, amounts = self.decision, self._amounts(first_round)
        coded_up, coded_down = self.workload.adapter_ratio_of(decision.scheme)
        heard = max(
            sum(
                float(work.payload_bytes(step).sum())
                for step in decision.scheme.opening
                if step.place is Place.BROADCAST
            )
            for work in self.works(first_round=first_round, part=self.part)
        )
        weights = min(heard, _weight_bytes(self.workload, decision)) if first_round else 0.0
        handed = sum(step.place is Place.DOWNLINK for step in decision.scheme.opening)
        model = trained_model(self.workload.model, decision.scheme, max(decision.cuts))
        blocks = max(decision.cuts) if decision.scheme.splits else model.blocks
        begun = first_adapter_ratio(model, blocks, (coded_up, coded_down))
        down_over_up = (begun if first_round else coded_down) / coded_up
        handed_bits = handed * down_over_up * amounts.adapter_bits
        return SentBytes(
            activation=float((amounts.local_steps * amounts.up_bits).sum()) / BITS_PER_BYTE,
            gradient=float((amounts.local_steps * amounts.down_bits).sum()) / BITS_PER_BYTE,
            adapter_up=float(amounts.adapter_bits.sum()) / BITS_PER_BYTE,
            adapter_down=heard - weights + float(handed_bits.sum()) / BITS_PER_BYTE,
            weights=weights,
        )

    def _amounts(self, first_round: bool) -> Amounts:
        if not first_round:
            return amounts_of(self.workload, self.decision)
        # it is evaluated, and nobody holds a sample yet
        return amounts_of(replace(self.workload, evaluated=1.0, samples=None), self.decision)

    def works(self, *, first_round: bool = False, part: float = 1.0) -> list[DeviceWork]:
        """The work in a round of each device played, or in the first `part` of its local steps.

        Devices in turn have the rates of the whole bandwidth.
        """
        workload, decision = self.workload, self.decision
        in_turn = decision.scheme.devices is DeviceOrder.IN_TURN
        links = link_rates(self.curves, decision.shares, self.sample.devices)
        templates: dict[tuple[int, int, int | None], DeviceWork] = {}
        works = []
        for n, link in zip(self.sample.devices, links, strict=True):
            own = DeviceRates(
                workload.devices[n].flops_per_s,
                workload.server_flops_per_s,
                link.alone() if in_turn else link,
                workload.server_floor_s(decision.cuts[n]),
            )
            rates = self.sample.rates(own, decision)
            steps = max(1, round(part * workload.local_steps[n]))
            kind = decision.cuts[n], steps, workload.own_ranks[n]
            if kind not in templates:
                templates[kind] = _work(workload, decision, *kind, rates, first_round)
            works.append(replace(templates[kind], rates=rates))
        return works

    def _timelines(self, first_round: bool) -> list[RoundTimeline]:
        """The round; of one simulated in part, the half of that part and the part."""
        return [
            simulate(
                self.decision.scheme,
                self.works(first_round=first_round, part=each),
                self.sample.rules(self.decision.rules),
            )
            for each in ([1.0] if self.part == 1.0 else [self.part / 2, self.part])
        ]

    def _delay_s(self, timelines: Sequence[RoundTimeline]) -> float:
        delays_s = [np.array([line.delay_s for line in each.devices]) for each in timelines]
        return float(_extrapolated(delays_s, self.part).max())


def forecast_rounds(
    workload: Workload, decision: Decision, curves: RateCurves | None = None
) -> Forecast:
    """Simulate every kind of round. `curves`: the channel's (None: its mean).

    Raises ConfigError for a decision that the scheme or the model cannot take.
    """
    curves = curves or workload.channel.mean_curves()
    played = PlayedRounds(workload, decision, curves)
    first = played.forecast(first_round=True)
    *before, later = (
        PlayedRounds(kind.workload, kind.decision, curves).forecast(first_round=False)
        for kind in round_kinds(workload, decision)
    )
    early = before[0] if before else None
    turn = turn_s(workload, decision, curves)
    return Forecast(workload, decision, first, later, played.whole, early, turn)


def round_delay_s(
    workload: Workload, decision: Decision, curves: RateCurves, *, first_round: bool = False
) -> float:
    """A round's delay alone [s], of those after the first the mean: what a search compares."""
    if first_round:
        return PlayedRounds(workload, decision, curves).delay_s(first_round=True)
    kinds = round_kinds(workload, decision)
    played = [
        (kind.rounds, PlayedRounds(kind.workload, kind.decision, curves))
        for kind in [kind for kind in kinds if kind.rounds] or kinds[:1]
    ]
    return mean_of([(rounds, each.delay_s(first_round=False)) for rounds, each in played])


def turn_s(workload: Workload, decision: Decision, curves: RateCurves) -> float:
    """What the round takes longer from which on the devices' part is frozen, as it was merged [s];
    0 where none is, or it is so from the beginning."""
    kinds = round_kinds(workload, decision)
    if kinds[-1].decision.scheme == decision.scheme or kinds[-1].rounds == 0:
        return 0.0
    return heard_s(amounts_of(kinds[0].workload, decision), curves)


def sent_bytes(workload: Workload, decision: Decision, curves: RateCurves) -> SentBytes:
    """In all rounds together, without simulating any."""
    sent = PlayedRounds(workload, decision, curves).sent(first_round=True)
    for kind in round_kinds(workload, decision):
        each = PlayedRounds(kind.workload, kind.decision, curves).sent(first_round=False)
        sent = sent.plus(each, kind.rounds)
    if turn_s(workload, decision, curves) > 0:
        kind = round_kinds(workload, decision)[0]
        each = PlayedRounds(kind.workload, decision, curves).sent(first_round=False)
        sent = sent.plus(SentBytes(adapter_down=each.adapter_down))
    return sent


def _weight_bytes(workload: Workload, decision: Decision) -> float:
    """Of the frozen weights that devices hear in the first round."""
    scheme, accounting = decision.scheme, workload.accounting
    cut = max(decision.cuts)
    if scheme.trained is Trained.WEIGHTS:
        return 0.0
    model = trained_model(workload.model, scheme, cut)
    blocks = cut if scheme.splits else model.blocks
    if accounting.weights is not None:
        return accounting.weights.bytes(model, blocks)
    return float(accounting.traffic(model, blocks, workload.batch, scheme.trained).model_bytes)


def _work(
    workload: Workload,
    decision: Decision,
    cut: int,
    local_steps: int,
    rank: int | None,
    rates: DeviceRates,
    first_round: bool,
) -> DeviceWork:
    return round_work(
        decision.scheme,
        workload.model_of(rank),
        cut,
        workload.batch,
        local_steps,
        workload.accounting,
        rates,
        compression_up=decision.codec.up,
        compression_down=decision.codec.down,
        adapter_ratio=workload.adapter_ratio_of(decision.scheme),
        first_round=first_round,
        micro_batches=decision.policy.micro_batches,
        in_flight=decision.policy.in_flight,
        activation_memory=decision.policy.activation_memory,
        merging=workload.merging_in(decision.scheme),
        evaluated=workload.evaluated,
        sent=1.0 if first_round else workload.sent_again(decision, cut),
    )


def _extrapolated(values: Sequence[_Values], part: float) -> _Values:
    """A round's from those of a part and of its half: steps go on as they went."""
    if len(values) == 1:
        return values[0]
    half, whole = values
    return np.asarray(whole + (whole - half) * (1.0 - part) / (part / 2))


def _own_parts(
    decision: Decision, phase_s: Float64[np.ndarray, "played phase"], stands_for: float
) -> Float64[np.ndarray, "played phase"]:
    """With what a device takes for those that it stands for among its waits."""
    own_s, in_turn = phase_s.copy(), decision.scheme.devices is DeviceOrder.IN_TURN
    legs = legs_of(decision.scheme)
    for leg in {*legs.opening, *legs.local, *legs.closing}:
        if leg.step is None or leg.step.place is Place.BROADCAST:
            continue
        place = leg.step.place
        # a pass that is shared is each one's own, whoever else is in it
        alone = place is Place.SERVER and not decision.shares_passes
        if in_turn or alone or decision.rules.whole_bandwidth(place):
            column = PHASES.index(leg.step.phase)
            others_s = phase_s[:, column] * (1.0 - 1.0 / stands_for)
            own_s[:, column] -= others_s
            own_s[:, PHASES.index(Phase.TURN if in_turn else leg.wait)] += others_s
    return own_s


@dataclass(frozen=True)
class RefinedDecision:
    """A decision and its later rounds' delay on the timeline [s]."""

    decision: Decision
    delay_s: float


def refined(
    workload: Workload, limits: PlanLimits, found: RefinedDecision, curves: RateCurves
) -> RefinedDecision:
    """The same decision with better shares, if any are found; never a slower one.

    Shares are solved again with the seconds that a closed form cannot know: queues, and what
    overlaps. Each device's fixed seconds are moved by how far the timeline is from the sum of its
    steps, so that it takes all of them to be played.
    """
    sharing = round_kinds(workload, found.decision)[0]
    played = PlayedRounds(sharing.workload, found.decision, curves)
    in_turn = found.decision.scheme.devices is DeviceOrder.IN_TURN
    if in_turn or played.sample.stands_for > 1.0 or limits.fixed.shares is not None:
        return found
    best, decision = found, found.decision
    observed = amounts_of(sharing.workload, decision).observed()
    seen = played.forecast(first_round=False)
    for _ in range(_REFINEMENTS):
        moved = _moved(observed, decision, curves, seen.device_delay_s)
        shares = best_shares(moved, curves, decision.rules, limits.most_share)
        decision = replace(decision, shares=shares)
        seen = replace(played, decision=decision).forecast(first_round=False)
        alike = len(round_kinds(workload, decision)) == 1
        delay_s = seen.delay_s if alike else round_delay_s(workload, decision, curves)
        if delay_s < best.delay_s:
            best = RefinedDecision(decision, delay_s)
    return best


def _moved(
    observed: ObservedRound,
    decision: Decision,
    curves: RateCurves,
    seen_s: Float64[np.ndarray, " device"],
) -> ObservedRound:
    """`observed` with the seconds of computing at which the closed form gives what was seen."""
    problem = bandwidth_problem(observed, curves, decision.rules, np.ones(len(seen_s)))
    closed_s = problem.delays_s(np.array(decision.shares))
    fixed_s = np.maximum(problem.fixed_s + seen_s - closed_s, 0.0)
    return replace(observed, compute_s=observed.compute_s + fixed_s - problem.fixed_s)
