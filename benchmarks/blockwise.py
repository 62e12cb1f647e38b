"""Number formats that training code sends today: int8 and NF4 blocks, hivemind's 8 bits.

From the published descriptions: LLM.int8/QLoRA (arXiv 2305.14314, NF4's 16 values in its appendix),
8-bit optimisers (arXiv 2110.02861, the dynamic tree format), hivemind's uniform quantisation with
averaged buckets. In torch on one thread.
"""

from typing import final

import numpy as np
import torch
from jaxtyping import Float32
from peers import Message, Peer
from torch import Tensor
from torch.nn import functional

_BLOCK = 64
_DYNAMIC_BLOCK = 4096
_BUCKETS = 256
_RANGE_IN_SIGMAS = 6
_NF4 = (
    -1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.091050036, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0,
)  # fmt: skip


@final
class Int8Blocks(Peer):
    """round(127 x / m) with m the largest magnitude of each 64 values, a float32."""

    name = "int8, blocks of 64"

    def encode(self, tensor: Float32[np.ndarray, "batch token width"]) -> Message:
        blocks = _blocks(tensor, _BLOCK)
        scales = _largest(blocks)
        return (blocks * (127.0 / scales)).round_().to(torch.int8).numpy(), scales.numpy()

    def decode(
        self, message: Message, shape: tuple[int, ...]
    ) -> Float32[np.ndarray, "batch token width"]:
        levels, scales = (torch.from_numpy(np.asarray(part)) for part in message)
        return _trimmed(levels * (scales / 127.0), shape)


@final
class Nf4Blocks(Peer):
    """The nearest of 16 normal quantiles of x / m, two to a byte; m as above."""

    name = "NF4, blocks of 64"

    def __init__(self) -> None:
        self._nearest = Nearest(torch.tensor(_NF4))
        # both values of a byte in one look-up
        self._pairs = torch.cartesian_prod(torch.tensor(_NF4), torch.tensor(_NF4))

    def encode(self, tensor: Float32[np.ndarray, "batch token width"]) -> Message:
        blocks = _blocks(tensor, _BLOCK)
        scales = _largest(blocks)
        codes = self._nearest.codes(blocks / scales)
        return (codes[:, 0::2] << 4 | codes[:, 1::2]).numpy(), scales.numpy()

    def decode(
        self, message: Message, shape: tuple[int, ...]
    ) -> Float32[np.ndarray, "batch token width"]:
        codes, scales = (torch.from_numpy(np.asarray(part)) for part in message)
        values = self._pairs.index_select(0, codes.flatten().int()).view(-1, _BLOCK)
        return _trimmed(values.mul_(scales), shape)


@final
class HivemindUniform(Peer):
    """256 even buckets over six deviations around the mean; each decodes to its values' mean."""

    name = "hivemind uniform 8 bit"

    def encode(self, tensor: Float32[np.ndarray, "batch token width"]) -> Message:
        values = torch.from_numpy(tensor).flatten()
        mean = values.mean()
        step = _RANGE_IN_SIGMAS * (values - mean).std() / _BUCKETS
        codes = ((values - mean) / step).round_().add_(_BUCKETS // 2).clamp_(0, _BUCKETS - 1)
        buckets = codes.to(torch.int32)
        sums = torch.bincount(buckets, weights=values, minlength=_BUCKETS)
        counts = torch.bincount(buckets, minlength=_BUCKETS).clamp_(min=1)
        return buckets.to(torch.uint8).numpy(), (sums / counts).float().numpy()

    def decode(
        self, message: Message, shape: tuple[int, ...]
    ) -> Float32[np.ndarray, "batch token width"]:
        codes, book = (torch.from_numpy(np.asarray(part)) for part in message)
        return book.index_select(0, codes.int()).view(shape).numpy()


@final
class HivemindBlockwise(Peer):
    """The nearest of 256 dynamic values of x / m, m the largest of each 4096 values."""

    name = "hivemind block-wise 8 bit"

    def __init__(self) -> None:
        self._book = dynamic_codebook()
        self._nearest = Nearest(self._book)

    def encode(self, tensor: Float32[np.ndarray, "batch token width"]) -> Message:
        blocks = _blocks(tensor, _DYNAMIC_BLOCK)
        scales = _largest(blocks)
        codes = self._nearest.codes(blocks / scales)
        return codes.numpy(), scales.numpy()

    def decode(
        self, message: Message, shape: tuple[int, ...]
    ) -> Float32[np.ndarray, "batch token width"]:
        codes, scales = (torch.from_numpy(np.asarray(part)) for part in message)
        values = self._book.index_select(0, codes.flatten().int()).view(codes.shape)
        return _trimmed(values.mul_(scales), shape)


@final
class Nearest:
    """The place of the nearest value of a sorted book, by look-up: no search.

    The upper half of a float32 names a cell that no more than one edge between neighbours lies in;
    the code is the number of edges below the cell, and one more above the cell's own edge.
    """

    def __init__(self, book: Tensor) -> None:
        edges = ((book[1:] + book[:-1]) / 2).numpy()
        halves = np.arange(2**16, dtype=np.uint32) << 16
        ends = np.stack([halves.view(np.float32), (halves | 0xFFFF).view(np.float32)])
        with np.errstate(invalid="ignore"):
            below = np.searchsorted(edges, ends.min(0), side="left")
            above = np.searchsorted(edges, ends.max(0), side="left")
        inside = np.isfinite(ends).all(0)
        assert (above - below)[inside].max() <= 1, "two edges in one cell"
        own = edges[np.minimum(below, len(edges) - 1)]
        self._below = torch.from_numpy(np.where(inside, below, 0).astype(np.uint8))
        self._edge = torch.from_numpy(np.where(inside & (above > below), own, np.inf))

    def codes(self, values: Tensor) -> Tensor:
        """The place in the book [0, 255] of each value."""
        cells = torch.from_numpy(values.numpy().view(np.uint16)[..., 1::2].astype(np.int32))
        flat = cells.flatten()
        more = values.flatten() > self._edge.index_select(0, flat)
        return (self._below.index_select(0, flat) + more).view(values.shape)


def dynamic_codebook() -> Tensor:
    """Sign, a decimal exponent e in -6..0, and 2^(e+6) even steps of [0.1, 1] times 10^e; 0, 1."""
    positive = [
        10.0 ** (power - 6) * (0.1 + 0.9 * (place + 0.5) / 2**power)
        for power in range(7)
        for place in range(2**power)
    ]
    return torch.tensor(sorted([*positive, *(-value for value in positive), 0.0, 1.0]))


def _blocks(tensor: np.ndarray, size: int) -> Tensor:
    flat = torch.from_numpy(tensor).flatten()
    missing = -flat.numel() % size
    return (functional.pad(flat, (0, missing)) if missing else flat).view(-1, size)


def _largest(blocks: Tensor) -> Tensor:
    """The largest magnitude of each block; the smallest float for a block of zeros."""
    low, high = torch.aminmax(blocks, dim=1, keepdim=True)
    return torch.maximum(-low, high).clamp_(min=torch.finfo(torch.float32).tiny)


def _trimmed(blocks: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape))
    return blocks.flatten()[:count].view(shape).numpy()
