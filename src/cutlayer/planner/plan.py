"""A plan: the decision, what each cut would come to, sensitivity, baselines, what does not fit.

The outermost of the planner: everything that a report shows is in the value it gives. Knows no
configuration, no file and no words.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from cutlayer.channel.rates import RateCurves
from cutlayer.planner.configuration import CodecChoices
from cutlayer.planner.decision import (
    CodecChoice,
    Decision,
    PlanLimits,
    Shortage,
    Workload,
    device_need,
    fits_devices,
    fits_memory,
    fits_server,
    fitting_policies,
    round_kinds,
    server_need,
    shortage,
    shortage_of,
)
from cutlayer.planner.energy import PlanEnergy, plan_energy
from cutlayer.planner.estimate import (
    amounts_of,
    estimated_s,
    mean_estimate_s,
    mean_server_part,
    server_part,
    shares_within,
)
from cutlayer.planner.explain import (
    Infeasibility,
    LimitSensitivity,
    MemoryInfeasibility,
    ResourceSensitivity,
    infeasibilities,
    limit_sensitivities,
    memory_infeasibility,
    resource_sensitivities,
)
from cutlayer.planner.forecast import (
    Forecast,
    RefinedDecision,
    SentBytes,
    forecast_rounds,
    round_delay_s,
    sent_bytes,
    turn_s,
)
from cutlayer.planner.search import (
    RankedDecision,
    cuts_for,
    ranked_decisions,
    schemes_for,
    search_decisions,
)
from cutlayer.rounds.memory import PartMemory
from cutlayer.rounds.schemes import SCHEMES, SFT, DeviceOrder, Scheme
from cutlayer.spec import MiniBatchPolicy

UNCOMPRESSED = CodecChoice("none", {}, 1.0, 1.0, 0.0)


@dataclass(frozen=True)
class Baseline:
    """Another way to train the same: a later round's delay, all rounds', what all of them send, and
    whom it fits."""

    name: str
    decision: Decision
    delay_s: float
    training_s: float
    sent: SentBytes
    fits_devices: bool
    fits_server: bool

    @property
    def fits(self) -> bool:
        """Whether every device and the server have the memory."""
        return self.fits_devices and self.fits_server


@dataclass(frozen=True, eq=False)
class CutRow:
    """The best decision with one cut for all devices: its round, and a device's memory.

    `delay_s` is the timeline's. Without a decision nothing fits: `policy` and `need` are those of
    least memory, and `short` says who is short by how much. `server_need` is with that policy.
    """

    cut: int
    decision: Decision | None
    delay_s: float | None
    server_part: float | None
    policy: MiniBatchPolicy
    need: PartMemory[float]
    server_need: PartMemory[float]
    short: Shortage | None
    allowed: bool


@dataclass(frozen=True, eq=False)
class Plan:
    """`chosen` is None where nothing keeps all limits; then `infeasibilities` say which limits
    leave nothing, and what would."""

    workload: Workload
    limits: PlanLimits
    scheme: Scheme
    codecs: CodecChoices
    most_loss: float
    chosen: Forecast | None
    cuts: tuple[CutRow, ...]
    resource_sensitivities: tuple[ResourceSensitivity, ...]
    limit_sensitivities: tuple[LimitSensitivity, ...]
    baselines: tuple[Baseline, ...]
    infeasibilities: tuple[Infeasibility, ...]

    @cached_property
    def energy(self) -> PlanEnergy | None:
        """What the decision takes in joules and money; None: there is no decision."""
        return None if self.chosen is None else plan_energy(self.chosen)


def make_plan(
    workload: Workload,
    limits: PlanLimits,
    scheme: Scheme,
    codecs: CodecChoices,
    most_loss: float,
) -> Plan:
    """The shortest round that memory, accuracy and spectrum allow.

    Never slower on the timeline than the paper's plan under the same limits. Raises ConfigError for
    a workload that no scheme can take.
    """
    curves = workload.channel.mean_curves()
    candidates = ranked_decisions(workload, limits, scheme, codecs.accurate, curves)
    published = None
    if codecs.published is not None and scheme.splits:
        published = published_plan(workload, limits, codecs.published, curves)
    besides = []
    if (
        published is not None
        and published.scheme in schemes_for(scheme, limits.fixed)
        and not limits.fixed.codec
        and limits.fixed.keeps(published)
    ):
        besides = [published]  # it trains the same adapters
    found = search_decisions(workload, limits, candidates, curves, besides)
    allowed = [each for each in candidates if each.server_part <= limits.server_busy]
    best_s = min((each.estimated_s for each in allowed), default=float("inf"))
    cuts = cut_rows(workload, limits, scheme, candidates, found, curves)
    plan = Plan(workload, limits, scheme, codecs, most_loss, None, cuts, (), (), (), ())
    if found is None:
        why = infeasibilities(workload, limits, scheme, codecs, most_loss, curves)
        return replace(plan, infeasibilities=why)
    every = (*codecs.accurate, *codecs.inaccurate)
    return replace(
        plan,
        chosen=forecast_rounds(workload, found.decision, curves),
        resource_sensitivities=resource_sensitivities(workload, limits, found, curves),
        limit_sensitivities=limit_sensitivities(
            workload, limits, scheme, every, most_loss, best_s, curves
        ),
        baselines=baselines(workload, limits, found.decision, published, curves),
    )


def plan_as_given(
    workload: Workload,
    limits: PlanLimits,
    decision: Decision,
    codecs: CodecChoices,
    most_loss: float,
) -> Plan:
    """What this very decision comes to, with one cut for all; only memory can keep it from being.

    `codecs`: its own. Raises ConfigError as `make_plan` does.
    """
    curves, scheme, cut = workload.channel.mean_curves(), decision.scheme, decision.cuts[0]
    need = device_need(workload, scheme, cut, decision.policy)
    served = server_need(workload, scheme, cut, decision.policy)
    plan = Plan(workload, limits, scheme, codecs, most_loss, None, (), (), (), (), ())
    if not fits_memory(workload, decision):
        short = shortage_of(workload, scheme, cut, decision.policy)
        row = CutRow(cut, None, None, None, decision.policy, need, served, short, allowed=False)
        infeasibility = memory_infeasibility(workload, limits, scheme, short)
        if isinstance(infeasibility, MemoryInfeasibility):
            # another cut is not for this decision to take
            infeasibility = replace(infeasibility, fitting_cut=None)
        return replace(plan, cuts=(row,), infeasibilities=(infeasibility,))
    chosen = forecast_rounds(workload, decision, curves)
    found = RefinedDecision(decision, chosen.delay_s)
    busy = mean_server_part(workload, decision, found.delay_s)
    row = CutRow(
        cut, decision, found.delay_s, busy, decision.policy, need, served, None, allowed=True
    )
    return replace(
        plan,
        chosen=chosen,
        cuts=(row,),
        resource_sensitivities=resource_sensitivities(workload, limits, found, curves),
        baselines=baselines(workload, limits, decision, None, curves),
    )


def cut_rows(
    workload: Workload,
    limits: PlanLimits,
    scheme: Scheme,
    candidates: Sequence[RankedDecision],
    found: RefinedDecision | None,
    curves: RateCurves,
) -> tuple[CutRow, ...]:
    """Every cut that the limits leave: the fastest decision by the estimate, or `found`."""
    first: dict[int, RankedDecision] = {}
    for candidate in candidates:
        first.setdefault(candidate.decision.cuts[0], candidate)
    best = {cut: each.decision for cut, each in first.items()}
    if found is not None and found.decision.common_cut is not None:
        best[found.decision.common_cut] = found.decision
    return tuple(
        _row(workload, limits, scheme, cut, best.get(cut), curves)
        for cut in cuts_for(workload, limits, scheme)
    )


def _row(
    workload: Workload,
    limits: PlanLimits,
    scheme: Scheme,
    cut: int,
    decision: Decision | None,
    curves: RateCurves,
) -> CutRow:
    if decision is not None:
        need = device_need(workload, decision.scheme, cut, decision.policy)
        served = server_need(workload, decision.scheme, cut, decision.policy)
        delay_s = round_delay_s(workload, decision, curves)
        part = mean_server_part(workload, decision, delay_s)
        fits = part <= limits.server_busy
        return CutRow(
            cut, decision, delay_s, part, decision.policy, need, served, None, allowed=fits
        )
    short = shortage(workload, scheme, cut, limits.fixed)
    policy = MiniBatchPolicy() if short is None else short.policy
    need = device_need(workload, scheme, cut, policy)
    served = server_need(workload, scheme, cut, policy)
    return CutRow(cut, None, None, None, policy, need, served, short, allowed=False)


def published_plan(
    workload: Workload, limits: PlanLimits, codec: CodecChoice, curves: RateCurves
) -> Decision | None:
    """The paper's plan: the cut of least delay by the closed form on even shares, then the best
    shares; mini-batches are kept whole, the bandwidth is shared as configured.

    None: no cut fits memory and limits. Source: SFT Sections VI-C and VII, corrected.
    """
    count = len(workload.devices)
    policy = MiniBatchPolicy()
    best: tuple[float, Decision] | None = None
    for cut in cuts_for(workload, limits, SFT):
        decision = Decision(
            SFT, (cut,) * count, codec, policy, workload.rules, (1.0 / count,) * count
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
    workload: Workload, limits: PlanLimits, decision: Decision, curves: RateCurves
) -> Decision:
    """The decision with the shares that are fixed, else best by the closed form."""
    if decision.scheme.devices is DeviceOrder.IN_TURN:
        return decision
    sharing = round_kinds(workload, decision)[0]
    observed = amounts_of(sharing.workload, sharing.decision).observed()
    return replace(decision, shares=shares_within(limits, observed, curves, decision.rules))


def baselines(
    workload: Workload,
    limits: PlanLimits,
    chosen: Decision,
    published: Decision | None,
    curves: RateCurves,
    also: Sequence[Scheme] = tuple(SCHEMES.values()),
) -> tuple[Baseline, ...]:
    """Even shares, the paper's plan if it fits, and each scheme of `also` on its best shares.

    Schemes are cut where the plan is cut, with the mini-batch policy that fits, or whole
    mini-batches if none does.
    """
    trained = replace(workload, warm_rounds=None)
    ways = [("the same on even shares", workload, chosen.on_even_shares())]
    if published is not None:
        ways.append(("the paper's plan", trained, published))
    ways += [
        (scheme.title, trained, _as(trained, limits, chosen, scheme, curves))
        for scheme in also
        if scheme != chosen.scheme or workload.warm_rounds is not None
    ]
    return tuple(_baseline(own, name, way, curves) for name, own, way in ways)


def _baseline(workload: Workload, name: str, way: Decision, curves: RateCurves) -> Baseline:
    first_s = round_delay_s(workload, way, curves, first_round=True)
    later_s = round_delay_s(workload, way, curves)
    return Baseline(
        name=name,
        decision=way,
        delay_s=later_s,
        training_s=first_s + (workload.rounds - 1) * later_s + turn_s(workload, way, curves),
        sent=sent_bytes(workload, way, curves),
        fits_devices=fits_devices(workload, way),
        fits_server=fits_server(workload, way),
    )


def _as(
    workload: Workload, limits: PlanLimits, chosen: Decision, scheme: Scheme, curves: RateCurves
) -> Decision:
    """The plan's cut and codec under another scheme, with the policy of the least estimate."""
    cut = min(chosen.cuts)

    def under(policy: MiniBatchPolicy) -> Decision:
        decision = Decision(
            scheme=scheme,
            cuts=(cut,) * len(chosen.cuts),
            codec=chosen.codec if scheme.compressed else UNCOMPRESSED,
            policy=policy,
            rules=workload.rules,
            shares=chosen.on_even_shares().shares,
        )
        return with_best_shares(workload, limits, decision, curves)

    policies = fitting_policies(workload, scheme, cut) or [MiniBatchPolicy()]
    return min(map(under, policies), key=lambda one: mean_estimate_s(workload, one, curves))
