"""The link budget by hand, its laws, and what it refuses."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.channel.cell import snr_db
from cutlayer.errors import ConfigError

LOSS = np.array([100.0, 120.0])


def test_by_hand() -> None:
    # noise: -174 + 10 log10(5e6) + 5 = -174 + 66.9897 + 5 = -102.0103 dBm
    # 23 - 100 + 102.0103 = 25.0103; 20 dB more loss, 20 dB less
    assert snr_db(23.0, LOSS, 5e6, 5.0) == pytest.approx([25.0103, 5.0103], abs=5e-5)


@given(st.floats(-30, 60), st.floats(1e3, 1e9), st.floats(0, 20), st.floats(0, 30))
def test_a_decibel_is_a_decibel(
    power_dbm: float, bandwidth_hz: float, figure_db: float, more_db: float
) -> None:
    base = snr_db(power_dbm, LOSS, bandwidth_hz, figure_db)
    # sums of numbers of some 200: roundings of 3e-14 each
    for other, difference in (
        (snr_db(power_dbm + more_db, LOSS, bandwidth_hz, figure_db), more_db),
        (snr_db(power_dbm, LOSS + more_db, bandwidth_hz, figure_db), -more_db),
        (snr_db(power_dbm, LOSS, bandwidth_hz, figure_db + more_db), -more_db),
        (snr_db(power_dbm, LOSS, 10 * bandwidth_hz, figure_db), -10.0),
    ):
        np.testing.assert_allclose(other - base, difference, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("power_dbm", "loss_db", "bandwidth_hz", "figure_db", "message"),
    [
        (math.nan, 100.0, 5e6, 5.0, "transmit power must be finite"),
        (math.inf, 100.0, 5e6, 5.0, "transmit power must be finite"),
        (23.0, math.nan, 5e6, 5.0, "path loss must be finite"),
        (23.0, math.inf, 5e6, 5.0, "path loss must be finite"),
        (23.0, 100.0, 0.0, 5.0, "bandwidth must be positive"),
        (23.0, 100.0, 5e6, -1.0, "noise figure must be finite and at least 0"),
        (23.0, 100.0, 5e6, math.nan, "noise figure must be finite and at least 0"),
    ],
)
def test_budgets_that_cannot_be(
    power_dbm: float, loss_db: float, bandwidth_hz: float, figure_db: float, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        snr_db(power_dbm, np.array([loss_db]), bandwidth_hz, figure_db)
