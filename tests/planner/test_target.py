"""Seconds to a target accuracy: what was measured says how many rounds, the timeline how long."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from cutlayer.errors import ConfigError
from cutlayer.planner.decision import NOTHING_FIXED, CodecChoice, FixedChoices, Workload
from cutlayer.planner.forecast import forecast_rounds
from cutlayer.planner.profile import CurvePoint, DevicePartPoint, Profile, ProfilePoint
from cutlayer.planner.target import Learning, Target, TargetPlan, Variant, plan_to_target
from cutlayer.rounds.schemes import SFT, SFT_CACHED, SFT_FROZEN, Scheme
from planner import workloads

NONE = CodecChoice("none", {}, 1.0, 1.0, 0.0)
# 50, 60, ... 90 % after each ten local steps, two seeds a point apart
CURVE = tuple(
    CurvePoint(n, 10 * n, (0.4 + 0.1 * n - 0.005, 0.4 + 0.1 * n + 0.005)) for n in range(1, 6)
)


def learning(
    parts: Sequence[DevicePartPoint] = (), curve: Sequence[CurvePoint] = CURVE
) -> Learning:
    """Of a profile at cut 3 with this curve and these device parts."""
    end = ProfilePoint("none", {}, 32.0, 32.0, CURVE[-1].accuracies)
    profile = Profile("m", "d", 3, "made up", "-", 500, (0, 1), (end,), tuple(parts), tuple(curve))
    return Learning.of(profile, 5, 50)


def part(name: str, cut: int, *accuracies: float, rounds: int | None = None) -> DevicePartPoint:
    """A measured point of the device part."""
    return DevicePartPoint(cut, name, rounds, accuracies)


PARTS = (
    part("trained", 1, 0.89, 0.91),
    part("frozen", 1, 0.89, 0.91),
    part("trained", 3, 0.89, 0.91),
    part("frozen", 3, 0.85, 0.87),
    part("trained", 5, 0.89, 0.91),
    part("frozen", 5, 0.69, 0.71),
)


def to_target(
    accuracy: float,
    own: Workload | None = None,
    *,
    codecs: Sequence[CodecChoice] = (workloads.BEST,),
    known: Learning | None = None,
    also: Sequence[Variant] = (),
    most_devices_j: float | None = None,
    schemes: Sequence[Scheme] = (SFT, SFT_FROZEN),
    fixed: FixedChoices = NOTHING_FIXED,
) -> TargetPlan:
    """Over both device parts, of workloads with 4 local steps a round."""
    own = own or workloads.workload()
    target = Target(accuracy, most_devices_j)
    return plan_to_target(
        target,
        [Variant(own), *also],
        workloads.limits(own, fixed=fixed),
        schemes,
        codecs,
        known or learning(PARTS),
    )


def test_rounds_are_those_in_which_the_curve_less_the_loss_gets_there() -> None:
    exact = to_target(0.70, codecs=[NONE], known=learning())
    assert exact.chosen is not None
    # 70 % is there after 30 steps, 4 a round
    assert exact.chosen.rounds.likely == 8
    between = to_target(0.65, codecs=[NONE], known=learning())
    assert between.chosen is not None
    assert between.chosen.rounds.likely == 7  # 25 steps
    lossy = to_target(0.70, codecs=[replace(NONE, accuracy_loss=0.05)], known=learning())
    assert lossy.chosen is not None
    assert lossy.chosen.rounds.likely == 9  # 35 steps


def test_seconds_are_the_timelines() -> None:
    way = to_target(0.8).chosen
    assert way is not None
    own = replace(workloads.workload(), rounds=int(way.rounds.likely))
    again = forecast_rounds(own, way.forecast.decision)
    assert way.seconds == again.training_s
    assert way.least_s <= way.seconds
    assert way.most_s is None or way.seconds <= way.most_s
    later = way.forecast.delay_s
    assert way.least_s == way.forecast.first.delay_s + (way.rounds.least - 1) * later


def test_what_may_never_get_there_says_so() -> None:
    way = to_target(0.898, codecs=[NONE], known=learning()).chosen
    # the last point is 0.9 with a standard error of half a point
    assert way is not None and way.most_s is None
    sure = to_target(0.85, codecs=[NONE], known=learning()).chosen
    assert sure is not None and sure.most_s is not None


def test_a_frozen_device_part_is_taken_where_its_loss_costs_less_than_its_rounds_save() -> None:
    easy = to_target(0.60).chosen
    assert easy is not None
    assert easy.forecast.decision.scheme is SFT_FROZEN
    # 87 %, and half a point for the codec: at cut 3, frozen, 86 % is the most
    frozen = [way for way in to_target(0.87).ways if way.forecast.decision.scheme is SFT_FROZEN]
    assert [way.forecast.decision.cuts[0] < 3 for way in frozen] == [True]


def test_the_loss_between_two_measured_cuts_is_on_the_line() -> None:
    known = learning(PARTS)
    some = to_target(0.5, known=known).ways[0].forecast.decision
    found = [
        known.loss(replace(some, scheme=SFT_FROZEN, cuts=(cut,) * 3, codec=NONE))
        for cut in (1, 2, 3, 4, 5)
    ]
    losses = [each.loss for each in found if each is not None and not each.unmeasured]
    # 0, 4 and 20 points at cuts 1, 3 and 5
    assert losses == pytest.approx([0.0, 0.02, 0.04, 0.12, 0.20])


def test_what_nobody_measured_is_shown_and_never_chosen() -> None:
    own = workloads.workload()
    more = Variant(replace(own, local_steps=(40,) * 3), {"training": {"local_steps": 40}}, ("40",))
    found = to_target(0.8, own, also=[more])
    assert any(way.unmeasured == ("40",) for way in found.ways)
    assert found.chosen is not None and found.chosen.variant.settings == {}
    assert [way.seconds for way in found.ways] == sorted(way.seconds for way in found.ways)
    # a cut beyond the measured ones is not known either
    narrow = learning([one for one in PARTS if one.cut == 3])
    for way in to_target(0.6, known=narrow).ways:
        cut = way.forecast.decision.cuts[0]
        assert way.unmeasured == (() if cut == 3 else (f"a cut after block {cut}",))


def test_without_points_of_the_device_part_nothing_is_said_of_a_frozen_one() -> None:
    found = to_target(0.6, known=learning())
    assert {way.forecast.decision.scheme.trains_device for way in found.ways} == {True}


def test_a_profile_without_a_curve_is_known_at_its_end_alone() -> None:
    way = to_target(0.6, codecs=[NONE], known=learning(curve=())).chosen
    assert way is not None
    assert way.rounds.likely == 13  # its 50 steps, 4 a round
    assert to_target(0.95, codecs=[NONE], known=learning(curve=())).chosen is None


def test_devices_take_at_most_their_energy() -> None:
    plain = workloads.workload()
    unknown = to_target(0.6, plain, most_devices_j=1e9)
    assert unknown.chosen is None
    assert all("what devices draw" in way.unmeasured for way in unknown.ways)
    devices = tuple(replace(one, power_w=5.0, idle_power_w=1.0) for one in plain.devices)
    powered = replace(plain, devices=devices)
    free = to_target(0.6, powered)
    assert free.chosen is not None and free.chosen.devices_j is not None
    assert to_target(0.6, powered, most_devices_j=1e9).chosen is not None
    tight = to_target(0.6, powered, most_devices_j=0.9 * free.chosen.devices_j)
    assert all((way.devices_j or 0) <= 0.9 * free.chosen.devices_j for way in tight.ways)


def test_kept_activations_are_as_accurate_as_those_sent_anew_and_later_epochs_send_nothing() -> (
    None
):
    # 64 samples of a device, 8 a step and 4 steps a round: an epoch is two rounds
    own = replace(workloads.workload(), samples=(64,) * 3, cache_bytes=1e9)
    found = to_target(0.8, own, schemes=(SFT_FROZEN, SFT_CACHED))
    frozen, cached = (
        next(way for way in found.ways if way.forecast.decision.scheme is scheme)
        for scheme in (SFT_FROZEN, SFT_CACHED)
    )
    assert found.chosen is cached
    assert cached.rounds == frozen.rounds
    assert cached.forecast.rounds_early == 2
    assert cached.seconds < frozen.seconds
    early, later = cached.forecast.early, cached.forecast.later
    assert early is not None and early.uplink_bytes > later.uplink_bytes == 0
    rest_s = (cached.rounds.likely - 2) * later.delay_s
    assert cached.seconds == pytest.approx(
        cached.forecast.first.delay_s + early.delay_s + rest_s, rel=1e-12
    )
    # before the first epoch is over they are one run
    soon = to_target(0.5, replace(own, samples=(10_000,) * 3), schemes=(SFT_FROZEN, SFT_CACHED))
    assert len({way.seconds for way in soon.ways}) == 1


def test_a_warm_device_part_loses_what_was_measured_of_it() -> None:
    own = workloads.workload()
    warm = Variant(replace(own, warm_rounds=2), {"device_part": {"name": "warm"}}, title="warm")
    parts = [*PARTS, *(part("warm", cut, 0.87, 0.89, rounds=1) for cut in (1, 3, 5))]
    in_order = FixedChoices(scheme=True)  # else steps that overlap are faster still
    known = learning(parts)
    found = to_target(0.75, own, known=known, also=[warm], codecs=[NONE], fixed=in_order)
    ways = {
        (way.variant.title, way.forecast.decision.scheme.trains_device): way for way in found.ways
    }
    trained, some = ways["", True], ways["warm", True]
    assert some.loss.loss == pytest.approx(0.02)
    assert trained.rounds.likely <= some.rounds.likely
    assert not some.unmeasured
    forecast = some.forecast
    assert forecast.rounds_early == 2 and forecast.early is not None
    # then nothing comes down nor goes up but activations
    assert forecast.later.downlink_bytes == 0 < forecast.early.downlink_bytes
    assert forecast.later.uplink_bytes < forecast.early.uplink_bytes
    assert forecast.turn_s > 0
    # a part that is frozen from the beginning is not warm
    assert ("warm", False) not in ways


@pytest.mark.parametrize(("accuracy", "joules"), [(0.0, None), (78.0, None), (0.7, 0.0)])
def test_a_target_that_cannot_be_is_refused(accuracy: float, joules: float | None) -> None:
    with pytest.raises(ConfigError):
        Target(accuracy, joules)
