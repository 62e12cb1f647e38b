"""Why nothing fits, and the least change of each limit that would let something through.

Knows limits and needs; words are the report's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from cutlayer.planner.codec_choices import CodecChoices
from cutlayer.planner.decision import CodecChoice, Limits
from cutlayer.planner.fitting import Shortage, shortage
from cutlayer.planner.forecast import device_need
from cutlayer.planner.joint import Ranked, cuts_for
from cutlayer.planner.workload import Workload
from cutlayer.schemes.scheme import Scheme

_HALF_BYTES = 2


@dataclass(frozen=True)
class MemoryMisfit:
    """No cut fits the smallest device; `shortage` is that of the cut that lacks least.

    `short_devices`: how many lack memory there. `embedding_bytes`: what the part before the first
    block weighs, with its adapters. `half_base_bytes`: the least need with a base of two bytes a
    value (None: it has no more already).
    """

    shortage: Shortage
    short_devices: int
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
    candidates: Sequence[Ranked],
) -> tuple[Misfit, ...]:
    """Each limit that leaves nothing, the others apart; empty where something fits."""
    return tuple(_misfits(workload, limits, scheme, codecs, most_loss, candidates))


def _misfits(
    workload: Workload,
    limits: Limits,
    scheme: Scheme,
    codecs: CodecChoices,
    most_loss: float,
    candidates: Sequence[Ranked],
) -> Iterator[Misfit]:
    if scheme.splits and limits.least_cut >= workload.model.blocks:
        yield CutMisfit(limits.least_cut, workload.model.blocks - 1)
        return
    if not codecs.accurate:
        nearest = min(codecs.inaccurate, key=lambda each: each.accuracy_loss or 0.0, default=None)
        yield AccuracyMisfit(most_loss, nearest)
    short = [shortage(workload, scheme, cut) for cut in cuts_for(workload, limits, scheme)]
    known = [each for each in short if each is not None]
    if len(known) == len(short):
        least = min(known, key=lambda each: each.need.total)
        yield _memory(workload, scheme, least)
    if candidates and all(each.server_part > limits.server_busy for each in candidates):
        calmest = min(candidates, key=lambda each: each.server_part)
        yield ServerMisfit(limits.server_busy, calmest.server_part, calmest.decision.cuts[0])


def _memory(workload: Workload, scheme: Scheme, least: Shortage) -> MemoryMisfit:
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
        embedding_bytes=float(embedding),
        half_base_bytes=half,
    )
