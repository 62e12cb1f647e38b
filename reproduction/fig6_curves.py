"""The curves of Fig. 6: a device's memory by its number of blocks, counted in several ways.

Knows ViT-B and 64 images.
"""

from dataclasses import dataclass

from cutlayer.rounds.memory import device_memory, paper_memory
from cutlayer.rounds.parameters import VIT_BASE, vit_spec
from cutlayer.spec import ActivationPolicy, MiniBatch
from cutlayer.units import MIB
from reproduction.calibrated import calibrated_memory

SAMPLES = 64
MICRO_BATCHES = 16
DEVICE_MIB = 8192.0
SMALL_DEVICE_MIB = 4096.0


@dataclass(frozen=True)
class Curves:
    """MiB for 1, 2, ..., 12 blocks on the device, by the way of counting or of holding."""

    table: tuple[float, ...]
    equations: tuple[float, ...]
    keep: tuple[float, ...]
    checkpoint: tuple[float, ...]
    micro: tuple[float, ...]

    def fitting(self, curve: tuple[float, ...], limit_mib: float) -> int:
        """The most blocks within the limit."""
        return sum(size <= limit_mib for size in curve)


def curves_of() -> Curves:
    """All curves; from 12 blocks on the device holds the head too."""
    spec, batch = vit_spec(VIT_BASE), MiniBatch(SAMPLES, VIT_BASE.tokens)
    cuts = range(1, spec.blocks + 1)

    def held(activation_memory: ActivationPolicy, micro_batches: int) -> tuple[float, ...]:
        return tuple(
            device_memory(
                spec, cut, batch, activation_memory=activation_memory, micro_batches=micro_batches
            ).total
            / MIB
            for cut in cuts
        )

    return Curves(
        table=tuple(calibrated_memory(VIT_BASE, cut, SAMPLES).total / MIB for cut in cuts),
        equations=tuple(paper_memory(spec, cut, batch).total / MIB for cut in cuts),
        keep=held(ActivationPolicy.KEEP, 1),
        checkpoint=held(ActivationPolicy.CHECKPOINT, 1),
        micro=held(ActivationPolicy.KEEP, MICRO_BATCHES),
    )
