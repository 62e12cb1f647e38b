"""The figure of who had which part of the band in which round, where that changed."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from cutlayer.report.map_figure import MOST_NAMED, Side, map_figure
from cutlayer.train.records import TrainedRound


def shares_vary(works: Sequence[TrainedRound]) -> bool:
    """Whether any round had other shares than the first; records without shares have none."""
    return len({work.shares for work in works}) > 1


def shown_rounds(works: Sequence[TrainedRound]) -> int:
    """How many of the last rounds are drawn: as many as have room for their numbers."""
    return min(len(works), MOST_NAMED)


def share_figure(works: Sequence[TrainedRound]) -> Figure:
    """Percent of the bandwidth: a row for each device, a column for each of the last rounds."""
    percent = 100 * np.array([work.shares for work in works[-shown_rounds(works) :]]).T
    first = len(works) - shown_rounds(works) + 1
    rounds = Side("round", tuple(str(first + place) for place in range(percent.shape[1])))
    devices = Side("device", tuple(str(device) for device in range(len(percent))))
    return map_figure(percent, devices, rounds, "percent of the bandwidth")
