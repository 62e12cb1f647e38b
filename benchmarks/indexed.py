"""Top-K of each sample with explicit indices: what most code that sparsifies sends."""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float32, Int64
from peers import Message, Peer

_KEEP = 0.2


@final
@dataclass(frozen=True)
class IndexedTopK(Peer):
    """The largest 20 % of each sample, their places, and their values in `bits` (8 or 16).

    `packed`: the places in ceil(log2 N) bits each, else in 32. int8 has a scale for each sample.
    """

    name: str
    packed: bool
    bits: int

    def encode(self, tensor: Float32[np.ndarray, "batch token width"]) -> Message:
        samples = torch.from_numpy(tensor).flatten(1)
        count = max(1, int(_KEEP * samples.shape[1]))
        places = samples.abs().topk(count, dim=1, sorted=False).indices
        values = samples.gather(1, places)
        index = places.numpy().astype(np.uint32)
        sent = pack_bits(index, places_bits(samples.shape[1])) if self.packed else index
        if self.bits == 16:
            return sent, values.half().numpy()
        scales = values.abs().amax(1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny)
        return sent, (values * (127.0 / scales)).round_().to(torch.int8).numpy(), scales.numpy()

    def decode(
        self, message: Message, shape: tuple[int, ...]
    ) -> Float32[np.ndarray, "batch token width"]:
        sent, coded, *scales = (np.asarray(part) for part in message)
        values = torch.from_numpy(coded).float()
        if scales:
            values *= torch.from_numpy(scales[0]) / 127.0
        size = int(np.prod(shape[1:]))
        if self.packed:
            places = unpack_bits(sent, places_bits(size), coded.size)
        else:
            places = sent.astype(np.int64)
        out = torch.zeros(shape[0], size)
        out.scatter_(1, torch.from_numpy(places).view(shape[0], -1), values)
        return out.view(shape).numpy()


def places_bits(size: int) -> int:
    """Bits [bit] that tell `size` places apart."""
    return max(1, (size - 1).bit_length())


def pack_bits(index: np.ndarray, width: int) -> np.ndarray:
    """The low `width` bits of each number, one after another: eight numbers to `width` bytes.

    Shifts on whole columns of numbers, which is many times faster than a bit at a time.
    """
    count = -(-index.size // 8)
    numbers = np.zeros((count, 8), dtype=np.uint64)
    numbers.reshape(-1)[: index.size] = index.reshape(-1)
    out = np.zeros((count, width), dtype=np.uint8)
    for place in range(8):
        first, shift = divmod(place * width, 8)
        shifted = numbers[:, place] << np.uint64(shift)
        for byte in range(-(-(shift + width) // 8)):
            out[:, first + byte] |= (shifted >> np.uint64(8 * byte)).astype(np.uint8)
    return out


def unpack_bits(data: np.ndarray, width: int, count: int) -> Int64[np.ndarray, " number"]:
    """`pack_bits` undone."""
    groups = data.reshape(-1, width)
    out = np.empty((len(groups), 8), dtype=np.int64)
    for place in range(8):
        first, shift = divmod(place * width, 8)
        whole = np.zeros(len(groups), dtype=np.uint64)
        for byte in range(-(-(shift + width) // 8)):
            whole |= groups[:, first + byte].astype(np.uint64) << np.uint64(8 * byte)
        out[:, place] = (whole >> np.uint64(shift)) & np.uint64(2**width - 1)
    return out.reshape(-1)[:count]
