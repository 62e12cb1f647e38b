"""Every rule against seconds worked by hand, and every scheme against its closed form."""

import numpy as np
import pytest
from closed_form import RoundSeconds, round_delay_s
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.channel.rates import LinkRates
from cutlayer.errors import ConfigError
from cutlayer.rounds.schemes import (
    FL_LORA,
    SCHEMES,
    SFT,
    SFT_OVERLAP,
    SL,
    SPLITLORA,
    SPLITLORA_PAPER,
    Phase,
    Scheme,
    Step,
)
from cutlayer.rounds.simulate import simulate
from cutlayer.rounds.work import DeviceRates, DeviceWork, Duplex, Sharing, SharingRules
from examples import at_most
from rounds.works import LOCAL, UNIT, spans, work, works

STATIC, IN_TURN, SHARED = Sharing.STATIC, Sharing.IN_TURN, Sharing.SHARED
seconds = st.floats(0.0, 100.0)
five = st.lists(seconds, min_size=5, max_size=5)


@at_most(40)
@given(st.integers(1, 20), seconds, five, seconds, st.sampled_from(list(Sharing)))
def test_alone_it_is_the_closed_form(
    steps: int, distribution: float, local: list[float], upload: float, sharing: Sharing
) -> None:
    """In any band, and in any of the schemes that have these steps."""
    closed = round_delay_s(RoundSeconds(distribution, *local, upload), steps)
    device = work(local, steps, distribution, upload)
    for name in ("sft", "sft-uncompressed", "sft-overlap", "splitlora-paper", "splitlora"):
        timeline = simulate(SCHEMES[name], [device], SharingRules(1, sharing, sharing))
        # sums of up to 102 terms in another order: 102 roundings of 2^-53 at the most; subnormal
        # sums round absolutely
        assert timeline.delay_s == pytest.approx(closed, rel=1e-12, abs=1e-300)


@at_most(40)
@given(st.integers(2, 40), st.integers(2, 8))
def test_without_a_queue_it_is_the_closed_form(steps: int, devices: int) -> None:
    """Local steps of 8 s, the server takes 1 s, and devices come 1 s apart: nobody waits."""
    local = [1.0, 2.0, 1.0, 3.0, 1.0]
    timeline = simulate(SFT, [work(local, steps, float(n), 5.0) for n in range(devices)])
    for n, line in enumerate(timeline.devices):
        closed = round_delay_s(RoundSeconds(float(n), *local, 5.0), steps)
        assert line.delay_s == pytest.approx(closed, rel=1e-12)
    assert timeline.phase_seconds(0)[Phase.SERVER_QUEUE] == 0.0


def test_rates_turn_amounts_into_seconds() -> None:
    rates = DeviceRates(2e9, 8e9, LinkRates(16.0, 32.0, 64.0, 160.0, 320.0))
    device = work([2e9, 20.0, 16e9, 40.0, 6e9], 1, 8.0, 60.0, rates=rates)
    static = simulate(SFT, [device]).phase_seconds(0)
    assert {phase: s for phase, s in static.items() if s} == {
        Phase.MODEL_DISTRIBUTION: 1.0,
        Phase.DEVICE_FORWARD: 1.0,
        Phase.ACTIVATION_UP: 10.0,
        Phase.SERVER_COMPUTE: 2.0,
        Phase.GRADIENT_DOWN: 10.0,
        Phase.DEVICE_BACKWARD: 3.0,
        Phase.ADAPTER_UP: 30.0,
    }
    for rules in (SharingRules(1, IN_TURN, STATIC), SharingRules(1, SHARED, STATIC)):
        whole = simulate(SFT, [device], rules).phase_seconds(0)
        # ten times the rate of the share up, the same down
        assert (whole[Phase.ACTIVATION_UP], whole[Phase.ADAPTER_UP]) == (1.0, 3.0)
        assert whole[Phase.GRADIENT_DOWN] == 10.0


