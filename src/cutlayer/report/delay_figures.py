"""The figures of where the seconds went: by round and device, and one round step by step."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cutlayer.report.drawing import MUTED, add_boxes, new_figure, stack_columns
from cutlayer.report.vocabulary import PHASES, WAITS, Word, phases_in
from cutlayer.report.wording import column, time_scale
from cutlayer.rounds.result import TimelineEvent
from cutlayer.training.records import TrainedRound

# a band of a row: how far its top and bottom are from the row's middle
Band = tuple[float, float]
_WAITING: Band = (-0.16, 0.16)
_BUSY: Band = (-0.36, 0.36)
# where micro-batches overlap a row shows computing above, uplink and downlink below
_COMPUTING: Band = (-0.40, -0.04)
_LANES: dict[str, Band] = {
    "device_forward": _COMPUTING,
    "upper_compute": _COMPUTING,
    "device_backward": _COMPUTING,
    "activation_up": (0.0, 0.18),
    "gradient_down": (0.22, 0.40),
}
_LEGEND_COLUMNS = 6
_COLOURS = tuple(word.colour for word in PHASES.values())
_MOST_GANTT_DEVICES = 24
_MOST_GANTT_STEPS = 6


def delay_figure(works: Sequence[TrainedRound]) -> Figure:
    """Delay by phase, stacked: of each round (left) and of each device, mean of rounds (right)."""
    figure = new_figure(300)
    by_round, by_device = figure.subplots(1, 2, sharey=True)
    rounds = np.array([_phases(work.delay_by_phase_s) for work in works])
    devices = np.array(
        [[_phases(phases) for phases in work.device_delay_by_phase_s] for work in works]
    ).mean(axis=0)
    scale = time_scale(float(rounds.sum(axis=1).max()))
    _columns(by_device, devices / scale.unit_size, 0)
    _columns(by_round, rounds / scale.unit_size, 1)
    by_round.set(title="by round, along the slowest device", xlabel="round")
    by_round.set_ylabel(f"delay [{scale.unit}]")
    by_device.set(title="by device, mean of the rounds", xlabel="device")
    largest = max(rounds.sum(axis=1).max(), devices.sum(axis=1).max()) / scale.unit_size
    by_round.set_ylim(0, 1.12 * largest if largest > 0 else 1)
    return figure


def gantt_figure(
    steps: Sequence[TimelineEvent], slowest_device: int, *, legend: bool = False
) -> Figure:
    """Who does what when in one round: a row for the server, one for each device (at most 24).

    A long round shows the slowest device's first local steps only, see `gantt_local_steps`. Where a
    device's micro-batches overlap, its row has computing above and its transfers below, and waits
    are left out. Draw it inside `plain_style`; a page has the legend beside it.
    """
    devices = gantt_devices(steps, slowest_device)
    origin_s = min(step.start_s for step in steps)
    window_s = max(_window_end(steps, slowest_device) - origin_s, 1e-9)
    scale = time_scale(window_s)
    figure = new_figure(90 + 20 * (len(devices) + 1))
    axes = figure.subplots()
    rows = {device: row for row, device in enumerate(devices, start=1)}
    overlap = _overlap(steps)
    for phase, word in PHASES.items():
        shown = [
            step for step in steps if step.phase == phase and step.start_s - origin_s < window_s
        ]
        add_boxes(axes, _boxes(shown, rows, overlap, origin_s, scale.unit_size), word.colour)
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    axes.axhline(0.5, color="#b6bec8", linewidth=0.8)
    axes.set_xlim(0, window_s / scale.unit_size)
    axes.set_ylim(len(devices) + 0.6, -0.6)
    axes.set_yticks(range(len(devices) + 1), ["server", *(f"device {n}" for n in devices)])
    axes.set_xlabel(f"time since the round began [{scale.unit}]")
    if legend:
        handles = [Patch(color=word.colour, label=word.label) for word in gantt_phases(steps)]
        figure.legend(handles=handles, loc="outside lower center", ncols=_LEGEND_COLUMNS)
    return figure


def gantt_phases(steps: Sequence[TimelineEvent]) -> list[Word]:
    """What is drawn, in order: the phases that took any time."""
    return list(phases_in({step.phase: step.end_s - step.start_s} for step in steps).values())


def gantt_devices(steps: Sequence[TimelineEvent], slowest_device: int) -> list[int]:
    """The devices whose rows are drawn: all, or 24 spread evenly with the slowest among them."""
    devices = sorted({step.device for step in steps})
    if len(devices) <= _MOST_GANTT_DEVICES:
        return devices
    spread = np.linspace(0, len(devices) - 1, _MOST_GANTT_DEVICES - 1).round().astype(int)
    return sorted({devices[index] for index in spread} | {slowest_device})


def gantt_local_steps(steps: Sequence[TimelineEvent], slowest_device: int) -> tuple[int, int]:
    """How many of the slowest device's local steps are drawn, and of how many."""
    numbers = _local_steps(steps, slowest_device)
    return min(len(numbers), _MOST_GANTT_STEPS), len(numbers)


