"""What a decision comes to: the timeline's seconds, the cost models' bytes and memory."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from closed_form import RoundSeconds, round_delay_s

from cutlayer.planner import forecast as module
from cutlayer.planner.forecast import (
    PHASES,
    Forecast,
    PlayedRounds,
    forecast_rounds,
    sent_bytes,
)
from cutlayer.rounds.schemes import SCHEMES, DeviceOrder, Phase
from cutlayer.rounds.simulate import simulate
from cutlayer.rounds.work import first_adapter_ratio
from cutlayer.spec import MiniBatchPolicy, Trained
from planner import workloads


def test_one_device_takes_what_the_closed_form_says() -> None:
    """No queue forms, so SFT eq. (26) holds; the timeline keeps it to 1e-12."""
    own = workloads.workload((1e9,), (17.0,))
    seen = forecast_rounds(own, workloads.decision(own))
    phases = dict(zip(PHASES, seen.later.device_phase_s[0], strict=True))
    steps = own.local_steps[0]
    closed = RoundSeconds(
        model_distribution_s=phases[Phase.MODEL_DISTRIBUTION],
        device_forward_s=phases[Phase.DEVICE_FORWARD] / steps,
        activation_up_s=phases[Phase.ACTIVATION_UP] / steps,
        server_compute_s=phases[Phase.SERVER_COMPUTE] / steps,
        gradient_down_s=phases[Phase.GRADIENT_DOWN] / steps,
        device_backward_s=phases[Phase.DEVICE_BACKWARD] / steps,
        adapter_up_s=phases[Phase.ADAPTER_UP],
    )
    assert seen.delay_s == pytest.approx(round_delay_s(closed, steps), rel=1e-12)
    flops = own.accounting.flops(own.model, 2, own.batch)
    assert closed.device_forward_s == pytest.approx(flops.device_forward / 1e9, rel=1e-12)


def test_the_first_round_distributes_the_model() -> None:
    own = workloads.workload()
    seen = forecast_rounds(own, workloads.decision(own))
    traffic = own.accounting.traffic(own.model, 2, own.batch)
    more = seen.first.downlink_bytes - seen.later.downlink_bytes
    assert more == pytest.approx(traffic.model_bytes, rel=1e-12)
    assert seen.first.delay_s > seen.later.delay_s
    assert seen.training_s == seen.first.delay_s + 4 * seen.later.delay_s


def test_bytes_are_those_of_the_cost_models() -> None:
    own = workloads.workload()
    codec = workloads.BEST
    seen = forecast_rounds(own, workloads.decision(own))
    traffic = own.accounting.traffic(own.model, 2, own.batch)
    each = 4 * codec.up * traffic.activation_bytes + traffic.adapter_bytes
    assert seen.later.uplink_bytes == pytest.approx(3 * each, rel=1e-12)
    down = 3 * 4 * codec.down * traffic.gradient_bytes + traffic.adapter_bytes
    assert seen.later.downlink_bytes == pytest.approx(down, rel=1e-12)


@pytest.mark.parametrize("name", [n for n, one in SCHEMES.items() if one.trains_device])
def test_coded_adapters_are_a_part_of_float32(name: str) -> None:
    """What comes down in the first round is whole, coded without loss; weights are as they are. The
    device remembers two rows."""
    plain = workloads.workload()
    scheme = SCHEMES[name]
    coded = replace(plain, adapter_ratio=(0.25, 0.5))
    blocks = 2 if scheme.splits else plain.model.blocks
    traffic = plain.accounting.traffic(plain.model, blocks, plain.batch, scheme.trained)
    up, down = 0.75 * traffic.adapter_bytes, 0.5 * traffic.adapter_bytes
    before, after = (
        forecast_rounds(own, workloads.decision(own, scheme=scheme)) for own in (plain, coded)
    )
    if scheme.trained is Trained.WEIGHTS:
        assert after.later.delay_s == before.later.delay_s
        return
    heard = 1 if scheme.devices is DeviceOrder.PARALLEL else 3
    begun = first_adapter_ratio(plain.model, blocks, coded.adapter_ratio)
    assert first_adapter_ratio(plain.model, blocks, plain.adapter_ratio) == 1
    assert 0.3 < begun < 0.7  # B is zero
    first = (1 - begun) * traffic.adapter_bytes
    for one, other, less in ((before.first, after.first, first), (before.later, after.later, down)):
        assert one.uplink_bytes - other.uplink_bytes == pytest.approx(3 * up, rel=1e-9)
        came = one.downlink_bytes - other.downlink_bytes
        assert came == pytest.approx(heard * less, rel=1e-9)
        assert other.delay_s < one.delay_s
    more = after.memory[0].total - before.memory[0].total
    assert more == 2 * traffic.adapter_bytes == after.memory[0].codec - before.memory[0].codec


@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme_is_what_its_timeline_says(name: str) -> None:
    own = workloads.workload()
    policy = (
        MiniBatchPolicy(micro_batches=4, in_flight=2)
        if SCHEMES[name].pipelined
        else MiniBatchPolicy()
    )
    chosen = workloads.decision(own, scheme=SCHEMES[name], policy=policy)
    curves = own.channel.mean_curves()
    works = PlayedRounds(own, chosen, curves).works()
    played = simulate(chosen.scheme, works, chosen.rules)
    seen = forecast_rounds(own, chosen)
    assert seen.delay_s == pytest.approx(played.delay_s, rel=1e-12)
    assert module.round_delay_s(own, chosen, curves) == played.delay_s


@pytest.mark.parametrize("name", ["sft", "sft-overlap"])
def test_a_long_round_is_simulated_in_part(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = workloads.workload(local_steps=200)
    policy = (
        MiniBatchPolicy(micro_batches=4, in_flight=2)
        if name == "sft-overlap"
        else MiniBatchPolicy()
    )
    chosen = workloads.decision(own, scheme=SCHEMES[name], policy=policy)
    whole = forecast_rounds(own, chosen)
    monkeypatch.setattr(module, "MOST_MICRO_BATCHES", 3 * 100 * policy.micro_batches)
    part = forecast_rounds(own, chosen)
    assert (whole.whole, part.whole) == (True, False)
    # steps are all alike once the first have passed: within two steps of 200
    assert part.delay_s == pytest.approx(whole.delay_s, rel=0.01)
    assert part.later.uplink_bytes == pytest.approx(whole.later.uplink_bytes, rel=1e-12)
    assert np.allclose(part.later.device_phase_s.sum(axis=1).max(), part.delay_s)


def test_memory_against_the_limits() -> None:
    own = workloads.workload(memory_mib=(1.0, None, 1.0))
    seen = forecast_rounds(own, workloads.decision(own, cut=5))
    assert not seen.fits
    need = seen.memory[0].total
    enough = tuple(replace(each, memory_bytes=int(need) + 1) for each in own.devices)
    assert Forecast(
        replace(own, devices=enough), seen.decision, seen.first, seen.later, whole=True
    ).fits


@pytest.mark.parametrize("name", ["sft", "sft-frozen", "sl", "splitlora", "fl-lora", "fl-full"])
def test_what_is_sent_by_payload_is_all_that_is_sent(name: str) -> None:
    own = workloads.workload()
    decision = workloads.decision(own, scheme=SCHEMES[name])
    curves = own.channel.mean_curves()
    seen = forecast_rounds(own, decision)
    for each in (seen.first, seen.later):
        assert each.sent.total == each.uplink_bytes + each.downlink_bytes
    # weights once, if they stay as they are
    assert seen.later.sent.weights == 0
    assert (seen.first.sent.weights > 0) == (name != "fl-full")
    trains, splits = decision.scheme.trains_device, decision.scheme.splits
    assert (seen.later.sent.gradient > 0) == (trains and splits)
    assert (seen.later.sent.adapter_up > 0) == trains
    assert (seen.later.sent.adapter_down > 0) == trains
    whole = sent_bytes(own, decision, curves)
    rounds = seen.first.sent.plus(seen.later.sent, own.rounds - 1)
    assert asdict(whole) == pytest.approx(asdict(rounds), rel=1e-12)


def test_a_warm_part_is_heard_once_more_as_it_was_merged() -> None:
    own = replace(workloads.workload(), warm_rounds=2)
    decision = workloads.decision(own)
    seen = forecast_rounds(own, decision)
    assert seen.early is not None
    heard = seen.early.sent.adapter_down
    assert heard > 0 and seen.later.sent.adapter_down == 0
    trained = forecast_rounds(replace(own, warm_rounds=None), decision)
    assert seen.early.sent == trained.later.sent
    # round 1 with the weights, round 2, and once more as round 3 opens
    whole = sent_bytes(own, decision, own.channel.mean_curves())
    first = seen.first.sent.adapter_down
    assert whole.adapter_down == pytest.approx(first + 2 * heard, rel=1e-12)
