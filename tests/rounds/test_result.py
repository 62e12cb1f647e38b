"""Laws of every simulated round: nothing is lost, nothing is in two places, waits are waits."""

import itertools
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.rounds.result import TimelineEvent
from cutlayer.rounds.schemes import SCHEMES, SFT, SFT_OVERLAP, SL, Phase, Place, Scheme, ServerOrder
from cutlayer.rounds.simulate import simulate
from cutlayer.rounds.work import DeviceWork, Duplex, Sharing, SharingRules, legs_of
from examples import at_most
from rounds.works import LOCAL, UNIT, rules, work, works

ANY_ORDER = [s for s in SCHEMES.values() if s.server is ServerOrder.ARRIVAL]
schemes = st.sampled_from(ANY_ORDER)
in_order = st.sampled_from([s for s in SCHEMES.values() if s not in ANY_ORDER])
WAITS = {Phase.DEVICE_QUEUE, Phase.LINK_QUEUE, Phase.SERVER_QUEUE, Phase.BARRIER, Phase.TURN}


# rules and schemes are few, and a round is short: forty of each law meet them all
few = at_most(40)
Case = tuple[Scheme, list[DeviceWork], SharingRules]


@st.composite
def rounds(draw: st.DrawFn, *, whole: bool = False) -> Case:
    """What a round of any scheme under any rules is simulated from."""
    if draw(st.booleans()):
        scheme, devices = draw(schemes), draw(works(whole=whole))
    else:
        scheme, devices = draw(in_order), draw(works(whole=whole, micro_batches=1))
    return scheme, devices, draw(rules)


@few
@given(rounds())
def test_phases_sum_to_the_delay(case: Case) -> None:
    """To the rounding of some hundred terms."""
    timeline = simulate(*case)
    for device, line in enumerate(timeline.devices):
        phases = timeline.phase_seconds(device)
        assert min(phases.values()) >= 0
        assert sum(phases.values()) == pytest.approx(line.delay_s, rel=1e-9, abs=1e-300)
    critical = timeline.critical_phase_seconds()
    assert sum(critical.values()) == pytest.approx(timeline.delay_s, rel=1e-9, abs=1e-300)
    assert timeline.delay_s == max(line.delay_s for line in timeline.devices)
    assert timeline.devices[timeline.slowest_device].delay_s == timeline.delay_s


@few
@given(rounds())
def test_a_micro_batch_is_in_one_place_at_a_time(case: Case) -> None:
    """Its events follow each other without a gap, from the start of its local step, which a device
    that streams does not wait for."""
    timeline = simulate(*case)
    chains: dict[tuple, list[TimelineEvent]] = defaultdict(list)
    for event in timeline.events():
        chains[event.device, event.local_step, event.micro_batch].append(event)
    for (device, step, micro_batch), chain in chains.items():
        # the first chain holds a device's opening and its closing
        if step is None:
            continue
        assert all(a.end_s == b.start_s for a, b in itertools.pairwise(chain))
        if step > 0 and not timeline.scheme.streams:
            before = timeline.work[device].micro_batches
            ends = [chains[device, step - 1, m][-1].end_s for m in range(before)]
            first = micro_batch == 0 or timeline.devices[device].overlaps
            assert chain[0].start_s == max(ends) if first else chain[0].start_s >= max(ends)
    for event in timeline.events():
        assert event.end_s >= event.start_s >= 0
        assert event.phase not in WAITS or (event.end_s > event.start_s and not event.payload_bytes)


@few
@given(rounds())
def test_bytes_are_conserved(case: Case) -> None:
    """Events carry what the work says: as many, of the same sum (rounded down each)."""
    timeline = simulate(*case)
    scheme = timeline.scheme
    steps = [s for s in (*scheme.opening, *scheme.local, *scheme.closing) if s.sends]
    for device, device_work in enumerate(timeline.work):
        for step in steps:
            sent = [e for e in timeline.device_events(device) if e.phase is step.phase]
            sizes = device_work.amounts[step.phase]
            assert [e.payload_bytes for e in sent] == [int(size) for size in sizes]


@few
@given(rounds(whole=True))
def test_no_more_at_a_time_than_there_is_room_for(case: Case) -> None:
    """At the server its workers, on a device one computation, in a band in turn one transfer."""
    timeline = simulate(*case)
    places = {
        step.phase: step.place
        for part in (timeline.scheme.opening, timeline.scheme.local, timeline.scheme.closing)
        for step in part
    }
    rules = timeline.rules
    utilisation: dict[tuple, list[TimelineEvent]] = defaultdict(list)
    for event in timeline.events():
        place = places.get(event.phase)
        if place is Place.SERVER and timeline.scheme.server is ServerOrder.ARRIVAL:
            utilisation["server", rules.server_workers, 0].append(event)
        elif place is Place.DEVICE:
            utilisation["device", 1, event.device].append(event)
        elif place in (Place.UPLINK, Place.DOWNLINK):
            sharing = rules.uplink if place is Place.UPLINK else rules.downlink
            if sharing is not Sharing.SHARED:
                name = "band" if rules.duplex is Duplex.HALF else place.value
                own = event.device if sharing is Sharing.STATIC else -1
                utilisation[name, 1, own].append(event)
    for (_, room, _), events in utilisation.items():
        changes = sorted(
            (time, change)
            for event in events
            if event.end_s > event.start_s
            for time, change in ((event.start_s, 1), (event.end_s, -1))
        )
        # whole seconds: who ends at a second makes room for who starts then
        assert max(itertools.accumulate((c for _, c in changes)), default=0) <= room


