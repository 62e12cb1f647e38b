"""FLOPs of ViT-B/16 against the figures worked out for the paper's setting (batch 64, cut 5)."""

import itertools

import pytest

from cutlayer.cost.flops import ACCOUNTINGS, paper_flops, physical_flops
from cutlayer.errors import ConfigError
from cutlayer.spec import LinearShape, MiniBatch, ModelSpec

D = 768
VIT_B = ModelSpec(
    name="vit-b",
    blocks=12,
    width=D,
    heads=12,
    head_width=64,
    block_linears=(
        *(LinearShape(D, D, 16, reads_block_input=True) for _ in range(3)),
        LinearShape(D, D, 16),
        LinearShape(D, 4 * D, 16),
        LinearShape(4 * D, D, 16),
    ),
    block_parameters=7_087_872,
    embedding_parameters=742_656,
    head_parameters=(2 * D) + 100 * D + 100,
    classes=100,
    embedding_flops_per_token=2 * D * D,
)
BATCH = MiniBatch(64, 197)


def test_paper_count_as_printed() -> None:
    flops = paper_flops(VIT_B, 5, BATCH)
    # half a unit of the last printed digit
    assert flops.device_forward / 1e9 == pytest.approx(932.5, abs=0.05)
    assert flops.device_backward / 1e9 == pytest.approx(1864.9, abs=0.1)
    assert flops.server_forward / 1e9 == pytest.approx(1302.7, abs=0.05)
    assert flops.server_backward / 1e9 == pytest.approx(2609.4, abs=0.1)


def test_physical_count_near_the_hand_count() -> None:
    """The hand count had one adapter for query, key and value, and 196 patches: within 0.7 %."""
    flops = physical_flops(VIT_B, 5, BATCH)
    assert flops.device_forward / 1e9 == pytest.approx(970.1, rel=7e-3)
    assert flops.device_backward / 1e9 == pytest.approx(973.6, rel=7e-3)
    assert flops.server_forward / 1e9 == pytest.approx(1337.5, rel=7e-3)
    assert flops.server_backward / 1e9 == pytest.approx(1425.6, rel=7e-3)


@pytest.mark.parametrize("name", ACCOUNTINGS)
def test_moving_the_cut_moves_blocks(name: str) -> None:
    count = ACCOUNTINGS[name]
    flops = [count(VIT_B, cut, BATCH) for cut in range(1, 12)]
    assert len({f.device_forward + f.server_forward for f in flops}) == 1
    assert len({f.device_backward + f.server_backward for f in flops}) == 1
    grows = [b.device_forward - a.device_forward for a, b in itertools.pairwise(flops)]
    assert len(set(grows)) == 1 and grows[0] > 0


@pytest.mark.parametrize("cut", [0, 12, -1])
def test_cut_outside_is_refused(cut: int) -> None:
    with pytest.raises(ConfigError, match=r"outside 1\.\.11"):
        physical_flops(VIT_B, cut, BATCH)