def test_queue_by_hand() -> None:
    """Arrivals at 3 (device 0) and 2 (device 1), service 4: device 1 first, device 0 waits 3.

    Device 1 is back at the server at 6 + 2 (down, back) + 2 = 10, when device 0's service ends.
    """
    local = [1.0, 1.0, 4.0, 1.0, 1.0]
    timeline = simulate(SFT, [work(local, 1, 1.0, 1.0), work(local, 2, 0.0, 1.0)])
    assert spans(timeline, Phase.SERVER_QUEUE) == [(3.0, 6.0)]
    assert spans(timeline, Phase.SERVER_COMPUTE) == [(6.0, 10.0), (2.0, 6.0), (10.0, 14.0)]
    assert [line.delay_s for line in timeline.devices] == [13.0, 17.0]
    assert (timeline.slowest_device, timeline.delay_s) == (1, 17.0)


def test_ties_go_to_the_lower_device() -> None:
    timeline = simulate(SFT, [work([1.0] * 5) for _ in range(3)])
    assert spans(timeline, Phase.SERVER_COMPUTE) == [(2.0, 3.0), (3.0, 4.0), (4.0, 5.0)]


def test_two_workers_by_hand() -> None:
    """All at the server at 0 with 4, 3 and 2 s: the third gets the worker that is free at 3."""
    devices = [work([0.0, 0.0, s, 0.0, 0.0]) for s in (4.0, 3.0, 2.0)]
    timeline = simulate(SFT, devices, SharingRules(server_workers=2))
    assert spans(timeline, Phase.SERVER_COMPUTE) == [(0.0, 4.0), (0.0, 3.0), (3.0, 5.0)]
    # 9 s of work by two in 5 s
    assert timeline.utilisation().server == pytest.approx(0.9, rel=1e-12)


def test_a_band_in_turn_by_hand() -> None:
    """Ready at 1, 1 and 2 with 3 s each: one after the other, the lower device first."""
    devices = [work([s, 3.0, 0.0, 0.0, 0.0]) for s in (1.0, 1.0, 2.0)]
    timeline = simulate(SFT, devices, SharingRules(uplink=IN_TURN))
    assert spans(timeline, Phase.ACTIVATION_UP) == [(1.0, 4.0), (4.0, 7.0), (7.0, 10.0)]
    assert spans(timeline, Phase.LINK_QUEUE) == [(1.0, 4.0), (2.0, 7.0)]
    assert timeline.utilisation().uplink == pytest.approx(0.9, rel=1e-12)


def test_two_transfers_share_a_band_by_hand() -> None:
    """2 s of work each, from 0 and from 1: the first has 1 left at 1, at half speed until 3; the
    second has 1 left then and goes on alone."""
    devices = [work([s, 2.0, 0.0, 0.0, 0.0]) for s in (0.0, 1.0)]
    timeline = simulate(SFT, devices, SharingRules(uplink=SHARED))
    assert spans(timeline, Phase.ACTIVATION_UP) == [(0.0, 3.0), (1.0, 4.0)]
    assert timeline.phase_seconds(0)[Phase.LINK_QUEUE] == 0.0


def test_three_transfers_share_a_band_by_hand() -> None:
    """1, 2 and 3 s of work from 0: ends at 3 (a third each), 3 + 2 (half each), 5 + 1."""
    devices = [work([0.0, s, 0.0, 0.0, 0.0]) for s in (1.0, 2.0, 3.0)]
    timeline = simulate(SFT, devices, SharingRules(uplink=SHARED))
    assert spans(timeline, Phase.ACTIVATION_UP) == [(0.0, 3.0), (0.0, 5.0), (0.0, 6.0)]
    assert timeline.utilisation().uplink == pytest.approx(1.0, rel=1e-12)


def test_half_duplex_in_turn_by_hand() -> None:
    """Device 0 sends until 2, device 1 until 4; device 0's gradient, ready at 3, waits for that."""
    devices = [work([0.0, 2.0, 1.0, 2.0, 0.0]) for _ in range(2)]
    half = simulate(SFT, devices, SharingRules(1, IN_TURN, IN_TURN, Duplex.HALF))
    full = simulate(SFT, devices, SharingRules(1, IN_TURN, IN_TURN))
    assert spans(half, Phase.GRADIENT_DOWN) == [(4.0, 6.0), (6.0, 8.0)]
    assert spans(full, Phase.GRADIENT_DOWN) == [(3.0, 5.0), (5.0, 7.0)]


