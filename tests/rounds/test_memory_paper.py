"""Equations (29) to (34) against the figures worked out from them, ViT-B and ViT-L."""

from dataclasses import replace

import pytest

from cutlayer.errors import ConfigError
from cutlayer.rounds.memory import paper_memory
from cutlayer.rounds.vit import VIT_BASE, VIT_LARGE, VitDimensions, vit_spec
from cutlayer.spec import ActivationPolicy, MiniBatch, MiniBatchPolicy, Trained
from cutlayer.units import MIB

BATCH = MiniBatch(64, 197)


@pytest.mark.parametrize(
    ("dimensions", "block", "at_cut", "whole"),
    [(VIT_BASE, 539.6, 2716, 6494), (VIT_LARGE, 755.5, 3806, 18160)],
)
def test_values(dimensions: VitDimensions, block: float, at_cut: float, whole: float) -> None:
    """M_t and M^c(5), M^c(L) [MiB] with momentum; half a unit of the last digit."""
    spec = vit_spec(dimensions)
    one, two = (paper_memory(spec, cut, BATCH).total for cut in (1, 2))
    assert (two - one) / MIB == pytest.approx(block, abs=0.05)
    assert paper_memory(spec, 5, BATCH).total / MIB == pytest.approx(at_cut, abs=0.5)
    assert paper_memory(spec, spec.blocks, BATCH).total / MIB == pytest.approx(whole, abs=0.5)


@pytest.mark.parametrize("bytes_per_value", [4, 2])
@pytest.mark.parametrize("slots", [0, 1, 2, 3])
def test_a_block_by_hand(slots: int, bytes_per_value: int) -> None:
    """D = 4, r = 1, A = 2, B = 2, N = 3: 12*16 + 18*4 = 264 values; 34*24 + 5*2*9*2 = 996 bytes.

    Outside the blocks 16*16 + 24 bytes.
    """
    small = VitDimensions("small", 3, 4, 2, rank=1, bytes_per_value=bytes_per_value)
    memory = paper_memory(vit_spec(small), 2, MiniBatch(2, 3), optimizer_slots=slots)
    assert memory.total == 280 + 2 * ((2 + slots) * bytes_per_value * 264 + 996)
    assert memory.gradients == 2 * bytes_per_value * 264
    assert memory.optimizer == slots * memory.gradients


def test_it_charges_frozen_weights_whatever_is_trained() -> None:
    spec = vit_spec(VIT_BASE)
    both = {paper_memory(spec, 5, BATCH, trained=trained) for trained in Trained}
    assert len(both) == 1


def test_what_the_paper_does_not_know_is_refused() -> None:
    spec = vit_spec(replace(VIT_BASE))
    with pytest.raises(ConfigError, match="know neither activation memory recompute"):
        paper_memory(spec, 5, BATCH, MiniBatchPolicy(ActivationPolicy.RECOMPUTE))
    with pytest.raises(ConfigError, match="8 micro-batches"):
        paper_memory(spec, 5, BATCH, MiniBatchPolicy(micro_batches=8))
    with pytest.raises(ConfigError, match=r"outside 1\.\.12"):
        paper_memory(spec, 13, BATCH)
