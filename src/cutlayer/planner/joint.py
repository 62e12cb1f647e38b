"""The whole decision at once: cut, codec, pipeline, holding, downlink and shares.

Every decision is ranked by the estimate, the best of them are played on the timeline, and what the
timeline says decides. Knows no figure and no file.
"""

import itertools
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
from cutlayer.schemes.scheme import DeviceOrder, Place, Scheme
from cutlayer.schemes.sft import SFT
from cutlayer.schemes.sft_overlap import SFT_OVERLAP
from cutlayer.spec import Holding
from cutlayer.timeline.rules import Duplex, Rules, Sharing

# micro-batches, over all devices, that a search plays before it decides; and decisions
_PLAYED_VISITS = 30_000
_PLAYED = range(3, 16)


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
        candidate
        for cut in cuts_for(workload, limits, scheme)
        for own in schemes_for(scheme)
        if (ways := fitting_ways(workload, own, cut))
        for codec in codecs
        for candidate in _at(workload, limits, own, cut, ways, codec, curves)
    ]
    return sorted(found, key=lambda each: each.estimated_s)


def _at(
    workload: Workload,
    limits: Limits,
    scheme: Scheme,
    cut: int,
    ways: Sequence[Held],
    codec: CodecChoice,
    curves: Curves,
) -> Iterator[Ranked]:
    """A decision for each way to hold and to share the downlink, with its best shares.

    They are solved once for all that ask the same of the band.
    """
    count = len(workload.devices)
    even = (1.0 / count,) * count
    amounts: dict[Holding, Amounts] = {}
    shares: dict[tuple[Holding, bool], tuple[float, ...]] = {}
    for held, rules in itertools.product(ways, rules_for(workload.rules, scheme)):
        decision = Decision(scheme, (cut,) * count, codec, held, rules, even)
        asked = held.holding, rules.whole_band(Place.DOWNLINK)
        if held.holding not in amounts:
            amounts[held.holding] = amounts_of(workload, decision)
        own = amounts[held.holding]
        if asked not in shares:
            shares[asked] = best_shares(own.observed(), curves, rules, limits.most_share)
        decision = replace(decision, shares=shares[asked])
        delay_s = estimated_s(own, decision, curves)
        yield Ranked(decision, delay_s, server_part(own, decision, delay_s))


def search(
    workload: Workload,
    limits: Limits,
    candidates: Sequence[Ranked],
    curves: Curves,
    besides: Sequence[Decision] = (),
) -> Found | None:
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
    alike = [each for each in candidates if _held_otherwise(each.decision, best.decision)]
    best = _faster(workload, limits, best, _worth_playing(workload, alike), curves)
    best = _faster(workload, limits, best, _on_even_shares([best.decision], limits), curves)
    if limits.per_device_cuts and best.decision.scheme.splits:
        others = cut_by_device(workload, limits, best.decision, curves)
        others += _on_even_shares(others, limits)
        best = _faster(workload, limits, best, others, curves)
    better = refined(workload, limits, best, curves)
    return better if keeps_server_free(workload, limits, better) else best


def _on_even_shares(decisions: Sequence[Decision], limits: Limits) -> list[Decision]:
    """The same, if devices may have as much each: best shares are so for sums without a queue."""
    even = [each.on_even_shares() for each in decisions]
    return [each for each in even if each.shares[0] <= min(limits.most_share)]


def keeps_server_free(workload: Workload, limits: Limits, found: Found) -> bool:
    """Whether the server computes no larger a part of the round than it may."""
    part = server_part(amounts_of(workload, found.decision), found.decision, found.delay_s)
    return part <= limits.server_busy


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


def _held_otherwise(decision: Decision, other: Decision) -> bool:
    """Whether two decisions with the same cut and codec differ in how they hold a mini-batch."""
    return decision.held != other.held and (
        (decision.cuts, decision.codec) == (other.cuts, other.codec)
    )


def _fastest(
    workload: Workload, limits: Limits, decisions: Sequence[Decision], curves: Curves
) -> Found | None:
    """Of those that leave the server free enough."""
    played = (Found(each, round_delay_s(workload, each, curves)) for each in decisions)
    good = (found for found in played if keeps_server_free(workload, limits, found))
    return min(good, key=lambda found: found.delay_s, default=None)


def _faster(
    workload: Workload, limits: Limits, best: Found, decisions: Sequence[Decision], curves: Curves
) -> Found:
    """The best, or one of these if it is faster."""
    other = _fastest(workload, limits, decisions, curves)
    return best if other is None or other.delay_s >= best.delay_s else other
