"""Micro-batches that overlap, worked by hand: seconds of forward, up, server, down, backward."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

from cutlayer.rounds.schemes import SFT, SFT_FROZEN, SFT_OVERLAP, Phase
from cutlayer.rounds.simulate import simulate
from cutlayer.rounds.work import DeviceWork, Duplex, Sharing, SharingRules
from rounds.works import rules, spans, work, works

LOCAL = [1.0, 2.0, 1.0, 2.0, 1.0]


def test_two_micro_batches_by_hand() -> None:
    """The second's forward fills the first's upload, its upload waits for the first's until 3."""
    timeline = simulate(SFT_OVERLAP, [work(LOCAL, micro_batches=2)])
    assert spans(timeline, Phase.DEVICE_FORWARD) == [(0.0, 1.0), (1.0, 2.0)]
    assert spans(timeline, Phase.ACTIVATION_UP) == [(1.0, 3.0), (3.0, 5.0)]
    assert spans(timeline, Phase.LINK_QUEUE) == [(2.0, 3.0)]
    assert spans(timeline, Phase.SERVER_COMPUTE) == [(3.0, 4.0), (5.0, 6.0)]
    assert spans(timeline, Phase.GRADIENT_DOWN) == [(4.0, 6.0), (6.0, 8.0)]
    assert spans(timeline, Phase.DEVICE_BACKWARD) == [(6.0, 7.0), (8.0, 9.0)]
    assert timeline.delay_s == 9.0


def test_half_duplex_lets_one_direction_wait() -> None:
    """The gradient that is ready at 4 waits for the second upload until 5."""
    timeline = simulate(
        SFT_OVERLAP, [work(LOCAL, micro_batches=2)], SharingRules(duplex=Duplex.HALF)
    )
    assert spans(timeline, Phase.GRADIENT_DOWN) == [(5.0, 7.0), (7.0, 9.0)]
    assert timeline.delay_s == 10.0


def test_a_shared_band_carries_one_devices_transfers_in_their_order() -> None:
    """Alone, a shared band is a band of its own: not two uploads at half speed."""
    device = work(LOCAL, micro_batches=2)
    alone = simulate(SFT_OVERLAP, [device], SharingRules(1, Sharing.SHARED, Sharing.SHARED))
    assert spans(alone, Phase.ACTIVATION_UP) == [(1.0, 3.0), (3.0, 5.0)]
    both = simulate(SFT_OVERLAP, [device, device], SharingRules(1, Sharing.SHARED, Sharing.SHARED))
    # two devices at half speed each, twice
    assert spans(both, Phase.ACTIVATION_UP, 1) == [(1.0, 5.0), (5.0, 9.0)]


@pytest.mark.parametrize("scheme", [SFT, SFT_OVERLAP])
def test_one_in_flight_is_one_after_another(scheme) -> None:
    """7 s each, whether the scheme allows no more or the work does."""
    in_flight = 1 if scheme is SFT_OVERLAP else None
    device = work(LOCAL, 2, micro_batches=2, in_flight=in_flight)
    timeline = simulate(scheme, [device])
    assert timeline.delay_s == 28.0
    assert spans(timeline, Phase.DEVICE_FORWARD) == [(t, t + 1.0) for t in (0.0, 7.0, 14.0, 21.0)]


def test_a_waiting_backward_goes_before_a_new_forward() -> None:
    """At 6 the first gradient has waited since 5, and the fourth forward since 0; at 7 the second
    gradient is there; the fourth forward begins at 8."""
    device = work([2.0, 1.0, 1.0, 1.0, 1.0], micro_batches=4)
    timeline = simulate(SFT_OVERLAP, [device])
    forward = [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0), (8.0, 10.0)]
    assert spans(timeline, Phase.DEVICE_FORWARD) == forward
    backward = [(6.0, 7.0), (7.0, 8.0), (10.0, 11.0), (13.0, 14.0)]
    assert spans(timeline, Phase.DEVICE_BACKWARD) == backward
    assert (5.0, 6.0) in spans(timeline, Phase.DEVICE_QUEUE)