@few
@given(rounds(whole=True))
def test_no_more_in_flight_than_allowed(case: Case) -> None:
    timeline = simulate(*case)
    if not timeline.scheme.splits or timeline.scheme.streams:  # nothing comes back
        return
    for device, device_work in enumerate(timeline.work):
        events = list(timeline.device_events(device))
        first = [e.start_s for e in events if e.phase is Phase.DEVICE_FORWARD]
        last = [e.end_s for e in events if e.phase is Phase.DEVICE_BACKWARD]
        pairs = [(b, f) for f, b in zip(first, last, strict=True) if b > f]
        changes = sorted([(f, 1) for _, f in pairs] + [(b, -1) for b, _ in pairs])
        most = max(itertools.accumulate(c for _, c in changes)) if changes else 0
        assert most <= device_work.most_in_flight(timeline.scheme)


@few
@given(schemes, works(), rules)
def test_a_round_takes_no_less_than_its_parts(
    scheme: Scheme, devices: list[DeviceWork], rules: SharingRules
) -> None:
    """No less than any micro-batch's own chain, any device's computing, the server's work."""
    timeline = simulate(scheme, devices, rules)
    least = 1 - 1e-12
    legs = legs_of(scheme).local
    served = 0.0
    for device, line in zip(devices, timeline.devices, strict=True):
        table = np.array([device.amounts[leg.step.phase] for leg in legs if leg.step is not None])
        places = [leg.step.place for leg in legs if leg.step is not None]
        chains = table.sum(axis=0).reshape(device.local_steps, -1)
        computed = sum(table[n].sum() for n, place in enumerate(places) if place is Place.DEVICE)
        # the steps of a device that streams overlap
        longest = chains.max(axis=1, initial=0.0)
        assert line.delay_s >= (longest.max() if scheme.streams else longest.sum()) * least
        assert line.delay_s >= computed * least
        if not (scheme.pipelined or scheme.streams):
            assert line.delay_s >= chains.sum() * least
        served += sum(table[n].sum() for n, place in enumerate(places) if place is Place.SERVER)
    assert timeline.delay_s >= served / rules.server_workers * least
    utilisation = timeline.utilisation()
    assert 0 <= utilisation.server <= 1 + 1e-12


@few
@given(rounds(), st.integers(-3, 3))
def test_another_unit_of_time_scales_the_round(case: Case, power: int) -> None:
    timeline = simulate(*case)
    factor = 2.0**power  # exact: no order of arrivals can change
    scaled = [
        DeviceWork(
            {phase: amount * factor for phase, amount in device.amounts.items()},
            UNIT,
            device.local_steps,
            device.micro_batches,
            device.in_flight,
        )
        for device in timeline.work
    ]
    other = simulate(timeline.scheme, scaled, timeline.rules)
    # powers of two scale exactly; sums of shared bands are rounded at the clock's own seconds
    assert other.delay_s == pytest.approx(timeline.delay_s * factor, rel=1e-9)


@few
@given(works(micro_batches=1), rules)
def test_one_micro_batch_needs_no_pipeline(devices: list[DeviceWork], rules: SharingRules) -> None:
    """A pipelined scheme with one micro-batch is the same scheme without."""
    plain, piped = simulate(SFT, devices, rules), simulate(SFT_OVERLAP, devices, rules)
    assert list(plain.events()) == list(piped.events())


@few
@given(works(whole=True), rules)
def test_one_chain_is_a_pipeline_with_one_in_flight(
    devices: list[DeviceWork], rules: SharingRules
) -> None:
    """Both ways to play a device agree: alone in the pipeline's place, and one after another."""
    device = devices[0]
    one = DeviceWork(device.amounts, UNIT, device.repeats, 1)
    several = DeviceWork(device.amounts, UNIT, device.local_steps, device.micro_batches, 1)
    chain, gated = simulate(SFT, [one], rules), simulate(SFT_OVERLAP, [several], rules)
    assert chain.delay_s == gated.delay_s
    assert chain.phase_seconds(0) == gated.phase_seconds(0)


def test_devices_in_turn_hear_the_broadcast_once() -> None:
    """2 s of broadcast, then 7 s each (5 local, 2 of hand-over): 16 s, not 18."""
    timeline = simulate(SL, [work([1.0] * 5, 1, 2.0, 1.0) for _ in range(2)])
    critical = timeline.critical_phase_seconds()
    assert timeline.delay_s == 16.0
    assert critical[Phase.MODEL_DISTRIBUTION] == 2.0
    assert critical[Phase.SERVER_COMPUTE] == 2.0
    assert timeline.phase_seconds(1)[Phase.TURN] == 7.0
    # the band is each device's while it is its turn: 2 + 1 + 1 s down and up of two devices
    assert timeline.utilisation().uplink == pytest.approx(4 / 16, rel=1e-12)


def test_static_shares_are_busy_on_average() -> None:
    """Two devices send 1 s up and 2 s down in 6 s each; the server works 2 of 7."""
    timeline = simulate(SFT, [work([1.0, 1.0, 1.0, 2.0, 1.0]) for _ in range(2)])
    utilisation = timeline.utilisation()
    assert timeline.delay_s == 7.0
    assert utilisation.server == pytest.approx(2 / 7, rel=1e-12)
    assert utilisation.uplink == pytest.approx(1 / 7, rel=1e-12)
    assert utilisation.downlink == pytest.approx(2 / 7, rel=1e-12)


def test_local_phases_are_the_schemes() -> None:
    assert tuple(step.phase for step in SFT.local) == LOCAL
