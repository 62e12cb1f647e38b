"""The next round's shares from what the last one took: slow devices get more, slow lines no more
than they carry."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny

from cutlayer.channel.rates import LinkRates, ProportionalRates, RateCurves
from cutlayer.jobs.prepare import prepare
from cutlayer.net.server.timing import Controller, MeasuredRound, RoundShape, ServerWatch
from cutlayer.planner.allocation import (
    Allocation,
    TwoTimescaleAllocation,
    even_allocation,
    observed_work,
)
from cutlayer.rounds.result import RoundTimeline
from cutlayer.rounds.schemes import SFT, Phase
from cutlayer.rounds.simulate import simulate
from cutlayer.rounds.work import DeviceRates, DeviceWork, SharingRules
from cutlayer.training.expected import initial_state
from cutlayer.training.state import RunState

BAND_BIT_S = 8e6
STEPS = 4


@pytest.fixture(scope="module")
def state(vision: tuple[Path, Path]) -> RunState:
    return initial_state(prepare(tiny.config(*vision)).setup)


def round_of(
    state: RunState, compute_s: float, shares: tuple[float, ...], line_bit_s: tuple[float, ...]
) -> tuple[RunState, MeasuredRound]:
    """A round on lines that carry so much, in which device 0 computes for longer."""
    works = [
        _work(compute_s if n == 0 else 0.01, min(share * BAND_BIT_S, line))
        for n, (share, line) in enumerate(zip(shares, line_bit_s, strict=True))
    ]
    timeline = simulate(SFT, works, SharingRules())
    devices = {
        n: RoundTimeline(SFT, (works[n],), SharingRules(), (timeline.devices[n],))
        for n in range(len(works))
    }
    took_s = {n: device.delay_s for n, device in enumerate(timeline.devices)}
    measured = MeasuredRound(timeline.delay_s, timeline.slowest_device, took_s, devices)
    after = replace(state, round=state.round + 1, observed=observed_work(SFT, works))
    return after, measured


def _work(compute_s: float, rate_bit_s: float) -> DeviceWork:
    amounts = {
        Phase.MODEL_DISTRIBUTION: np.array([1e4]),
        Phase.DEVICE_FORWARD: np.full(STEPS, compute_s),
        Phase.ACTIVATION_UP: np.full(STEPS, 1e5),
        Phase.SERVER_COMPUTE: np.full(STEPS, 1e-3),
        Phase.GRADIENT_DOWN: np.full(STEPS, 1e5),
        Phase.DEVICE_BACKWARD: np.full(STEPS, compute_s),
        Phase.ADAPTER_UP: np.array([1e4]),
    }
    link = LinkRates(rate_bit_s, rate_bit_s, rate_bit_s, rate_bit_s, rate_bit_s)
    return DeviceWork(amounts, DeviceRates(1.0, 1.0, link), STEPS)


def controller(state: RunState, allocation: Allocation, devices: int = 3) -> Controller:
    whole = ProportionalRates(np.full(devices, BAND_BIT_S))
    shape = RoundShape(SFT, SharingRules(), (STEPS,) * devices, 1, adapter_bytes=100)
    watch = ServerWatch(lambda: 0.0)
    return Controller(watch, shape, allocation, lambda *_: RateCurves(whole, whole), state)


def test_a_device_that_computes_for_longer_gets_more_of_the_band(state: RunState) -> None:
    allocation = TwoTimescaleAllocation(SharingRules(), (1.0, 1.0, 1.0))
    lines = (math.inf,) * 3
    control = controller(state, allocation)
    first, measured = round_of(state, 0.2, control.shares, lines)
    shares = control.reopen(first, measured)
    assert shares == control.shares
    assert sum(shares) == pytest.approx(1.0)
    assert shares[0] > 1.2 * shares[1] and shares[1] == pytest.approx(shares[2])
    _, then = round_of(first, 0.2, shares, lines)
    assert then.delay_s < 0.95 * measured.delay_s


def test_a_line_that_cannot_carry_its_share_is_not_given_more_than_it_can(state: RunState) -> None:
    """Its delay would call for more and more of a band that it cannot use."""
    allocation = TwoTimescaleAllocation(SharingRules(), (1.0, 1.0, 1.0))
    slow_bit_s = 0.1 * BAND_BIT_S
    lines = (math.inf, math.inf, slow_bit_s)
    shares: tuple[float, ...] = (1 / 3,) * 3
    first, _ = round_of(state, 0.01, shares, lines)
    control = controller(replace(state, observed=first.observed), allocation)
    for _ in range(4):
        state, measured = round_of(state, 0.01, control.shares, lines)
        control.reopen(state, measured)
        # it is tried with a quarter more as long as it keeps three quarters of its pace
        assert control.shares[2] <= 1.25 / 0.75 * slow_bit_s / BAND_BIT_S
    assert control.shares[0] > 0.4


def test_lines_that_all_carry_little_share_out_the_whole_band(state: RunState) -> None:
    """As where latency takes most of the time: smaller shares would only add to it."""
    allocation = TwoTimescaleAllocation(SharingRules(), (1.0, 1.0, 1.0))
    first, _ = round_of(state, 0.01, (1 / 3,) * 3, (math.inf,) * 3)
    control = controller(replace(state, observed=first.observed), allocation)
    for _ in range(5):
        state, measured = round_of(state, 0.01, control.shares, (1e5, 1e5, 1e5))
        assert sum(control.reopen(state, measured)) == pytest.approx(1.0)
    assert control.shares == pytest.approx((1 / 3,) * 3, rel=0.1)


def test_a_line_that_is_mended_gets_its_share_again(state: RunState) -> None:
    allocation = TwoTimescaleAllocation(SharingRules(), (1.0, 1.0, 1.0))
    first, _ = round_of(state, 0.01, (1 / 3,) * 3, (math.inf,) * 3)
    control = controller(replace(state, observed=first.observed), allocation)
    state, measured = round_of(first, 0.01, control.shares, (math.inf, math.inf, 4e5))
    assert control.reopen(state, measured)[2] < 0.1
    for _ in range(12):
        state, measured = round_of(state, 0.01, control.shares, (math.inf,) * 3)
        control.reopen(state, measured)
    assert control.shares[2] == pytest.approx(1 / 3, rel=0.01)


def test_shares_that_are_given_stay(state: RunState) -> None:
    control = controller(state, even_allocation(3))
    after, measured = round_of(state, 0.5, control.shares, (math.inf, math.inf, 1e5))
    assert control.reopen(after, measured) == (1 / 3,) * 3


def test_a_round_that_nobody_saw_changes_no_line(state: RunState) -> None:
    control = controller(state, even_allocation(3))
    assert control.close() is None
    assert control.reopen(replace(state, round=1), None) == (1 / 3,) * 3
