"""The drawing of a simulated round: boxes where the events are, in the rows of who acts."""

import numpy as np
import pytest
from rounds.works import work

from cutlayer.errors import ConfigError
from cutlayer.report.delay_figures import draw_gantt, shown_devices
from cutlayer.report.drawing import plain_style
from cutlayer.report.vocabulary import PHASES
from cutlayer.rounds.result import RoundTimeline
from cutlayer.rounds.schemes import SCHEMES, Phase
from cutlayer.rounds.simulate import simulate
from cutlayer.rounds.work import Rules, Sharing
from report.test_figures import assert_labels_apart, boxes_of

IN_TURN = Rules(1, Sharing.IN_TURN, Sharing.IN_TURN)


def _round(name: str, devices: int = 3, rules: Rules | None = None) -> RoundTimeline:
    parts = 2 if name == "sft-overlap" else 1
    return simulate(
        SCHEMES[name],
        [
            work([1.0 + n, 2.0, 2.0, 2.0, 1.0], 2, 1.0, 1.0, micro_batches=parts)
            for n in range(devices)
        ],
        rules,
    )


def test_every_phase_has_a_word() -> None:
    # and what a measured round may lack has one
    assert tuple(PHASES) == (*Phase, "unobserved")


@pytest.mark.parametrize("name", sorted(SCHEMES))
@pytest.mark.parametrize("rules", [None, IN_TURN])
def test_any_scheme_is_drawn_with_labels_apart(name: str, rules: Rules | None) -> None:
    with plain_style():
        assert_labels_apart(draw_gantt(_round(name, rules=rules), title=SCHEMES[name].title))


def test_boxes_are_the_events() -> None:
    timeline = _round("sft")
    with plain_style():
        axes = draw_gantt(timeline).axes[0]
    boxes = boxes_of(axes)
    waits = [event for event in timeline.events() if event.phase is Phase.SERVER_QUEUE]
    drawn = boxes[PHASES["server_queue"].colour]
    assert len(waits) == len(drawn) > 0
    assert drawn[:, 0].tolist() == pytest.approx([event.start_s for event in waits])
    # server compute: in the server's row and in the device's
    served = boxes[PHASES["server_compute"].colour]
    assert len(served) == 2 * 6
    lane = np.sort(served[served[:, 2] < 0][:, :2], axis=0)
    assert np.all(lane[1:, 0] >= lane[:-1, 1])
    assert axes.get_xlim() == pytest.approx((0, timeline.delay_s))


def test_shared_bands_have_rows_of_their_own() -> None:
    with plain_style():
        axes = draw_gantt(_round("sft", rules=IN_TURN)).axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["uplink", "server", "downlink", "device 0", "device 1", "device 2"]
    with plain_style():
        axes = draw_gantt(_round("fl-lora")).axes[0]
    assert axes.get_yticklabels()[0].get_text() == "device 0"


def test_overlapping_micro_batches_compute_above_and_send_below() -> None:
    with plain_style():
        boxes = boxes_of(draw_gantt(_round("sft-overlap", devices=1)).axes[0])
    middle = 1.0
    assert np.all(boxes[PHASES["device_forward"].colour][:, 3] < middle)
    assert np.all(boxes[PHASES["activation_up"].colour][:, 2] >= middle)
    assert np.all(boxes[PHASES["gradient_down"].colour][:, 2] > middle)


def test_a_window_shows_the_beginning() -> None:
    with plain_style():
        axes = draw_gantt(_round("sft"), until_s=4.0).axes[0]
    assert axes.get_xlim() == pytest.approx((0, 4.0))
    assert max(box[:, 1].max() for box in boxes_of(axes).values()) <= 4.0
    with pytest.raises(ConfigError, match="nothing to draw"):
        draw_gantt(_round("sft"), until_s=0.0)


def test_many_devices_are_spread_evenly_with_the_slowest() -> None:
    timeline = _round("sft", devices=60)
    shown = shown_devices(timeline)
    assert timeline.slowest_device in shown
    assert len(shown) <= 24
    with plain_style():
        figure = draw_gantt(timeline)
    assert "not shown" in figure.axes[0].get_xlabel()
