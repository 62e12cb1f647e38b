"""Tensors through the codec and back: what one side makes, as the other side receives it.

The simulator and the network runtime make the same packets, since both make them here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cutlayer.codec.codec import EMPTY, State, part_of, under
from cutlayer.codec.presets import CodecPair
from cutlayer.codec.raw import RawCodec, raw_bytes
from cutlayer.codec.targets import decode_targets, encode_targets
from cutlayer.train.device_codec.codec import for_device
from cutlayer.train.ledger import Sent

_RAW = RawCodec()


class Direction(IntEnum):
    """Which way a tensor goes; part of the key of its random stream."""

    UP = 0
    DOWN = 1


@dataclass(frozen=True)
class Stream:
    """What the two ends of one device's packets in one direction remember."""

    sender: State = field(default_factory=dict)
    receiver: State = field(default_factory=dict)


Streams = Mapping[tuple[int, Direction], Stream]


@dataclass(frozen=True)
class Load:
    """A tensor to send: its samples' lengths (None: no padding) and numbers in the data set."""

    tensor: Float[Tensor, "batch token width"]
    lengths: tuple[int, ...] | None
    samples: tuple[int, ...]


@dataclass(frozen=True)
class Received:
    """A tensor and its samples' lengths as the other side decoded them, and what it cost."""

    tensor: Float[Tensor, "batch token width"]
    lengths: tuple[int, ...]
    sent: Sent


@final
class Exchange:
    """The codecs of a run and the streams of all its devices during a round.

    Each packet has a random stream of its own, a function of (seed, round, device, local step,
    micro-batch, direction), so a resumed run draws what an uninterrupted one would have drawn.
    """

    def __init__(self, codecs: CodecPair, seed: int, streams: Streams) -> None:
        self._codecs = {Direction.UP: codecs.up, Direction.DOWN: codecs.down}
        self._seed = seed
        self._streams = dict(streams)

    @property
    def streams(self) -> Streams:
        """Where every stream stands now."""
        return dict(self._streams)

    def send(self, load: Load, key: tuple[int, int, int, int, Direction]) -> Received:
        """Encode, decode; `key` is (round, device, local step, micro-batch, direction)."""
        _, device, _, _, direction = key
        stream = self._streams.get((device, direction), Stream())
        codec = for_device(self._codecs[direction], load.tensor.device)
        rng = np.random.default_rng([self._seed, *key])
        encoded = codec.encode(
            load.tensor, stream.sender, rng, lengths=load.lengths, samples=load.samples
        )
        decoded = codec.decode(encoded.packet, load.tensor.shape, stream.receiver)
        self._streams[device, direction] = Stream(encoded.state, decoded.state)
        batch, token, width = load.tensor.shape
        plain = int(raw_bytes((batch, token, width), load.lengths))
        return Received(decoded.tensor, decoded.lengths, Sent(len(encoded.packet), plain))


def streams_to_tensors(streams: Streams) -> dict[str, Tensor]:
    """Every array under a name, for the checkpoint."""
    arrays: dict[str, np.ndarray | Tensor] = {}
    for (device, direction), stream in streams.items():
        prefix = f"codec.{device}.{direction.name.lower()}."
        arrays |= under(f"{prefix}sender.", stream.sender)
        arrays |= under(f"{prefix}receiver.", stream.receiver)
    return {name: torch.as_tensor(array).cpu() for name, array in arrays.items()}


def streams_from_tensors(tensors: Mapping[str, Tensor]) -> Streams:
    """The inverse of `streams_to_tensors`; other tensors are left out."""
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    found = {tuple(name.split(".")[1:3]) for name in arrays if name.startswith("codec.")}
    streams = {}
    for device, direction in sorted(found):
        prefix = f"codec.{device}.{direction}."
        streams[int(device), Direction[direction.upper()]] = Stream(
            part_of(arrays, f"{prefix}sender."), part_of(arrays, f"{prefix}receiver.")
        )
    return streams


def send_labels(
    labels: Int64[np.ndarray, "..."], lengths: tuple[int, ...] | None, classes: int
) -> tuple[Int64[np.ndarray, "..."], Sent]:
    """Labels as the server receives them."""
    payload = encode_targets(labels, classes)
    received = decode_targets(payload, labels.shape, lengths, classes)
    return received, Sent(len(payload), len(payload))


def send_adapter(row: Float[Tensor, " parameter"]) -> tuple[Float[Tensor, " parameter"], Sent]:
    """An adapter row as the other side receives it: plain float32, bit for bit."""
    values = row.detach().numpy()
    packet = _RAW.encode(values, EMPTY, np.random.default_rng(0)).packet
    received = torch.from_numpy(_RAW.decode(packet, values.shape, EMPTY).tensor)
    return received, Sent(len(packet), len(packet))