def test_half_duplex_shared_by_hand() -> None:
    """Device 0 sends 1 s from 0, device 1 1 s from 1, and at 1 device 0's gradient of 1 s joins:
    both end at 3."""
    devices = [work([float(n), 1.0, 0.0, 1.0, 0.0]) for n in range(2)]
    timeline = simulate(SFT, devices, SharingRules(1, SHARED, SHARED, Duplex.HALF))
    assert spans(timeline, Phase.GRADIENT_DOWN, 0) == [(1.0, 3.0)]
    assert spans(timeline, Phase.ACTIVATION_UP, 1) == [(1.0, 3.0)]


def test_turns_by_hand() -> None:
    """Device 1 comes at 2 but waits for device 0's turn, which ends at 7; the third device has one
    local step and is left out of the second."""
    slow, quick = [5.0, 1.0, 1.0, 1.0, 1.0], [1.0] * 5
    timeline = simulate(SPLITLORA, [work(slow, 2), work(quick, 2), work(quick, 1)])
    assert spans(timeline, Phase.SERVER_COMPUTE, 0) == [(6.0, 7.0), (15.0, 16.0)]
    assert spans(timeline, Phase.SERVER_COMPUTE, 1) == [(7.0, 8.0), (16.0, 17.0)]
    assert spans(timeline, Phase.SERVER_COMPUTE, 2) == [(8.0, 9.0)]
    assert spans(timeline, Phase.SERVER_QUEUE, 1) == [(2.0, 7.0), (12.0, 16.0)]


def test_together_by_hand() -> None:
    """The server starts at 3, works 2 + 4 s for both; the next local step begins at 9 + 4.

    Device 1 waits at the server from 2 and at the barrier from 11. In the second local step device
    0 is alone.
    """
    first, second = [2.0, 1.0, 2.0, 2.0, 2.0], [1.0, 1.0, 4.0, 1.0, 1.0]
    timeline = simulate(SPLITLORA_PAPER, [work(first, 2), work(second, 1, 0.0, 3.0)])
    assert spans(timeline, Phase.SERVER_COMPUTE) == [(3.0, 9.0), (16.0, 18.0), (3.0, 9.0)]
    assert spans(timeline, Phase.SERVER_QUEUE) == [(2.0, 3.0)]
    assert spans(timeline, Phase.BARRIER) == [(11.0, 13.0)]
    assert [line.delay_s for line in timeline.devices] == [22.0, 16.0]


def test_together_two_workers_divide_the_work_but_not_a_mini_batch() -> None:
    equal = [work([0.0, 0.0, 3.0, 0.0, 0.0]) for _ in range(4)]
    assert simulate(SPLITLORA_PAPER, equal, SharingRules(server_workers=2)).delay_s == 6.0
    assert simulate(SPLITLORA_PAPER, equal, SharingRules(server_workers=9)).delay_s == 3.0


@at_most(40)
@given(works(micro_batches=1))
def test_splitlora_as_the_paper_has_it_is_its_formula(devices: list[DeviceWork]) -> None:
    """`MD + sum over k of max(DC + IAT) + sum SC + max(GT + DU), + max LT`, all with K local steps
    and one broadcast."""
    steps = min(device.local_steps for device in devices)
    distribution = float(devices[0].amounts[Phase.MODEL_DISTRIBUTION][0])
    cut = [_first_steps(device, steps, distribution) for device in devices]
    forward, up, server, down, backward = (
        np.array([device.amounts[phase] for device in cut]) for phase in LOCAL
    )
    expected = (
        distribution
        + (forward + up).max(axis=0).sum()
        + server.sum()
        + (down + backward).max(axis=0).sum()
        + max(float(device.amounts[Phase.ADAPTER_UP][0]) for device in cut)
    )
    # at most 30 sums in another order
    assert simulate(SPLITLORA_PAPER, cut).delay_s == pytest.approx(expected, rel=1e-12, abs=1e-300)


