"""A second setting beside the main one: each scheme's minutes in both, and how many times SFT's.

What Fig. 12 (a larger model) and Fig. 13 (more devices) share. Knows no claim.
"""

from collections.abc import Iterator

from matplotlib.figure import Figure

from cutlayer.report.bars import OURS, OURS_LIGHT, Series, draw_bars, legend_and_title
from cutlayer.report.drawing import new_figure
from reproduction.evaluation import NAMES, Evaluation

COLUMNS = ("setting", "scheme", "epochs", "minutes", "times_sft", "paper_times_sft")


def rows_of(label: str, seen: Evaluation, printed: float | None) -> Iterator[tuple[str, ...]]:
    """Lines of `COLUMNS`; `printed` is how many times SFT's delay the paper gives for FL."""
    for name in NAMES:
        yield (label, name, *_row(seen.rounds, seen.minutes[name], seen.times_sft(name)), "")
    own = _row(seen.fl_rounds, seen.fl_own_minutes, seen.fl_own_times_sft)
    yield (label, "fl-lora", *own, "" if printed is None else f"{printed:.6f}")


def _row(epochs: float, minutes: float, times: float) -> tuple[str, str, str]:
    return (f"{epochs:.6f}", f"{minutes:.6f}", f"{times:.6f}")


def draw(
    first: Evaluation,
    second: Evaluation,
    labels: tuple[str, str],
    printed: tuple[float | None, float | None],
    setting: str,
) -> Figure:
    """Minutes left, times SFT's right; `printed`: FL over SFT by the paper, in both settings."""
    figure = new_figure(470)
    left, right = figure.subplots(1, 2)
    rows = _names(first)
    colours = (OURS_LIGHT, OURS)
    draw_bars(
        left,
        rows,
        [
            Series(f"ours, {label}", _minutes(seen), colour, digits=0)
            for label, seen, colour in zip(labels, (first, second), colours, strict=True)
        ],
        "virtual time [min]",
    )
    left.set_title("delay after equal epochs; FL also after its own")
    series = [
        Series(
            f"ours, {label}",
            [minutes / seen.minutes["sft"] for minutes in _minutes(seen)],
            colour,
            digits=2,
        )
        for label, seen, colour in zip(labels, (first, second), colours, strict=True)
    ]
    known = [f"{value:g}" for value in printed if value is not None]
    if known:
        rows[2] += f"\n(paper: {' and '.join(known)})"
    draw_bars(right, rows, series, "delay over that of SFT")
    right.set_title("times the delay of SFT")
    legend_and_title(figure, (left, right), setting)
    return figure


def _names(seen: Evaluation) -> list[str]:
    """The rows: FL once after equal epochs and once after its own."""
    names = list(NAMES.values())
    return [*names[:2], f"FL, {seen.fl_rounds:.1f} epochs", *names[2:]]


def _minutes(seen: Evaluation) -> list[float]:
    values = [seen.minutes[name] for name in NAMES]
    return [*values[:2], seen.fl_own_minutes, *values[2:]]
