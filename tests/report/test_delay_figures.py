"""The drawing of a round, simulated or recorded: boxes where the events are, in the rows of who
acts."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from rounds.works import work as device_work

from cutlayer.report.drawing import plain_style
from cutlayer.report.run_page import delay_figure, gantt_devices, gantt_figure, gantt_local_steps
from cutlayer.report.run_reader import read_record
from cutlayer.report.wording import PHASES, phases_in
from cutlayer.rounds.result import RoundTimeline, TimelineEvent
from cutlayer.rounds.schemes import SCHEMES, Phase
from cutlayer.rounds.simulate import simulate
from cutlayer.rounds.work import Sharing, SharingRules
from report.drawn import assert_labels_apart, boxes_of
from report.fake_run import FakeRun, write_fake_run

IN_TURN = SharingRules(1, Sharing.IN_TURN, Sharing.IN_TURN)


def _round(name: str, devices: int = 3, rules: SharingRules | None = None) -> RoundTimeline:
    parts = 2 if name == "sft-overlap" else 1
    return simulate(
        SCHEMES[name],
        [
            device_work([1.0 + n, 2.0, 2.0, 2.0, 1.0], 2, 1.0, 1.0, micro_batches=parts)
            for n in range(devices)
        ],
        rules,
    )


def test_every_phase_has_a_word() -> None:
    # and what a measured round may lack has one
    assert tuple(PHASES) == (*Phase, "unobserved")


def _drawn(timeline: RoundTimeline) -> Figure:
    with plain_style():
        return gantt_figure(tuple(timeline.events()), timeline.slowest_device, legend=True)


@pytest.mark.parametrize("name", sorted(SCHEMES))
@pytest.mark.parametrize("rules", [None, IN_TURN])
def test_any_scheme_is_drawn_with_labels_apart(name: str, rules: SharingRules | None) -> None:
    assert_labels_apart(_drawn(_round(name, rules=rules)))


def test_boxes_are_the_events() -> None:
    timeline = _round("sft")
    axes = _drawn(timeline).axes[0]
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


def test_overlapping_micro_batches_compute_above_and_send_below() -> None:
    boxes = boxes_of(_drawn(_round("sft-overlap", devices=1)).axes[0])
    middle = 1.0
    assert np.all(boxes[PHASES["device_forward"].colour][:, 3] < middle)
    assert np.all(boxes[PHASES["activation_up"].colour][:, 2] >= middle)
    assert np.all(boxes[PHASES["gradient_down"].colour][:, 2] > middle)


def test_stacked_delays_add_up_to_the_round(tmp_path: Path) -> None:
    run = read_record(write_fake_run(tmp_path / "run", FakeRun(rounds=5)))
    works = run.trained
    with plain_style():
        by_round, by_device = delay_figure(works).axes
    boxes = boxes_of(by_round)
    for phase, word in phases_in(work.delay_by_phase_s for work in works).items():
        heights = boxes[word.colour][:, 3] - boxes[word.colour][:, 2]
        # the path's own numbers are doubles; seconds are the figure's unit here
        assert heights == pytest.approx([work.delay_by_phase_s[phase] for work in works], rel=1e-9)
    tops = boxes[PHASES["adapter_up"].colour][:, 3]
    assert tops == pytest.approx([work.delay_s for work in works], rel=1e-9)
    device_tops = boxes_of(by_device)[PHASES["adapter_up"].colour][:, 3]
    means = np.mean([work.device_delay_s for work in works], axis=0)
    assert device_tops == pytest.approx(means, rel=1e-9)


def test_the_gantt_of_a_long_round_shows_its_beginning(tmp_path: Path) -> None:
    run = read_record(write_fake_run(tmp_path / "run", FakeRun(rounds=2, local_steps=20)))
    steps, slowest = run.last_round_steps, run.trained[-1].slowest_device
    assert gantt_local_steps(steps, slowest) == (6, 20)
    origin = min(step.start_s for step in steps)
    sixth = max(
        step.end_s for step in steps if step.device == slowest and (step.local_step or 0) < 6
    )
    with plain_style():
        axes = gantt_figure(steps, slowest).axes[0]
    assert axes.get_xlim() == pytest.approx((0, sixth - origin))
    server = boxes_of(axes)[PHASES["server_compute"].colour]
    lane = np.sort(server[server[:, 2] < 0][:, :2], axis=0)
    # the server does one mini-batch at a time
    assert np.all(lane[1:, 0] >= lane[:-1, 1] - 1e-9)


def test_the_gantt_of_a_short_round_shows_it_all(tmp_path: Path) -> None:
    run = read_record(write_fake_run(tmp_path / "run", FakeRun(rounds=1, local_steps=2)))
    steps, work = run.last_round_steps, run.trained[-1]
    with plain_style():
        axes = gantt_figure(steps, work.slowest_device).axes[0]
    assert gantt_local_steps(steps, work.slowest_device) == (2, 2)
    # the fake devices never rest, so the round is as long as its slowest device's phases
    assert axes.get_xlim()[1] == pytest.approx(work.delay_s, rel=1e-9)


def test_micro_batches_that_overlap_are_drawn_beside_each_other() -> None:
    """One device computes while it sends: nothing is drawn over anything else."""

    def step(phase: str, micro_batch: int, start_s: float, end_s: float) -> TimelineEvent:
        return TimelineEvent(0, 0, micro_batch, Phase(phase), start_s, end_s, 0)

    steps = [
        step("device_forward", 0, 0.0, 2.0),
        step("activation_up", 0, 2.0, 5.0),
        step("device_forward", 1, 2.0, 4.0),
        step("link_queue", 1, 4.0, 5.0),
        step("server_compute", 0, 5.0, 6.0),
        step("activation_up", 1, 5.0, 8.0),
        step("gradient_down", 0, 6.0, 7.0),
        step("device_backward", 0, 7.0, 9.0),
    ]
    with plain_style():
        found = boxes_of(gantt_figure(steps, 0).axes[0])
    assert PHASES["link_queue"].colour not in found
    boxes = np.concatenate(list(found.values()))
    assert len(boxes) == 7
    for i, (left, top, right, bottom) in enumerate(boxes[:, [0, 2, 1, 3]]):
        for x0, x1, y0, y1 in boxes[i + 1 :]:
            apart = min(right, x1) - max(left, x0), min(bottom, y1) - max(top, y0)
            assert min(apart) <= 1e-9


@pytest.mark.parametrize("devices", [1, 24, 25, 100])
def test_the_gantt_has_at_most_24_devices_and_the_slowest(tmp_path: Path, devices: int) -> None:
    fake = FakeRun(devices=devices, rounds=1, local_steps=1, class_names=("text",))
    run = read_record(write_fake_run(tmp_path / "run", fake))
    shown = gantt_devices(run.last_round_steps, run.trained[-1].slowest_device)
    assert run.trained[-1].slowest_device in shown
    assert min(devices, 23) <= len(shown) <= 24
    assert shown == sorted(set(shown))
