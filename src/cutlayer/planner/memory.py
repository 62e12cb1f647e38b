"""What each device needs of memory, and which mini-batch policies fit it.

Knows bytes, and of seconds only this: micro-batches cost none, computing twice does.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from cutlayer.planner.decision import Decision, Workload
from cutlayer.rounds.memory import PartMemory
from cutlayer.rounds.schemes import Scheme, ServerOrder
from cutlayer.spec import ActivationPolicy, MiniBatchPolicy

# micro-batches of a pipeline: past these, what overlaps grows no more
_PIPELINED = (2, 4, 8, 16)


def device_need(
    workload: Workload, scheme: Scheme, cut: int, policy: MiniBatchPolicy
) -> PartMemory[float]:
    """What a device holds at the peak of a local step; of schemes that do not split, all."""
    model = workload.model
    return workload.accounting.memory(
        model,
        cut if scheme.splits else model.blocks,
        workload.batch,
        policy,
        optimizer_slots=workload.optimizer_slots,
        trained=scheme.trained,
    )


def device_needs(workload: Workload, decision: Decision) -> tuple[PartMemory[float], ...]:
    """What each device holds at its peak."""
    known = {
        cut: device_need(workload, decision.scheme, cut, decision.policy)
        for cut in set(decision.cuts)
    }
    return tuple(known[cut] for cut in decision.cuts)


def fits_memory(workload: Workload, decision: Decision) -> bool:
    """Whether every device holds its part."""
    return all(
        device.memory_bytes is None or need.total <= device.memory_bytes
        for device, need in zip(workload.devices, device_needs(workload, decision), strict=True)
    )


@dataclass(frozen=True)
class Shortage:
    """The least that a cut needs, on the device that is shortest of it [byte]."""

    device: int
    cut: int
    policy: MiniBatchPolicy
    need: PartMemory[float]
    limit_bytes: int

    @property
    def missing_bytes(self) -> float:
        """By how much the device is short of memory."""
        return self.need.total - self.limit_bytes


def fitting_policies(workload: Workload, scheme: Scheme, cut: int) -> list[MiniBatchPolicy]:
    """The ways that fit every device and may be the fastest.

    One for a scheme without a pipeline: the first that fits, computing nothing twice if possible,
    in as few micro-batches as possible (whole, where the server keeps an order of its own). One
    for each depth of a pipeline.
    """
    limit = least_limit(workload)

    def first(ways: Iterator[MiniBatchPolicy]) -> list[MiniBatchPolicy]:
        for policy in ways:
            if limit is None or device_need(workload, scheme, cut, policy).total <= limit:
                return [policy]
        return []

    if scheme.server is not ServerOrder.ARRIVAL:
        return first(MiniBatchPolicy(activation_memory) for activation_memory in ActivationPolicy)
    if not scheme.pipelined:
        return first(_plain(workload.batch.samples))
    return [
        policy
        for count in _PIPELINED
        if count <= workload.batch.samples
        for in_flight in _depths(count)
        for policy in first(
            MiniBatchPolicy(activation_memory, count, in_flight)
            for activation_memory in ActivationPolicy
        )
    ]


def shortage(workload: Workload, scheme: Scheme, cut: int) -> Shortage | None:
    """Who is shortest of memory where nothing fits; None where something does."""
    if fitting_policies(workload, scheme, cut):
        return None
    whole = scheme.server is not ServerOrder.ARRIVAL
    parts = 1 if whole else workload.batch.samples
    ways = [MiniBatchPolicy(activation_memory, parts) for activation_memory in ActivationPolicy]
    least = min(ways, key=lambda policy: device_need(workload, scheme, cut, policy).total)
    return shortage_of(workload, scheme, cut, least)


def shortage_of(workload: Workload, scheme: Scheme, cut: int, policy: MiniBatchPolicy) -> Shortage:
    """What the device with the least memory has of what this way of holding needs. One has a limit:
    without any, everything fits."""
    limits = [device.memory_bytes or float("inf") for device in workload.devices]
    device = limits.index(min(limits))
    limit = workload.devices[device].memory_bytes
    assert limit is not None
    return Shortage(device, cut, policy, device_need(workload, scheme, cut, policy), limit)


def least_limit(workload: Workload) -> int | None:
    """The memory of the smallest device; None where no device has a limit."""
    limits = [d.memory_bytes for d in workload.devices if d.memory_bytes is not None]
    return min(limits, default=None)


def _plain(samples: int) -> Iterator[MiniBatchPolicy]:
    """One micro-batch at a time, in the order of seconds."""
    for activation_memory in ActivationPolicy:
        count = 1
        while count < samples:
            yield MiniBatchPolicy(activation_memory, count)
            count *= 2
        yield MiniBatchPolicy(activation_memory, samples)


def _depths(micro_batches: int) -> list[int]:
    """How many micro-batches are under way: all, and halves of that down to 2."""
    depths = [micro_batches]
    while depths[-1] > 2:
        depths.append(depths[-1] // 2)
    return depths
