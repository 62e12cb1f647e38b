"""What passes between device and server in a micro-batch: inputs, payloads and replies."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cutlayer.codec.codec import (
    CodecPair,
    CodecState,
    Direction,
    Sent,
    Stream,
    Streams,
    part_of,
    under,
)
from cutlayer.codec.raw import Targets, decode_targets, encode_targets, raw_bytes
from cutlayer.data.samples import Batch
from cutlayer.model.inputs import document_positions
from cutlayer.model.split import Pending
from cutlayer.rounds.schemes import Phase, Place, Scheme, Step
from cutlayer.rounds.work import DeviceRates, DeviceWork
from cutlayer.spec import IGNORED_LABEL, MiniBatch
from cutlayer.training.server_batch import all_documents, stack
from cutlayer.training.state import DeviceSide
from cutlayer.training.torch_codec import TensorCodec, for_device

# What one round cost, as it is played: FLOPs and bytes, by device, phase and payload.
#
# The bytes are the lengths of packets that were made. Knows no rates: the timeline adds them.


@final
class RoundCosts:
    """Mutable for the length of a round; read it when the round has closed."""

    def __init__(self, scheme: Scheme, local_steps: tuple[int, ...], micro_batches: int) -> None:
        self._scheme = scheme
        self._local_steps = local_steps
        self._micro_batches = micro_batches
        self._amounts: list[dict[Phase, list[float]]] = [defaultdict(list) for _ in local_steps]
        self._by_place: dict[Place, list[int]] = defaultdict(lambda: [0, 0])
        self._by_payload: dict[str, int] = defaultdict(int)
        self._served: list[list[tuple[int, int]]] = [[] for _ in local_steps]

    def compute(self, device: int, step: Step, flops: float, shape: MiniBatch) -> None:
        """Enter one computation for samples of this shape."""
        self._amounts[device][step.phase].append(flops)
        if step.place is Place.SERVER:
            self._served[device].append((shape.samples, shape.tokens))

    def send(self, device: int, step: Step, payloads: Mapping[str, Sent]) -> None:
        """Enter one transmission by or to one device, made of named payloads."""
        size = sum(sent.payload_bytes for sent in payloads.values())
        self._amounts[device][step.phase].append(size)
        self._count(step, payloads)

    def broadcast(self, step: Step, payloads: Mapping[str, Sent], devices: Iterable[int]) -> None:
        """Enter one transmission that `devices` hear: on the air once, waited for by each."""
        size = sum(sent.payload_bytes for sent in payloads.values())
        for device in devices:
            self._amounts[device][step.phase].append(size)
        self._count(step, payloads)

    def nothing(self, device: int) -> None:
        """Enter the local steps of a micro-batch without samples."""
        for step in self._scheme.local:
            self._amounts[device][step.phase].append(0)
        self._served[device].append((0, 0))

    def _count(self, step: Step, payloads: Mapping[str, Sent]) -> None:
        for name, sent in payloads.items():
            self._by_payload[name] += sent.payload_bytes
            self._by_place[step.place][0] += sent.payload_bytes
            self._by_place[step.place][1] += sent.uncompressed_bytes

    def work(self, device: int, rates: DeviceRates, in_flight: int | None) -> DeviceWork:
        """The round's amounts of one device, for the timeline."""
        amounts = {
            phase: np.asarray(values, dtype=np.float64)
            for phase, values in self._amounts[device].items()
        }
        steps = self._local_steps[device]
        served = np.array(self._served[device]) if self._scheme.splits else None
        return DeviceWork(amounts, rates, steps, self._micro_batches, in_flight, served)

    def byte_counts(self) -> dict[str, int]:
        """Bytes on the air each way, and what they would have been as plain float32."""
        up = self._by_place[Place.UPLINK]
        down = self._by_place[Place.DOWNLINK]
        broadcast = self._by_place[Place.BROADCAST]
        return {
            "uplink_bytes": up[0],
            "downlink_bytes": down[0] + broadcast[0],
            "uncompressed_uplink_bytes": up[1],
            "uncompressed_downlink_bytes": down[1] + broadcast[1],
        }

    def bytes_by_payload(self) -> dict[str, int]:
        """Bytes on the air by what they carry."""
        return dict(self._by_payload)


# Tensors through the codec and back: what one side makes, as the other side receives it.
#
# The trainer and the network runtime make the same packets, since both make them with `encode`
# and `pack_labels`. In one process `Exchange` holds both ends of every stream;
# over a network each end holds its own.


# (round, device, local step, micro-batch, direction)
PacketKey = tuple[int, int, int, int, Direction]


@dataclass(frozen=True)
class Load:
    """A tensor to send: its samples' lengths (None: no padding) and numbers in the data set."""

    tensor: Float[Tensor, "batch token width"]
    lengths: tuple[int, ...] | None
    samples: tuple[int, ...]


@dataclass(frozen=True)
class ReceivedTensor:
    """A tensor and its samples' lengths as the other side decoded them, and what it cost."""

    tensor: Float[Tensor, "batch token width"]
    lengths: tuple[int, ...]
    sent: Sent


@dataclass(frozen=True, eq=False)
class Outgoing:
    """A packet as it leaves, what it costs, and the sender's state after it."""

    packet: bytes
    sent: Sent
    state: CodecState


def encode(
    codec: TensorCodec, load: Load, seed: int, key: PacketKey, state: CodecState
) -> Outgoing:
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

    def send(self, load: Load, key: PacketKey, receiver: torch.device) -> ReceivedTensor:
        """Encode where the load is, decode where its receiver is."""
        _, device, _, _, direction = key
        stream, codec = self._streams.get((device, direction), Stream()), self._codecs[direction]
        sender = for_device(codec, load.tensor.device)
        outgoing = encode(sender, load, self._seed, key, stream.sender)
        decoded = for_device(codec, receiver).decode(
            outgoing.packet, tuple(load.tensor.shape), stream.receiver
        )
        self._streams[device, direction] = Stream(outgoing.state, decoded.state)
        return ReceivedTensor(decoded.tensor, decoded.lengths, outgoing.sent)


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


