"""One pass of the server part: for a group of devices' samples, or for mini-batches that wait, with
each one's own result.

Knows no codec and no optimiser. Who shares a pass is decided by `rounds.batching`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from cutlayer.codec.raw import Targets
from cutlayer.model.lora import Draws
from cutlayer.model.placement import to_device
from cutlayer.model.split import ServerPart
from cutlayer.rounds.batching import ServerBatching, Waiting
from cutlayer.spec import IGNORED_LABEL


def stack(arrays: Sequence[np.ndarray | Tensor], fill: int = 0) -> Tensor:
    """Concatenate along the first axis; pad the second one with `fill` to the longest."""
    tensors = [torch.as_tensor(array) for array in arrays]
    if len({tensor.shape[1:] for tensor in tensors}) > 1:
        longest = max(tensor.shape[1] for tensor in tensors)
        tensors = [_padded(tensor, longest, fill) for tensor in tensors]
    return torch.cat(tensors)


def all_documents(
    rows: Sequence[tuple[Sequence[int] | None, Sequence[Sequence[int]] | None]],
) -> list[Sequence[int]] | None:
    """The documents of each row, given several mini-batches' lengths and documents; None where no
    row has more than one."""
    if all(documents is None for _, documents in rows):
        return None
    return [
        own
        for lengths, documents in rows
        for own in (documents if documents is not None else [(n,) for n in lengths or ()])
    ]


def _padded(tensor: Tensor, longest: int, fill: int) -> Tensor:
    # torch counts from the last axis
    after = [0, 0] * (tensor.ndim - 2) + [0, longest - tensor.shape[1]]
    return torch.nn.functional.pad(tensor, after, value=fill)


def all_draws(parts: Sequence[Draws | None]) -> Draws | None:
    """Those of all samples in a pass; None where they have none."""
    known = [draws for draws in parts if draws is not None]
    return Draws(tuple(key for draws in known for key in draws.keys)) if known else None


@dataclass(frozen=True, eq=False)
class Served:
    """Samples as a server computes with them: their activations, zero past the first `lengths[i]`
    tokens of each, and what their loss is over."""

    tensor: Float[Tensor, "sample token width"]
    lengths: tuple[int, ...]
    targets: Targets

    @property
    def held_bytes(self) -> int:
        """In memory [bytes]."""
        return self.tensor.nbytes + self.targets.labels.nbytes


def joined(parts: Sequence[Served]) -> Served:
    """Samples of several packets as one mini-batch, padded to the longest."""
    if len(parts) == 1:
        return parts[0]
    lengths = tuple(length for part in parts for length in part.lengths)
    known = [(part.lengths, part.targets.documents) for part in parts]
    documents = all_documents(known)
    labels = stack([part.targets.labels for part in parts], fill=IGNORED_LABEL).numpy()
    targets = Targets(labels, None if documents is None else tuple(map(tuple, documents)))
    return Served(stack([part.tensor for part in parts]), lengths, targets)


def in_order(rows: Served, order: Sequence[int]) -> Served:
    """The samples at these places of a mini-batch."""
    return joined([row_of(rows, place) for place in order])


def row_of(rows: Served, place: int) -> Served:
    """One sample, without the padding that others needed."""
    length, targets = rows.lengths[place], rows.targets
    labels = targets.labels[place : place + 1]
    documents = None if targets.documents is None else targets.documents[place : place + 1]
    return Served(
        rows.tensor[place : place + 1, :length],
        (length,),
        Targets(labels if labels.ndim == 1 else labels[:, :length], documents),
    )


@dataclass(frozen=True, eq=False)
class ServerPassResult:
    """The gradient at the cut (None: not asked for), and each device's part of its mini-batch's
    mean loss [nat]; both where the part is, so that nobody waits for them."""

    gradient: Float[Tensor, "batch token width"] | None
    losses: Float[Tensor, " group"]


def server_pass(
    part: ServerPart,
    rows: Float[Tensor, "group parameter"],
    sizes: Sequence[int],
    activation: Float[Tensor, "batch token width"],
    lengths: Sequence[int] | None,
    labels: Int64[Tensor, "batch *token"],
    weights: Sequence[float],
    documents: Sequence[Sequence[int]] | None = None,
    draws: Draws | None = None,
    *,
    returns_gradient: bool = True,
) -> ServerPassResult:
    """Forward and backward through the blocks above the cut; adds to `rows.grad`.

    Arguments as `ServerPart.losses` takes them. `draws`: of the samples, for adapters' dropout.
    `returns_gradient` False: backward ends at the first adapter, for devices that train nothing.
    """
    leaf = to_device(activation.detach(), part.adapted.device).requires_grad_(returns_gradient)
    with part.adapted.dropping(draws):
        weighted = part.losses(rows, sizes, leaf, lengths, labels, weights, documents)
    torch.autograd.backward(weighted.sum())
    return ServerPassResult(leaf.grad, weighted.detach())


@dataclass(frozen=True, eq=False)
class ServerLoad:
    """What the server computes with for one mini-batch, or micro-batch.

    `row`: the server-side adapter of its device; it is read alone. `lengths`: real tokens of each
    sample (None: images). `weight`: of its mean loss in its mini-batch's. `documents`: lengths of
    those of each row (None: each row is one). `draws`: of the samples, for adapters' dropout.
    """

    row: Float32[Tensor, " parameter"]
    activation: Float[Tensor, "sample token width"]
    lengths: tuple[int, ...] | None
    labels: Int64[Tensor, "sample *token"]
    weight: float = 1.0
    documents: tuple[tuple[int, ...], ...] | None = None
    draws: Draws | None = None


@dataclass(frozen=True, eq=False)
class ServerReply:
    """The gradient at the cut (None: not asked for), the adapter's, and its part of its
    mini-batch's mean loss [nat]; all where the part is, so that nobody waits for them."""

    gradient: Float[Tensor, "sample token width"] | None
    row_gradient: Float32[Tensor, " parameter"]
    loss: Float32[Tensor, ""]


