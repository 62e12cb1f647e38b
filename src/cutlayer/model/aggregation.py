"""How the server makes one adapter of those that devices have trained.

Knows rows and weights, neither what is in a row nor whose it is.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from cutlayer.errors import ModelError, quoted


class Aggregation(ABC):
    """What closes a round: the devices' rows into the one that all begin the next round with.

    It is asked once for the device side and once for the server side, with the same weights. An
    aggregation is a value, no call changes it: equal rows and weights give an equal row, or a run
    that is resumed, or played over a network, would end elsewhere.
    """

    @abstractmethod
    def merge(
        self, rows: Float[Tensor, "device parameter"], weights: Sequence[float]
    ) -> Float[Tensor, " parameter"]:
        """The merged row, of the rows' type, in a new tensor.

        `rows`: an adapter a device, in the devices' order; over a network those alone that made
        the round. `weights`: the samples that each has, at least 0. A and B of LoRA lie apart in a
        row, as they are trained.

        Raises ModelError for weights that give no row. One that is not finite ends the run, as a
        round that diverged.
        """


def merged(
    aggregation: Aggregation, rows: Float[Tensor, "device parameter"], weights: Sequence[float]
) -> Float[Tensor, " parameter"]:
    """The merged row. Raises ModelError for an aggregation that gives another thing than one, or
    makes of finite rows one that is not."""
    row: object = aggregation.merge(rows, weights)
    name = type(aggregation).__name__
    if not (isinstance(row, Tensor) and row.shape == rows.shape[1:] and row.dtype == rows.dtype):
        given = f"{row.dtype} of {list(row.shape)}" if isinstance(row, Tensor) else quoted(row)
        raise ModelError(
            f"the aggregation {name} merges rows of {rows.shape[1]} values of {rows.dtype} into"
            f" {given}: merge should give one such row"
        )
    if not row.isfinite().all() and rows.isfinite().all():
        raise ModelError(f"the aggregation {name} merges finite rows into one with NaN or infinity")
    return row


@final
@dataclass(frozen=True)
class FedAvg(Aggregation):
    """The mean, weighted by samples: `sum_n w_n row_n / sum_n w_n`.

    A and B are averaged each by itself, as published; the mean of the products A B is another
    thing. Source: SFT eqs. (7), (8) with `w_n = D_n`.
    """

    def merge(
        self, rows: Float[Tensor, "device parameter"], weights: Sequence[float]
    ) -> Float[Tensor, " parameter"]:
        """Summed in double precision in device order.

        Raises ModelError unless there is one weight a device, none negative, and one positive.
        """
        if len(weights) != rows.shape[0]:
            raise ModelError(f"{len(weights)} weights for {rows.shape[0]} devices: give one each")
        if min(weights) < 0 or sum(weights) <= 0:
            raise ModelError(
                f"FedAvg weights must be at least 0 and not all 0, not {list(weights)}"
            )
        total = torch.zeros(rows.shape[1], dtype=torch.float64)
        for row, weight in zip(rows, weights, strict=True):
            total.add_(row, alpha=weight)
        return (total / sum(weights)).to(rows.dtype)
