"""The figure of a simulated round: who computes, sends and waits when.

Knows no run directory; `delay_figures` draws one from a recorded trace.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cutlayer.errors import ConfigError
from cutlayer.report.drawing import add_boxes, new_figure
from cutlayer.report.vocabulary import PHASES
from cutlayer.report.wording import counted, time_scale
from cutlayer.rounds.result import Event, RoundTimeline
from cutlayer.rounds.schemes import Phase, Place

_MOST_DEVICES = 24
_LEGEND_COLUMNS = 6
_ROW_PIXELS = 22

# a band of a row: how far its top and bottom are from the row's middle
Band = tuple[float, float]
_WHOLE: Band = (-0.36, 0.36)
_WAIT: Band = (-0.14, 0.14)
# where micro-batches overlap a row shows computing above, uplink and downlink below
LANES: dict[Place, Band] = {
    Place.DEVICE: (-0.40, -0.04),
    Place.UPLINK: (0.0, 0.18),
    Place.DOWNLINK: (0.22, 0.40),
}
_SHARED = {Place.UPLINK: "uplink", Place.SERVER: "server", Place.DOWNLINK: "downlink"}

_Row = int
_Boxes = dict[Phase, list[tuple[float, float, float, float]]]


def draw_gantt(timeline: RoundTimeline, *, title: str = "", until_s: float | None = None) -> Figure:
    """A row for the server, one for each band that devices share, one for each device.

    At most 24 devices, spread evenly, the slowest among them. `until_s` draws the beginning alone.
    Where a device's micro-batches overlap, its row has computing above and its transfers below,
    and waits are left out. Draw it inside `plain_style`. Raises ConfigError for a window that is
    not positive.
    """
    window_s = timeline.delay_s if until_s is None else until_s
    if not window_s > 0:
        raise ConfigError(f"a round of {window_s} s has nothing to draw: give a longer one")
    scale = time_scale(window_s)
    shared = _shared_places(timeline)
    devices = shown_devices(timeline)
    figure = new_figure(120 + _ROW_PIXELS * (len(shared) + len(devices)))
    axes = figure.subplots()
    boxes = _boxes(timeline, devices, shared, window_s)
    for phase, found in boxes.items():
        edges = np.array(found, dtype=float)
        edges[:, :2] = np.minimum(edges[:, :2], window_s) / scale.unit_size
        add_boxes(axes, edges, PHASES[phase].colour)
    names = [_SHARED[place] for place in shared] + [f"device {n}" for n in devices]
    axes.set(xlim=(0, window_s / scale.unit_size), ylim=(len(names) - 0.4, -0.6))
    axes.set_yticks(range(len(names)), names)
    if shared:
        axes.axhline(len(shared) - 0.5, color="#b6bec8", linewidth=0.8)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x")
    left = len(timeline.devices) - len(devices)
    more = f", {counted(left, 'device')} not shown" if left else ""
    axes.set_xlabel(f"time since the round began [{scale.unit}]{more}")
    if title:
        axes.set_title(title)
    _legend(figure, boxes)
    return figure


def shown_devices(timeline: RoundTimeline) -> list[int]:
    """The devices whose rows are drawn: all, or 24 spread evenly with the slowest among them."""
    count = len(timeline.devices)
    if count <= _MOST_DEVICES:
        return list(range(count))
    spread = np.linspace(0, count - 1, _MOST_DEVICES - 1).round().astype(int)
    return sorted({*spread.tolist(), timeline.slowest_device})


def _shared_places(timeline: RoundTimeline) -> list[Place]:
    """What more than one device uses, in the order in which a mini-batch meets it."""
    places = [Place.SERVER] if timeline.scheme.splits else []
    if timeline.rules.whole_band(Place.UPLINK):
        places.insert(0, Place.UPLINK)
    if timeline.rules.whole_band(Place.DOWNLINK):
        places.append(Place.DOWNLINK)
    return places


def _boxes(
    timeline: RoundTimeline, devices: Sequence[int], shared: Sequence[Place], window_s: float
) -> _Boxes:
    scheme = timeline.scheme
    places = {step.phase: step.place for step in (*scheme.opening, *scheme.local, *scheme.closing)}
    rows = {device: row for row, device in enumerate(devices, start=len(shared))}
    boxes: _Boxes = defaultdict(list)
    for device in range(len(timeline.devices)):
        overlaps = timeline.devices[device].overlaps
        for event in timeline.device_events(device):
            if event.start_s >= window_s or event.end_s == event.start_s:
                continue
            place = places.get(event.phase)
            for row, band in _bands(event, place, overlaps, rows, shared):
                top, bottom = band
                box = (event.start_s, event.end_s, row + top, row + bottom)
                boxes[event.phase].append(box)
    return {phase: boxes[phase] for phase in Phase if phase in boxes}


def _bands(
    event: Event,
    place: Place | None,
    overlaps: bool,
    rows: dict[int, _Row],
    shared: Sequence[Place],
) -> Iterator[tuple[_Row, Band]]:
    """Where an event is drawn: in the row of what it uses, and in that of its device."""
    if place in shared:
        yield shared.index(place), _WHOLE
    row = rows.get(event.device)
    if row is None:
        return
    if place is None:
        if not overlaps:
            yield row, _WAIT
    elif not overlaps or event.micro_batch is None:
        yield row, _WHOLE
    elif place in LANES:
        yield row, LANES[place]


def _legend(figure: Figure, boxes: _Boxes) -> None:
    handles = [
        Patch(facecolor=PHASES[phase].colour, edgecolor="none", label=PHASES[phase].label)
        for phase in boxes
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(_LEGEND_COLUMNS, max(1, len(handles))),
        handlelength=1.1,
        handleheight=1.1,
    )
