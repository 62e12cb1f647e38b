"""The whole decision at once: cut, codec, pipeline, holding, downlink and shares.

Every decision is ranked by the estimate, the best of them are played on the timeline, and what the
timeline says decides. Knows no figure and no file.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from cutlayer.channel.curves import Curves
from cutlayer.planner.allocation import best_shares
from cutlayer.planner.cut_by_device import cut_by_device
from cutlayer.planner.decision import CodecChoice, Decision, Held, Limits
from cutlayer.planner.estimate import Amounts, amounts_of, estimated_s, server_part
from cutlayer.planner.fitting import fitting_ways
from cutlayer.planner.forecast import round_delay_s
from cutlayer.planner.refine import Found, refined
from cutlayer.planner.workload import Workload
from cutlayer.schemes.scheme import DeviceOrder, Scheme
from cutlayer.schemes.sft import SFT
from cutlayer.schemes.sft_overlap import SFT_OVERLAP
from cutlayer.timeline.rules import Duplex, Rules, Sharing

# micro-batches, over all devices, that a search plays before it decides; and decisions
_PLAYED_VISITS = 300_000
_PLAYED = range(3, 40)


@dataclass(frozen=True)
class Ranked:
    """A decision, its round's estimated seconds, and the server's part of them."""

    decision: Decision
    estimated_s: float
    server_part: float


def schemes_for(scheme: Scheme) -> tuple[Scheme, ...]:
    """The scheme, and what trains the same adapters in another order of steps."""
    return (SFT, SFT_OVERLAP) if scheme in (SFT, SFT_OVERLAP) else (scheme,)


def rules_for(rules: Rules, scheme: Scheme) -> tuple[Rules, ...]:
    """The rules, with every way to share the downlink: it is the server's to choose.

    Half duplex is one band for both ways, and devices in turn share nothing: there is no choice.
    """
    if rules.duplex is Duplex.HALF or scheme.devices is DeviceOrder.IN_TURN:
        return (rules,)
    return tuple(replace(rules, downlink=sharing) for sharing in Sharing)


def cuts_for(workload: Workload, limits: Limits, scheme: Scheme) -> range:
    """The cuts to choose from; a scheme that splits nothing has one, which means nothing."""
    return range(limits.least_cut, workload.model.blocks) if scheme.splits else range(1, 2)


def ranked(
    workload: Workload,
    limits: Limits,
    scheme: Scheme,
    codecs: Sequence[CodecChoice],
    curves: Curves,
) -> list[Ranked]:
    """Every decision with one cut for all devices that fits their memory, the fastest first."""
    found = [
        Ranked(
            decision,
            estimated_s(amounts, decision, curves),
            server_part(amounts, decision, curves),
        )
        for cut in cuts_for(workload, limits, scheme)
        for own in schemes_for(scheme)
        for held in fitting_ways(workload, own, cut)
        for amounts, decision in _shared_out(workload, limits, own, cut, held, codecs, curves)
    ]
    return sorted(found, key=lambda each: each.estimated_s)


def _shared_out(
    workload: Workload,
    limits: Limits,
    scheme: Scheme,
    cut: int,
    held: Held,
    codecs: Sequence[CodecChoice],
    curves: Curves,
) -> Iterator[tuple[Amounts, Decision]]:
    """A decision for each codec and each way to share the downlink, with its best shares."""
    count = len(workload.devices)
    even = (1.0 / count,) * count
    for codec in codecs:
        first, *others = (
            Decision(scheme, (cut,) * count, codec, held, rules, even)
            for rules in rules_for(workload.rules, scheme)
        )
        amounts = amounts_of(workload, first)
        for decision in (first, *others):
            shares = best_shares(amounts.observed(), curves, decision.rules, limits.most_share)
            yield amounts, replace(decision, shares=shares)


def search(
    workload: Workload,
    limits: Limits,
    candidates: Sequence[Ranked],
    curves: Curves,
    besides: Sequence[Decision] = (),
) -> Found | None:
    """The fastest of the candidates on the timeline, its shares refined; None without any.

    `besides`: decisions to beat, which are played too, so that the answer is never slower.
    """
    allowed = [each for each in candidates if each.server_part <= limits.server_busy]
    decisions = [*_worth_playing(workload, allowed), *besides]
    if not decisions:
        return None
    best = _fastest(workload, decisions, curves)
    if limits.per_device_cuts and best.decision.scheme.splits:
        others = cut_by_device(workload, limits, best.decision, curves)
        best = min(best, _fastest(workload, others, curves), key=lambda found: found.delay_s)
    return refined(workload, limits, best, curves)


def _worth_playing(workload: Workload, candidates: Sequence[Ranked]) -> list[Decision]:
    """As many of the first as a search may play."""
    chosen: list[Decision] = []
    left = _PLAYED_VISITS
    for candidate in candidates[: _PLAYED.stop]:
        left -= sum(workload.local_steps) * candidate.decision.held.micro_batches
        if left < 0 and len(chosen) >= _PLAYED.start:
            break
        chosen.append(candidate.decision)
    return chosen


def _fastest(workload: Workload, decisions: Sequence[Decision], curves: Curves) -> Found:
    played = [Found(each, round_delay_s(workload, each, curves)) for each in decisions]
    return min(played, key=lambda found: found.delay_s)
