"""What a lab prints and writes: the comparison as a table, as CSV, and as a picture.

Knows a comparison and a folder; nothing of how it came about.
"""

from pathlib import Path

from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from cutlayer.lab.comparison import Comparison, Line
from cutlayer.report.bars import OURS, Series, draw_bars, legend_and_title
from cutlayer.report.drawing import new_figure, plain_style
from cutlayer.report.save import save_figure, save_table
from cutlayer.report.vocabulary import OTHER_COLOUR
from cutlayer.units import format_seconds

TOLERANCE = 0.1
_NAME = "lab"
_CSV = ("phase", "predicted_s", "measured_s", "difference", "basis")
_PIXELS_A_ROW = 46
_PIXELS_AROUND = 130


def comparison_table(comparison: Comparison) -> Table:
    """A row a phase of the slowest device, then the round."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, caption_justify="left")
    table.add_column("phase")
    for heading in ("predicted", "measured", "difference"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("predicted from")
    for line in comparison.phases:
        table.add_row(*_texts(line))
    table.add_section()
    table.add_row(*_texts(comparison.round), style="bold")
    table.caption = f"measured: median of {rounds_text(comparison)}, each by its slowest device"
    return table


def verdict(comparison: Comparison) -> str:
    """Whether the round is as long as predicted, in a sentence."""
    line = comparison.round
    word = "within" if comparison.within(TOLERANCE) else "not within"
    return (
        f"measured {format_seconds(line.measured_s)}, predicted {format_seconds(line.predicted_s)}:"
        f" {_percent(line)}, {word} {100 * TOLERANCE:.0f} %"
    )


def write_comparison(comparison: Comparison, folder: Path) -> list[Path]:
    """`lab.csv`, `lab.png` and `lab.svg` in the run's directory. Raises RunError."""
    lines = (*comparison.phases, comparison.round)
    rows = [
        (one.label, one.predicted_s, one.measured_s, one.difference, one.basis) for one in lines
    ]
    table = save_table(folder / f"{_NAME}.csv", _CSV, rows)
    with plain_style():
        pictures = save_figure(folder / _NAME, comparison_figure(comparison))
    return [table, *pictures]


def comparison_figure(comparison: Comparison) -> Figure:
    """Bars by phase and for the round, predicted above measured. Call it inside `plain_style`."""
    lines = (*comparison.phases, comparison.round)
    figure = new_figure(_PIXELS_AROUND + _PIXELS_A_ROW * len(lines))
    axes = figure.subplots()
    series = [
        Series("predicted", [line.predicted_s for line in lines], OTHER_COLOUR, digits=2),
        Series("measured", [line.measured_s for line in lines], OURS, digits=2),
    ]
    draw_bars(axes, [line.label for line in lines], series, "seconds")
    legend_and_title(figure, [axes], f"{verdict(comparison)}; median of {rounds_text(comparison)}")
    return figure


def rounds_text(comparison: Comparison) -> str:
    """Which rounds were measured."""
    numbers = comparison.rounds
    if len(numbers) == 1:
        return f"round {numbers[0]}"
    if numbers == tuple(range(numbers[0], numbers[-1] + 1)):
        return f"rounds {numbers[0]} to {numbers[-1]}"
    return f"rounds {', '.join(map(str, numbers))}"


def _texts(line: Line) -> tuple[str, ...]:
    seconds = (format_seconds(line.predicted_s), format_seconds(line.measured_s))
    return (line.label, *seconds, _percent(line), line.basis)


def _percent(line: Line) -> str:
    return "" if line.difference is None else f"{100 * line.difference:+.1f} %"
