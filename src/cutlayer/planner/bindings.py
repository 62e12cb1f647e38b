"""What a round's length hangs on: what a tenth more of each resource brings, and which limits keep
a faster decision out.

Knows decisions and their seconds; words and tables are the report's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from cutlayer.channel.curves import Curves
from cutlayer.planner.allocation import best_shares
from cutlayer.planner.decision import CodecChoice, Decision, Limits
from cutlayer.planner.estimate import amounts_of
from cutlayer.planner.forecast import device_need, fits_memory, round_delay_s
from cutlayer.planner.joint import Ranked, ranked
from cutlayer.planner.refine import Found
from cutlayer.planner.workload import Workload
from cutlayer.schemes.scheme import Scheme

MORE = 1.1
# a limit that costs less than a thousandth of the round does not bind
_NOTICEABLE = 1e-3


class Resource(StrEnum):
    """What a round is made of."""

    BAND = "band"
    DEVICES = "devices' compute"
    SERVER = "server's compute"


class Limit(StrEnum):
    """What a decision must keep to."""

    MEMORY = "memory"
    LEAST_CUT = "least cut"
    SERVER_BUSY = "server busy"
    ACCURACY = "accuracy"


@dataclass(frozen=True)
class Sensitivity:
    """A round with a tenth more of one resource, shares solved anew: its delay, the part saved."""

    resource: Resource
    delay_s: float
    saved: float


@dataclass(frozen=True)
class Binding:
    """A limit that alone keeps a faster decision out.

    `needed`: what the limit would have to be: bytes, blocks, a part of the round, a share of the
    test samples. `saved`: the part of the round that it would save, by the estimate.
    """

    limit: Limit
    decision: Decision
    needed: float
    saved: float


def sensitivities(
    workload: Workload, limits: Limits, found: Found, curves: Curves
) -> tuple[Sensitivity, ...]:
    """Each resource, the one first of which more brings most."""
    devices = tuple(replace(each, flops_per_s=MORE * each.flops_per_s) for each in workload.devices)
    faster_server = MORE * workload.server_flops_per_s
    others = {
        Resource.BAND: (workload, curves.times(MORE)),
        Resource.DEVICES: (replace(workload, devices=devices), curves),
        Resource.SERVER: (replace(workload, server_flops_per_s=faster_server), curves),
    }
    rows = []
    for resource, (other, rates) in others.items():
        observed = amounts_of(other, found.decision).observed()
        shares = best_shares(observed, rates, found.decision.rules, limits.most_share)
        ways = found.decision, replace(found.decision, shares=shares)
        delay_s = min(round_delay_s(other, decision, rates) for decision in ways)
        rows.append(Sensitivity(resource, delay_s, 1.0 - delay_s / found.delay_s))
    return tuple(sorted(rows, key=lambda row: -row.saved))


def bindings(
    workload: Workload,
    limits: Limits,
    scheme: Scheme,
    codecs: Sequence[CodecChoice],
    most_loss: float,
    best_s: float,
    curves: Curves,
) -> tuple[Binding, ...]:
    """Each limit that binds, the costliest first.

    `codecs`: those that lose more accuracy than `most_loss` too. `best_s`: the estimate of the
    fastest decision that keeps all limits (infinite: there is none).
    """
    free = tuple(replace(each, memory_bytes=None) for each in workload.devices)
    loose = replace(limits, least_cut=1)
    found: dict[Limit, Binding] = {}
    for candidate in ranked(replace(workload, devices=free), loose, scheme, codecs, curves):
        saved = 1.0 - candidate.estimated_s / best_s
        if saved < _NOTICEABLE:
            break
        broken = list(_broken(workload, limits, most_loss, candidate))
        if len(broken) == 1:
            limit, needed = broken[0]
            found.setdefault(limit, Binding(limit, candidate.decision, needed, saved))
    return tuple(sorted(found.values(), key=lambda each: -each.saved))


def _broken(
    workload: Workload, limits: Limits, most_loss: float, candidate: Ranked
) -> Iterator[tuple[Limit, float]]:
    """The limits that a decision breaks, and what they would have to be."""
    decision = candidate.decision
    cut = decision.cuts[0]
    if not fits_memory(workload, decision):
        yield Limit.MEMORY, device_need(workload, decision.scheme, cut, decision.held).total
    if decision.scheme.splits and cut < limits.least_cut:
        yield Limit.LEAST_CUT, cut
    if candidate.server_part > limits.server_busy:
        yield Limit.SERVER_BUSY, candidate.server_part
    loss = decision.codec.accuracy_loss
    if loss is not None and loss > most_loss:
        yield Limit.ACCURACY, loss
