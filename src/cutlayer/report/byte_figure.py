"""The figure of what went over the link: each direction against uncompressed, and by payload."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutlayer.report.drawing import (
    add_boxes,
    column_limits,
    column_width,
    new_figure,
    stack_columns,
)
from cutlayer.report.vocabulary import PAYLOADS, word
from cutlayer.report.wording import Scale, byte_scale
from cutlayer.train.records import TrainedRound

UPLINK_COLOUR = "#f0a13c"
DOWNLINK_COLOUR = "#5b93c7"
UNCOMPRESSED_COLOUR = "#dfe3e8"


def byte_figure(works: Sequence[TrainedRound]) -> Figure:
    """Bytes of each round: uplink and downlink over uncompressed (grey), and both by payload."""
    figure = new_figure(280)
    uplink, downlink, by_payload = figure.subplots(1, 3)
    sent = np.array([[work.uplink_bytes, work.downlink_bytes] for work in works])
    plain = np.array(
        [[work.uncompressed_uplink_bytes, work.uncompressed_downlink_bytes] for work in works]
    )
    largest = float(max(sent.max(), plain.max()))
    scale = byte_scale(largest)
    panels = ((uplink, "uplink", UPLINK_COLOUR), (downlink, "downlink", DOWNLINK_COLOUR))
    for direction, (axes, title, colour) in enumerate(panels):
        _columns(axes, plain[:, direction], UNCOMPRESSED_COLOUR, scale)
        _columns(axes, sent[:, direction], colour, scale)
        column_limits(axes, 1, len(works), largest / scale.unit_size)
        axes.set(title=title, xlabel="round")
    uplink.set_ylabel(f"bytes a round [{scale.unit}]")
    _draw_payloads(by_payload, works)
    return figure


def payload_names(works: Sequence[TrainedRound]) -> list[str]:
    """The payloads that were sent at all, in their usual order, unknown ones last."""
    sent = {name for work in works for name, size in work.bytes_by_payload.items() if size > 0}
    return [name for name in PAYLOADS if name in sent] + sorted(sent - PAYLOADS.keys())


def _columns(axes: Axes, heights: Int[np.ndarray, " column"], colour: str, scale: Scale) -> None:
    middles, width = np.arange(1, len(heights) + 1), column_width(len(heights))
    tops = heights / scale.unit_size
    sides = (middles - width / 2, middles + width / 2, np.zeros_like(tops), tops)
    add_boxes(axes, np.stack(sides, axis=1), colour)


def _draw_payloads(axes: Axes, works: Sequence[TrainedRound]) -> None:
    names = payload_names(works)
    heights = np.array(
        [[float(work.bytes_by_payload.get(name, 0)) for name in names] for work in works]
    )
    scale = byte_scale(float(heights.sum(axis=1).max()))
    stack_columns(axes, heights / scale.unit_size, [word(PAYLOADS, n).colour for n in names], 1)
    axes.set(title="both, by payload", xlabel="round", ylabel=f"bytes a round [{scale.unit}]")