def pack_labels(batch: Batch, classes: int) -> bytes:
    """The payload of the batch's labels. Raises PacketError as `encode_targets`."""
    return encode_targets(Targets(batch.labels, batch.documents), batch.lengths, classes)


def send_labels(batch: Batch, lengths: tuple[int, ...], classes: int) -> tuple[Targets, Sent]:
    """Labels as the server receives them, which has `lengths` from the activation."""
    payload = pack_labels(batch, classes)
    received = decode_targets(payload, batch.labels.shape, lengths, classes)
    return received, Sent(len(payload), len(payload))


# Batches of one or several devices as the tensors of one forward pass.
#
# Text of different lengths is padded on the right to the group's longest.


@dataclass(frozen=True)
class GroupInputs:
    """The rows of several devices in device order: `sizes[g]` samples of the g-th. `documents`:
    of each row, where rows are packed."""

    inputs: dict[str, Tensor]
    lengths: tuple[int, ...] | None
    sizes: tuple[int, ...]
    documents: list[Sequence[int]] | None


def group_inputs(batches: Sequence[Batch]) -> GroupInputs:
    """The devices' batches one below the other."""
    known = [batch.lengths for batch in batches if batch.lengths is not None]
    inputs = {name: stack([batch.inputs[name] for batch in batches]) for name in batches[0].inputs}
    documents = all_documents([(batch.lengths, batch.documents) for batch in batches])
    if documents is not None:
        inputs["position_ids"] = document_positions(documents, inputs["input_ids"].shape[1])
    return GroupInputs(
        inputs=inputs,
        lengths=tuple(length for lengths in known for length in lengths) if known else None,
        sizes=tuple(len(batch.labels) for batch in batches),
        documents=documents,
    )


# What passes from hand to hand while a group of devices works on one micro-batch each.


@dataclass
class MicroBatch:
    """A group of devices' micro-batch `micro` of local step `number`, and what became of it.

    `weights`: the part of each device's loss that it carries, its labels over the mini-batch's.
    """

    number: int
    micro: int
    devices: tuple[int, ...]
    batches: list[Batch]
    samples: list[tuple[int, ...]]
    weights: list[float]
    group: GroupInputs
    device_rows: Float[Tensor, "group device_parameter"]
    server_rows: Float[Tensor, "group server_parameter"]
    forwarded: Pending | None = None
    received: list[ReceivedTensor] = field(default_factory=list)
    targets: list[Targets] = field(default_factory=list)
    labels: Tensor | None = None
    gradient: Float[Tensor, "batch token width"] | None = None

    @property
    def pending(self) -> Pending:
        """What the device holds between forward and backward."""
        assert self.forwarded is not None, "a device's forward comes before its other steps"
        return self.forwarded

    @property
    def received_lengths(self) -> tuple[int, ...] | None:
        """Tokens that count in each of the group's samples, as the server reads them (None:
        images)."""
        if self.group.lengths is None:
            return None
        return tuple(length for part in self.received for length in part.lengths)

    @property
    def received_documents(self) -> list[Sequence[int]] | None:
        """The documents of each of the group's rows, as the server reads them (None: each row is
        one)."""
        parts = zip(self.received, self.targets, strict=True)
        return all_documents([(part.lengths, own.documents) for part, own in parts])

    def rows_of(self, tensor: Tensor, place: int) -> Tensor:
        """The rows of the group's `place`-th device, without the padding that others needed."""
        first = sum(self.group.sizes[:place])
        own = tensor[first : first + self.group.sizes[place]]
        return own if self.batches[place].lengths is None else own[:, : self.tokens(place)]

    def tokens(self, place: int) -> int:
        """Tokens of the device's micro-batch, padded to its own longest."""
        lengths = self.batches[place].lengths
        return self.pending.shape[1] if lengths is None else max(lengths)

    def shape(self, place: int) -> MiniBatch:
        """The `place`-th device's samples and tokens, as the cost models take them."""
        return MiniBatch(self.group.sizes[place], self.tokens(place))


@dataclass(frozen=True)
class OwnMicroBatch:
    """One device's part of a mini-batch: sample numbers, their batch, its part of the loss."""

    samples: tuple[int, ...]
    batch: Batch
    weight: float


def micro_batches(
    device: DeviceSide, round_number: int, step: int, count: int
) -> list[OwnMicroBatch | None]:
    """A local step's mini-batch in `count` micro-batches that differ by one sample at most.

    Weights are each one's labels over all (one a sample, or one a predicted token), so that the
    weighted mean losses sum to the mini-batch's. None where there are fewer samples than that.
    """
    samples = device.indices(round_number, step)
    pieces = [piece for piece in np.array_split(samples, count) if len(piece)]
    batches = [device.batch(piece) for piece in pieces]
    counts = [_counted_labels(batch) for batch in batches]
    total = sum(counts)
    found: list[OwnMicroBatch | None] = [
        OwnMicroBatch(tuple(piece.tolist()), batch, own / total if total else 1 / len(pieces))
        for piece, batch, own in zip(pieces, batches, counts, strict=True)
    ]
    return found + [None] * (count - len(found))


def _counted_labels(batch: Batch) -> int:
    """Labels that the batch's mean loss is over."""
    labels = batch.labels if batch.labels.ndim == 1 else batch.labels[:, 1:]
    return int((labels != IGNORED_LABEL).sum())
