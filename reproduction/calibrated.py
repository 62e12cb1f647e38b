"""Table III's own accounting: what its rows add up to, found from its numbers.

Neither the paper's equations nor what autograd holds: it fits the printed table. Knows ViTs.
"""

from dataclasses import replace

from cutlayer.errors import ConfigError
from cutlayer.rounds.memory import PartMemory
from cutlayer.rounds.parameters import (
    Dimensions,
    block_adapter_parameters,
    exact_block_parameters,
    head_parameters,
    patch_convolution_parameters,
    vit_spec,
)
from cutlayer.spec import Trained

LINEAR_BYTES = 70
ATTENTION_BYTES = 5
_FLOAT32_BYTES = 4


def calibrated_memory(
    dimensions: Dimensions,
    blocks: int,
    samples: int,
    *,
    trained: Trained = Trained.ADAPTERS,
) -> PartMemory[float]:
    """What Table III counts for a device with the first `blocks` of a ViT [byte]; all of them is
    the whole model, head included (its FL columns).

    Weights: exact blocks and the patch convolution, without class token and positions; the whole
    model has its head twice. Adapters: fused qkv, hence 16Dr a block; the whole model adapts patch
    convolution and head too. Optimiser: one float32 for each adapter value but the head's. There is
    no row of gradients. Activations: `70 BND + 5 BN^2 A` a block, which meets the split column
    within 0.1 % and the FL columns within 4 %; the printed ones were probably measured.
    Raises ConfigError for a number of blocks that is not.
    """
    if not 1 <= blocks <= dimensions.blocks:
        raise ConfigError(f"blocks is {blocks}; {dimensions.name} has 1..{dimensions.blocks}")
    d = replace(dimensions, fused_qkv=True)
    weights, adapters, stepped = _split(d, blocks)
    if blocks == d.blocks:
        weights, adapters, stepped = _whole(d)
    if trained is Trained.WEIGHTS:
        adapters, stepped = 0, weights
    B, N, D = samples, d.tokens, d.width
    kept = LINEAR_BYTES * B * N * D + ATTENTION_BYTES * B * N**2 * d.heads
    return PartMemory(
        weights=_FLOAT32_BYTES * weights,
        adapters=_FLOAT32_BYTES * adapters,
        gradients=0,
        optimizer=_FLOAT32_BYTES * stepped,
        activations=blocks * kept,
        input=_FLOAT32_BYTES * B * d.channels * d.image_side**2,
    )


def _split(d: Dimensions, blocks: int) -> tuple[int, int, int]:
    """Weights, adapters, and how many values the optimiser steps."""
    weights = blocks * exact_block_parameters(d) + patch_convolution_parameters(d)
    adapters = blocks * block_adapter_parameters(d)
    return weights, adapters, adapters


def _whole(d: Dimensions) -> tuple[int, int, int]:
    stepped = d.blocks * block_adapter_parameters(d) + d.rank * (d.patch_values + d.width)
    head_adapter = d.rank * (d.width + d.classes)
    return vit_spec(d).parameters + head_parameters(d), stepped + head_adapter, stepped
