"""A plan: the decision, what each cut would come to, what binds, what it gains, what does not fit.

The outermost of the planner: everything that a report shows is in the value it gives. Knows no
configuration, no file and no words.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cutlayer.channel.curves import Curves
from cutlayer.cost.memory import PartMemory
from cutlayer.planner.bindings import Binding, Sensitivity, bindings, sensitivities
from cutlayer.planner.codec_choices import CodecChoices
from cutlayer.planner.decision import Decision, Held, Limits
from cutlayer.planner.estimate import amounts_of, server_part
from cutlayer.planner.fitting import Shortage, shortage, shortage_of
from cutlayer.planner.forecast import Forecast, device_need, fits_memory, forecast, round_delay_s
from cutlayer.planner.joint import Ranked, cuts_for, ranked, schemes_for, search
from cutlayer.planner.misfit import Misfit, memory_misfit, misfits
from cutlayer.planner.refine import Found
from cutlayer.planner.rivals import Rival, published_plan, rivals
from cutlayer.planner.workload import Workload
from cutlayer.schemes.scheme import Scheme


@dataclass(frozen=True, eq=False)
class CutRow:
    """The best decision with one cut for all devices: its round, and a device's memory.

    `delay_s` is the timeline's. Without a decision nothing fits: `held` and `need` are those of
    least memory, and `short` says who lacks how much.
    """

    cut: int
    decision: Decision | None
    delay_s: float | None
    server_part: float | None
    held: Held
    need: PartMemory[float]
    short: Shortage | None
    allowed: bool


@dataclass(frozen=True, eq=False)
class Plan:
    """`chosen` is None where nothing keeps all limits; then `misfits` say which limits leave
    nothing, and what would."""

    workload: Workload
    limits: Limits
    scheme: Scheme
    codecs: CodecChoices
    most_loss: float
    chosen: Forecast | None
    cuts: tuple[CutRow, ...]
    sensitivities: tuple[Sensitivity, ...]
    bindings: tuple[Binding, ...]
    rivals: tuple[Rival, ...]
    misfits: tuple[Misfit, ...]


def make_plan(
    workload: Workload,
    limits: Limits,
    scheme: Scheme,
    codecs: CodecChoices,
    most_loss: float,
) -> Plan:
    """The shortest round that memory, accuracy and spectrum allow.

    Never slower on the timeline than the paper's plan under the same limits. Raises ConfigError for
    a workload that no scheme can take.
    """
    curves = workload.channel.mean_curves()
    candidates = ranked(workload, limits, scheme, codecs.accurate, curves)
    published = None
    if codecs.published is not None and scheme.splits:
        published = published_plan(workload, limits, codecs.published, curves)
    besides = [] if published is None or not _same_training(scheme, published) else [published]
    found = search(workload, limits, candidates, curves, besides)
    allowed = [each for each in candidates if each.server_part <= limits.server_busy]
    best_s = min((each.estimated_s for each in allowed), default=float("inf"))
    cuts = cut_rows(workload, limits, scheme, candidates, found, curves)
    plan = Plan(workload, limits, scheme, codecs, most_loss, None, cuts, (), (), (), ())
    if found is None:
        why = misfits(workload, limits, scheme, codecs, most_loss, curves)
        return replace(plan, misfits=why)
    every = (*codecs.accurate, *codecs.inaccurate)
    return replace(
        plan,
        chosen=forecast(workload, found.decision, curves),
        sensitivities=sensitivities(workload, limits, found, curves),
        bindings=bindings(workload, limits, scheme, every, most_loss, best_s, curves),
        rivals=rivals(workload, limits, found.decision, published, curves),
    )


def plan_as_given(
    workload: Workload, limits: Limits, decision: Decision, codecs: CodecChoices, most_loss: float
) -> Plan:
    """What this very decision comes to, with one cut for all; only memory can keep it from being.

    `codecs`: its own. Raises ConfigError as `make_plan` does.
    """
    curves, scheme, cut = workload.channel.mean_curves(), decision.scheme, decision.cuts[0]
    need = device_need(workload, scheme, cut, decision.held)
    plan = Plan(workload, limits, scheme, codecs, most_loss, None, (), (), (), (), ())
    if not fits_memory(workload, decision):
        short = shortage_of(workload, scheme, cut, decision.held)
        row = CutRow(cut, None, None, None, decision.held, need, short, allowed=False)
        # another cut is not for this decision to take
        misfit = replace(memory_misfit(workload, limits, scheme, short), fitting_cut=None)
        return replace(plan, cuts=(row,), misfits=(misfit,))
    chosen = forecast(workload, decision, curves)
    found = Found(decision, chosen.delay_s)
    busy = server_part(amounts_of(workload, decision), decision, found.delay_s)
    row = CutRow(cut, decision, found.delay_s, busy, decision.held, need, None, allowed=True)
    return replace(
        plan,
        chosen=chosen,
        cuts=(row,),
        sensitivities=sensitivities(workload, limits, found, curves),
        rivals=rivals(workload, limits, decision, None, curves),
    )


def _same_training(scheme: Scheme, decision: Decision) -> bool:
    """Whether a decision trains the adapters that the configured scheme trains."""
    return decision.scheme in schemes_for(scheme)


def cut_rows(
    workload: Workload,
    limits: Limits,
    scheme: Scheme,
    candidates: Sequence[Ranked],
    found: Found | None,
    curves: Curves,
) -> tuple[CutRow, ...]:
    """Every cut that the limits leave: the fastest decision by the estimate, or `found`."""
    first: dict[int, Ranked] = {}
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
    limits: Limits,
    scheme: Scheme,
    cut: int,
    decision: Decision | None,
    curves: Curves,
) -> CutRow:
    if decision is not None:
        need = device_need(workload, decision.scheme, cut, decision.held)
        delay_s = round_delay_s(workload, decision, curves)
        part = server_part(amounts_of(workload, decision), decision, delay_s)
        fits = part <= limits.server_busy
        return CutRow(cut, decision, delay_s, part, decision.held, need, None, allowed=fits)
    short = shortage(workload, scheme, cut)
    held = Held() if short is None else short.held
    need = device_need(workload, scheme, cut, held)
    return CutRow(cut, None, None, None, held, need, short, allowed=False)
