"""Rounds from the rounds before them: synthetic computing, expected bytes, the channel's rates."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tiny
from jaxtyping import Float64

from cutlayer.channel.rates import LinkRates
from cutlayer.jobs.prepare import prepare
from cutlayer.lab.prediction import (
    CONFIDENCE,
    ComputeSeconds,
    RoundModel,
    compute_seconds,
    computing_phases,
    predict,
    replay,
    robust_mean,
    spread,
    unicast_links,
)
from cutlayer.rounds.schemes import SFT, Phase
from cutlayer.training.expected import expected_work, initial_state
from cutlayer.training.round import Round
from cutlayer.training.state import Setup
from lab.computing import STEPS, USUAL_S, Factors, model, seconds
from lab.links import link

FORWARD, SERVER, BACKWARD = Phase.DEVICE_FORWARD, Phase.SERVER_COMPUTE, Phase.DEVICE_BACKWARD


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    folder = tmp_path_factory.mktemp("prediction")
    model, data = tiny.vision_model(folder / "model"), tiny.images(folder / "images")
    return prepare(tiny.config(model, data, codec="none")).setup


def made(setup: Setup, links: Sequence[LinkRates]) -> RoundModel:
    work = expected_work(setup, links, first_round=False)
    return RoundModel(setup.training.scheme, work, setup.simulation.rules)


def line(step: int | None, phase: Phase, seconds: float, device: int = 0) -> dict[str, Any]:
    own = {"device": device, "local_step": step, "phase": phase.value}
    return {**own, "start_s": 1.0, "end_s": 1.0 + seconds}


def steps(device: int, *forwards: float) -> list[dict[str, Any]]:
    """Local steps that differ by their forward, between an opening and a closing."""
    middle = [
        entry
        for number, seconds in enumerate(forwards)
        for entry in (
            line(number, FORWARD, seconds, device),
            line(number, Phase.SERVER_QUEUE, 9.0, device),
            line(number, SERVER, 0.5, device),
            line(number, BACKWARD, 0.125, device),
        )
    ]
    edges = (line(None, Phase.MODEL_DISTRIBUTION, 7.0, device), line(None, Phase.ADAPTER_UP, 7.0))
    return [edges[0], *middle, edges[1]]


def test_what_computes_is_calibrated() -> None:
    assert computing_phases(SFT) == (FORWARD, SERVER, BACKWARD)


def test_a_trace_becomes_seconds_by_local_step() -> None:
    found = compute_seconds(SFT, [*steps(0, 4.0, 0.25, 0.75), *steps(1, 2.0, 0.125, 0.125)], 2)
    assert found is not None
    assert found[0].keys() == {FORWARD, SERVER, BACKWARD}
    assert found[0][FORWARD].tolist() == [4.0, 0.25, 0.75]
    assert found[1][SERVER].tolist() == [0.5, 0.5, 0.5]


def test_micro_batches_of_a_local_step_are_averaged() -> None:
    (own,) = compute_seconds(SFT, [*steps(0, 1.0), *steps(0, 3.0)], 1) or [{}]
    assert own[FORWARD].tolist() == [2.0]


def test_the_server_is_free_when_it_starts_the_next_computation() -> None:
    """A reply that waits for the journal meanwhile keeps nobody else waiting."""
    shown = [steps(0, 1.0, 1.0), steps(1, 1.0, 1.0)]
    spans = {(0, 0): (1.0, 1.6), (1, 0): (1.5, 2.1), (0, 1): (3.0, 3.5), (1, 1): (3.5, 4.25)}
    for entry in (one for lines in shown for one in lines if one["phase"] == SERVER):
        entry["start_s"], entry["end_s"] = spans[entry["device"], entry["local_step"]]
    found = compute_seconds(SFT, [*shown[0], *shown[1]], 2)
    assert found is not None
    assert found[0][SERVER].tolist() == pytest.approx([0.5, 0.5])
    assert found[1][SERVER].tolist() == pytest.approx([0.6, 0.75])


def test_a_round_with_a_device_that_was_not_observed_has_none() -> None:
    assert compute_seconds(SFT, steps(0, 1.0, 1.0), 2) is None


def of(*rounds: Factors) -> list[list[ComputeSeconds]]:
    return [seconds(factors, 2) for factors in rounds]


def predicted_s(*before: Factors) -> float:
    return predict(model(2), of(*before)).delay_s


def measured_s(factors: Factors) -> float:
    return replay(model(2), seconds(factors, 2))


def test_a_steady_machine_is_predicted_exactly() -> None:
    """Two devices share one server, which works all the time but for the first forward and the last
    backward."""
    found = predict(model(2), of(np.ones(STEPS)))
    assert found.delay_s == pytest.approx(0.25 + 2 * STEPS * 0.5 + 0.125)
    assert found.delay_s == pytest.approx(measured_s(np.ones(STEPS)))
    assert sum(found.by_phase_s.values()) == pytest.approx(found.delay_s)
    assert found.interval_s == pytest.approx((found.delay_s, found.delay_s))


def test_a_process_that_stood_still_hardly_counts() -> None:
    usual = np.linspace(0.9, 1.1, STEPS)
    stood = usual.copy()
    stood[4] = 60.0
    assert predicted_s(usual) < predicted_s(stood) < 1.05 * predicted_s(usual)


def test_steps_that_share_a_core_are_no_accident() -> None:
    """Half of the steps take twice as long: that is what a round is made of."""
    assert robust_mean(np.tile([1.0, 2.0], STEPS // 2)) == pytest.approx(1.5)
    assert robust_mean(np.array([1.0, 1.1, 0.9, 1.0, 1.05, 0.95, 50.0])) < 1.1
    assert robust_mean(np.array([3.0])) == 3.0


def test_a_load_that_stays_is_followed() -> None:
    """Three rounds after it came nothing is left of what was before."""
    rounds = [np.ones(STEPS)] * 5
    loaded = np.full(STEPS, 2.0)
    errors = []
    for _ in range(4):
        errors.append(predicted_s(*rounds) / measured_s(loaded) - 1)
        rounds.append(loaded)
    assert errors[0] == pytest.approx(-0.5)
    assert errors == sorted(errors)
    assert errors[3] == pytest.approx(0.0)


def test_a_drift_is_followed_two_rounds_behind() -> None:
    """Of 1 % a round: the mean of the last three rounds is that of two rounds before."""
    rounds = [np.full(STEPS, 1 + 0.01 * number) for number in range(8)]
    errors = [predicted_s(*rounds[:n]) / measured_s(rounds[n]) - 1 for n in range(3, 8)]
    assert errors == pytest.approx([-0.02] * 5, abs=0.002)


def test_the_interval_widens_with_what_a_machine_does() -> None:
    quiet, loaded = (
        predict(model(2), of(1 + size * np.linspace(-1, 1, STEPS))).interval_s or (0.0, 0.0)
        for size in (0.02, 0.3)
    )
    assert loaded[0] < quiet[0] < quiet[1] < loaded[1]


def test_few_local_steps_have_no_interval() -> None:
    assert spread(1.0, [1.0, 2.0], 1) is None
    # from one round twice as far as its pieces, as ratios
    assert spread(2.0, [1.0, 2.0, 3.0], 1) == pytest.approx((0.5, 4.5))
    # the prediction is in it, wherever the pieces are
    assert spread(0.5, [1.0, 2.0, 3.0], 1) == pytest.approx((0.5, 18.0))


def test_more_rounds_say_more() -> None:
    pieces_s = [0.9, 1.0, 1.1] * 10
    (low_s, high_s), (least_s, most_s) = (spread(1.0, pieces_s, n) or (0, 0) for n in (3, 1))
    assert least_s < low_s < 0.9 and 1.1 < high_s < most_s


def loads(seed: int, rounds: int, lasts_steps: float) -> Float64[np.ndarray, "round step"]:
    """How many times as long each local step takes: others' work, which lasts so many steps."""
    rng = np.random.default_rng(seed)
    kept = np.exp(-1 / lasts_steps)
    level, found = rng.normal(), []
    for noise in rng.normal(size=rounds * STEPS):
        level = kept * level + np.sqrt(1 - kept**2) * noise
        found.append(np.exp(0.15 * level))
    return np.array(found).reshape(rounds, STEPS)


