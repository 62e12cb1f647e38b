"""FedAvg: devices' adapters into one, weighted by their samples.

A and B are averaged each by itself, as published; the mean of the products A B is another thing.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cutlayer.errors import ModelError


def fedavg(
    rows: Float[Tensor, "device parameter"], weights: Sequence[float]
) -> Float[Tensor, " parameter"]:
    """`sum_n w_n row_n / sum_n w_n`, summed in double precision in device order.

    Raises ModelError unless there is one weight a device, none negative, and one positive.
    Source: SFT eqs. (7), (8) with `w_n = D_n`.
    """
    if len(weights) != rows.shape[0]:
        raise ModelError(f"{len(weights)} weights for {rows.shape[0]} devices: give one each")
    if min(weights) < 0 or sum(weights) <= 0:
        raise ModelError(f"FedAvg weights must be at least 0 and not all 0, not {list(weights)}")
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    for row, weight in zip(rows, weights, strict=True):
        total.add_(row, alpha=weight)
    return (total / sum(weights)).to(rows.dtype)