def server_batch(
    part: ServerPart, loads: Sequence[ServerLoad], *, returns_gradient: bool = True
) -> list[ServerReply]:
    """Forward and backward for all of them in one pass, texts padded to the longest.

    Each reply is what its load would have alone: to the bit if it is the only one, else but for
    rounding. One device may have several loads here, each a gradient of the same row.
    Raises ModelError for loads that do not fit the part.
    """
    rows = torch.stack([load.row.detach() for load in loads]).requires_grad_()
    sizes = [len(load.activation) for load in loads]
    known = [load.lengths for load in loads if load.lengths is not None]
    result = server_pass(
        part,
        rows,
        sizes,
        stack([load.activation for load in loads]),
        [length for lengths in known for length in lengths] if known else None,
        stack([load.labels for load in loads], fill=IGNORED_LABEL),
        [load.weight for load in loads],
        all_documents([(load.lengths, load.documents) for load in loads]),
        all_draws([load.draws for load in loads]),
        returns_gradient=returns_gradient,
    )
    assert rows.grad is not None
    gradients: Sequence[Tensor | None] = [None] * len(loads)
    if result.gradient is not None:
        gradients = [
            own[:, : load.activation.shape[1]]
            for load, own in zip(loads, torch.split(result.gradient, sizes), strict=True)
        ]
    return [ServerReply(*each) for each in zip(gradients, rows.grad, result.losses, strict=True)]


def serve(
    part: ServerPart,
    batching: ServerBatching,
    devices: Sequence[int],
    loads: Sequence[ServerLoad],
    *,
    returns_gradient: bool = True,
) -> list[ServerReply]:
    """Each load's reply, as a server computes them that finds all of them waiting: batch by batch,
    pass by pass. `devices`: whose they are. Raises as `server_batch`."""
    sizes = [
        Waiting(device, load.activation.shape[0], load.activation.shape[1])
        for device, load in zip(devices, loads, strict=True)
    ]
    replies: dict[int, ServerReply] = {}
    left = list(range(len(loads)))
    while left:
        taken = [left[n] for n in batching.take([sizes[place] for place in left])]
        left = [place for place in left if place not in taken]
        for together in batching.passes([sizes[place] for place in taken]):
            places = [taken[n] for n in together]
            found = server_batch(
                part, [loads[place] for place in places], returns_gradient=returns_gradient
            )
            replies |= zip(places, found, strict=True)
    return [replies[place] for place in range(len(loads))]
