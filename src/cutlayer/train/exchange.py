"""Tensors through the codec and back: what one side makes, as the other side receives it.

The trainer and the network runtime make the same packets, since both make them with `encode`,
`pack_adapter` and `encode_targets`. In one process `Exchange` holds both ends of every stream; over
a network each end holds its own.
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
from cutlayer.train.device_codec.codec import TensorCodec, for_device
from cutlayer.train.ledger import Sent

_RAW = RawCodec()


class Direction(IntEnum):
    """Which way a tensor goes; part of the key of its random stream."""

    UP = 0
    DOWN = 1


# (round, device, local step, micro-batch, direction)
PacketKey = tuple[int, int, int, int, Direction]


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


@dataclass(frozen=True, eq=False)
class Outgoing:
    """A packet as it leaves, what it costs, and the sender's state after it."""

    packet: bytes
    sent: Sent
    state: State


def encode(codec: TensorCodec, load: Load, seed: int, key: PacketKey, state: State) -> Outgoing:
    """The sender's half of an exchange; the receiver's is the codec's own `decode`.

    Each packet has a random stream of its own, a function of `seed` and `key`, so a resumed run
    draws what an uninterrupted one would have drawn. Raises PacketError as `Codec.encode` does.
    """
    rng = np.random.default_rng([seed, *key])
    encoded = codec.encode(load.tensor, state, rng, lengths=load.lengths, samples=load.samples)
    batch, token, width = load.tensor.shape
    plain = int(raw_bytes((batch, token, width), load.lengths))
    return Outgoing(encoded.packet, Sent(len(encoded.packet), plain), encoded.state)


@final
class Exchange:
    """The codecs of a run and both ends of the streams of all its devices during a round."""

    def __init__(self, codecs: CodecPair, seed: int, streams: Streams) -> None:
        self._codecs = {Direction.UP: codecs.up, Direction.DOWN: codecs.down}
        self._seed = seed
        self._streams = dict(streams)

    @property
    def streams(self) -> Streams:
        """Where every stream stands now."""
        return dict(self._streams)

    def send(self, load: Load, key: PacketKey) -> Received:
        """Encode at one end, decode at the other."""
        _, device, _, _, direction = key
        stream = self._streams.get((device, direction), Stream())
        codec = for_device(self._codecs[direction], load.tensor.device)
        outgoing = encode(codec, load, self._seed, key, stream.sender)
        decoded = codec.decode(outgoing.packet, tuple(load.tensor.shape), stream.receiver)
        self._streams[device, direction] = Stream(outgoing.state, decoded.state)
        return Received(decoded.tensor, decoded.lengths, outgoing.sent)


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


def pack_adapter(row: Float[Tensor, " parameter"]) -> bytes:
    """The packet of an adapter row: plain float32, bit for bit."""
    return _RAW.encode(row.detach().numpy(), EMPTY, np.random.default_rng(0)).packet


def unpack_adapter(packet: bytes, parameters: int) -> Float[Tensor, " parameter"]:
    """The row of `pack_adapter`. Raises PacketError: not a packet of so many finite values."""
    return torch.from_numpy(_RAW.decode(packet, (parameters,), EMPTY).tensor)


def send_adapter(row: Float[Tensor, " parameter"]) -> tuple[Float[Tensor, " parameter"], Sent]:
    """An adapter row as the other side receives it."""
    packet = pack_adapter(row)
    return unpack_adapter(packet, row.numel()), Sent(len(packet), len(packet))
