"""Which ways of holding a mini-batch fit the devices' memory, at a cut.

Knows bytes, and of seconds only this: micro-batches cost none, computing twice does.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from cutlayer.cost.memory import PartMemory
from cutlayer.planner.decision import Held
from cutlayer.planner.forecast import device_need
from cutlayer.planner.workload import Workload
from cutlayer.schemes.scheme import Scheme, ServerOrder
from cutlayer.spec import Holding

# micro-batches of a pipeline: past these, what overlaps grows no more
_PIPELINED = (2, 4, 8, 16)


@dataclass(frozen=True)
class Shortage:
    """The least that a cut needs, on the device that is shortest of it [byte]."""

    device: int
    cut: int
    held: Held
    need: PartMemory[float]
    limit_bytes: int

    @property
    def missing_bytes(self) -> float:
        """How much memory the device lacks."""
        return self.need.total - self.limit_bytes


def fitting_ways(workload: Workload, scheme: Scheme, cut: int) -> list[Held]:
    """The ways that fit every device and may be the fastest.

    One for a scheme without a pipeline: the first that fits, computing nothing twice if possible,
    in as few micro-batches as possible (whole, where the server keeps an order of its own). One
    for each depth of a pipeline.
    """
    limit = least_limit(workload)

    def first(ways: Iterator[Held]) -> list[Held]:
        for held in ways:
            if limit is None or device_need(workload, scheme, cut, held).total <= limit:
                return [held]
        return []

    if scheme.server is not ServerOrder.ARRIVAL:
        return first(Held(holding) for holding in Holding)
    if not scheme.pipelined:
        return first(_plain(workload.batch.samples))
    return [
        held
        for count in _PIPELINED
        if count <= workload.batch.samples
        for in_flight in _depths(count)
        for held in first(Held(holding, count, in_flight) for holding in Holding)
    ]


def shortage(workload: Workload, scheme: Scheme, cut: int) -> Shortage | None:
    """Who is shortest of memory where nothing fits; None where something does."""
    if fitting_ways(workload, scheme, cut):
        return None
    whole = scheme.server is not ServerOrder.ARRIVAL
    parts = 1 if whole else workload.batch.samples
    ways = [Held(holding, parts) for holding in Holding]
    least = min(ways, key=lambda held: device_need(workload, scheme, cut, held).total)
    return shortage_of(workload, scheme, cut, least)


def shortage_of(workload: Workload, scheme: Scheme, cut: int, held: Held) -> Shortage:
    """What the device with the least memory has of what this way of holding needs. One has a limit:
    without any, everything fits."""
    limits = [device.memory_bytes or float("inf") for device in workload.devices]
    device = limits.index(min(limits))
    limit = workload.devices[device].memory_bytes
    assert limit is not None
    return Shortage(device, cut, held, device_need(workload, scheme, cut, held), limit)


def least_limit(workload: Workload) -> int | None:
    """The memory of the smallest device; None where no device has a limit."""
    limits = [d.memory_bytes for d in workload.devices if d.memory_bytes is not None]
    return min(limits, default=None)


def _plain(samples: int) -> Iterator[Held]:
    """One micro-batch at a time, in the order of seconds."""
    for holding in Holding:
        count = 1
        while count < samples:
            yield Held(holding, count)
            count *= 2
        yield Held(holding, samples)


def _depths(micro_batches: int) -> list[int]:
    """How many micro-batches are under way: all, and halves of that down to 2."""
    depths = [micro_batches]
    while depths[-1] > 2:
        depths.append(depths[-1] // 2)
    return depths
