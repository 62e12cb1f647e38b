"""Why a plan is as it is: its sensitivity, and the least changes where nothing fits.

Sensitivity is what 10 % more of each resource brings, and which limits keep a faster decision out.
Knows decisions and their seconds; words and tables are the report's.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

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
    fits_server,
    fitting_policies,
    round_kinds,
    server_need,
    shortage,
)
from cutlayer.planner.estimate import amounts_of, mean_server_part, shares_within
from cutlayer.planner.forecast import RefinedDecision, round_delay_s
from cutlayer.planner.search import RankedDecision, cuts_for, ranked_decisions
from cutlayer.rounds.schemes import Scheme
from cutlayer.spec import ActivationPolicy, Base

_MORE = 1.1
# a limit that costs less than a thousandth of the round is not told of
_NOTICEABLE = 1e-3


class Resource(StrEnum):
    """What a round is made of."""

    BANDWIDTH = "bandwidth"
    DEVICES = "devices' compute"
    SERVER = "server's compute"


class Limit(StrEnum):
    """What a decision must keep to."""

    MEMORY = "memory"
    SERVER_MEMORY = "server memory"
    LEAST_CUT = "least cut"
    SERVER_BUSY = "server busy"
    ACCURACY = "accuracy"


@dataclass(frozen=True)
class ResourceSensitivity:
    """A round with 10 % more of one resource, shares solved anew: its delay, the part saved."""

    resource: Resource
    delay_s: float
    saved: float


@dataclass(frozen=True)
class LimitSensitivity:
    """A limit that alone keeps a faster decision out.

    `needed`: what the limit would have to be: bytes, with those reserved, blocks, a part of the
    round, a share of the test samples. `saved`: the part of the round that it would save, by the
    estimate.
    """

    limit: Limit
    decision: Decision
    needed: float
    saved: float


def resource_sensitivities(
    workload: Workload, limits: PlanLimits, found: RefinedDecision, curves: RateCurves
) -> tuple[ResourceSensitivity, ...]:
    """Each resource, the one first of which more brings most."""
    devices = tuple(
        replace(each, flops_per_s=_MORE * each.flops_per_s) for each in workload.devices
    )
    faster_server = replace(
        workload,
        server_flops_per_s=_MORE * workload.server_flops_per_s,
        server=replace(workload.server, block_s=workload.server.block_s / _MORE),
    )
    others = {
        Resource.BANDWIDTH: (workload, curves.times(_MORE)),
        Resource.DEVICES: (replace(workload, devices=devices), curves),
        Resource.SERVER: (faster_server, curves),
    }
    rows = []
    for resource, (other, rates) in others.items():
        sharing = round_kinds(other, found.decision)[0]
        observed = amounts_of(sharing.workload, sharing.decision).observed()
        shares = shares_within(limits, observed, rates, found.decision.rules)
        ways = found.decision, replace(found.decision, shares=shares)
        delay_s = min(round_delay_s(other, decision, rates) for decision in ways)
        rows.append(ResourceSensitivity(resource, delay_s, 1.0 - delay_s / found.delay_s))
    return tuple(sorted(rows, key=lambda row: -row.saved))


def limit_sensitivities(
    workload: Workload,
    limits: PlanLimits,
    scheme: Scheme,
    codecs: Sequence[CodecChoice],
    most_loss: float,
    best_s: float,
    curves: RateCurves,
) -> tuple[LimitSensitivity, ...]:
    """Each limit that alone keeps a faster decision out, the costliest first.

    `codecs`: those that lose more accuracy than `most_loss` too. `best_s`: the estimate of the
    fastest decision that keeps all limits (infinite: there is none).
    """
    devices = tuple(replace(each, memory_bytes=None) for each in workload.devices)
    server = replace(workload.server, memory_bytes=None)
    free = replace(workload, devices=devices, server=server)
    loose = replace(limits, least_cut=1)
    found: dict[Limit, LimitSensitivity] = {}
    for candidate in ranked_decisions(free, loose, scheme, codecs, curves):
        saved = 1.0 - candidate.estimated_s / best_s
        if saved < _NOTICEABLE:
            break
        broken = list(_broken(workload, limits, most_loss, candidate))
        if len(broken) == 1:
            limit, needed = broken[0]
            found.setdefault(limit, LimitSensitivity(limit, candidate.decision, needed, saved))
    return tuple(sorted(found.values(), key=lambda each: -each.saved))


def _broken(
    workload: Workload, limits: PlanLimits, most_loss: float, candidate: RankedDecision
) -> Iterator[tuple[Limit, float]]:
    """The limits that a decision breaks, and what they would have to be."""
    decision = candidate.decision
    cut = decision.cuts[0]
    if not fits_devices(workload, decision):
        need = device_need(workload, decision.scheme, cut, decision.policy).total
        yield Limit.MEMORY, need + max(each.reserved_bytes for each in workload.devices)
    if not fits_server(workload, decision):
        need = server_need(workload, decision.scheme, cut, decision.policy).total
        yield Limit.SERVER_MEMORY, need + workload.server.reserved_bytes
    if decision.scheme.splits and cut < limits.least_cut:
        yield Limit.LEAST_CUT, cut
    if candidate.server_part > limits.server_busy:
        yield Limit.SERVER_BUSY, candidate.server_part
    loss = decision.codec.accuracy_loss
    if loss is not None and loss > most_loss:
        yield Limit.ACCURACY, loss


@dataclass(frozen=True)
class MemoryInfeasibility:
    """No cut fits the smallest device; `shortage` is that of the cut that is short by least.

    `short_devices`: how many are short of memory there. `fitting_cut`: the deepest that fits,
    though shallower than allowed (None: there is none). `embedding_bytes`: what the part before the
    first block weighs, with its adapters. `smaller_base`: of the bases with smaller numbers the
    largest that fits, else the smallest, and the need with it (None: there is none smaller).
    """

    shortage: Shortage
    short_devices: int
    fitting_cut: int | None
    embedding_bytes: float
    smaller_base: tuple[Base, float] | None


@dataclass(frozen=True)
class ServerMemoryInfeasibility:
    """No cut that devices have the memory for fits the server; `shortage` is that of the cut that
    is short by least. `checkpoint_bytes`: its need if the server checkpoints (None: it does)."""

    shortage: Shortage
    checkpoint_bytes: float | None


@dataclass(frozen=True)
class AccuracyInfeasibility:
    """Every codec costs too much accuracy; `nearest` costs least (None: there is none at all)."""

    most_loss: float
    nearest: CodecChoice | None


@dataclass(frozen=True)
class ServerInfeasibility:
    """Of all that fits, the server computes too large a part of the round; `least` is smallest."""

    most: float
    least: float
    cut: int


@dataclass(frozen=True)
class CutInfeasibility:
    """There is no cut as deep as asked for: the deepest leaves the server one block."""

    least_cut: int
    deepest: int


Infeasibility = (
    MemoryInfeasibility
    | ServerMemoryInfeasibility
    | AccuracyInfeasibility
    | ServerInfeasibility
    | CutInfeasibility
)


def infeasibilities(
    workload: Workload,
    limits: PlanLimits,
    scheme: Scheme,
    codecs: CodecChoices,
    most_loss: float,
    curves: RateCurves,
) -> tuple[Infeasibility, ...]:
    """What to change where nothing keeps all limits: each comes with the changes before it made."""
    return tuple(_infeasibilities(workload, limits, scheme, codecs, most_loss, curves))


def _infeasibilities(
    workload: Workload,
    limits: PlanLimits,
    scheme: Scheme,
    codecs: CodecChoices,
    most_loss: float,
    curves: RateCurves,
) -> Iterator[Infeasibility]:
    if scheme.splits and limits.least_cut >= workload.model.cuts.stop:
        deepest = workload.model.cuts.stop - 1
        yield CutInfeasibility(limits.least_cut, deepest)
        limits = replace(limits, least_cut=deepest)
    choices = codecs.accurate
    if not choices:
        nearest = min(codecs.inaccurate, key=lambda each: each.accuracy_loss or 0.0, default=None)
        yield AccuracyInfeasibility(most_loss, nearest)
        choices = () if nearest is None else (nearest,)
    short = [
        shortage(workload, scheme, cut, limits.fixed) for cut in cuts_for(workload, limits, scheme)
    ]
    known = [each for each in short if each is not None]
    if len(known) == len(short):
        of_server = [each for each in known if each.device is None]
        least = min(of_server or known, key=lambda each: each.need.total)
        yield memory_infeasibility(workload, limits, scheme, least)
        workload = _with_memory(workload, least)
    candidates = ranked_decisions(workload, limits, scheme, choices, curves)
    if candidates and all(each.server_part > limits.server_busy for each in candidates):
        calmest = min(candidates, key=lambda each: each.server_part)
        yield _server(workload, limits, calmest, curves)


def _with_memory(workload: Workload, least: Shortage) -> Workload:
    """With as much memory for the server, or for each device that has less."""
    enough_bytes = math.ceil(least.need.total)
    if least.device is None:
        return replace(workload, server=replace(workload.server, memory_bytes=enough_bytes))
    devices = tuple(
        each
        if each.memory_bytes is None
        else replace(each, memory_bytes=max(each.memory_bytes, enough_bytes))
        for each in workload.devices
    )
    return replace(workload, devices=devices)


def _server(
    workload: Workload, limits: PlanLimits, calmest: RankedDecision, curves: RateCurves
) -> ServerInfeasibility:
    """By the estimate, or by the timeline where that says more: a plan keeps to both."""
    decision = calmest.decision
    delay_s = round_delay_s(workload, decision, curves)
    seen = mean_server_part(workload, decision, delay_s)
    return ServerInfeasibility(limits.server_busy, max(calmest.server_part, seen), decision.cuts[0])


def memory_infeasibility(
    workload: Workload, limits: PlanLimits, scheme: Scheme, least: Shortage
) -> MemoryInfeasibility | ServerMemoryInfeasibility:
    """Who is short by how much of what `least` needs, and what else would fit."""
    if least.device is None:
        return _server_memory(workload, scheme, least)
    return MemoryInfeasibility(
        shortage=least,
        short_devices=sum(
            each.memory_bytes is not None and each.memory_bytes < least.need.total
            for each in workload.devices
        ),
        fitting_cut=max(
            (
                cut
                for cut in cuts_for(workload, replace(limits, least_cut=1), scheme)
                if fitting_policies(workload, scheme, cut, limits.fixed)
            ),
            default=None,
        ),
        embedding_bytes=workload.model.device_weight_bytes(0),
        smaller_base=_smaller_base(workload, scheme, least),
    )


def _server_memory(
    workload: Workload, scheme: Scheme, least: Shortage
) -> ServerMemoryInfeasibility:
    server = replace(workload.server, activation_memory=ActivationPolicy.CHECKPOINT)
    checkpoint = None
    if server != workload.server and scheme.splits:
        other = replace(workload, server=server)
        checkpoint = server_need(other, scheme, least.cut, least.policy).total
    return ServerMemoryInfeasibility(least, checkpoint)


def _smaller_base(workload: Workload, scheme: Scheme, least: Shortage) -> tuple[Base, float] | None:
    bases = tuple(Base)  # from the largest to the smallest
    found = None
    for base in bases[bases.index(workload.model.device_base) + 1 :]:
        smaller = replace(workload, model=replace(workload.model, device_base=base))
        found = base, device_need(smaller, scheme, least.cut, least.policy).total
        if found[1] <= least.limit_bytes:
            break
    return found
