"""A round as both ends saw it, each by its own clock: the seconds that it really took come out."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.channel.rates import LinkRates
from cutlayer.net.device.driver import DeviceWatch
from cutlayer.net.server.timing import (
    RoundShape,
    SeenRound,
    ServerWatch,
    measured_round,
    observed_round,
)
from cutlayer.net.wire.frames import Kind
from cutlayer.net.wire.messages import Activation, Adapter, Micro, Position, Weight
from cutlayer.planner.allocation import ObservedRound, observed_work
from cutlayer.rounds.schemes import SFT, Phase
from cutlayer.rounds.simulate import simulate
from cutlayer.rounds.work import DeviceRates, DeviceWork, SharingRules

MICRO_BATCHES, STEPS = 2, 3
REPEATS = MICRO_BATCHES * STEPS
# of float64 seconds beside clocks that are 1e6 s apart
ROUNDING_S = 1e-8


def work(device: int) -> DeviceWork:
    """A device's round of which no two spans are equal."""
    rng = np.random.default_rng(device)
    local = (
        Phase.DEVICE_FORWARD,
        Phase.ACTIVATION_UP,
        Phase.SERVER_COMPUTE,
        Phase.GRADIENT_DOWN,
        Phase.DEVICE_BACKWARD,
    )
    amounts = {phase: rng.integers(1, 100, REPEATS).astype(float) for phase in local}
    amounts[Phase.MODEL_DISTRIBUTION] = np.array([40.0])
    amounts[Phase.ADAPTER_UP] = np.array([30.0])
    rates = DeviceRates(50.0, 200.0, LinkRates(800.0, 400.0, 1600.0, 1600.0, 800.0))
    return DeviceWork(amounts, rates, STEPS, MICRO_BATCHES)


class Clock:
    """Shows what it is set to, ahead of the true time."""

    def __init__(self, ahead_s: float = 0.0) -> None:
        self.ahead_s = ahead_s
        self.true_s = 0.0

    def __call__(self) -> float:
        return self.true_s + self.ahead_s


def seen(works: list[DeviceWork], ahead_s: float) -> SeenRound:
    """What a server notes of devices whose clocks are ahead, in the round that is simulated."""
    timeline = simulate(SFT, works, SharingRules())
    clock = Clock()
    server = ServerWatch(clock)
    watches = [(Clock(ahead_s * (n + 1)), n) for n in range(len(works))]
    devices = [DeviceWatch(own) for own, _ in watches]
    happens = []

    def at(true_s: float, what: object, *told: object) -> None:
        happens.append((true_s, len(happens), what, told))

    for n, (own, watch) in enumerate(zip(timeline.devices, devices, strict=True)):
        at(0.0, server.sends, n, Kind.OPEN)
        start_s = own.opening_s[-1, 2]
        at(start_s, watch.opened)
        # a probe that takes no time tells the clocks apart exactly
        at(start_s, watch.sends, Kind.PROBE)
        at(start_s, server.arrived, n, start_s)
        at(start_s, server.sends, n, Kind.ECHO)
        at(start_s, watch.arrived)
        at(start_s, watch.echo_received)
        for repeat, (forward, up, compute, down, _) in enumerate(own.local_s):
            step, micro = divmod(repeat, MICRO_BATCHES)
            sizes = [
                int(works[n].amounts[p][repeat]) for p in (Phase.ACTIVATION_UP, Phase.GRADIENT_DOWN)
            ]
            message = Activation(
                Position(1, step, micro), Micro(0.5, micro == 1), bytes(sizes[0]), b"", (0,)
            )
            at(forward[1], watch.forward)
            at(up[1], watch.sends, Kind.ACTIVATION)
            at(compute[1], server.arrived, n, up[2])
            at(compute[1], server.starts, n)
            at(compute[2], server.trained, n, message, bytes(sizes[1]))
            at(compute[2], server.sends, n, Kind.GRADIENT)
            at(down[2], watch.arrived)
            at(down[2], watch.stepped)
        closed: list[Adapter] = []

        def close(watch: DeviceWatch = watch, closed: list[Adapter] = closed) -> None:
            closed.append(Adapter(1, Weight(1), bytes(30), watch.closed()))

        def take(n: int = n, closed: list[Adapter] = closed) -> None:
            server.took(n, closed[0])

        at(own.closing_s[0, 1], close)
        at(own.closing_s[0, 2], server.arrived, n, own.closing_s[0, 2])
        at(own.closing_s[0, 2], take)
    for true_s, _, what, told in sorted(happens, key=lambda each: each[:2]):
        for each in (clock, *(own for own, _ in watches)):
            each.true_s = true_s
        what(*told)
    closed_round = server.close()
    assert closed_round is not None
    return closed_round


def shape(devices: int) -> RoundShape:
    return RoundShape(SFT, SharingRules(), (STEPS,) * devices, MICRO_BATCHES, adapter_bytes=40)


