"""What the figures of a comparison draw: every run, on axes that fit, with labels apart."""

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D

from cutlayer.report.compare_page import (
    LIMIT_COLOUR,
    compare_curves,
    device_memory_figure,
    round_figure,
    wide,
)
from cutlayer.report.comparison import ComparedRun, Comparison, compare, memory_bytes, phase_seconds
from cutlayer.report.drawing import plain_style
from report.compared import MIB, SCHEMES, compared, refused, with_scores
from report.drawn import assert_labels_apart, boxes_of, drawn_texts
from report.fake_run import FakeRun

FACTORS = (1.0, 10.0, 0.9, 12.0, 12.5, 60.0, 5.0, 40.0)


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """A run of each scheme, of very different lengths."""
    folder, fake = tmp_path_factory.mktemp("eight"), FakeRun(devices=2, rounds=4, local_steps=1)
    return compare(
        [
            compared(folder, name, fake, slower=factor, larger=factor / 2)
            for name, factor in zip(SCHEMES, FACTORS, strict=True)
        ]
    )


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Two runs that learn the same, one of which takes twice the time, and one that is refused."""
    folder, fake = tmp_path_factory.mktemp("alike"), FakeRun(devices=2, rounds=3, local_steps=1)
    runs = [compared(folder, "one", fake), compared(folder, "two", fake, slower=2.0)]
    return compare([*runs, refused("whole")])


def _curves(axes: object) -> list[Line2D]:
    lines: list[Line2D] = axes.lines  # type: ignore[attr-defined]
    return [line for line in lines if line.get_marker() not in ("", "None", None)]


def test_every_run_has_its_own_colour_and_marker(eight: Comparison) -> None:
    with plain_style():
        figure = compare_curves(eight)
        assert_labels_apart(figure)
    for axes in figure.axes:
        lines = _curves(axes)
        assert len({(to_hex(line.get_color()), line.get_marker()) for line in lines}) == 8
        assert len({to_hex(line.get_color()) for line in lines}) == 8
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(SCHEMES)


def test_the_lines_are_the_evaluations(alike: Comparison) -> None:
    with plain_style():
        by_round, by_time, by_bytes = compare_curves(alike).axes
    for number, run in enumerate(alike.runs):
        scores = [point.score.value for point in run.points]
        assert _curves(by_round)[number].get_ydata() == pytest.approx(scores)
        assert _curves(by_round)[number].get_xdata() == pytest.approx([0, 1, 2, 3])
        # these runs take seconds, and send MiB
        times = [point.time_s for point in run.points]
        assert _curves(by_time)[number].get_xdata() == pytest.approx(times)
        sent = [point.sent_bytes / MIB for point in run.points]
        assert _curves(by_bytes)[number].get_xdata() == pytest.approx(sent)


def test_a_run_under_another_shows_as_a_rim(alike: Comparison) -> None:
    with plain_style():
        by_round, by_time, _ = compare_curves(alike).axes
    widths = [line.get_linewidth() for line in _curves(by_round)]
    assert widths[0] > widths[1]
    assert len({line.get_linewidth() for line in _curves(by_time)}) == 1


def test_axes_are_logarithmic_where_runs_end_far_apart(
    eight: Comparison, alike: Comparison
) -> None:
    with plain_style():
        scales = [axes.get_xscale() for axes in compare_curves(eight).axes]
        near = [axes.get_xscale() for axes in compare_curves(alike).axes]
    assert scales == ["linear", "log", "log"]
    assert near == ["linear", "linear", "linear"]


@pytest.mark.parametrize(("factor", "expected"), [(20.0, False), (20.1, True)])
def test_far_apart_is_more_than_twenty_times(
    alike: Comparison, factor: float, expected: bool
) -> None:
    run = alike.runs[0]
    ends = {run.label: 3.0, "other": 3.0 * factor}
    other = ComparedRun("other", run.record, "")
    # each run has a position of its own here: both share the record
    order = iter([ends[run.label], ends["other"]])
    assert wide([run, other], lambda point: next(order)) is expected


@pytest.mark.parametrize("rounds", [0, 1, 60])
def test_runs_of_any_length_can_be_drawn(tmp_path: Path, rounds: int) -> None:
    fake = FakeRun(devices=1, rounds=rounds, local_steps=1)
    runs = [compared(tmp_path, "a" * 60, fake), compared(tmp_path, "b", fake, slower=50.0)]
    with plain_style():
        comparison = compare(runs)
        for figure in (compare_curves(comparison), round_figure(comparison)):
            assert_labels_apart(figure)


def test_scores_that_are_no_numbers_interrupt_the_line(tmp_path: Path) -> None:
    fake = FakeRun(
        devices=1, rounds=3, local_steps=1, language_modelling=True, class_names=("text",)
    )
    run = compared(tmp_path, "a", fake)
    diverged = with_scores(run, [60.0, math.inf, 5000.0, math.nan])
    with plain_style():
        figure = compare_curves(compare([run, diverged]))
        assert_labels_apart(figure)
    scores = np.asarray(_curves(figure.axes[0])[1].get_ydata())
    assert np.isnan(scores).tolist() == [False, True, False, True]
    assert figure.axes[0].get_yscale() == "log"
    with plain_style():
        nothing = compare([with_scores(run, [math.nan] * 4)])
        assert_labels_apart(compare_curves(nothing))


def test_bars_are_the_means_of_a_round(eight: Comparison) -> None:
    with plain_style():
        figure = round_figure(eight)
        assert_labels_apart(figure)
    seconds = np.zeros(8)
    for boxes in boxes_of(figure.axes[0]).values():
        rows = np.rint((boxes[:, 2] + boxes[:, 3]) / 2).astype(int)
        np.maximum.at(seconds, rows, boxes[:, 1])
    expected = [sum(phase_seconds(run).values()) for run in eight.runs]
    assert seconds == pytest.approx(expected, rel=1e-9)


def test_memory_is_drawn_against_the_limit(alike: Comparison) -> None:
    with plain_style():
        figure = device_memory_figure(alike)
        assert_labels_apart(figure)
    (axes,) = figure.axes
    ends = np.zeros(3)
    for boxes in boxes_of(axes).values():
        rows = np.rint((boxes[:, 2] + boxes[:, 3]) / 2).astype(int)
        np.maximum.at(ends, rows, boxes[:, 1])
    expected = [sum(memory_bytes(entry).values()) / MIB for entry in alike.entries]
    assert ends == pytest.approx(expected, rel=1e-9)
    marks = [line for line in axes.lines if line.get_color() == LIMIT_COLOUR]
    # 256 MiB is far beyond all bars, 72 MiB is not
    assert [line.get_xdata()[0] for line in marks] == [72.0]
    texts = [text.get_text() for text in drawn_texts(figure)]
    assert "155 MiB, does not fit" in texts


def test_a_limit_near_a_bar_does_not_cross_its_number() -> None:
    fitting = refused("a", need_mib=100.0, limit_mib=101.0)
    with plain_style():
        figure = device_memory_figure(Comparison((fitting, refused("b", 120.0, 101.0)), None))
        assert_labels_apart(figure)
        (axes,) = figure.axes
        numbers = [t for t in drawn_texts(figure) if "does not fit" in t.get_text()]
        for line in axes.lines:
            where = line.get_window_extent().x0
            assert not any(text.get_window_extent().containsx(where) for text in numbers)
