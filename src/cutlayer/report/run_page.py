"""`report.html`: one self-contained page about a run, drawn from its directory, and its figures of
where the seconds went: by round and device, and one round step by step.

Knows a run's record; what stands where is the template's.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cutlayer.files import write_text
from cutlayer.report.drawing import (
    MUTED,
    add_boxes,
    new_figure,
    plain_style,
    stack_columns,
    svg_element,
)
from cutlayer.report.run_figures import (
    DOWNLINK_COLOUR,
    MOST_NAMED,
    UNCOMPRESSED_COLOUR,
    UPLINK_COLOUR,
    byte_figure,
    confusion_figure,
    curve_figure,
    device_score_figure,
    memory_figure,
    memory_kinds,
    names_are_drawn,
    partition_figure,
    payload_names,
    share_figure,
    shares_vary,
    shown_rounds,
)
from cutlayer.report.run_reader import RunRecord, read_record
from cutlayer.report.wording import (
    CLOCKS,
    MEMORY_KINDS,
    PAYLOADS,
    PHASES,
    WAITS,
    Word,
    cells,
    column,
    counted,
    evaluation_facts,
    headline,
    phases_in,
    render,
    round_columns,
    savings,
    share_text,
    time_scale,
    word,
)
from cutlayer.rounds.result import TimelineEvent
from cutlayer.rounds.schemes import Phase
from cutlayer.training.records import Partition, Summary, TrainedRound
from cutlayer.units import format_seconds

# The figures of where the seconds went.


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
# of the time shown, some two pixels: a server often computes for less
_LEAST_SEEN = 0.002


def delay_figure(works: Sequence[TrainedRound]) -> Figure:
    """Delay by phase, stacked: of each round (left) and of each device, mean of rounds (right)."""
    figure = new_figure(300)
    by_round, by_device = figure.subplots(1, 2, sharey=True)
    rounds = np.array([_phases(work.delay_by_phase_s) for work in works])
    some = any(work.participants for work in works)  # others in each round
    each = works[-1:] if some else works
    devices = np.array(
        [[_phases(phases) for phases in work.device_delay_by_phase_s] for work in each]
    ).mean(axis=0)
    scale = time_scale(float(rounds.sum(axis=1).max()))
    _columns(by_device, devices / scale.unit_size, 0)
    _columns(by_round, rounds / scale.unit_size, 1)
    by_round.set(title="by round, along the slowest device", xlabel="round")
    by_round.set_ylabel(f"delay [{scale.unit}]")
    what = "of the last round" if some else "mean of the rounds"
    by_device.set(title=f"by device, {what}", xlabel="device")
    largest = max(rounds.sum(axis=1).max(), devices.sum(axis=1).max()) / scale.unit_size
    by_round.set_ylim(0, 1.12 * largest if largest > 0 else 1)
    return figure


def gantt_figure(
    steps: Sequence[TimelineEvent], slowest_device: int, *, legend: bool = False
) -> Figure:
    """Who does what when in one round: a row for the server, one for each device (at most 24).

    A long round shows the slowest device's first local steps only, see `gantt_local_steps`. In the
    server's row nothing is too short to be seen. Where a device's micro-batches overlap, its row
    has computing above and its transfers below, and waits are left out. Draw it inside
    `plain_style`; a page has the legend beside it.
    """
    devices = gantt_devices(steps, slowest_device)
    origin_s = min(step.start_s for step in steps)
    window_s = max(_window_end(steps, slowest_device) - origin_s, 1e-9)
    scale = time_scale(window_s)
    figure = new_figure(90 + 20 * (len(devices) + 1))
    axes = figure.subplots()
    rows = {device: row for row, device in enumerate(devices, start=1)}
    overlap = _overlap(steps)
    for phase, named in PHASES.items():
        shown = [
            step for step in steps if step.phase == phase and step.start_s - origin_s < window_s
        ]
        add_boxes(
            axes, _boxes(shown, rows, overlap, origin_s, window_s, scale.unit_size), named.colour
        )
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    axes.axhline(0.5, color="#b6bec8", linewidth=0.8)
    axes.set_xlim(0, window_s / scale.unit_size)
    axes.set_ylim(len(devices) + 0.6, -0.6)
    axes.set_yticks(range(len(devices) + 1), ["server", *(f"device {n}" for n in devices)])
    axes.set_xlabel(f"time since the round began [{scale.unit}]")
    if legend:
        handles = [Patch(color=named.colour, label=named.label) for named in gantt_phases(steps)]
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
    window_s: float,
    unit_s: float,
) -> Float[np.ndarray, "box 4"]:
    boxes = []
    least = _LEAST_SEEN * window_s / unit_s
    for step in steps:
        start, end = (step.start_s - origin_s) / unit_s, (step.end_s - origin_s) / unit_s
        band = _band(step, overlap)
        if band is not None and step.device in rows:
            row = rows[step.device]
            boxes.append((start, end, row + band[0], row + band[1]))
        if step.phase == "server_compute":
            boxes.append((start, max(end, start + least), *_BUSY))
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


# The page.


REPORT = "report.html"


def write_report(directory: Path) -> Path:
    """Write `report.html` into the run directory, in one step, and give its path.

    The same run gives the same bytes.

    Raises:
        RunError: the directory cannot be read as a run, or the page cannot be written.
    """
    path = directory / REPORT
    write_text(path, run_page(read_record(directory)))
    return path


def run_page(run: RunRecord) -> str:
    """The whole page as text."""
    summary, works, columns = run.summary, run.trained, round_columns(run.rounds).values()
    with plain_style():
        return render(
            "run.html",
            title=headline(summary),
            clock=CLOCKS[summary.clock],
            run=run,
            summary=summary,
            works=works,
            savings=savings(works),
            about={**_about(summary), **_taking_part(summary, works)},
            memory_text=_memory_text(summary),
            kinds=[
                (kind.colour, kind.label, summary.device_memory_bytes[name])
                for name in memory_kinds(summary)
                for kind in (word(MEMORY_KINDS, name),)
            ],
            sizes=" to ".join(f"{size:,}" for size in _span(summary.samples_per_device)),
            classes=[] if names_are_drawn(run.partition) else _classes(run.partition),
            headings=[f"{one.label} [{one.unit}]" if one.unit else one.label for one in columns],
            cells=list(zip(*(cells(one.values, one.texts) for one in columns), strict=True)),
            curves=_svg(
                curve_figure(run.rounds, CLOCKS[summary.clock]),
                "curves",
                f"{summary.score_final.measure} and loss over the run",
            ),
            memory=_svg(memory_figure(summary), "memory", "peak memory of a device by kind"),
            partition=_svg(
                partition_figure(run.partition), "partition", "samples by class and device"
            ),
            **_of_evaluation(run),
            **_of_training(works),
            **_of_the_last_round(run),
        )


def _of_training(works: Sequence[TrainedRound]) -> dict[str, object]:
    """What there is of rounds that trained."""
    if not works:
        return {"shares": None}
    return {
        "delay": _svg(delay_figure(works), "delay", "delay by phase, by round and by device"),
        "phases": _phase_shares(works),
        "slowest": _slowest(works),
        "bytes": _svg(byte_figure(works), "bytes", "bytes by direction and by payload"),
        "directions": [
            (UPLINK_COLOUR, "uplink"),
            (DOWNLINK_COLOUR, "downlink"),
            (UNCOMPRESSED_COLOUR, "uncompressed"),
        ],
        "payloads": [
            (payload.colour, payload.label, sum(w.bytes_by_payload.get(name, 0) for w in works))
            for name in payload_names(works)
            for payload in (word(PAYLOADS, name),)
        ],
        "shown_rounds": shown_rounds(works),
        "shares": _svg(share_figure(works), "shares", "bandwidth allocation by device and round")
        if shares_vary(works) and not any(work.participants for work in works)
        else None,
    }


def _of_evaluation(run: RunRecord) -> dict[str, object]:
    """Classes and devices of the last evaluation, where they are known."""
    if run.evaluation is None:
        return {"class_rows": None, "device_scores": None}
    details, measure = run.evaluation.last, run.summary.score_final.measure
    shown: dict[str, object] = {"details": details, "class_rows": None, "confusion": None}
    if details.classes:
        if details.confusion:
            figure = confusion_figure(details)
            shown["confusion"] = _svg(figure, "confusion", "what each class was taken for")
        shown["class_rows"] = [
            (name, f"{one.precision:.3f}", f"{one.recall:.3f}", f"{one.f1:.3f}", f"{one.support:,}")
            for name, one in zip(details.class_names, details.classes, strict=True)
        ]
        shown["classes_named"] = len(details.class_names) <= MOST_NAMED
    shown["device_scores"] = None
    if details.device_scores:
        figure = device_score_figure(details.device_scores, measure)
        shown["device_scores"] = _svg(figure, "device-scores", f"{measure} by device")
    return shown


def _of_the_last_round(run: RunRecord) -> dict[str, object]:
    """One round step by step, if a trace of it is there."""
    steps = run.last_round_steps
    if not run.trained or not steps:
        return {"gantt": None, "alone_s": None}
    slowest = run.trained[-1].slowest_device
    if not any(_on_a_device(step) for step in steps):
        return {"gantt": None, "alone_s": format_seconds(run.trained[-1].delay_s)}
    return {
        "gantt": _svg(gantt_figure(steps, slowest), "gantt", "who does what when"),
        "steps": gantt_local_steps(steps, slowest),
        "rows": len(gantt_devices(steps, slowest)),
        "drawn_phases": [(phase.colour, phase.label) for phase in gantt_phases(steps)],
    }


def _on_a_device(step: TimelineEvent) -> bool:
    """Whether a device, or its link, works on it for any time."""
    idle = {*WAITS, Phase.SERVER_COMPUTE.value}
    return step.phase not in idle and step.end_s > step.start_s


def _about(summary: Summary) -> dict[str, str]:
    devices = counted(summary.devices, "device")
    return {
        "task": summary.task,
        "scheme": summary.scheme,
        "model": f"{summary.model} (from {summary.model_source})",
        "data": f"{summary.data} (from {summary.data_source})",
        "samples": f"{sum(summary.samples_per_device):,} on {devices}",
        **evaluation_facts(summary),
        "computed on": f"devices' part: {summary.devices_on}; server's part: {summary.server_on}",
        "wall-clock": f"{format_seconds(summary.wall_s)}, seed {summary.seed}",
        "config sha256": summary.config_sha256,
    }


def _taking_part(summary: Summary, works: Sequence[TrainedRound]) -> dict[str, str]:
    """Of a run whose rounds were not of all devices to their end: of how many they were."""
    left, late = sum(len(work.left) for work in works), sum(len(work.late) for work in works)
    some = [work.participants for work in works if work.participants]
    if not (some or left or late):
        return {}
    text = "all in each round"
    if some:
        seen = len({device for devices in some for device in devices})
        sizes = " to ".join(f"{size:,}" for size in _span([len(devices) for devices in some]))
        text = f"{sizes} in a round, {seen:,} of {summary.devices:,} at least once"
    return {"devices taking part": f"{text}; {left:,} left a round, {late:,} missed its deadline"}


def _phase_shares(works: Sequence[TrainedRound]) -> list[tuple[str, str]]:
    total_s = sum(work.delay_s for work in works)
    seconds = [work.delay_by_phase_s for work in works]
    return [
        (own.colour, f"{own.label} {share_text(sum(s.get(phase, 0.0) for s in seconds), total_s)}")
        for phase, own in phases_in(seconds).items()
    ]


def _slowest(works: Sequence[TrainedRound]) -> str:
    ranking = Counter(work.slowest_device for work in works).most_common()
    named = [f"device {device} in {counted(count, 'round')}" for device, count in ranking[:4]]
    others = len(ranking) - len(named)
    return ", ".join(named) + (f", and {counted(others, 'other')}" if others > 0 else "")


def _memory_text(summary: Summary) -> str:
    peak, limit = summary.device_peak_bytes, summary.device_memory_limit_bytes
    weights = summary.device_memory_bytes.get("weights", 0)
    text = (
        f"A device has {share_text(weights, summary.model_bytes)} of the model's weights; its "
        f"peak is {share_text(peak, summary.unsplit_peak_bytes)} of what the unsplit model needs"
    )
    if limit is None:
        return f"{text}. No limit was set."
    fits = "would not fit" if summary.unsplit_peak_bytes > limit else "would fit too"
    return f"{text} and {share_text(peak, limit)} of its limit. The unsplit model {fits}."


def _span(sizes: Sequence[int]) -> list[int]:
    return sorted({min(sizes), max(sizes)})


def _classes(partition: Partition) -> list[tuple[str, int]]:
    """Each class and its samples on all devices."""
    totals = map(sum, zip(*partition.counts, strict=True))
    return list(zip(partition.class_names, totals, strict=True))


def _svg(figure: Figure, name: str, description: str) -> Markup:
    return Markup(svg_element(figure, name, description))
