"""Tensors through the codec and back: what one side makes, as the other side receives it.

The simulator and the network runtime make the same packets, since both make them here.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cutlayer.codec.codec import Codec
from cutlayer.codec.raw import RawCodec
from cutlayer.codec.targets import decode_targets, encode_targets
from cutlayer.train.ledger import Sent

_RAW = RawCodec()


class Direction(IntEnum):
    """Which way a tensor goes; part of the key of its random stream."""

    UP = 0
    DOWN = 1


@dataclass(frozen=True)
class Received:
    """A tensor and its samples' lengths as the other side decoded them, and what it cost."""

    tensor: Float[np.ndarray, "batch token width"]
    lengths: tuple[int, ...]
    sent: Sent


@final
@dataclass(frozen=True)
class Exchange:
    """The codec of a run, with a random stream of its own for each packet.

    The stream is a function of (seed, round, device, local step, direction), so a resumed run
    draws what an uninterrupted one would have drawn.
    """

    codec: Codec
    seed: int

    def send(
        self,
        tensor: Float[Tensor, "batch token width"],
        lengths: tuple[int, ...] | None,
        key: tuple[int, int, int, Direction],
    ) -> Received:
        """Encode, decode; `key` is (round, device, local step, direction)."""
        values = np.ascontiguousarray(tensor.detach().numpy())
        rng = np.random.default_rng([self.seed, *key])
        packet = self.codec.encode(values, lengths, rng)
        plain = _RAW.encode(values, lengths, rng)
        decoded = self.codec.decode(packet, tuple(values.shape))
        return Received(decoded.tensor, decoded.lengths, Sent(len(packet), len(plain)))


def send_labels(
    labels: Int64[np.ndarray, "..."], lengths: tuple[int, ...] | None, classes: int
) -> tuple[Int64[np.ndarray, "..."], Sent]:
    """Labels as the server receives them."""
    payload = encode_targets(labels, classes)
    received = decode_targets(payload, labels.shape, lengths, classes)
    return received, Sent(len(payload), len(payload))


def send_adapter(row: Float[Tensor, " parameter"]) -> tuple[Float[Tensor, " parameter"], Sent]:
    """An adapter row as the other side receives it: plain float32, bit for bit."""
    values = row.detach().numpy().reshape(1, 1, -1)
    packet = _RAW.encode(values, None, np.random.default_rng(0))
    received = torch.from_numpy(_RAW.decode(packet, values.shape).tensor.reshape(-1))
    return received, Sent(len(packet), len(packet))
