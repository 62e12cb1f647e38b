"""Parameter counts of plain ViTs, and what dimensions cannot be."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import ConfigError
from cutlayer.rounds.vit import (
    VIT_BASE,
    VIT_LARGE,
    VIT_LAYERS,
    VitDimensions,
    block_adapter_parameters,
    embedding_parameters,
    exact_block_parameters,
    head_parameters,
    patch_convolution_parameters,
    vit_spec,
)


@pytest.mark.parametrize(
    ("dimensions", "paper", "exact", "separate", "fused", "embedding", "whole"),
    [
        (VIT_BASE, 7_299_072, 7_087_872, 221_184, 196_608, 742_656, 85_875_556),
        (VIT_LARGE, 12_877_824, 12_596_224, 294_912, 262_144, 990_208, 303_404_132),
    ],
)
def test_counts(
    dimensions: VitDimensions,
    paper: int,
    exact: int,
    separate: int,
    fused: int,
    embedding: int,
    whole: int,
) -> None:
    # SFT Section V-C: a block with its adapters
    width = dimensions.width
    assert 12 * width**2 + 18 * width * dimensions.rank == paper
    assert exact_block_parameters(dimensions) == exact
    assert block_adapter_parameters(dimensions) == separate
    assert block_adapter_parameters(replace(dimensions, fused_qkv=True)) == fused
    assert embedding_parameters(dimensions) == embedding
    assert vit_spec(dimensions).parameters == whole


def test_sizes_in_mib() -> None:
    """Half a unit of the last digit."""
    assert vit_spec(VIT_BASE).parameters * 4 / 1024**2 == pytest.approx(327.59, abs=5e-3)
    assert vit_spec(VIT_LARGE).parameters * 4 / 1024**2 == pytest.approx(1157.39, abs=5e-3)


def test_parts_outside_the_blocks() -> None:
    assert (VIT_BASE.patches, VIT_BASE.tokens, VIT_BASE.patch_values) == (196, 197, 768)
    # conv 768 x 768 and its bias; 768 x 100 and a bias
    assert patch_convolution_parameters(VIT_BASE) == 590_592
    assert head_parameters(VIT_BASE) == 76_900


@given(
    adapted=st.sets(st.sampled_from(VIT_LAYERS)),
    rank=st.integers(1, 64),
    blocks=st.integers(2, 30),
    heads=st.integers(1, 16),
)
def test_only_adapted_layers_have_values(
    adapted: set[str], rank: int, blocks: int, heads: int
) -> None:
    chosen = tuple(layer for layer in VIT_LAYERS if layer in adapted)
    spec = vit_spec(VitDimensions("any", blocks, 16 * heads, heads, rank=rank, adapted=chosen))
    D = 16 * heads
    values = {"up": 5 * D, "down": 5 * D}
    assert spec.adapter_parameters(0, 1) == rank * sum(values.get(x, 2 * D) for x in chosen)
    assert spec.device_adapter_parameters(blocks) == blocks * spec.adapter_parameters(0, 1)
    assert spec.rank == (rank if chosen else 0)
    # whatever is adapted, later layers of the first block see what earlier ones changed
    reads = [linear.reads_block_input for linear in spec.block_linears]
    assert reads[:3] == [True] * 3
    assert reads == sorted(reads, reverse=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"heads": 7}, "no multiple of 7 heads"),
        ({"image_side": 100}, "cannot be cut into patches of 16"),
        ({"fused_qkv": True, "adapted": ("query",)}, "adapted together"),
    ],
)
def test_dimensions_that_do_not_fit(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(VIT_BASE, **wrong)  # type: ignore[arg-type]
