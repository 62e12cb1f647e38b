"""LoRA adapters of several ranks in rows of one layout, and the mean of their products.

An adapter is a sum of components, `B A = sum_k b_k a_k^T`. A row has room for as many as the
largest rank; of a lower one the others are zero in A and in B. There the gradients of both are zero
too, so that no optimiser moves them: a device of rank r trains, sends and holds its first r
components and nothing else. Knows no device and no round.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from cutlayer.model.lora import RowLayout, Slot
from cutlayer.model.optimizer import Aggregation, FedAvg


@final
@dataclass(frozen=True)
class Components:
    """The values in rows of `layout` that are of components `first` to `end - 1` of its adapters
    (from 0); with the first component go those of a trained head."""

    layout: RowLayout
    first: int
    end: int

    @cached_property
    def own(self) -> RowLayout:
        """How they lie in a row of their own."""
        slots = [self._narrowed(slot) for slot in self.layout.slots if slot.lora or not self.first]
        return RowLayout(tuple(slots))

    def _narrowed(self, slot: Slot) -> Slot:
        if not slot.lora:
            return slot
        of_b = slot.name.endswith(".lora_B")
        count = len(range(*slice(self.first, self.end).indices(slot.shape[of_b])))
        shape = (slot.shape[0], count, *slot.shape[2:]) if of_b else (count, *slot.shape[1:])
        return Slot(slot.name, shape)

    @cached_property
    def _places(self) -> Int64[Tensor, " own"] | None:
        """Where they are in the whole row; None: they are all of it."""
        if self.own == self.layout:
            return None
        places = self.layout.named(torch.arange(self.layout.parameters))
        picked = [self._picked(slot, places[slot.name]).reshape(-1) for slot in self.layout.slots]
        return torch.cat(picked)

    def _picked(self, slot: Slot, values: Tensor) -> Tensor:
        if not slot.lora:
            return values[:0] if self.first else values
        if slot.name.endswith(".lora_B"):
            return values[:, self.first : self.end]
        return values[self.first : self.end]

    def take(self, row: Float[Tensor, " parameter"]) -> Float[Tensor, " own"]:
        """These values alone, as `own` has them; the row itself where they are all of it."""
        return row if self._places is None else row[self._places.to(row.device)]

    def put(
        self, values: Float[Tensor, " own"], into: Float[Tensor, " parameter"] | None = None
    ) -> Float[Tensor, " parameter"]:
        """A row with these values, and elsewhere those of another (None: zeros)."""
        if self._places is None:
            return values
        row = values.new_zeros(self.layout.parameters) if into is None else into.clone()
        row[self._places.to(row.device)] = values
        return row


def segments(layout: RowLayout, ranks: Sequence[int]) -> tuple[Components, ...]:
    """What is between one of these ranks and the next lower one, from 0 on: who has a rank has the
    segments that end there or before."""
    ends = sorted(set(ranks))
    return tuple(
        Components(layout, first, end) for first, end in zip([0, *ends], ends, strict=False)
    )


@final
@dataclass(frozen=True)
class ProductMean(Aggregation):
    """The mean of the adapters' products, `sum_n w_n B_n A_n / sum_n w_n`, as B and A again.

    Of rank r it is the best there is (Eckart, Young): the singular value decomposition's first r
    components, in the order of their singular values, so that the first r of a larger rank are
    those of rank r. `B = U S / c`, `A = c V^T`, where c is the root mean square of the lengths of
    the rows of the devices' A, weighted: A stays as long as devices made it. The entry of a row of
    A that is largest has the sign that it is positive. A trained head is averaged as it is.

    `layout`: of the rows (None: not known yet, see `of`). Source: FlexLoRA (arXiv 2402.11505)
    section 3, HLoRA (arXiv 2503.00813); they leave c and signs open.
    """

    layout: RowLayout | None = None

    def of(self, layout: RowLayout) -> "ProductMean":
        return replace(self, layout=layout)

    def merge(
        self, rows: Float[Tensor, "device parameter"], weights: Sequence[float]
    ) -> Float[Tensor, " parameter"]:
        """In double precision. Raises ModelError as FedAvg."""
        assert self.layout is not None, "who merges says what rows are"
        row = FedAvg().merge(rows, weights)
        shares = torch.tensor(weights, dtype=torch.float64) / sum(weights)
        of_devices, merged = self.layout.split(rows), self.layout.named(row)
        for name in _adapted(self.layout):
            a, b = of_devices[f"{name}.lora_A"], of_devices[f"{name}.lora_B"]
            down, up = mean_product(a.flatten(2).double(), b.flatten(2).double(), shares)
            merged[f"{name}.lora_A"].copy_(down.view(a.shape[1:]))
            merged[f"{name}.lora_B"].copy_(up.view(b.shape[1:]))
        return row


def mean_product(
    a: Float64[Tensor, "device rank inputs"],
    b: Float64[Tensor, "device outputs rank"],
    shares: Float64[Tensor, " device"],
) -> tuple[Float64[Tensor, "rank inputs"], Float64[Tensor, "outputs rank"]]:
    """A and B of `sum_n shares_n B_n A_n`, as `ProductMean` says; components that it lacks are
    zero.

    All factors side by side are `T W`, of as many columns as devices have components; with
    `T = Q_T R_T` and `W^T = Q_W R_W` the decomposition is that of the small `R_T R_W^T`.
    """
    rank = a.shape[1]
    used = a.any(2) | b.any(1)
    tall = (b * shares[:, None, None]).transpose(1, 2)[used].T
    wide = a[used].T
    if not used.any():
        return torch.zeros_like(a[0]), torch.zeros_like(b[0])
    left, lower = torch.linalg.qr(tall)
    right, upper = torch.linalg.qr(wide)
    u, s, vh = torch.linalg.svd(lower @ upper.T)
    count = min(rank, len(s))
    rows, columns = vh[:count] @ right.T, left @ u[:, :count]
    signs = rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()
    squares, counts = a.square().sum((1, 2)), used.sum(1).double()
    length = (shares @ squares / (shares @ counts)).sqrt().clamp(min=torch.finfo(a.dtype).tiny)
    down, up = torch.zeros_like(a[0]), torch.zeros_like(b[0])
    down[:count] = length * signs * rows
    up[:, :count] = columns * (signs[:, 0] * s[:count] / length)
    return down, up


def revived(
    row: Float[Tensor, " parameter"], fresh: Float[Tensor, " parameter"], layout: RowLayout
) -> Float[Tensor, " parameter"]:
    """`row` with the A of `fresh` in components that are zero in A and B, which else nobody could
    train any more: those that no device of a round has."""
    own, new = layout.named(row.clone()), layout.named(fresh)
    for name in _adapted(layout):
        a, b = own[f"{name}.lora_A"], own[f"{name}.lora_B"]
        dead = ~(a.flatten(1).any(1) | b.movedim(1, 0).flatten(1).any(1))
        a[dead] = new[f"{name}.lora_A"][dead]
    return layout.join(own)


def _adapted(layout: RowLayout) -> list[str]:
    """The layers that have an adapter."""
    ends = ".lora_A"
    return [slot.name.removesuffix(ends) for slot in layout.slots if slot.name.endswith(ends)]
