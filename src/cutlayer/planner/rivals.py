"""What a plan is compared with: even shares, the paper's own plan, every other scheme.

Knows how each is made from the same workload and limits, and no words.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cutlayer.channel.curves import Curves
from cutlayer.planner.allocation import best_shares
from cutlayer.planner.decision import CodecChoice, Decision, Held, Limits
from cutlayer.planner.estimate import amounts_of, estimated_s, server_part
from cutlayer.planner.fitting import fitting_ways
from cutlayer.planner.forecast import fits_memory, round_delay_s
from cutlayer.planner.workload import Workload
from cutlayer.schemes.all import SCHEMES
from cutlayer.schemes.scheme import DeviceOrder, Scheme
from cutlayer.schemes.sft import SFT

UNCOMPRESSED = CodecChoice("none", {}, 1.0, 1.0, 0.0)


@dataclass(frozen=True)
class Rival:
    """Another way to train the same: a later round's delay, all rounds', and whether it fits."""

    name: str
    decision: Decision
    delay_s: float
    training_s: float
    fits: bool


def published_plan(
    workload: Workload, limits: Limits, codec: CodecChoice, curves: Curves
) -> Decision | None:
    """The paper's plan: the cut of least delay by the closed form on even shares, then the best
    shares; mini-batches are kept whole, the band is shared as configured.

    None: no cut fits memory and limits. Source: SFT Sections VI-C and VII, mended.
    """
    count = len(workload.devices)
    held = Held()
    best: tuple[float, Decision] | None = None
    for cut in range(limits.least_cut, workload.model.blocks):
        decision = Decision(
            SFT, (cut,) * count, codec, held, workload.rules, (1.0 / count,) * count
        )
        if not fits_memory(workload, decision):
            continue
        amounts = amounts_of(workload, decision)
        delay_s = estimated_s(amounts, decision, curves)
        busy = server_part(amounts, decision, delay_s)
        if busy <= limits.server_busy and (best is None or delay_s < best[0]):
            best = delay_s, decision
    return None if best is None else with_best_shares(workload, limits, best[1], curves)


def with_best_shares(
    workload: Workload, limits: Limits, decision: Decision, curves: Curves
) -> Decision:
    """The decision with the shares that are best by the closed form."""
    if decision.scheme.devices is DeviceOrder.IN_TURN:
        return decision
    observed = amounts_of(workload, decision).observed()
    return replace(
        decision, shares=best_shares(observed, curves, decision.rules, limits.most_share)
    )


def rivals(
    workload: Workload,
    limits: Limits,
    chosen: Decision,
    published: Decision | None,
    curves: Curves,
    also: Sequence[Scheme] = tuple(SCHEMES.values()),
) -> tuple[Rival, ...]:
    """Even shares, the paper's plan if it fits, and each scheme of `also` on its best shares.

    Schemes are cut where the plan is cut, and hold mini-batches as fits, or whole if nothing does.
    """
    ways = [("the same on even shares", chosen.on_even_shares())]
    if published is not None:
        ways.append(("the paper's plan", published))
    ways += [
        (scheme.title, _as(workload, limits, chosen, scheme, curves))
        for scheme in also
        if scheme != chosen.scheme
    ]
    return tuple(_rival(workload, name, way, curves) for name, way in ways)


def _rival(workload: Workload, name: str, way: Decision, curves: Curves) -> Rival:
    first_s = round_delay_s(workload, way, curves, first_round=True)
    later_s = round_delay_s(workload, way, curves)
    return Rival(
        name=name,
        decision=way,
        delay_s=later_s,
        training_s=first_s + (workload.rounds - 1) * later_s,
        fits=fits_memory(workload, way),
    )


def _as(
    workload: Workload, limits: Limits, chosen: Decision, scheme: Scheme, curves: Curves
) -> Decision:
    """The plan's cut and codec under another scheme, held as is fastest by estimate."""
    cut = min(chosen.cuts)

    def held(way: Held) -> Decision:
        decision = Decision(
            scheme=scheme,
            cuts=(cut,) * len(chosen.cuts),
            codec=chosen.codec if scheme.compressed else UNCOMPRESSED,
            held=way,
            rules=workload.rules,
            shares=chosen.on_even_shares().shares,
        )
        return with_best_shares(workload, limits, decision, curves)

    def delay_s(decision: Decision) -> float:
        return estimated_s(amounts_of(workload, decision), decision, curves)

    ways = fitting_ways(workload, scheme, cut) or [Held()]
    return min((held(way) for way in ways), key=delay_s)
