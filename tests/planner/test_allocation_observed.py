"""What a round asks of the bandwidth: sums of a device's steps, and the problem made of them."""

import numpy as np
import pytest
from hypothesis import given
from rounds.works import work, works

from cutlayer.channel.rates import ProportionalRates, RateCurves
from cutlayer.planner.allocation import ObservedRound, bandwidth_problem, observed_work
from cutlayer.rounds.schemes import FL_LORA, SFT
from cutlayer.rounds.simulate import simulate
from cutlayer.rounds.work import DeviceWork, Duplex, Sharing, SharingRules

# a byte a second on the whole bandwidth: 8 bit/s up; the second device's downlink is the weakest
CURVES = RateCurves(
    ProportionalRates(np.array([8.0, 16.0])), ProportionalRates(np.array([40.0, 20.0]))
)
OBSERVED = ObservedRound(
    np.array([3.0, 5.0]), np.array([100.0, 100.0]), np.array([16.0, 32.0]), np.array([80.0, 0.0])
)
ONES = np.ones(2)


def test_sums_by_hand() -> None:
    # forward 1, up 2, server 3, down 4, backward 5; two local steps; opening 6, closing 7
    seen = observed_work(SFT, [work((1.0, 2.0, 3.0, 4.0, 5.0), steps=2, opening=6.0, closing=7.0)])
    assert seen.compute_s.tolist() == [2 * (1 + 3 + 5)]
    assert seen.broadcast_bits.tolist() == [8 * 6]
    assert seen.uplink_bits.tolist() == [8 * (2 * 2 + 7)]
    assert seen.downlink_bits.tolist() == [8 * 2 * 4]


def test_a_device_that_holds_the_whole_model_sends_its_adapters_alone() -> None:
    seen = observed_work(
        FL_LORA, [work((1.0, 2.0, 3.0, 4.0, 5.0), steps=2, opening=6.0, closing=7.0)]
    )
    assert seen.compute_s.tolist() == [2 * (1 + 3 + 5)]
    assert seen.uplink_bits.tolist() == [8 * 7] and seen.downlink_bits.tolist() == [0]


@given(works(whole=True, micro_batches=1))
def test_without_a_queue_the_sums_are_the_timeline_s(devices: list[DeviceWork]) -> None:
    """A server for each device; a unit of anything takes a second, a byte too, so all is exact."""
    seen = observed_work(SFT, devices)
    bits = seen.broadcast_bits + seen.uplink_bits + seen.downlink_bits
    timeline = simulate(SFT, devices, SharingRules(server_workers=len(devices)))
    assert (seen.compute_s + bits / 8).tolist() == [line.delay_s for line in timeline.devices]


def test_static_shares_carry_both_directions() -> None:
    problem = bandwidth_problem(OBSERVED, CURVES, SharingRules(), ONES)
    # all hear the broadcast at 20 bit/s
    assert problem.fixed_s.tolist() == [3 + 5, 5 + 5]
    assert problem.uplink_bits.tolist() == [16, 32] and problem.downlink_bits.tolist() == [80, 0]


@pytest.mark.parametrize("sharing", [Sharing.IN_TURN, Sharing.SHARED])
def test_a_direction_on_the_whole_band_costs_seconds(sharing: Sharing) -> None:
    problem = bandwidth_problem(OBSERVED, CURVES, SharingRules(downlink=sharing), ONES)
    assert problem.fixed_s.tolist() == [3 + 5 + 2, 5 + 5]
    assert problem.uplink_bits.tolist() == [16, 32] and not problem.downlink_bits.any()
    both = SharingRules(uplink=sharing, downlink=sharing, duplex=Duplex.HALF)
    problem = bandwidth_problem(OBSERVED, CURVES, both, ONES)
    assert problem.fixed_s.tolist() == [3 + 5 + 2 + 2, 5 + 5 + 2]
    assert problem.idle.all()
