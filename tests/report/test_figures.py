"""What the figures draw: heights, windows, rows, and labels that do not run into one another."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.text import Text

from cutlayer.report.delay_figures import (
    delay_figure,
    gantt_devices,
    gantt_figure,
    gantt_local_steps,
)
from cutlayer.report.drawing import add_boxes, new_figure, plain_style
from cutlayer.report.run_figures import (
    byte_figure,
    curve_figure,
    memory_figure,
    partition_figure,
    payload_names,
)
from cutlayer.report.run_reader import RunRecord, read_run
from cutlayer.report.vocabulary import PHASES, phases_in
from cutlayer.rounds.result import Event
from cutlayer.rounds.schemes import Phase
from cutlayer.train.records import Partition, TrainedRound
from report.fake_run import FakeRun, write_fake_run


def works_of(run: RunRecord) -> list[TrainedRound]:
    return list(run.trained)


def boxes_of(axes: Axes) -> dict[str, np.ndarray]:
    """By colour: left, right, bottom, top of each box."""
    boxes = {}
    for patch in axes.findobj(PathPatch):
        # four corners, and a vertex that closes the outline and stands nowhere
        corners = np.asarray(patch.get_path().vertices).reshape(-1, 5, 2)[:, :4]
        low, high = corners.min(axis=1), corners.max(axis=1)
        colour = "#" + "".join(f"{round(255 * part):02x}" for part in patch.get_facecolor()[:3])
        boxes[colour] = np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=1)
    return boxes


def drawn_texts(figure: Figure) -> list[Text]:
    """The texts that a viewer sees: ticks outside the limits exist, but are not drawn."""
    axis_of = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    ticks = {tick: axis for axis in axis_of for tick in axis.get_major_ticks()}
    labels = {label for tick in ticks for label in (tick.label1, tick.label2)}
    texts = [text for text in figure.findobj(Text) if text not in labels]
    for tick, axis in ticks.items():
        low, high = sorted(axis.get_view_interval())
        texts += [tick.label1] if low <= tick.get_loc() <= high else []
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


def assert_labels_apart(figure: Figure) -> None:
    """No two texts of a figure overlap, and none is outside it (slanted ones are left out)."""
    figure.draw_without_rendering()
    upright = [text for text in drawn_texts(figure) if text.get_rotation() in (0, 90)]
    boxes = [text.get_window_extent() for text in upright]
    for box, text in zip(boxes, upright, strict=True):
        # within a pixel: the layout solver works with floats
        assert figure.bbox.padded(1).containsx(box.x0), text
        assert figure.bbox.padded(1).containsx(box.x1), text
        assert figure.bbox.padded(1).containsy(box.y0), text
        assert figure.bbox.padded(1).containsy(box.y1), text
    edges = np.array([box.extents for box in boxes])
    for first, second in itertools.combinations(range(len(boxes)), 2):
        width, height = np.minimum(edges[first, 2:], edges[second, 2:]) - np.maximum(
            edges[first, :2], edges[second, :2]
        )
        assert width < 1 or height < 1, (upright[first], upright[second])


def test_boxes_are_where_they_should_be_and_empty_ones_vanish() -> None:
    with plain_style():
        axes = new_figure(100).subplots()
        add_boxes(axes, np.array([[0, 1, 2, 5], [1, 1, 0, 9], [2, 4, 0, 0.5]]), "#ff0000")
        add_boxes(axes, np.zeros((0, 4)), "#00ff00")
    assert boxes_of(axes)["#ff0000"].tolist() == [[0, 1, 2, 5], [2, 4, 0, 0.5]]
    assert "#00ff00" not in boxes_of(axes)


def test_stacked_delays_add_up_to_the_round(tmp_path: Path) -> None:
    run = read_run(write_fake_run(tmp_path / "run", FakeRun(rounds=5)))
    works = works_of(run)
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


def test_byte_columns_are_the_bytes(tmp_path: Path) -> None:
    run = read_run(write_fake_run(tmp_path / "run", FakeRun(rounds=3)))
    works = works_of(run)
    with plain_style():
        uplink, downlink, by_payload = byte_figure(works).axes
    sent = [work.uplink_bytes / 2**20 for work in works]
    plain = [work.uncompressed_uplink_bytes / 2**20 for work in works]
    assert sorted(box[:, 3].tolist() for box in boxes_of(uplink).values()) == [
        pytest.approx(sent),
        pytest.approx(plain),
    ]
    assert uplink.get_ylim() == downlink.get_ylim()
    tops = max(box[:, 3].max() for box in boxes_of(by_payload).values())
    total = max(sum(work.bytes_by_payload.values()) for work in works)
    assert tops == pytest.approx(total / 2**20)
    assert "model" not in payload_names(works)


def test_the_gantt_of_a_long_round_shows_its_beginning(tmp_path: Path) -> None:
    run = read_run(write_fake_run(tmp_path / "run", FakeRun(rounds=2, local_steps=20)))
    steps, slowest = run.last_round_steps, works_of(run)[-1].slowest_device
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
    run = read_run(write_fake_run(tmp_path / "run", FakeRun(rounds=1, local_steps=2)))
    steps, work = run.last_round_steps, works_of(run)[-1]
    with plain_style():
        axes = gantt_figure(steps, work.slowest_device).axes[0]
    assert gantt_local_steps(steps, work.slowest_device) == (2, 2)
    # the fake devices never rest, so the round is as long as its slowest device's phases
    assert axes.get_xlim()[1] == pytest.approx(work.delay_s, rel=1e-9)


def test_micro_batches_that_overlap_are_drawn_beside_each_other() -> None:
    """One device computes while it sends: nothing is drawn over anything else."""

    def step(phase: str, micro_batch: int, start_s: float, end_s: float) -> Event:
        return Event(0, 0, micro_batch, Phase(phase), start_s, end_s, 0)

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
    run = read_run(write_fake_run(tmp_path / "run", fake))
    shown = gantt_devices(run.last_round_steps, works_of(run)[-1].slowest_device)
    assert works_of(run)[-1].slowest_device in shown
    assert min(devices, 23) <= len(shown) <= 24
    assert shown == sorted(set(shown))


@pytest.mark.parametrize(
    ("scores", "side"), [([0.1, 0.2, 0.3], "bottom"), ([0.1, 0.4, 0.26], "top"), ([0.3], "bottom")]
)
def test_the_last_value_stands_where_its_line_does_not_come_from(
    tmp_path: Path, scores: list[float], side: str
) -> None:
    """The label ends above or below the last point, to its left, where the line is."""
    run = read_run(write_fake_run(tmp_path / "run", FakeRun(devices=1, rounds=len(scores) - 1)))
    records = [
        record.model_copy(update={record.score.measure: value})
        for record, value in zip(run.rounds, scores, strict=True)
    ]
    with plain_style():
        axes = curve_figure(records, "simulated").axes[0]
    (label,) = [text for text in axes.texts if "%" in text.get_text()]
    assert label.get_verticalalignment() == side


def test_labels_never_overlap(run_directory: Path) -> None:
    run = read_run(run_directory)
    works = works_of(run)
    with plain_style():
        assert_labels_apart(curve_figure(run.rounds, run.summary.clock))
        assert_labels_apart(memory_figure(run.summary))
        assert_labels_apart(partition_figure(run.partition))
        if works:
            assert_labels_apart(delay_figure(works))
            assert_labels_apart(byte_figure(works))
            assert_labels_apart(gantt_figure(run.last_round_steps, works[-1].slowest_device))


@pytest.mark.parametrize("classes", [1, 2, 10, 45, 200])
@pytest.mark.parametrize("devices", [1, 8, 26, 100])
def test_a_partition_of_any_size_stays_readable(classes: int, devices: int) -> None:
    rng = np.random.default_rng(classes * 1000 + devices)
    counts = rng.integers(0, 3000, (devices, classes)).tolist()
    names = tuple(f"class {number}" for number in range(classes))
    with plain_style():
        figure = partition_figure(Partition(class_names=names, counts=tuple(map(tuple, counts))))
        assert_labels_apart(figure)
        pixels = figure.get_size_inches()[1] * figure.dpi
        written = {text.get_text() for text in figure.axes[0].findobj(Text)}
    assert pixels <= 1000
    if min(classes, devices) <= 40 and max(classes, devices) <= 26 and classes > 1:
        assert {str(count) for row in counts for count in row} <= written
    if 1 < classes <= 50:
        assert set(names) <= written


@pytest.mark.parametrize("limit", [None, 1, 2**20, 110 * 2**20, 400 * 2**20, 2**40])
def test_any_limit_is_named_in_the_memory_figure(tmp_path: Path, limit: int | None) -> None:
    fake = FakeRun(devices=1, rounds=0, memory_limit_bytes=limit)
    summary = read_run(write_fake_run(tmp_path / "run", fake)).summary
    with plain_style():
        figure = memory_figure(summary)
        assert_labels_apart(figure)
        named = [text for text in drawn_texts(figure) if "limit of a device" in text.get_text()]
        assert len(named) == (limit is not None)
        for text in named:
            box, axes = text.get_window_extent(), figure.axes[0].get_window_extent()
            assert axes.x0 <= box.x0 and box.x1 <= axes.x1
        for line in figure.axes[0].lines:
            where = line.get_window_extent().x0
            sizes = [text for text in drawn_texts(figure) if text.get_weight() == "bold"]
            crossed = [text for text in sizes if text.get_window_extent().containsx(where)]
            assert (len(sizes), crossed) == (3, [])
