"""Some devices that stand for many, beside all of them."""

from dataclasses import replace

import numpy as np
import pytest

from cutlayer.planner import forecast as module
from cutlayer.planner.decision import Workload
from cutlayer.planner.forecast import PHASES, device_sample_of, forecast_rounds, round_delay_s
from cutlayer.rounds.batching import ServerBatch, ServerBatching
from cutlayer.rounds.schemes import SCHEMES
from cutlayer.rounds.work import Sharing, SharingRules
from cutlayer.spec import MiniBatchPolicy
from planner import workloads

COUNT, PLAYED = 90, 30


def many(rules: SharingRules, server_flops_per_s: float, server_block_s: float = 0.0) -> Workload:
    """Devices whose rates differ by a factor of eight, ratios by 20 dB."""
    rates = np.geomspace(5e8, 4e9, COUNT).tolist()
    ratios = np.tile(np.linspace(5.0, 25.0, 10), COUNT // 10).tolist()
    return workloads.workload(
        rates,
        ratios,
        server_flops_per_s=server_flops_per_s,
        bandwidth_hz=4e6,
        rules=rules,
        server_block_s=server_block_s,
    )


@pytest.mark.parametrize("server_flops_per_s", [2e11, 6e9])
@pytest.mark.parametrize("name", ["sft", "sft-overlap", "splitlora-paper", "fl-lora", "sl"])
@pytest.mark.parametrize("downlink", [Sharing.STATIC, Sharing.IN_TURN])
def test_a_crowd_takes_as_long_as_all(
    name: str, downlink: Sharing, server_flops_per_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheme = SCHEMES[name]
    own = many(SharingRules(downlink=downlink), server_flops_per_s)
    policy = (
        MiniBatchPolicy(micro_batches=2, in_flight=2) if scheme.pipelined else MiniBatchPolicy()
    )
    chosen = workloads.decision(own, scheme=scheme, policy=policy)
    curves = own.channel.mean_curves()
    whole = forecast_rounds(own, chosen)
    monkeypatch.setattr(module, "MOST_DEVICES", PLAYED)
    some = forecast_rounds(own, chosen)
    assert (whole.whole, some.whole) == (True, False)
    assert len(some.later.devices) == PLAYED < len(whole.later.devices) == COUNT
    # at the server and at the downlink each takes as long as COUNT / PLAYED would: 1 / PLAYED of
    # what they are busy for, which is a round at most. One device of each part is its middle: of
    # devices in turn, half a part's spread more.
    slack = 2 / PLAYED if downlink is Sharing.IN_TURN else 1 / PLAYED
    assert some.delay_s == pytest.approx(whole.delay_s, rel=slack + 1 / PLAYED)
    assert some.delay_s == pytest.approx(round_delay_s(own, chosen, curves), rel=1e-12)
    # amounts are of all, and exact
    assert some.later.uplink_bytes == whole.later.uplink_bytes
    assert some.later.downlink_bytes == pytest.approx(whole.later.downlink_bytes, rel=1e-12)
    busy_s = [seen.later.server_busy * seen.delay_s for seen in (some, whole)]
    assert busy_s[0] == pytest.approx(busy_s[1], rel=1e-12)


@pytest.mark.parametrize("server_flops_per_s", [2e11, 6e9])
@pytest.mark.parametrize("block_s", [0.0, 0.2])
def test_a_crowd_shares_passes_as_all_do(
    server_flops_per_s: float, block_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    batching = ServerBatching(ServerBatch.ARRIVALS, most_tokens=4_000)
    own = many(SharingRules(batching=batching), server_flops_per_s, block_s)
    chosen = workloads.decision(own)
    whole = forecast_rounds(own, chosen)
    monkeypatch.setattr(module, "MOST_DEVICES", PLAYED)
    some = forecast_rounds(own, chosen)
    assert some.delay_s == pytest.approx(whole.delay_s, rel=2 / PLAYED)
    assert some.later.server_busy == pytest.approx(whole.later.server_busy, rel=0.1)


def test_phases_are_a_devices_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it takes for those that it stands for is waiting, and nothing is lost."""
    own = many(SharingRules(downlink=Sharing.IN_TURN), 6e9)
    chosen = workloads.decision(own)
    whole = forecast_rounds(own, chosen).later
    monkeypatch.setattr(module, "MOST_DEVICES", PLAYED)
    some = forecast_rounds(own, chosen).later
    compared = [
        number
        for number, phase in enumerate(PHASES)
        if phase.value.endswith(("compute", "forward", "backward", "up", "down", "distribution"))
    ]
    rows = whole.device_phase_s[list(some.devices)]
    assert np.allclose(some.device_phase_s[:, compared], rows[:, compared], rtol=1e-9, atol=0)
    assert some.device_delay_s.max() == pytest.approx(some.delay_s, rel=1e-12)


def test_few_are_all() -> None:
    own = workloads.workload()
    device_sample = device_sample_of(own, workloads.decision(own), own.channel.mean_curves())
    assert (device_sample.devices, device_sample.stands_for) == ((0, 1, 2), 1.0)


def test_the_slowest_is_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    own = many(SharingRules(), 1e12)
    slow = replace(own.devices[17], flops_per_s=1e6)
    own = replace(own, devices=(*own.devices[:17], slow, *own.devices[18:]))
    monkeypatch.setattr(module, "MOST_DEVICES", PLAYED)
    device_sample = device_sample_of(own, workloads.decision(own), own.channel.mean_curves())
    assert 17 in device_sample.devices
    assert list(device_sample.devices) == sorted(set(device_sample.devices))
    assert device_sample.stands_for == COUNT / PLAYED
