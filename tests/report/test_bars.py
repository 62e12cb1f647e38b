"""Bars of several series: one group a row, a value beside each bar, gaps where there is none."""

import pytest
from matplotlib.patches import Rectangle

from cutlayer.report.bars import Series, draw_bars, legend_and_title
from cutlayer.report.drawing import new_figure, plain_style


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
