"""Which ways of holding a mini-batch fit."""

from dataclasses import replace

import pytest

from cutlayer.planner.decision import (
    PlannedServer,
    device_need,
    fitting_policies,
    server_need,
    shortage,
)
from cutlayer.rounds.batching import ServerBatch, ServerBatching
from cutlayer.rounds.schemes import SCHEMES, SFT
from cutlayer.rounds.work import SharingRules
from cutlayer.spec import ActivationPolicy, MiniBatchPolicy
from cutlayer.units import MIB
from planner import workloads

CUT = 4
FREE = workloads.workload()


def need_mib(policy: MiniBatchPolicy) -> float:
    """What `FREE` needs at `CUT`."""
    return device_need(FREE, SFT, CUT, policy).total / MIB


def test_without_a_limit_nothing_is_cut_or_computed_twice() -> None:
    assert fitting_policies(FREE, SFT, CUT) == [MiniBatchPolicy()]


@pytest.mark.parametrize("count", [2, 4, 8])
def test_as_few_micro_batches_as_fit(count: int) -> None:
    limit = need_mib(MiniBatchPolicy(ActivationPolicy.KEEP, count)) + 1e-3
    own = workloads.workload(memory_mib=(None, limit, 100.0))
    assert fitting_policies(own, SFT, CUT) == [MiniBatchPolicy(ActivationPolicy.KEEP, count)]


def test_computing_twice_is_the_last_resort() -> None:
    """Checkpointing in micro-batches of one holds less than keeping them."""
    least = need_mib(MiniBatchPolicy(ActivationPolicy.CHECKPOINT, 8))
    assert least < need_mib(MiniBatchPolicy(ActivationPolicy.KEEP, 8))
    own = workloads.workload(memory_mib=(least + 1e-3,) * 3)
    assert fitting_policies(own, SFT, CUT) == [MiniBatchPolicy(ActivationPolicy.CHECKPOINT, 8)]


def test_who_is_short_of_how_much() -> None:
    least = min(
        need_mib(MiniBatchPolicy(activation_memory, 8)) for activation_memory in ActivationPolicy
    )
    own = workloads.workload(memory_mib=(100.0, least - 0.5, None))
    short = shortage(own, SFT, CUT)
    assert short is not None
    assert (short.device, short.cut) == (1, CUT)
    # limits are whole bytes
    assert short.missing_bytes == pytest.approx(0.5 * MIB, abs=1)
    assert shortage(FREE, SFT, CUT) is None


def test_pipelines_of_every_depth_that_fits() -> None:
    overlap = SCHEMES["sft-overlap"]
    ways = fitting_policies(FREE, overlap, CUT)
    depths = [(policy.micro_batches, policy.in_flight) for policy in ways]
    assert depths == [(2, 2), (4, 4), (4, 2), (8, 8), (8, 4), (8, 2)]
    own = workloads.workload(
        memory_mib=(need_mib(MiniBatchPolicy(ActivationPolicy.KEEP, 8, 2)) + 1e-3,) * 3
    )
    assert MiniBatchPolicy(ActivationPolicy.KEEP, 8, 2) in fitting_policies(own, overlap, CUT)
    assert MiniBatchPolicy(ActivationPolicy.KEEP, 2, 2) not in fitting_policies(own, overlap, CUT)


def test_a_server_with_an_order_of_its_own_takes_whole_mini_batches() -> None:
    own = workloads.workload(
        memory_mib=(need_mib(MiniBatchPolicy(ActivationPolicy.KEEP, 2)) + 1e-3,) * 3
    )
    ways = fitting_policies(own, SCHEMES["splitlora"], CUT)
    assert ways
    assert all(policy.micro_batches == 1 for policy in ways)


def test_a_small_server_takes_mini_batches_in_parts() -> None:
    """Which a device of any memory would not need."""
    need = server_need(FREE, SFT, CUT, MiniBatchPolicy(ActivationPolicy.KEEP, 4)).total
    own = replace(FREE, server=PlannedServer(memory_bytes=int(need) + 1))
    assert fitting_policies(own, SFT, CUT) == [MiniBatchPolicy(ActivationPolicy.KEEP, 4)]


def test_what_a_server_needs_by_hand() -> None:
    """Six blocks of a vision transformer of 64, cut after four, three devices and AdamW."""
    model, count = FREE.model, len(FREE.devices)
    need = server_need(FREE, SFT, CUT, MiniBatchPolicy())
    row = 4 * (2 * model.adapter_parameters(0, 1) + model.head_adapter_parameters)
    device_row = 4 * CUT * model.adapter_parameters(0, 1)
    assert need.weights == 4 * (model.embedding_parameters + model.head_parameters) + 4 * (
        model.blocks * model.block_parameters
    )
    assert need.adapters == (count + 1) * (row + device_row)
    assert need.optimizer == 2 * count * 2 * row
    assert need.gradients == 3 * row
    assert need.input == 2 * 4 * FREE.batch.samples * FREE.batch.tokens * model.width
    tokens = 2 * FREE.batch.samples * FREE.batch.tokens
    arrivals = SharingRules(batching=ServerBatching(ServerBatch.ARRIVALS, tokens))
    together = replace(FREE, rules=arrivals)
    assert server_need(together, SFT, CUT, MiniBatchPolicy()).gradients == 6 * row
    checkpoint = PlannedServer(activation_memory=ActivationPolicy.CHECKPOINT)
    less = server_need(replace(FREE, server=checkpoint), SFT, 1, MiniBatchPolicy())
    assert less.activations < server_need(FREE, SFT, 1, MiniBatchPolicy()).activations


def test_who_is_short_is_the_server_where_devices_have_enough() -> None:
    own = replace(FREE, server=PlannedServer(memory_bytes=MIB))
    short = shortage(own, SFT, CUT)
    assert short is not None and short.device is None
    assert short.missing_bytes == short.need.total - MIB > 0


def test_a_server_that_only_merges_needs_rows_of_all_devices() -> None:
    scheme = SCHEMES["fl-lora"]
    need = server_need(FREE, scheme, 1, MiniBatchPolicy())
    own = device_need(FREE, scheme, 1, MiniBatchPolicy())
    assert need.total == own.weights + 4 * own.adapters


def test_a_frozen_part_has_no_adapters_and_one_forward_at_a_time() -> None:
    frozen = SCHEMES["sft-frozen"]
    need, trained = (device_need(FREE, scheme, CUT, MiniBatchPolicy()) for scheme in (frozen, SFT))
    assert need.adapters == need.gradients == need.optimizer == 0
    assert need.weights == trained.weights and need.input == trained.input
    assert 0 < need.activations < trained.activations
    # nothing of the devices' side, and no gradient to send, at the server either
    served, other = (server_need(FREE, scheme, CUT, MiniBatchPolicy()) for scheme in (frozen, SFT))
    assert served.adapters < other.adapters and 2 * served.input == other.input
    assert served.activations < other.activations
