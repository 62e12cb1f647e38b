"""Work that cannot be is refused, and rates are those of the place."""

import numpy as np
import pytest

from cutlayer.channel.rates import LinkRates
from cutlayer.errors import ConfigError
from cutlayer.rounds.schemes import SFT, SFT_OVERLAP, Place
from cutlayer.rounds.work import DeviceRates, DeviceWork, Duplex, Sharing, SharingRules
from rounds.works import UNIT, work

RATES = DeviceRates(2.0, 4.0, LinkRates(16.0, 32.0, 64.0, 128.0, 256.0))


@pytest.mark.parametrize(
    ("place", "whole_bandwidth", "seconds"),
    [
        (Place.DEVICE, False, 1 / 2),
        (Place.SERVER, True, 1 / 4),
        (Place.UPLINK, False, 8 / 16),
        (Place.DOWNLINK, False, 8 / 32),
        (Place.BROADCAST, True, 8 / 64),
        (Place.UPLINK, True, 8 / 128),
        (Place.DOWNLINK, True, 8 / 256),
    ],
)
def test_seconds_of_a_flop_or_a_byte(place: Place, whole_bandwidth: bool, seconds: float) -> None:
    assert RATES.seconds_per_unit(place, whole_bandwidth) == seconds


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_rate_must_be_positive(rate: float) -> None:
    rates = DeviceRates(rate, 1.0, UNIT.link)
    with pytest.raises(ConfigError, match="the rate of the device"):
        rates.seconds_per_unit(Place.DEVICE)


def test_how_many_are_in_flight() -> None:
    for in_flight, allowed in ((None, 4), (1, 1), (3, 3), (9, 4)):
        device = work([1.0] * 5, micro_batches=4, in_flight=in_flight)
        assert device.most_in_flight(SFT_OVERLAP) == allowed
        assert device.most_in_flight(SFT) == 1


def test_bytes_only_where_it_sends() -> None:
    device = work([3.0, 4.0, 5.0, 6.0, 7.0], 2)
    sizes = [device.payload_bytes(step).tolist() for step in SFT.local]
    assert sizes == [[0, 0], [4, 4], [0, 0], [6, 6], [0, 0]]


@pytest.mark.parametrize(
    ("steps", "micro_batches", "in_flight", "named"),
    [(-1, 1, None, "local_steps"), (1, 0, None, "micro_batches"), (1, 1, 0, "in_flight")],
)
def test_counts_that_cannot_be(
    steps: int, micro_batches: int, in_flight: int | None, named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        DeviceWork({}, UNIT, steps, micro_batches, in_flight)


def test_rules_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="server_workers is 0"):
        SharingRules(server_workers=0)
    with pytest.raises(ConfigError, match="both the same sharing"):
        SharingRules(uplink=Sharing.SHARED, duplex=Duplex.HALF)


def test_amounts_of_every_micro_batch() -> None:
    device = work([1.0] * 5, 3, micro_batches=2)
    assert device.repeats == 6
    assert device.seconds(SFT.local[0], 6).tolist() == np.ones(6).tolist()
