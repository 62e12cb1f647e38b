"""The two ways to count, by name: what a step computes, what it sends, what a device holds.

Knows neither formula; `flops`, `traffic` and `memory` do.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from cutlayer.cost.flops import StepFlops, paper_flops, physical_flops
from cutlayer.cost.memory import PartMemory, device_memory
from cutlayer.cost.paper_memory import paper_memory
from cutlayer.cost.traffic import Traffic, paper_traffic, physical_traffic
from cutlayer.spec import Holding, MiniBatch, ModelSpec, Trained


@runtime_checkable
class FlopsModel(Protocol):
    """FLOPs of one local step on both sides of a cut."""

    def __call__(
        self, model: ModelSpec, cut: int, batch: MiniBatch, trained: Trained = Trained.ADAPTERS
    ) -> StepFlops: ...


@runtime_checkable
class TrafficModel(Protocol):
    """Bytes of the payloads at a cut; at `cut = blocks` those of the whole model."""

    def __call__(
        self, model: ModelSpec, cut: int, batch: MiniBatch, trained: Trained = Trained.ADAPTERS
    ) -> Traffic: ...


@runtime_checkable
class MemoryModel(Protocol):
    """Bytes that a device holds at the peak of a local step; `cut = blocks`: the whole model."""

    def __call__(
        self,
        model: ModelSpec,
        cut: int,
        batch: MiniBatch,
        *,
        optimizer_slots: int = 1,
        holding: Holding = Holding.KEEP,
        micro_batches: int = 1,
        in_flight: int = 1,
        trained: Trained = Trained.ADAPTERS,
    ) -> PartMemory[float]: ...


@dataclass(frozen=True)
class Accounting:
    """One way to count. `paper`: the equations as printed, defects included. `physical`: right."""

    name: str
    flops: FlopsModel
    traffic: TrafficModel
    memory: MemoryModel


PAPER = Accounting("paper", paper_flops, paper_traffic, paper_memory)
PHYSICAL = Accounting("physical", physical_flops, physical_traffic, device_memory)
ACCOUNTINGS: dict[str, Accounting] = {
    accounting.name: accounting for accounting in (PAPER, PHYSICAL)
}
