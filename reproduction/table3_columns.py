"""Table III as printed, and the same columns by three ways of counting.

Knows numbers; what is claimed of them is in `table3`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from cutlayer.rounds.memory import PartMemory, device_memory, paper_memory
from cutlayer.rounds.parameters import VIT_BASE, vit_spec
from cutlayer.spec import MiniBatch, Trained
from cutlayer.units import MIB
from reproduction.calibrated import calibrated_memory

SAMPLES = 64
ROWS = ("input", "activations", "model and adapters", "optimizer", "total")
# the table's own count, what autograd holds, and the paper's equations
WAYS = ("calibrated", "physical", "equations")


@dataclass(frozen=True)
class Column:
    """A scheme of Table III: what a device holds [MiB] as printed, and as counted each way."""

    name: str
    blocks: int
    printed: Mapping[str, Decimal]
    counted: Mapping[str, PartMemory[float]]

    def row(self, way: str, row: str) -> float:
        """A row of the table by one way of counting [MiB]."""
        memory = self.counted[way]
        size = {
            "input": memory.input,
            "activations": memory.activations,
            "model and adapters": memory.weights + memory.adapters,
            "optimizer": memory.optimizer,
            "total": memory.total,
        }[row]
        return size / MIB


def columns() -> tuple[Column, ...]:
    """The split schemes, FL with LoRA, FL with all weights: ViT-B, batch 64, SGD with momentum."""
    return (
        _column("split, 5 blocks", 5, Trained.ADAPTERS, ("3941.23", "141.19", "3.75", "4122.92")),
        _column("FL-LoRA", 12, Trained.ADAPTERS, ("9513.82", "337.03", "9.09", "9896.69")),
        _column("FL", 12, Trained.WEIGHTS, ("9171.11", "327.88", "329.76", "9865.5")),
    )


def _column(name: str, blocks: int, trained: Trained, printed: tuple[str, ...]) -> Column:
    spec, batch = vit_spec(VIT_BASE), MiniBatch(SAMPLES, VIT_BASE.tokens)
    values = [Decimal(value) for value in ("36.75", *printed)]
    return Column(
        name,
        blocks,
        dict(zip(ROWS, values, strict=True)),
        {
            "calibrated": calibrated_memory(VIT_BASE, blocks, SAMPLES, trained=trained),
            "physical": device_memory(spec, blocks, batch, trained=trained),
            "equations": paper_memory(spec, blocks, batch, trained=trained),
        },
    )
