"""The figure of what was learned: score against rounds and time, losses against rounds."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from cutlayer.report.drawing import INK, new_figure, whole_ticks
from cutlayer.report.run_reader import trained
from cutlayer.report.vocabulary import SCORE_COLOUR, TRAIN_COLOUR
from cutlayer.report.wording import score_text, time_scale
from cutlayer.train.records import RoundRecord


def curve_figure(records: Sequence[RoundRecord], clock: str) -> Figure:
    """Three panels: score by round, score by time (`clock`: simulated, measured), both losses by
    round."""
    figure = new_figure(290)
    by_round, by_time, losses = figure.subplots(1, 3)
    measure = records[0].score.measure
    rounds = [float(record.round) for record in records]
    times = [record.virtual_time_s for record in records]
    scale = time_scale(max(times))
    _draw_score(by_round, rounds, records)
    _draw_score(by_time, [time / scale.unit_size for time in times], records)
    _draw_losses(losses, records)
    by_round.set(title=f"{measure} by round", xlabel="round")
    by_time.set(title=f"{measure} by {clock} time", xlabel=f"{clock} time [{scale.unit}]")
    losses.set(title="loss by round", xlabel="round")
    for axes in (by_round, losses):
        whole_ticks(axes, 0, len(records))
        _side_room(axes, float(len(records) - 1))
    _side_room(by_time, max(times) / scale.unit_size)
    return figure


def _draw_score(axes: Axes, positions: list[float], records: Sequence[RoundRecord]) -> None:
    values = _finite([record.score.value for record in records])
    _line(axes, positions, values, SCORE_COLOUR, "score")
    if records[0].score.measure == "accuracy":
        axes.yaxis.set_major_formatter(FuncFormatter(_percent))
    _room(axes, values)
    trained = len(records) > 1
    # on the side that the line does not come from
    above = not trained or not values[-1] < values[-2]
    if math.isfinite(values[-1]):
        axes.annotate(
            score_text(records[-1].score),
            (positions[-1], values[-1]),
            xytext=(4 if trained else -4, 9 if above else -9),
            textcoords="offset points",
            ha="right" if trained else "left",
            va="bottom" if above else "top",
            weight="bold",
            color=INK,
        )


def _draw_losses(axes: Axes, records: Sequence[RoundRecord]) -> None:
    done = trained(records)
    train = _finite([record.train_loss for record in done])
    evaluated = _finite([record.eval_loss for record in records])
    _line(axes, [float(record.round) for record in done], train, TRAIN_COLOUR, "training")
    _line(axes, [float(record.round) for record in records], evaluated, SCORE_COLOUR, "evaluation")
    _room(axes, train + evaluated)
    if axes.lines:
        axes.legend(loc="upper right", handlelength=1.2)


def _line(axes: Axes, positions: list[float], values: list[float], colour: str, label: str) -> None:
    if not any(math.isfinite(value) for value in values):
        return
    marker = "o" if len(values) <= 40 else ""
    axes.plot(
        positions,
        values,
        color=colour,
        linewidth=1.8,
        marker=marker,
        markersize=4.5,
        label=label,
        clip_on=False,
    )


def _room(axes: Axes, values: list[float]) -> None:
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    # equal values, or one alone, still get an axis around them
    span = (high - low) or abs(high) or 1.0
    axes.set_ylim(low - 0.15 * span, high + 0.18 * span)


def _side_room(axes: Axes, last: float) -> None:
    width = last or 1.0
    axes.set_xlim(-0.04 * width, 1.04 * width)


def _finite(values: list[float]) -> list[float]:
    return [value if math.isfinite(value) else math.nan for value in values]


def _percent(value: float, _position: object = None) -> str:
    return f"{100 * value:g} %"
