"""Payload bytes of ViT-B/16 and ViT-L/16 against the figures worked out for the paper's setting."""

from dataclasses import replace

import pytest

from cutlayer.errors import ConfigError
from cutlayer.rounds.costs import SchemeTraffic, paper_traffic, physical_traffic
from cutlayer.rounds.vit import VIT_BASE, VIT_LARGE, VitDimensions, vit_spec
from cutlayer.spec import MiniBatch, Trained

BATCH = MiniBatch(64, 197)
MEGA = 1e6


@pytest.mark.parametrize(
    ("dimensions", "model", "once", "adapter", "activation"),
    [
        (VIT_BASE, 160.83, 148.66, 7.864, 38.732),
        (VIT_LARGE, 277.36, 261.13, 10.486, 51.642),
    ],
)
def test_paper_bytes_as_printed(
    dimensions: VitDimensions, model: float, once: float, adapter: float, activation: float
) -> None:
    """Half a unit of the last digit. `once`: with the embedding counted once, with biases and norms
    and one adapter for query, key and value, as a device really gets them."""
    spec = vit_spec(dimensions)
    traffic = paper_traffic(spec, 5, BATCH)
    assert traffic.model_bytes / MEGA == pytest.approx(model, abs=5e-3)
    right = physical_traffic(vit_spec(replace(dimensions, fused_qkv=True)), 5, BATCH)
    assert (right.model_bytes + right.adapter_bytes) / MEGA == pytest.approx(once, abs=5e-3)
    assert traffic.adapter_bytes / MEGA == pytest.approx(adapter, abs=5e-4)
    assert traffic.activation_bytes / MEGA == pytest.approx(activation, abs=5e-4)
    assert traffic.gradient_bytes == traffic.activation_bytes


def test_paper_bytes_from_the_formulas() -> None:
    """b = 4, l = 2, D = 4, r = 1, B = 2, N = 3; an embedding of (16*16*3 + 196 + 3) * 4 = 3868."""
    small = vit_spec(VitDimensions("small", blocks=3, width=4, heads=2, classes=5, rank=1))
    expected = SchemeTraffic(
        model_bytes=4 * 2 * (18 * 4 + 12 * 16 + 3868),
        adapter_bytes=2 * 2 * 2 * 4 * 1,
        activation_bytes=4 * 2 * 3 * 4,
        gradient_bytes=4 * 2 * 3 * 4,
        adapters_in_model=True,
    )
    assert paper_traffic(small, 2, MiniBatch(2, 3)) == expected


def test_physical_bytes_are_what_the_parts_hold() -> None:
    traffic = physical_traffic(vit_spec(VIT_BASE), 5, BATCH)
    # 5 blocks and the embedding, without adapters; adapters of 18Dr a block
    assert traffic.model_bytes == 4 * (5 * 7_087_872 + 742_656)
    assert traffic.adapter_bytes == 4 * 5 * 221_184
    assert traffic.activation_bytes == 64 * 197 * 768 * 4


def test_the_whole_model_moves_no_activation() -> None:
    spec = vit_spec(VIT_BASE)
    adapters = physical_traffic(spec, 12, BATCH)
    assert adapters.model_bytes == 4 * 85_875_556
    assert adapters.adapter_bytes == 4 * 12 * 221_184
    assert adapters.activation_bytes == adapters.gradient_bytes == 0
    weights = physical_traffic(spec, 12, BATCH, Trained.WEIGHTS)
    assert weights.adapter_bytes == weights.model_bytes
    printed = paper_traffic(spec, 12, BATCH, Trained.WEIGHTS)
    assert printed.adapter_bytes == printed.model_bytes and printed.activation_bytes == 0


def test_an_epoch_of_5000_samples_sends_the_papers_2_81_gb() -> None:
    """78 full mini-batches of 64 of 5,000 samples: GiB of float32, one way."""
    one = physical_traffic(vit_spec(VIT_BASE), 5, BATCH).activation_bytes
    assert 5000 // 64 * one / 1024**3 == pytest.approx(2.81, abs=5e-3)


@pytest.mark.parametrize("cut", [0, 13])
def test_a_cut_that_is_not_is_refused(cut: int) -> None:
    for traffic in (paper_traffic, physical_traffic):
        with pytest.raises(ConfigError, match=r"outside 1\.\.12"):
            traffic(vit_spec(VIT_BASE), cut, BATCH)
