"""What the figures draw: heights, windows, rows, and labels that do not run into one another."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import AxesImage
from matplotlib.text import Text

from cutlayer.errors import RunError
from cutlayer.report.drawing import plain_style
from cutlayer.report.run_figures import (
    byte_figure,
    curve_figure,
    memory_figure,
    memory_kinds,
    partition_figure,
    payload_names,
    share_figure,
    shares_vary,
    shown_rounds,
)
from cutlayer.report.run_page import delay_figure, gantt_figure, write_report
from cutlayer.report.run_reader import read_record
from cutlayer.training.records import Partition, TrainedRound
from report.drawn import assert_labels_apart, boxes_of, drawn_texts
from report.fake_run import FakeRun, write_fake_run


def test_byte_columns_are_the_bytes(tmp_path: Path) -> None:
    run = read_record(write_fake_run(tmp_path / "run", FakeRun(rounds=3)))
    works = run.trained
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
    assert "weights" not in payload_names(works)


@pytest.mark.parametrize(
    ("scores", "side"), [([0.1, 0.2, 0.3], "bottom"), ([0.1, 0.4, 0.26], "top"), ([0.3], "bottom")]
)
def test_the_last_value_stands_where_its_line_does_not_come_from(
    tmp_path: Path, scores: list[float], side: str
) -> None:
    """The label ends above or below the last point, to its left, where the line is."""
    run = read_record(write_fake_run(tmp_path / "run", FakeRun(devices=1, rounds=len(scores) - 1)))
    records = [
        record.model_copy(update={record.score.measure: value})
        for record, value in zip(run.rounds, scores, strict=True)
    ]
    with plain_style():
        axes = curve_figure(records, "simulated").axes[0]
    (label,) = [text for text in axes.texts if "%" in text.get_text()]
    assert label.get_verticalalignment() == side


def test_labels_never_overlap(run_directory: Path) -> None:
    run = read_record(run_directory)
    works = run.trained
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
    summary = read_record(write_fake_run(tmp_path / "run", fake)).summary
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


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> TrainedRound:
    run = read_record(write_fake_run(tmp_path_factory.mktemp("shares") / "run", FakeRun(rounds=1)))
    return run.trained[0]


def _works(work: TrainedRound, devices: int, rounds: int) -> list[TrainedRound]:
    drawn = np.random.default_rng(0).dirichlet(np.ones(devices), rounds)
    return [work.model_copy(update={"shares": tuple(row)}) for row in drawn.tolist()]


def test_shares_vary_or_do_not(work: TrainedRound) -> None:
    assert not shares_vary([]) and not shares_vary([work, work])
    uneven = work.model_copy(update={"shares": (0.1, 0.9)})
    assert not shares_vary([uneven, uneven])
    assert shares_vary([uneven, work.model_copy(update={"shares": (0.2, 0.8)})])


@pytest.mark.parametrize(("devices", "rounds"), [(1, 2), (3, 5), (8, 26), (8, 200), (60, 30)])
def test_percent_by_device_and_round(work: TrainedRound, devices: int, rounds: int) -> None:
    works = _works(work, devices, rounds)
    with plain_style():
        figure = share_figure(works)
        assert_labels_apart(figure)
        texts = {text.get_text() for text in drawn_texts(figure)}
    shown = shown_rounds(works)
    assert shown == min(rounds, 50)
    (image,) = figure.axes[0].findobj(AxesImage)
    expected = 100 * np.array([one.shares for one in works[-shown:]]).T
    np.testing.assert_array_equal(np.asarray(image.get_array()), expected)
    assert {str(rounds), "round", "device"} <= texts


def test_shares_of_another_number_of_devices(tmp_path: Path) -> None:
    directory = write_fake_run(tmp_path / "run", FakeRun(devices=2, rounds=1))
    lines = (directory / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2
    (directory / "rounds.jsonl").write_text(
        lines[0] + "\n" + lines[1].replace('"shares": [0.5, 0.5]', '"shares": [1.0]') + "\n",
        encoding="utf-8",
    )
    with pytest.raises(RunError, match="1 shares for 2 devices"):
        write_report(directory)


def test_a_kind_of_memory_without_bytes_is_not_named(run_directory: Path) -> None:
    """Such as what codecs remember, which nobody counts on a device."""
    summary = read_record(run_directory).summary
    given = {"weights": 3, "codec": 0, "activations": 2}
    assert memory_kinds(summary.model_copy(update={"device_memory_bytes": given})) == [
        "weights",
        "activations",
    ]
