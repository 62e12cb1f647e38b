"""The timeline against the closed form, against a queue worked by hand, and its laws."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutlayer.channel.shannon import LinkRates
from cutlayer.cost.delay import RoundSeconds, round_delay_s
from cutlayer.errors import ConfigError
from cutlayer.schemes.scheme import Phase
from cutlayer.schemes.sft import SFT
from cutlayer.timeline.simulate import RoundTimeline, simulate
from cutlayer.timeline.work import DeviceRates, DeviceWork

LOCAL = tuple(step.phase for step in SFT.local)
# a unit of work takes a second anywhere
UNIT = DeviceRates(1.0, 1.0, LinkRates(8.0, 8.0, 8.0))


def _work(
    steps: int, distribution: float, local: list[float], upload: float, rates: DeviceRates = UNIT
) -> DeviceWork:
    amounts = {phase: np.full(steps, s) for phase, s in zip(LOCAL, local, strict=True)}
    amounts[Phase.MODEL_DISTRIBUTION] = np.array([distribution])
    amounts[Phase.ADAPTER_UP] = np.array([upload])
    return DeviceWork(amounts, rates, steps)


seconds = st.floats(0.0, 100.0)
device = st.builds(
    _work, st.integers(1, 20), seconds, st.lists(seconds, min_size=5, max_size=5), seconds
)
several = st.lists(device, min_size=1, max_size=6)
# whole seconds add up exactly in any order
whole = st.integers(0, 100).map(float)
exact = st.lists(
    st.builds(_work, st.integers(1, 8), whole, st.lists(whole, min_size=5, max_size=5), whole),
    min_size=1,
    max_size=6,
)


@given(st.integers(1, 20), seconds, st.lists(seconds, min_size=5, max_size=5), seconds)
def test_alone_it_is_the_closed_form(
    steps: int, distribution: float, local: list[float], upload: float
) -> None:
    timeline = simulate(SFT, [_work(steps, distribution, local, upload)])
    closed = round_delay_s(RoundSeconds(distribution, *local, upload), steps)
    # sums of up to 102 terms in another order: 102 roundings of 2^-53 at the most; subnormal
    # sums round absolutely
    assert timeline.delay_s == pytest.approx(closed, rel=1e-12, abs=1e-300)


def test_rates_turn_amounts_into_seconds() -> None:
    rates = DeviceRates(2e9, 8e9, LinkRates(16.0, 32.0, 64.0))
    work = _work(1, 8.0, [2e9, 2.0, 16e9, 4.0, 6e9], 6.0, rates)
    assert simulate(SFT, [work]).phase_seconds(0) == {
        Phase.MODEL_DISTRIBUTION: 1.0,
        Phase.DEVICE_FORWARD: 1.0,
        Phase.ACTIVATION_UP: 1.0,
        Phase.SERVER_QUEUE: 0.0,
        Phase.SERVER_COMPUTE: 2.0,
        Phase.GRADIENT_DOWN: 1.0,
        Phase.DEVICE_BACKWARD: 3.0,
        Phase.ADAPTER_UP: 3.0,
    }


def test_queue_by_hand() -> None:
    """Arrivals at 3 (device 0) and 2 (device 1), service 4: device 1 first, device 0 waits 3.

    Device 1 is back at the server at 6 + 2 (down, back) + 2 = 10, when device 0's service ends.
    """
    first = _work(1, 1.0, [1.0, 1.0, 4.0, 1.0, 1.0], 1.0)
    second = _work(2, 0.0, [1.0, 1.0, 4.0, 1.0, 1.0], 1.0)
    timeline = simulate(SFT, [first, second])
    assert timeline.devices[0].queue_s.tolist() == [3.0]
    assert timeline.devices[1].queue_s.tolist() == [0.0, 0.0]
    assert timeline.devices[0].delay_s == 13.0
    assert timeline.devices[1].delay_s == 17.0
    assert (timeline.slowest_device, timeline.delay_s) == (1, 17.0)


def test_ties_go_to_the_lower_device() -> None:
    timeline = simulate(SFT, [_work(1, 0.0, [1.0] * 5, 0.0) for _ in range(3)])
    assert [float(line.queue_s[0]) for line in timeline.devices] == [0.0, 1.0, 2.0]


@settings(deadline=None)
@given(several)
def test_every_second_is_accounted_for(devices: list[DeviceWork]) -> None:
    timeline = simulate(SFT, devices)
    for n, line in enumerate(timeline.devices):
        # the same sums in other orders, at most 146 terms
        total = sum(timeline.phase_seconds(n).values())
        assert total == pytest.approx(line.delay_s, rel=1e-12, abs=1e-300)
        events = [event for event in timeline.events() if event.device == n]
        assert all(a.end_s == b.start_s for a, b in itertools.pairwise(events))
        assert events[0].start_s == 0.0
        assert events[-1].end_s == pytest.approx(line.delay_s, rel=1e-12, abs=1e-300)
    assert timeline.delay_s == max(line.delay_s for line in timeline.devices)


def _visits(timeline: RoundTimeline) -> list[tuple[float, float, float]]:
    """(arrival, start, end) of every visit to the server, in order of service."""
    visits = []
    arrival = 0.0
    for event in timeline.events():
        if event.phase is Phase.ACTIVATION_UP:
            arrival = event.end_s
        elif event.phase is Phase.SERVER_COMPUTE:
            visits.append((event.start_s, event.end_s, arrival))
    return [(arrived, start, end) for start, end, arrived in sorted(visits)]


@settings(deadline=None)
@given(exact)
def test_server_serves_one_at_a_time_in_order_of_arrival(devices: list[DeviceWork]) -> None:
    visits = _visits(simulate(SFT, devices))
    for (arrived, _, end), (next_arrived, start, _) in itertools.pairwise(visits):
        assert next_arrived >= arrived
        assert start == max(end, next_arrived)


@settings(deadline=None)
@given(several, st.integers(-3, 3))
def test_another_unit_of_time_scales_the_round(devices: list[DeviceWork], power: int) -> None:
    factor = 2.0**power  # exact: the order of arrivals cannot change
    scaled = [
        DeviceWork({p: a * factor for p, a in work.amounts.items()}, UNIT, work.local_steps)
        for work in devices
    ]
    plain, other = simulate(SFT, devices), simulate(SFT, scaled)
    assert other.delay_s == pytest.approx(plain.delay_s * factor, rel=1e-12, abs=1e-300)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({Phase.DEVICE_FORWARD: np.array([-1.0])}, "at least 0"),
        ({Phase.DEVICE_FORWARD: np.array([np.inf])}, "finite"),
        ({Phase.DEVICE_FORWARD: np.array([1.0, 1.0])}, "amounts for 1 steps"),
    ],
)
def test_work_that_cannot_be(change: dict[Phase, np.ndarray], message: str) -> None:
    work = _work(1, 1.0, [1.0] * 5, 1.0)
    with pytest.raises(ConfigError, match=message):
        simulate(SFT, [DeviceWork({**work.amounts, **change}, UNIT, 1)])


def test_no_devices_and_missing_work() -> None:
    with pytest.raises(ConfigError, match="at least one device"):
        simulate(SFT, [])
    with pytest.raises(ConfigError, match="no amount of work"):
        simulate(SFT, [DeviceWork({}, UNIT, 1)])