def _window_end(steps: Sequence[TimelineEvent], slowest_device: int) -> float:
    numbers = _local_steps(steps, slowest_device)
    if len(numbers) <= _MOST_GANTT_STEPS:
        return max(step.end_s for step in steps)
    late = set(numbers[_MOST_GANTT_STEPS:])
    mine = [step for step in steps if step.device == slowest_device and step.local_step in late]
    return min(step.start_s for step in mine)


def _local_steps(steps: Sequence[TimelineEvent], device: int) -> list[int]:
    numbers = {step.local_step for step in steps if step.device == device}
    return sorted(number for number in numbers if number is not None)


def _overlap(steps: Sequence[TimelineEvent]) -> bool:
    """Whether any device does more than one thing at a time."""
    ends_s: dict[int, float] = {}
    for step in sorted(steps, key=lambda step: (step.start_s, step.end_s)):
        before_s = ends_s.get(step.device, step.start_s)
        # a step begins where the one before it ended, but for the rounding of a few sums
        if step.start_s < before_s - 1e-9 * abs(before_s):
            return True
        ends_s[step.device] = max(before_s, step.end_s)
    return False


def _band(step: TimelineEvent, overlap: bool) -> Band | None:
    """Where in its device's row a step is drawn; None: nowhere."""
    if step.phase in WAITS:
        return None if overlap else _WAITING
    if not overlap or step.micro_batch is None:
        return _BUSY
    return _LANES.get(step.phase)


def _boxes(
    steps: Sequence[TimelineEvent],
    rows: dict[int, int],
    overlap: bool,
    origin_s: float,
    unit_s: float,
) -> Float[np.ndarray, "box 4"]:
    boxes = []
    for step in steps:
        start, end = (step.start_s - origin_s) / unit_s, (step.end_s - origin_s) / unit_s
        band = _band(step, overlap)
        if band is not None and step.device in rows:
            row = rows[step.device]
            boxes.append((start, end, row + band[0], row + band[1]))
        if step.phase == "server_compute":
            boxes.append((start, end, *_BUSY))
    return np.array(boxes, dtype=float).reshape(-1, 4)


def _columns(axes: Axes, heights: Float[np.ndarray, "column phase"], first: int) -> None:
    stack_columns(axes, heights, _COLOURS, first)
    totals = heights.sum(axis=1)
    if len(totals) <= 10:
        labels = column(list(totals))
        for index, (total, label) in enumerate(zip(totals, labels, strict=True)):
            axes.annotate(
                label,
                (first + index, total),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                color=MUTED,
                fontsize=10.5,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            )


def _phases(by_phase: Mapping[str, float]) -> list[float]:
    return [by_phase.get(phase, 0.0) for phase in PHASES]