def test_two_in_flight_by_hand_and_what_held_up_what() -> None:
    """The third forward waits for the first backward (5 to 6). The path back from the end: the
    third micro-batch from 6 to 12, before it the first, from 0 to 6."""
    device = work([2.0, 1.0, 1.0, 1.0, 1.0], micro_batches=3, in_flight=2)
    timeline = simulate(SFT_OVERLAP, [device])
    assert spans(timeline, Phase.DEVICE_FORWARD) == [(0.0, 2.0), (2.0, 4.0), (6.0, 8.0)]
    assert spans(timeline, Phase.DEVICE_BACKWARD) == [(5.0, 6.0), (8.0, 9.0), (11.0, 12.0)]
    phases = {phase: s for phase, s in timeline.phase_seconds(0).items() if s}
    assert phases == {
        Phase.DEVICE_FORWARD: 4.0,
        Phase.ACTIVATION_UP: 2.0,
        Phase.SERVER_COMPUTE: 2.0,
        Phase.GRADIENT_DOWN: 2.0,
        Phase.DEVICE_BACKWARD: 2.0,
    }


def test_the_next_local_step_needs_all_of_this_one() -> None:
    timeline = simulate(SFT_OVERLAP, [work(LOCAL, 2, 5.0, 3.0, micro_batches=2)])
    starts = [start for start, _ in spans(timeline, Phase.DEVICE_FORWARD)]
    # each local step takes the 9 s of the first test, after a broadcast of 5
    assert starts == [5.0, 6.0, 14.0, 15.0]
    assert spans(timeline, Phase.ADAPTER_UP) == [(23.0, 26.0)]


def test_waiting_for_the_own_link_is_the_links_time() -> None:
    """Uploads of 5 s follow each other: the path is the uploads, with no waiting in it."""
    timeline = simulate(SFT_OVERLAP, [work([1.0, 5.0, 1.0, 1.0, 1.0], micro_batches=3)])
    phases = timeline.phase_seconds(0)
    assert phases[Phase.ACTIVATION_UP] == 15.0
    assert phases[Phase.LINK_QUEUE] == phases[Phase.DEVICE_QUEUE] == 0.0


def test_waiting_for_another_device_at_the_server_is_a_wait() -> None:
    """Device 0 holds the server from 2 to 12, device 1 comes at 2."""
    first, second = work([1.0, 1.0, 10.0, 0.0, 0.0]), work([1.0] * 5, micro_batches=2)
    phases = simulate(SFT_OVERLAP, [first, second]).phase_seconds(1)
    # at the server: waits 10 (and its second micro-batch behind it), served 12 to 13 and 13 to 14
    assert phases[Phase.SERVER_QUEUE] > 0
    assert sum(phases.values()) == 16.0


def test_a_device_whose_part_is_frozen_waits_for_no_server() -> None:
    """Forward, up and server of each mini-batch as soon as they can: local steps overlap too."""
    timeline = simulate(SFT_FROZEN, [work([1.0, 2.0, 3.0, 9.0, 9.0], 3, 4.0)])
    assert spans(timeline, Phase.DEVICE_FORWARD) == [(4, 5), (5, 6), (6, 7)]
    assert spans(timeline, Phase.ACTIVATION_UP) == [(5, 7), (7, 9), (9, 11)]
    assert spans(timeline, Phase.SERVER_COMPUTE) == [(7, 10), (10, 13), (13, 16)]
    assert timeline.delay_s == 16
    # on its way to the end: the part, the first forward and upload, then the server
    phases = timeline.phase_seconds(0)
    assert sum(phases.values()) == 16
    assert phases[Phase.GRADIENT_DOWN] == phases[Phase.DEVICE_BACKWARD] == 0
    assert phases[Phase.ADAPTER_UP] == 0


@given(works(), rules)
def test_a_frozen_part_is_never_slower_than_one_that_waits(
    devices: list[DeviceWork], how: SharingRules
) -> None:
    """Of one device and the same amounts, without what comes back and the adapters."""
    (device, *_) = devices
    free = (Phase.GRADIENT_DOWN, Phase.DEVICE_BACKWARD, Phase.ADAPTER_UP)
    amounts = {phase: np.zeros_like(device.amounts[phase]) for phase in free}
    waits = simulate(SFT, [replace(device, amounts={**device.amounts, **amounts})], how)
    streams = simulate(SFT_FROZEN, [device], how)
    # the same seconds added in another order
    assert streams.delay_s <= waits.delay_s * (1 + 1e-12)
    timeline = simulate(SFT_FROZEN, devices, how)
    for number, line in enumerate(timeline.devices):
        assert sum(timeline.phase_seconds(number).values()) == pytest.approx(line.delay_s)
