"""Bars with their values, boxes, and files that are whole or not there."""

import csv
from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from cutlayer.errors import RunError
from cutlayer.report.drawing import (
    Series,
    add_boxes,
    draw_bars,
    legend_and_title,
    new_figure,
    plain_style,
    save_table,
)
from report.drawn import boxes_of


def test_groups_values_and_gaps() -> None:
    rows = ["first", "second"]
    series = [Series("paper", [None, 20.0], "#aaaaaa"), Series("ours", [1.0, 2500.0], "#000000", 2)]
    with plain_style():
        figure = new_figure(200)
        axes = figure.subplots()
        draw_bars(axes, rows, series, "time [min]")
        legend_and_title(figure, (axes, axes), "a setting")
        figure.draw_without_rendering()
    bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert [bar.get_width() for bar in bars] == [20.0, 1.0, 2500.0]
    # the second row's two bars: next to each other, around 1, the paper's above
    low, high = sorted((bars[0], bars[2]), key=lambda bar: bar.get_y())
    assert low is bars[0] and low.get_y() + low.get_height() <= high.get_y()
    assert low.get_y() + high.get_y() + high.get_height() == pytest.approx(2)
    assert [text.get_text() for text in axes.texts] == ["20.0", "1.00", "2,500.00"]
    assert [label.get_text() for label in axes.get_yticklabels()] == rows
    assert axes.get_xlabel() == "time [min]" and axes.get_xlim() == (0, 1.17 * 2500)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["paper", "ours"]
    assert figure.get_suptitle() == "a setting"


def test_a_table_reads_back(tmp_path: Path) -> None:
    rows = [("a, b", 1), ('say "x"', 2.5)]
    path = save_table(tmp_path / "t.csv", ("words", "number"), rows)
    with path.open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["words", "number"], ["a, b", "1"], ['say "x"', "2.5"]]
    assert [file.name for file in tmp_path.iterdir()] == ["t.csv"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot write .*t\.csv"):
        save_table(tmp_path / "gone" / "t.csv", ("x",), [])


def test_boxes_are_where_they_should_be_and_empty_ones_vanish() -> None:
    with plain_style():
        axes = new_figure(100).subplots()
        add_boxes(axes, np.array([[0, 1, 2, 5], [1, 1, 0, 9], [2, 4, 0, 0.5]]), "#ff0000")
        add_boxes(axes, np.zeros((0, 4)), "#00ff00")
    assert boxes_of(axes)["#ff0000"].tolist() == [[0, 1, 2, 5], [2, 4, 0, 0.5]]
    assert "#00ff00" not in boxes_of(axes)
