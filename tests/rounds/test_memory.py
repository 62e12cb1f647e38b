"""Laws of the physical memory; what autograd really holds is in `test_costs_physical`."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import ConfigError
from cutlayer.rounds.memory import activation_bytes, device_memory, server_activation_bytes
from cutlayer.rounds.vit import VIT_BASE, vit_spec
from cutlayer.spec import ActivationPolicy, BatchBytes, MiniBatch, MiniBatchPolicy, Trained
from cutlayer.units import MIB

SPEC = vit_spec(VIT_BASE)
BATCH = MiniBatch(64, 197)


def test_bytes_of_a_mini_batch_by_hand() -> None:
    form = BatchBytes(1, 2, 3, 4, 5, 6)
    # 1 + 2*3 + 3*9 + 2 (4 + 5*3 + 6*9)
    assert form.of(MiniBatch(2, 3)) == 1 + 6 + 27 + 2 * (4 + 15 + 54)
    assert (form + form).of(MiniBatch(2, 3)) == 2 * form.of(MiniBatch(2, 3))


def test_a_block_of_vit_b_by_hand() -> None:
    """Per token 16D values (two norms' inputs and outputs, query, key, value, attention's output,
    GELU's input and output), 6r of the adapters, 4 of the norms' statistics and a sum a head."""
    two = activation_bytes(SPEC, 2, BATCH, ActivationPolicy.KEEP)
    one = activation_bytes(SPEC, 1, BATCH, ActivationPolicy.KEEP)
    per_token = 16 * 768 + 6 * 16 + 4 + 12
    assert two - one == 64 * 197 * 4 * per_token
    # nothing trained comes before the first block's first norm
    assert one == 64 * 197 * 4 * (per_token - 768 - 2)
    assert server_activation_bytes(SPEC, 11, BATCH) == two - one + 64 * 197 * 4 * (768 + 2)


def test_the_papers_setting() -> None:
    """Keep holds no more than Table III's 4122.92 MiB; recomputing micro-batches under 250."""
    kept = device_memory(SPEC, 5, BATCH)
    assert kept.weights == 4 * (5 * 7_087_872 + 742_656)
    assert kept.adapters == kept.gradients == kept.optimizer == 4 * 5 * 221_184
    assert kept.input == 64 * 3 * 224**2 * 4
    assert kept.total / MIB < 4122.92
    small = device_memory(SPEC, 5, BATCH, MiniBatchPolicy(ActivationPolicy.RECOMPUTE, 64))
    assert small.total / MIB < 250


@given(
    cut=st.integers(1, 12),
    samples=st.integers(1, 64),
    micro_batches=st.integers(1, 64),
    in_flight=st.integers(1, 64),
)
def test_holding_less_takes_less(
    cut: int, samples: int, micro_batches: int, in_flight: int
) -> None:
    micro_batches = min(micro_batches, samples)
    in_flight = min(in_flight, micro_batches)

    def activations(activation_memory: ActivationPolicy, in_flight: int) -> float:
        return device_memory(
            SPEC,
            cut,
            MiniBatch(samples, 197),
            MiniBatchPolicy(activation_memory, micro_batches, in_flight),
        ).activations

    keep = activations(ActivationPolicy.KEEP, in_flight)
    assert keep == in_flight * activations(ActivationPolicy.KEEP, 1)
    assert activations(ActivationPolicy.RECOMPUTE, in_flight) == activations(
        ActivationPolicy.KEEP, 1
    )
    # a block's input is a sixteenth of what it keeps; of one block nothing is saved
    checkpoint = activations(ActivationPolicy.CHECKPOINT, in_flight)
    assert checkpoint <= keep + 4 * in_flight * samples * 197 * 768
    if cut > 2:
        assert checkpoint < keep


@given(samples=st.integers(1, 64), micro_batches=st.integers(1, 64))
def test_the_largest_micro_batch_counts(samples: int, micro_batches: int) -> None:
    micro_batches = min(micro_batches, samples)
    policy = MiniBatchPolicy(micro_batches=micro_batches)
    memory = device_memory(SPEC, 3, MiniBatch(samples, 197), policy)
    largest = -(-samples // micro_batches)
    assert memory.activations == activation_bytes(
        SPEC, 3, MiniBatch(largest, 197), ActivationPolicy.KEEP
    )
    assert memory.input == samples * 3 * 224**2 * 4


def test_full_weights_have_gradients_and_slots_of_all_weights() -> None:
    memory = device_memory(SPEC, 12, BATCH, optimizer_slots=2, trained=Trained.WEIGHTS)
    assert memory.weights == memory.gradients == 4 * SPEC.parameters
    assert memory.optimizer == 2 * memory.weights and memory.adapters == 0


def test_half_the_bytes_of_a_base_halve_it() -> None:
    half = device_memory(vit_spec(replace(VIT_BASE, bytes_per_value=2)), 5, BATCH)
    full = device_memory(SPEC, 5, BATCH)
    assert 2 * half.weights == full.weights and half.adapters == full.adapters
    # the sums of attention stay float32, and copies of the adapters join: 1 % of half
    assert half.activations / full.activations == pytest.approx(0.5, abs=0.005)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"micro_batches": 65}, r"into 1\.\.64"),
        ({"micro_batches": 0}, "micro_batches is 0"),
        ({"micro_batches": 4, "in_flight": 5}, "in_flight is 5"),
    ],
)
def test_counts_that_cannot_be(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        device_memory(SPEC, 5, BATCH, MiniBatchPolicy(ActivationPolicy.KEEP, **wrong))


def test_slots_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="optimizer_slots is -1"):
        device_memory(SPEC, 5, BATCH, optimizer_slots=-1)


def test_a_spec_that_nobody_counted_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"nobody has counted what ViT-B/16 keeps"):
        device_memory(replace(SPEC, activations=None), 5, BATCH)
    with pytest.raises(ConfigError, match=r"outside 1\.\.12"):
        device_memory(SPEC, 0, BATCH)