@pytest.mark.parametrize("ahead_s", [0.0, -12.5, 1e6])
def test_measured_is_what_happened_whatever_the_clocks_show(ahead_s: float) -> None:
    works = [work(0), work(1), work(2)]
    truth = simulate(SFT, works, SharingRules())
    measured = measured_round(seen(works, ahead_s), shape(3))
    assert measured.slowest_device == truth.slowest_device
    assert measured.delay_s == pytest.approx(truth.delay_s, abs=ROUNDING_S)
    for device in range(3):
        found = measured.phase_seconds(device)
        assert found == pytest.approx(truth.phase_seconds(device), abs=100 * ROUNDING_S)
        assert sum(found.values()) == pytest.approx(measured.took_s[device], abs=ROUNDING_S)
    expected = [event for event in truth.events() if event.end_s > event.start_s]
    events = [event for event in measured.events() if event.end_s - event.start_s > ROUNDING_S]
    assert [replace(event, start_s=0, end_s=0) for event in events] == [
        replace(event, start_s=0, end_s=0) for event in expected
    ]
    times = np.array([(event.start_s, event.end_s) for event in events])
    true = np.array([(event.start_s, event.end_s) for event in expected])
    np.testing.assert_allclose(times, true, atol=ROUNDING_S)


def test_the_next_round_is_expected_to_take_what_this_one_took() -> None:
    works = [work(0), work(1)]
    measured = measured_round(seen(works, 3.0), shape(2))
    before = ObservedRound(*np.full((4, 2), 7.0))
    found, truth = observed_round(measured, before), observed_work(SFT, works)
    for name in ("compute_s", "broadcast_bits", "uplink_bits", "downlink_bits"):
        np.testing.assert_allclose(getattr(found, name), getattr(truth, name), rtol=1e-6)


def test_a_device_that_did_not_see_its_round_whole_is_left_out() -> None:
    whole = seen([work(0), work(1)], 0.0)
    devices = {**whole.devices, 1: replace(whole.devices[1], times=None)}
    measured = measured_round(replace(whole, devices=devices), shape(2))
    assert set(measured.devices) == {0} and set(measured.took_s) == {0, 1}
    assert measured.phase_seconds(1) is None
    before = ObservedRound(*np.full((4, 2), 7.0))
    assert observed_round(measured, before).compute_s[1] == 7.0
    short = replace(whole.devices[0], steps=whole.devices[0].steps[1:])
    lacking = replace(whole, devices={0: short})
    assert not measured_round(lacking, shape(2)).devices


def test_a_micro_batch_without_samples_takes_no_time() -> None:
    whole = seen([work(0)], 0.0)
    own = whole.devices[0]
    assert own.times is not None
    # the last of the second local step
    gone = 3
    less = replace(
        own,
        steps=own.steps[:gone] + own.steps[gone + 1 :],
        times=replace(own.times, steps=own.times.steps[:gone] + own.times.steps[gone + 1 :]),
    )
    measured = measured_round(replace(whole, devices={0: less}), shape(1))
    spans = measured.devices[0].devices[0].local_s
    assert (spans[gone] == spans[gone, 0, 0]).all()
    assert sum(measured.devices[0].phase_seconds(0).values()) == pytest.approx(measured.delay_s)


@given(
    st.floats(-1e12, 1e12), st.floats(-1e12, 1e12), st.lists(st.floats(-1e12, 1e12), min_size=18)
)
def test_a_device_that_lies_about_its_times_spoils_no_more_than_them(
    asked_s: float, answered_s: float, told: list[float]
) -> None:
    whole = seen([work(0)], 0.0)
    own = whole.devices[0]
    assert own.times is not None
    steps = tuple(
        replace(step, began_s=told[3 * n], sent_s=told[3 * n + 1], got_s=told[3 * n + 2])
        for n, step in enumerate(own.times.steps)
    )
    times = replace(own.times, asked_s=asked_s, answered_s=answered_s, steps=steps)
    measured = measured_round(replace(whole, devices={0: replace(own, times=times)}), shape(1))
    found = measured.phase_seconds(0)
    assert found is not None
    assert all(0 <= seconds <= measured.delay_s + ROUNDING_S for seconds in found.values())
    assert sum(found.values()) == pytest.approx(measured.delay_s)


def test_a_round_whose_beginning_was_not_seen_is_not_measured() -> None:
    assert ServerWatch(Clock()).close() is None


def test_who_ended_the_round_before_a_new_server_opened_it_is_not_measured() -> None:
    """After a restart within the round: device 0 goes on, device 1 begins anew."""
    clock = Clock()
    watch = ServerWatch(clock)
    for device, ends_s in ((0, 1.0), (1, 5.0)):
        clock.true_s = ends_s
        watch.arrived(device, ends_s)
        watch.took(device, Adapter(1, Weight(1), b"row"))
        if device == 0:
            clock.true_s = 2.0
            watch.sends(1, Kind.OPEN)
    seen = watch.close()
    assert seen is not None and seen.began_s == 2.0
    assert set(seen.devices) == {1} and seen.devices[1].took_s == 5.0


def test_a_device_that_was_started_again_tells_nothing() -> None:
    watch = DeviceWatch(Clock())
    watch.forward()
    watch.sends(Kind.ACTIVATION)
    watch.arrived()
    watch.stepped()
    assert watch.closed() is None
