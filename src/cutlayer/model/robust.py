"""What some devices cannot pull where they like: adapters that no training can have made are left
out, and aggregations of values, or of whole adapters, bound what the others do.

Samples are what a device says that it has, so that each device weighs the same here. Each part of
the model is merged by itself: a device may be left out of one and not of the other. An adapter that
is not finite is the first to be left out.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from cutlayer.errors import ModelError
from cutlayer.model.optimizer import Aggregation

# values of a row that are looked at together: a sort of a hundred devices takes 80 MB
_COLUMNS = 1 << 16
# of fewer updates no median says what is usual
_FEW = 3


class _ByValue(Aggregation):
    """Of each value by itself, from what devices have of it in order."""

    def merge(
        self, rows: Float[Tensor, "device parameter"], weights: Sequence[float]
    ) -> Float[Tensor, " parameter"]:
        """In double precision; NaN counts as the largest. Raises ModelError for no rows."""
        _check_rows(rows, weights)
        merged = torch.empty_like(rows[0])
        for first in range(0, len(merged), _COLUMNS):
            ordered = rows[:, first : first + _COLUMNS].sort(dim=0).values
            merged[first : first + _COLUMNS] = self._middle(ordered)
        return merged

    @abstractmethod
    def _middle(self, ordered: Float[Tensor, "device value"]) -> Float64[Tensor, " value"]:
        """What becomes of values that are in order along the devices."""


@final
@dataclass(frozen=True)
class Median(_ByValue):
    """The median of each value; of an even number of devices the mean of the two in the middle.

    Source: Yin et al. (arXiv 1803.01498) definition 1.
    """

    def _middle(self, ordered: Float[Tensor, "device value"]) -> Float64[Tensor, " value"]:
        low, high = (len(ordered) - 1) // 2, len(ordered) // 2
        return ordered[low : high + 1].double().mean(dim=0)


@final
@dataclass(frozen=True)
class TrimmedMean(_ByValue):
    """The mean of each value without its largest and its smallest ones: `trim` of the devices at
    either end, rounded up, as long as one is left.

    Source: Yin et al. (arXiv 1803.01498) definition 2.
    """

    trim: float

    def _middle(self, ordered: Float[Tensor, "device value"]) -> Float64[Tensor, " value"]:
        devices = len(ordered)
        ends = min(math.ceil(self.trim * devices), (devices - 1) // 2)
        return ordered[ends : devices - ends].double().mean(dim=0)


@final
@dataclass(frozen=True)
class NormClipped(Aggregation):
    """The mean of updates that are no longer than `most` times their median.

    An update is what a device has moved the adapter since the round began. Source: norm bounding,
    Sun et al. (arXiv 1911.07963) section 5; the median in the place of a fixed bound needs no
    setting as training goes on. `began`: the row of then (None: not known yet, see `since`).
    """

    most: float
    began: Float[Tensor, " parameter"] | None = None

    def since(self, began: Float[Tensor, " parameter"]) -> "NormClipped":
        return replace(self, began=began)

    def merge(
        self, rows: Float[Tensor, "device parameter"], weights: Sequence[float]
    ) -> Float[Tensor, " parameter"]:
        """In double precision; updates that are not finite count as none. Raises ModelError for no
        rows."""
        _check_rows(rows, weights)
        assert self.began is not None, "who merges says what the round began with"
        began = self.began.to(rows.device).double()
        norms = torch.stack([_norm(row.double() - began) for row in rows])
        limit = self.most * norms.sort().values[(len(norms) - 1) // 2]
        total = torch.zeros_like(began)
        for row, norm in zip(rows, norms, strict=True):
            if norm.isfinite():
                total.add_(
                    row.double() - began, alpha=1.0 if norm <= limit else float(limit / norm)
                )
        return (began + total / len(rows)).to(rows.dtype)


@final
@dataclass(frozen=True)
class Krum(Aggregation):
    """The mean of the adapters that have the nearest neighbours: all but as many as may be
    `hostile`, a share of the devices, rounded up.

    An adapter's score is the sum of its squared distances to the `n - f - 2` nearest of n, of which
    f may be hostile. Holds for `n >= 2 f + 3`: of fewer devices f is as large as that allows.
    Source: multi-Krum, Blanchard et al. (NeurIPS 2017) section 4, with m = n - f.
    """

    hostile: float

    def merge(
        self, rows: Float[Tensor, "device parameter"], weights: Sequence[float]
    ) -> Float[Tensor, " parameter"]:
        """In double precision, in the devices' order. Raises ModelError for no rows."""
        _check_rows(rows, weights)
        devices = len(rows)
        hostile = min(math.ceil(self.hostile * devices), max((devices - 3) // 2, 0))
        scores = self._scores(rows, max(devices - hostile - 2, 0))
        kept = sorted(scores.argsort(stable=True)[: devices - hostile].tolist())
        total = torch.zeros_like(rows[0], dtype=torch.float64)
        for place in kept:
            total.add_(rows[place])
        return (total / len(kept)).to(rows.dtype)

    def _scores(
        self, rows: Float[Tensor, "device parameter"], nearest: int
    ) -> Float64[Tensor, " device"]:
        squares = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
        for first in range(0, rows.shape[1], _COLUMNS):
            part = rows[:, first : first + _COLUMNS].double()
            for place, row in enumerate(part):
                squares[place] += (part - row).square().sum(dim=1)
        squares.fill_diagonal_(torch.inf)  # not its own neighbour
        near = squares.nan_to_num(nan=torch.inf).sort(dim=1).values[:, :nearest]
        scores: Tensor = near.sum(dim=1)
        scores[~rows.isfinite().all(dim=1)] = torch.inf
        return scores


def impossible(
    rows: Float[Tensor, "device parameter"],
    began: Float[Tensor, " parameter"],
    *,
    most_move: Sequence[float],
    times_median: float | None,
) -> dict[int, str]:
    """Which of the rows a round that began with `began` cannot have made, by place, and why; all on
    the host.

    One with a value that is not finite, or has moved further than `most_move` of its device and as
    far as it was from zero (weight decay); and among three or more others one whose update is
    longer than `times_median` times their median (None: as long as it likes).
    """
    found, norms = {}, {}
    began = began.double()
    slack = began.abs()
    for place, (row, most) in enumerate(zip(rows, most_move, strict=True)):
        if not row.isfinite().all():
            found[place] = "it has values that are not finite"
            continue
        update = row.double() - began
        over = (update.abs() - slack).max() if len(update) else torch.zeros(())
        if over > most:
            found[place] = (
                f"a value of it moved by {float(update.abs().max()):.3g}; its learning rates add up"
                f" to moves of at most {most:.3g}"
            )
            continue
        norms[place] = float(torch.linalg.vector_norm(update))
    if times_median is None or len(norms) < _FEW:
        return found
    median = sorted(norms.values())[(len(norms) - 1) // 2]
    for place, norm in norms.items():
        if norm > times_median * median:
            found[place] = (
                f"it moved by {norm:.3g}, which is {norm / median:.3g} times the median of the"
                f" round's ({times_median:g} times are taken)"
                if median
                else f"it moved by {norm:.3g}, and most of the round's adapters not at all"
            )
    return found


def _norm(update: Float64[Tensor, " parameter"]) -> Float64[Tensor, ""]:
    """Its length; infinite where it is not a number."""
    norm: Tensor = torch.linalg.vector_norm(update)
    return norm.nan_to_num(nan=torch.inf)


def _check_rows(rows: Float[Tensor, "device parameter"], weights: Sequence[float]) -> None:
    if not len(rows) or len(weights) != len(rows):
        raise ModelError(f"{len(weights)} weights for {len(rows)} devices: give one each")
