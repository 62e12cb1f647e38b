"""What a round takes by its shares, and problems that cannot be."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.channel.rates import ProportionalRates, RateCurves, ScaledRates
from cutlayer.errors import ConfigError
from cutlayer.planner.bandwidth import BandwidthProblem
from planner.problems import problem, problems, with_rates

TWO = problem([1.0, 2.0], [3.0, 4.0])


def test_delays_by_hand() -> None:
    rates = RateCurves(
        ProportionalRates(np.array([2.0, 4.0])), ProportionalRates(np.array([8.0, 1.0]))
    )
    both_ways = replace(TWO, downlink_bits=np.array([0.0, 2.0]), curves=rates)
    # 1 + 3 / (2 / 4); 2 + 4 / (4 / 2) + 2 / (1 / 2)
    assert both_ways.delays_s(np.array([0.25, 0.5])).tolist() == [7.0, 8.0]
    assert both_ways.at_cap_s.tolist() == [1.5, 3.0]


def test_no_share_takes_forever_but_for_nothing_to_send() -> None:
    sending = replace(TWO, uplink_bits=np.array([3.0, 0.0]))
    assert sending.delays_s(np.zeros(2)).tolist() == [math.inf, 2.0]
    assert sending.deadline_s(np.zeros(2)) == math.inf


def test_who_can_be_served() -> None:
    three = problem([1.0, 1.0, 1.0], [1.0, 0.0, 1.0])
    some = with_rates(three, ProportionalRates(np.array([1.0, 1.0, 0.0])))
    assert some.served.tolist() == [True, False, False]
    assert some.idle.tolist() == [False, True, False]
    assert some.unserved.tolist() == [False, False, True]
    # the device that cannot be reached does not count
    assert some.deadline_s(np.array([0.5, 0.0, 0.0])) == 3.0
    assert some.transfers(np.ones(3))[1].tolist() == [-1.0, 0.0, 0.0]


@given(problems(), st.floats(0.01, 0.99))
def test_slopes_are_derivatives(any_problem: BandwidthProblem, share: float) -> None:
    at = np.full(any_problem.devices, share)
    step = 1e-5 * share
    difference = any_problem.transfer_s(at + step) - any_problem.transfer_s(at - step)
    # central differences leave a third derivative, at most 6 of seconds / share^3, times step^2 / 6
    # = 1e-10 of seconds / share; the slope is at least a twentieth of that at these ratios
    assert difference / (2 * step) == pytest.approx(any_problem.transfers(at)[1], rel=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fixed_s": np.array([1.0, -2.0])}, "fixed_s must be finite.*device 1 has -2"),
        ({"fixed_s": np.array([math.nan, 1.0])}, "fixed_s must be finite.*device 0 has nan"),
        ({"uplink_bits": np.array([1.0, math.inf])}, "uplink_bits must be.*device 1 has inf"),
        ({"downlink_bits": np.array([-1.0, 1.0])}, "downlink_bits must be"),
        ({"most": np.array([0.5, 0.0])}, "most must be above 0 and at most 1; device 1 has 0"),
        ({"most": np.array([1.5, 0.5])}, "most must be above 0 and at most 1; device 0 has 1.5"),
        ({"weights": np.array([0.0, 1.0])}, "weights must be finite and positive"),
    ],
)
def test_problems_that_cannot_be(change: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TWO, **change)


@pytest.mark.parametrize("rate", [-1.0, math.nan, math.inf])
def test_rates_that_cannot_be(rate: float) -> None:
    with pytest.raises(ConfigError, match="finite and not negative; device 0 has"):
        with_rates(TWO, ScaledRates(ProportionalRates(np.ones(2)), rate))


def test_no_devices() -> None:
    with pytest.raises(ConfigError, match="0 devices: give at least one"):
        problem([], [])


def test_another_length() -> None:
    # in a process without the tests' own check of shapes, which would find it first
    code = """
import numpy as np
from cutlayer.channel.rates import ProportionalRates, RateCurves
from cutlayer.planner.bandwidth import BandwidthProblem
two, rates = np.ones(2), ProportionalRates(np.ones(2))
BandwidthProblem(two, two, two, RateCurves(rates, rates), two, np.ones(1))
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "ConfigError: weights has shape (1,) for 2 devices: give one each" in ended.stderr
