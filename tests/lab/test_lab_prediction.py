"""The predicted round: calibrated seconds, expected bytes, the channel's rates."""

from typing import Any

import numpy as np
import pytest
import tiny

from cutlayer.errors import RunError
from cutlayer.jobs.prepare import prepare
from cutlayer.lab.lab import calibrated_seconds, computing_phases, predicted_round, unicast_links
from cutlayer.rounds.schemes import SFT, Phase
from cutlayer.training.round import Round, expected_work, initial_state
from cutlayer.training.state import Setup
from lab.links import link

FORWARD, SERVER, BACKWARD = Phase.DEVICE_FORWARD, Phase.SERVER_COMPUTE, Phase.DEVICE_BACKWARD
SECONDS = {FORWARD: 0.25, SERVER: 0.5, BACKWARD: 0.125}


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    folder = tmp_path_factory.mktemp("prediction")
    model, data = tiny.vision_model(folder / "model"), tiny.images(folder / "images")
    return prepare(tiny.config(model, data, codec="none")).setup


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


def test_the_first_step_does_not_count_unless_it_is_the_only_one() -> None:
    first, second = calibrated_seconds(
        SFT, [*steps(0, 4.0, 0.25, 0.75), *steps(1, 2.0, 0.125, 0.125)], 2
    )
    assert first == pytest.approx({FORWARD: 0.5, SERVER: 0.5, BACKWARD: 0.125})
    assert second[FORWARD] == pytest.approx(0.125)
    (only,) = calibrated_seconds(SFT, steps(0, 4.0), 1)
    assert only[FORWARD] == 4.0


def test_a_device_that_was_not_seen_is_named() -> None:
    with pytest.raises(RunError, match="device 1 was not observed"):
        calibrated_seconds(SFT, steps(0, 1.0, 1.0), 2)


def test_a_link_of_ones_own_has_no_broadcast() -> None:
    (made,) = unicast_links([link(1e6, 2e6)])
    assert made == link(1e6, 2e6)


def test_the_round_is_the_sum_of_its_parts(setup: Setup) -> None:
    """Devices so far apart that none waits at the server: the closed form, to a rounding."""
    links = [link(1e5 * 10.0**n, 2e5 * 10.0**n) for n in range(3)]
    timeline = predicted_round(setup, links, [SECONDS] * 3)
    work = expected_work(setup, links, first_round=False)
    for device, rates in enumerate(links):
        up = work[device].amounts[Phase.ACTIVATION_UP].sum() * 8 / rates.uplink_bit_per_s
        down = work[device].amounts[Phase.GRADIENT_DOWN].sum() * 8 / rates.downlink_bit_per_s
        edge_bits = 8 * work[device].amounts[Phase.ADAPTER_UP].sum()
        edges = edge_bits / rates.uplink_bit_per_s + edge_bits / rates.downlink_bit_per_s
        compute = setup.devices[device].local_steps * sum(SECONDS.values())
        own = timeline.phase_seconds(device)
        waits = own[Phase.SERVER_QUEUE]
        assert timeline.devices[device].delay_s - waits == pytest.approx(
            up + down + edges + compute, rel=1e-12
        )
        for phase, seconds in SECONDS.items():
            assert own[phase] == pytest.approx(setup.devices[device].local_steps * seconds)


def test_later_rounds_do_not_bring_the_model(setup: Setup) -> None:
    """What is predicted is what the trainer sends: packets of a codec without choices are exact but
    for headers, and adapters too."""
    outcome = Round(setup, initial_state(setup)).play()
    second = Round(setup, outcome.state).play()
    sent = second.round_costs.bytes_by_payload()
    links = unicast_links(setup.simulation.channel.rates(1, 0.0, second.shares))
    work = expected_work(setup, links, first_round=False)
    expected = sum(float(one.amounts[Phase.ACTIVATION_UP].sum()) for one in work)
    packets = sum(one.repeats for one in work)
    # a packet's header, shape and checksum are far below 100 bytes
    assert expected == pytest.approx(sent["activation"], abs=100 * packets)
    adapters = np.array([one.amounts[Phase.MODEL_DISTRIBUTION].sum() for one in work])
    assert adapters == pytest.approx(sent["adapter_down"], abs=100)
