"""The whole decision at once: cut, codec, mini-batch policy, downlink and bandwidth allocation.

Every decision is ranked by the estimate, the best of them are played on the timeline, and what the
timeline says decides. Cuts may differ between devices: for a common deadline each takes the cut
that needs the smallest share, so the shortest deadline whose shares fit the bandwidth is the best
of all combinations, queues apart. What the server is asked for must fit it too, and has a price:
several are tried, and the timeline decides between them.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int

from cutlayer.channel.rates import RateCurves
from cutlayer.planner.allocation import bandwidth_problem
from cutlayer.planner.bandwidth import BandwidthProblem, share_demand
from cutlayer.planner.decision import (
    NOTHING_FIXED,
    CodecChoice,
    Decision,
    FixedChoices,
    PlanLimits,
    Workload,
    device_needs,
    fits_server,
    fitting_policies,
    mean_of,
    round_kinds,
)
from cutlayer.planner.estimate import (
    Amounts,
    amounts_of,
    estimated_s,
    mean_server_part,
    server_part,
    shares_within,
)
from cutlayer.planner.forecast import RefinedDecision, refined, round_delay_s
from cutlayer.rounds.schemes import SFT, SFT_OVERLAP, DeviceOrder, Place, Scheme
from cutlayer.rounds.work import Duplex, Sharing, SharingRules
from cutlayer.spec import ActivationPolicy, MiniBatchPolicy

# micro-batches, over all devices, that a search plays before it decides; and decisions
_PLAYED_MICRO_BATCHES = 30_000
_PLAYED = range(3, 16)
# of the whole server, in parts of the bandwidth
_PRICES = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
_BISECTIONS = 40


@dataclass(frozen=True)
class RankedDecision:
    """A decision, its round's estimated seconds, the mean and by kind of round, and the server's
    part of them."""

    decision: Decision
    estimated_s: float
    kinds_s: tuple[float, ...]
    server_part: float


def schemes_for(scheme: Scheme, fixed: FixedChoices = NOTHING_FIXED) -> tuple[Scheme, ...]:
    """The scheme, and unless it is fixed what trains the same adapters in another order of
    steps."""
    both = not fixed.scheme and scheme in (SFT, SFT_OVERLAP)
    return (SFT, SFT_OVERLAP) if both else (scheme,)


def rules_for(
    rules: SharingRules, scheme: Scheme, fixed: FixedChoices = NOTHING_FIXED
) -> tuple[SharingRules, ...]:
    """The rules, with every way to share the downlink: it is the server's to choose.

    Half duplex is one bandwidth for both ways, and devices in turn share nothing: there is no
    choice.
    """
    if fixed.downlink or rules.duplex is Duplex.HALF or scheme.devices is DeviceOrder.IN_TURN:
        return (rules,)
    return tuple(replace(rules, downlink=sharing) for sharing in Sharing)


def cuts_for(workload: Workload, limits: PlanLimits, scheme: Scheme) -> range:
    """The cuts to choose from; a scheme that splits nothing has one, which means nothing."""
    if not scheme.splits:
        return range(1, 2)
    cut = limits.fixed.cut
    return range(limits.least_cut, workload.model.cuts.stop) if cut is None else range(cut, cut + 1)


def ranked_decisions(
    workload: Workload,
    limits: PlanLimits,
    scheme: Scheme,
    codecs: Sequence[CodecChoice],
    curves: RateCurves,
) -> list[RankedDecision]:
    """Every decision with one cut for all devices that fits their memory, the fastest first."""
    found = [
        candidate
        for cut in cuts_for(workload, limits, scheme)
        for own in schemes_for(scheme, limits.fixed)
        if (policies := fitting_policies(workload, own, cut, limits.fixed))
        for codec in codecs
        for candidate in _at(workload, limits, own, cut, policies, codec, curves)
    ]
    return sorted(found, key=lambda each: each.estimated_s)


def _at(
    workload: Workload,
    limits: PlanLimits,
    scheme: Scheme,
    cut: int,
    policies: Sequence[MiniBatchPolicy],
    codec: CodecChoice,
    curves: RateCurves,
) -> Iterator[RankedDecision]:
    """A decision for each policy and each way to share the downlink, with its best shares.

    They are solved once for all that ask the same of the bandwidth.
    """
    count = len(workload.devices)
    even = (1.0 / count,) * count
    amounts: dict[ActivationPolicy, list[Amounts]] = {}
    shares: dict[tuple[ActivationPolicy, bool], tuple[float, ...]] = {}
    ways = rules_for(workload.rules, scheme, limits.fixed)
    for policy, rules in itertools.product(policies, ways):
        decision = Decision(scheme, (cut,) * count, codec, policy, rules, even)
        asks = policy.activation_memory, rules.whole_bandwidth(Place.DOWNLINK)
        if policy.activation_memory not in amounts:
            amounts[policy.activation_memory] = [
                amounts_of(kind.workload, kind.decision) for kind in round_kinds(workload, decision)
            ]
        own = amounts[policy.activation_memory]
        if asks not in shares:
            # for the rounds in which most is sent
            shares[asks] = shares_within(limits, own[0].observed(), curves, rules)
        decision = replace(decision, shares=shares[asks])
        kinds = round_kinds(workload, decision)
        kinds_s = tuple(
            estimated_s(each, kind.decision, curves) for kind, each in zip(kinds, own, strict=True)
        )
        delay_s = mean_of([(k.rounds, each_s) for k, each_s in zip(kinds, kinds_s, strict=True)])
        parts = (
            (kind.rounds, server_part(each, kind.decision, delay_s))
            for kind, each in zip(kinds, own, strict=True)
        )
        yield RankedDecision(decision, delay_s, kinds_s, mean_of(list(parts)))


def search_decisions(
    workload: Workload,
    limits: PlanLimits,
    candidates: Sequence[RankedDecision],
    curves: RateCurves,
    besides: Sequence[Decision] = (),
) -> RefinedDecision | None:
    """The fastest of the candidates on the timeline, its shares refined; None without any.

    `besides`: decisions to beat, which are played too, so that the answer is never slower. The
    server's part is the timeline's: a queue may make it smaller than estimated.
    """
    calm, busy = (
        [each for each in candidates if (each.server_part <= limits.server_busy) == wanted]
        for wanted in (True, False)
    )
    decisions = [*_worth_playing(workload, calm), *_worth_playing(workload, busy), *besides]
    best = _fastest(workload, limits, decisions, curves)
    if best is None:
        return None
    # where the server is the bottleneck, the estimates of all that follow are alike
    alike = [
        each
        for each in candidates
        if each.decision.policy != best.decision.policy
        and (each.decision.cuts, each.decision.codec) == (best.decision.cuts, best.decision.codec)
    ]
    best = _faster(workload, limits, best, _worth_playing(workload, alike), curves)
    best = _faster(workload, limits, best, _on_even_shares([best.decision], limits), curves)
    if limits.per_device_cuts and best.decision.scheme.splits:
        others = cut_by_device(workload, limits, best.decision, curves)
        others += _on_even_shares(others, limits)
        best = _faster(workload, limits, best, others, curves)
    better = refined(workload, limits, best, curves)
    return better if keeps_server_free(workload, limits, better) else best


def _on_even_shares(decisions: Sequence[Decision], limits: PlanLimits) -> list[Decision]:
    """The same, if devices may have as much each: best shares are so for sums without a queue."""
    if limits.fixed.shares is not None:
        return []
    even = [each.on_even_shares() for each in decisions]
    return [each for each in even if each.shares[0] <= min(limits.most_share)]


def keeps_server_free(workload: Workload, limits: PlanLimits, found: RefinedDecision) -> bool:
    """Whether the server computes no larger a part of the round than it may."""
    part = mean_server_part(workload, found.decision, found.delay_s)
    return part <= limits.server_busy


def _worth_playing(workload: Workload, candidates: Sequence[RankedDecision]) -> list[Decision]:
    """As many of the first as a search may play."""
    chosen: list[Decision] = []
    left = _PLAYED_MICRO_BATCHES
    for candidate in candidates[: _PLAYED.stop]:
        left -= sum(workload.local_steps) * candidate.decision.policy.micro_batches
        if left < 0 and len(chosen) >= _PLAYED.start:
            break
        chosen.append(candidate.decision)
    return chosen


def _fastest(
    workload: Workload, limits: PlanLimits, decisions: Sequence[Decision], curves: RateCurves
) -> RefinedDecision | None:
    """Of those that leave the server free enough."""
    played = (RefinedDecision(each, round_delay_s(workload, each, curves)) for each in decisions)
    good = (found for found in played if keeps_server_free(workload, limits, found))
    return min(good, key=lambda found: found.delay_s, default=None)


def _faster(
    workload: Workload,
    limits: PlanLimits,
    best: RefinedDecision,
    decisions: Sequence[Decision],
    curves: RateCurves,
) -> RefinedDecision:
    """The best, or one of these if it is faster."""
    other = _fastest(workload, limits, decisions, curves)
    return best if other is None or other.delay_s >= best.delay_s else other


@dataclass(frozen=True, eq=False)
class _Option:
    """One cut for each device; an infinite infeasibility rules it out for one."""

    cut: int
    problem: BandwidthProblem
    server_s: Float64[np.ndarray, " device"]
    infeasibility: Float64[np.ndarray, " device"]


def cut_by_device(
    workload: Workload, limits: PlanLimits, decision: Decision, curves: RateCurves
) -> list[Decision]:
    """Decisions like this one with a cut for each device, one for each price of the server."""
    options = [
        _option(workload, limits, decision, cut, curves)
        for cut in range(limits.least_cut, workload.model.cuts.stop)
    ]
    ways = {
        tuple(options[number].cut for number in _cheapest(options, price, decision.rules))
        for price in _PRICES
    }
    found = []
    for cuts in sorted(ways):
        other = replace(decision, cuts=cuts)
        observed = amounts_of(workload, other).observed()
        shares = shares_within(limits, observed, curves, decision.rules)
        found.append(replace(other, shares=shares))
    return found


def _option(
    workload: Workload, limits: PlanLimits, decision: Decision, cut: int, curves: RateCurves
) -> _Option:
    count = len(workload.devices)
    amounts = amounts_of(workload, replace(decision, cuts=(cut,) * count))
    problem = bandwidth_problem(
        amounts.observed(), curves, decision.rules, np.array(limits.most_share)
    )
    everywhere = replace(decision, cuts=(cut,) * count)
    need = np.array([own.total for own in device_needs(workload, everywhere)])
    room = [device.memory_bytes or np.inf for device in workload.devices]
    if not fits_server(workload, everywhere):
        need = np.full(count, np.inf)  # as if this were the shallowest of all cuts
    infeasibility = np.where(np.array(room, dtype=np.float64) >= need, 0.0, np.inf)
    return _Option(cut, problem, amounts.busy_s(decision), infeasibility)


def _cheapest(
    options: Sequence[_Option], price: float, rules: SharingRules
) -> Int[np.ndarray, " device"]:
    """Which option each device takes at the shortest deadline that bandwidth and server allow."""
    workers = rules.server_workers
    low, high = 0.0, _long_enough_s(options, workers)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        needed = _needs(options, middle, workers)
        taken = needed.cheapest(price)[None]
        used = [
            float(np.take_along_axis(each, taken, axis=0).sum())
            for each in (needed.shares, needed.served)
        ]
        if max(used) <= 1.0:
            high = middle
        else:
            low = middle
    return _needs(options, high, workers).cheapest(price)


def _long_enough_s(options: Sequence[_Option], workers: int) -> float:
    """A deadline at which any choice fits: an even share is enough, and the server gets through."""
    alone_s = max(float((each.problem.fixed_s + each.problem.at_cap_s).max()) for each in options)
    served_s = np.max([each.server_s for each in options], axis=0).sum() / workers
    return max(options[0].problem.devices * alone_s, float(served_s))


@dataclass(frozen=True, eq=False)
class _Needs:
    """What each option takes of bandwidth and server; infinite bandwidth if too slow."""

    shares: Float64[np.ndarray, "option device"]
    served: Float64[np.ndarray, "option device"]

    def cheapest(self, price: float) -> Int[np.ndarray, " device"]:
        """Which option costs each device least."""
        return np.asarray((self.shares + price * self.served).argmin(axis=0))


def _needs(options: Sequence[_Option], deadline_s: float, workers: int) -> _Needs:
    return _Needs(
        shares=np.stack([_needed(each, deadline_s) for each in options]),
        served=np.stack([each.server_s for each in options]) / (workers * deadline_s),
    )


def _needed(option: _Option, deadline_s: float) -> Float64[np.ndarray, " device"]:
    """The share with which each device meets the deadline."""
    demand = share_demand(option.problem)
    left_s = deadline_s - option.problem.fixed_s
    possible = (left_s >= demand.least_s) & (option.infeasibility == 0)
    seconds = np.where(possible, left_s, demand.least_s)
    needed = demand.needed(seconds, option.problem.most).shares
    return np.where(possible, needed, np.inf)
