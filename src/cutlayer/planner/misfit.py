"""Why nothing fits, and the least changes that would together let something through.

Knows limits and needs; words are the report's.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cutlayer.channel.curves import Curves
from cutlayer.planner.codec_choices import CodecChoices
from cutlayer.planner.decision import CodecChoice, Limits
from cutlayer.planner.estimate import amounts_of, server_part
from cutlayer.planner.fitting import Shortage, fitting_ways, shortage
from cutlayer.planner.forecast import device_need, round_delay_s
from cutlayer.planner.joint import Ranked, cuts_for, ranked
from cutlayer.planner.workload import Workload
from cutlayer.schemes.scheme import Scheme

_HALF_BYTES = 2


@dataclass(frozen=True)
class MemoryMisfit:
    """No cut fits the smallest device; `shortage` is that of the cut that lacks least.

    `short_devices`: how many lack memory there. `fitting_cut`: the deepest that fits, though
    shallower than allowed (None: there is none). `embedding_bytes`: what the part before the first
    block weighs, with its adapters. `half_base_bytes`: the least need with a base of two bytes a
    value (None: it has no more already).
    """

    shortage: Shortage
    short_devices: int
    fitting_cut: int | None
    embedding_bytes: float
    half_base_bytes: float | None


@dataclass(frozen=True)
class AccuracyMisfit:
    """Every codec costs too much accuracy; `nearest` costs least (None: there is none at all)."""

    most_loss: float
    nearest: CodecChoice | None


@dataclass(frozen=True)
class ServerMisfit:
    """Of all that fits, the server computes too large a part of the round; `least` is smallest."""

    most: float
    least: float
    cut: int


@dataclass(frozen=True)
class CutMisfit:
    """There is no cut as deep as asked for: the deepest leaves the server one block."""

    least_cut: int
    deepest: int


Misfit = MemoryMisfit | AccuracyMisfit | ServerMisfit | CutMisfit


def misfits(
    workload: Workload,
    limits: Limits,
    scheme: Scheme,
    codecs: CodecChoices,
    most_loss: float,
    curves: Curves,
) -> tuple[Misfit, ...]:
    """What to change where nothing keeps all limits: each comes with the changes before it made."""
    return tuple(_misfits(workload, limits, scheme, codecs, most_loss, curves))


def _misfits(
    workload: Workload,
    limits: Limits,
    scheme: Scheme,
    codecs: CodecChoices,
    most_loss: float,
    curves: Curves,
) -> Iterator[Misfit]:
    if scheme.splits and limits.least_cut >= workload.model.blocks:
        deepest = workload.model.blocks - 1
        yield CutMisfit(limits.least_cut, deepest)
        limits = replace(limits, least_cut=deepest)
    choices = codecs.accurate
    if not choices:
        nearest = min(codecs.inaccurate, key=lambda each: each.accuracy_loss or 0.0, default=None)
        yield AccuracyMisfit(most_loss, nearest)
        choices = () if nearest is None else (nearest,)
    short = [shortage(workload, scheme, cut) for cut in cuts_for(workload, limits, scheme)]
    known = [each for each in short if each is not None]
    if len(known) == len(short):
        least = min(known, key=lambda each: each.need.total)
        yield memory_misfit(workload, limits, scheme, least)
        workload = _with_memory(workload, math.ceil(least.need.total))
    candidates = ranked(workload, limits, scheme, choices, curves)
    if candidates and all(each.server_part > limits.server_busy for each in candidates):
        calmest = min(candidates, key=lambda each: each.server_part)
        yield _server(workload, limits, calmest, curves)


def _with_memory(workload: Workload, enough_bytes: int) -> Workload:
    """With so much memory for each device that has less."""
    devices = tuple(
        each
        if each.memory_bytes is None
        else replace(each, memory_bytes=max(each.memory_bytes, enough_bytes))
        for each in workload.devices
    )
    return replace(workload, devices=devices)


def _server(workload: Workload, limits: Limits, calmest: Ranked, curves: Curves) -> ServerMisfit:
    """By the estimate, or by the timeline where that says more: a plan keeps to both."""
    decision = calmest.decision
    delay_s = round_delay_s(workload, decision, curves)
    seen = server_part(amounts_of(workload, decision), decision, delay_s)
    return ServerMisfit(limits.server_busy, max(calmest.server_part, seen), decision.cuts[0])


def memory_misfit(
    workload: Workload, limits: Limits, scheme: Scheme, least: Shortage
) -> MemoryMisfit:
    """Who lacks how much for what `least` holds, and what else would fit."""
    model = workload.model
    embedding = model.bytes_per_value * model.embedding_parameters
    half = None
    if model.bytes_per_value > _HALF_BYTES:
        halved = replace(workload, model=replace(model, bytes_per_value=_HALF_BYTES))
        half = device_need(halved, scheme, least.cut, least.held).total
    return MemoryMisfit(
        shortage=least,
        short_devices=sum(
            each.memory_bytes is not None and each.memory_bytes < least.need.total
            for each in workload.devices
        ),
        fitting_cut=max(
            (
                cut
                for cut in cuts_for(workload, replace(limits, least_cut=1), scheme)
                if fitting_ways(workload, scheme, cut)
            ),
            default=None,
        ),
        embedding_bytes=float(embedding),
        half_base_bytes=half,
    )