def part_expected(lasts_steps: float, machines: int = 200) -> float:
    """Of rounds 2 to 5, each predicted from up to three before it, those in their intervals."""
    expected = []
    for seed in range(machines):
        rounds = loads(seed, 5, lasts_steps)
        for number in range(1, 5):
            before = rounds[max(0, number - 3) : number]
            ends_s = spread(robust_mean(before.ravel()), before.ravel().tolist(), len(before))
            assert ends_s is not None
            expected.append(ends_s[0] <= rounds[number].mean() <= ends_s[1])
    return float(np.mean(expected))


def test_nine_of_ten_rounds_are_in_their_intervals() -> None:
    """Work of others that changes within a round, or from one to the next; if it stays for many
    rounds and then changes, somewhat fewer."""
    assert min(part_expected(lasts) for lasts in (0.1, 3.0, 10.0)) > CONFIDENCE
    assert part_expected(100.0) > CONFIDENCE - 0.1


def test_a_link_of_ones_own_has_no_broadcast() -> None:
    (own,) = unicast_links([link(1e6, 2e6)])
    assert own == link(1e6, 2e6)


def test_the_round_is_the_sum_of_its_parts(setup: Setup) -> None:
    """Devices so far apart that none waits at the server: the closed form, to a rounding."""
    links = [link(1e5 * 10.0**n, 2e5 * 10.0**n) for n in range(3)]
    one = made(setup, links)
    timeline = one.play([USUAL_S] * 3)
    for device, rates in enumerate(links):
        amounts = one.work[device].amounts
        up = amounts[Phase.ACTIVATION_UP].sum() * 8 / rates.uplink_bit_per_s
        down = amounts[Phase.GRADIENT_DOWN].sum() * 8 / rates.downlink_bit_per_s
        edge_bits = 8 * amounts[Phase.ADAPTER_UP].sum()
        edges = edge_bits / rates.uplink_bit_per_s + edge_bits / rates.downlink_bit_per_s
        compute = setup.devices[device].local_steps * sum(USUAL_S.values())
        own = timeline.phase_seconds(device)
        waits = own[Phase.SERVER_QUEUE]
        assert timeline.devices[device].delay_s - waits == pytest.approx(
            up + down + edges + compute, rel=1e-12
        )
        for phase, each_s in USUAL_S.items():
            assert own[phase] == pytest.approx(setup.devices[device].local_steps * each_s)


def test_later_rounds_do_not_bring_the_model(setup: Setup) -> None:
    """What is predicted is what the trainer sends: packets of a codec without choices are exact but
    for headers, and adapters too."""
    outcome = Round(setup, initial_state(setup)).play()
    second = Round(setup, outcome.state).play()
    sent = second.round_costs.bytes_by_payload()
    links = unicast_links(setup.simulation.channel.rates(1, 0.0, second.shares))
    work = made(setup, links).work
    expected = sum(float(one.amounts[Phase.ACTIVATION_UP].sum()) for one in work)
    packets = sum(one.repeats for one in work)
    # a packet's header, shape and checksum are far below 100 bytes
    assert expected == pytest.approx(sent["activation"], abs=100 * packets)
    adapters = np.array([one.amounts[Phase.MODEL_DISTRIBUTION].sum() for one in work])
    assert adapters == pytest.approx(sent["adapter_down"], abs=100)