def _first_steps(device: DeviceWork, steps: int, distribution: float) -> DeviceWork:
    amounts = {phase: values[:steps] for phase, values in device.amounts.items()}
    amounts[Phase.MODEL_DISTRIBUTION] = np.array([distribution])
    return DeviceWork(amounts, UNIT, steps)


@at_most(40)
@given(works(micro_batches=1), st.sampled_from(list(Sharing)))
def test_split_learning_is_the_sum_of_its_devices(
    devices: list[DeviceWork], sharing: Sharing
) -> None:
    """Broadcast, then each device's local steps and hand-over one after another; a broadcast that
    comes late delays its own device alone."""
    timeline = simulate(SL, devices, SharingRules(1, sharing, sharing))
    end = 0.0
    for number, device in enumerate(devices):
        heard = float(device.amounts[Phase.MODEL_DISTRIBUTION][0])
        begun = max(end, heard)
        own = sum(device.amounts[phase].sum() for phase in LOCAL)
        hand_over = device.amounts[Phase.ADAPTER_DOWN][0] + device.amounts[Phase.ADAPTER_UP][0]
        end = begun + float(own + hand_over)
        # at most 120 sums in another order
        assert timeline.devices[number].delay_s == pytest.approx(end, rel=1e-12, abs=1e-300)
    critical = timeline.critical_phase_seconds()
    assert sum(critical.values()) == pytest.approx(timeline.delay_s, rel=1e-9, abs=1e-300)
    assert critical[Phase.TURN] == 0.0


@at_most(40)
@given(works(micro_batches=1))
def test_federated_learning_is_its_slowest_device(devices: list[DeviceWork]) -> None:
    phases = [step.phase for step in FL_LORA.local]
    own = [
        sum(float(device.amounts[phase].sum()) for phase in phases)
        + float(device.amounts[Phase.MODEL_DISTRIBUTION][0])
        + float(device.amounts[Phase.ADAPTER_UP][0])
        for device in devices
    ]
    timeline = simulate(FL_LORA, devices)
    assert timeline.delay_s == pytest.approx(max(own), rel=1e-12, abs=1e-300)


def test_no_local_steps_at_all() -> None:
    for scheme in (SFT, SFT_OVERLAP, SL, SPLITLORA, SPLITLORA_PAPER, FL_LORA):
        timeline = simulate(scheme, [work([1.0] * 5, 0, 2.0, 3.0)])
        hand_over = 3.0 if scheme is SL else 0.0
        assert timeline.delay_s == 5.0 + hand_over


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({Phase.DEVICE_FORWARD: np.array([-1.0])}, "at least 0"),
        ({Phase.DEVICE_FORWARD: np.array([np.inf])}, "finite"),
        ({Phase.DEVICE_FORWARD: np.array([np.nan])}, "finite"),
        ({Phase.DEVICE_FORWARD: np.array([1.0, 1.0])}, "amounts for 1 steps"),
    ],
)
def test_work_that_cannot_be(change: dict[Phase, np.ndarray], message: str) -> None:
    device = work([1.0] * 5)
    with pytest.raises(ConfigError, match=message):
        simulate(SFT, [DeviceWork({**device.amounts, **change}, UNIT, 1)])


def test_no_devices_and_missing_work() -> None:
    with pytest.raises(ConfigError, match="at least one device"):
        simulate(SFT, [])
    with pytest.raises(ConfigError, match="no amount of work"):
        simulate(SFT, [DeviceWork({}, UNIT, 1)])


@pytest.mark.parametrize("scheme", [SPLITLORA, SPLITLORA_PAPER])
def test_an_order_by_local_step_takes_no_micro_batches(scheme: Scheme) -> None:
    with pytest.raises(ConfigError, match="give 1 micro-batch"):
        simulate(scheme, [work([1.0] * 5, micro_batches=2)])


def test_a_scheme_may_visit_the_server_once_a_local_step() -> None:
    server: Step = SFT.local[2]
    twice = Scheme("twice", "twice", SFT.opening, (*SFT.local, server), SFT.closing)
    with pytest.raises(ConfigError, match="at most one server step"):
        simulate(twice, [work([1.0] * 5)])
