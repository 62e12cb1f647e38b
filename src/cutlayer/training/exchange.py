"""What passes between device and server in a micro-batch: inputs, payloads and replies."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, final

import numpy as np
import torch
from jaxtyping import Float, Int
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
from cutlayer.training.server_batch import Served, all_documents, stack
from cutlayer.training.state import DeviceSide
from cutlayer.training.torch_codec import TensorCodec, for_device

# What one round cost, as it is played: FLOPs and bytes, by device, phase and payload.
#
# The bytes are the lengths of packets that were made. Knows no rates: the timeline adds them.


@dataclass(frozen=True)
class BroadcastPart:
    """A payload on the air, and the devices that it is for."""

    name: str
    sent: Sent
    devices: tuple[int, ...]


@final
class RoundCosts:
    """Mutable for the length of a round; read it when the round has closed. `local_steps`: of each
    device that takes part."""

    def __init__(self, scheme: Scheme, local_steps: Mapping[int, int], micro_batches: int) -> None:
        self._scheme = scheme
        self._local_steps = local_steps
        self._micro_batches = micro_batches
        self._amounts: dict[int, dict[Phase, list[float]]] = {
            device: defaultdict(list) for device in local_steps
        }
        # on the air, by where and by what it is
        self._sent: dict[tuple[Place, str], Sent] = {}
        # what each device sent and was sent alone, to be taken back
        self._alone: dict[int, dict[Step, list[Mapping[str, Sent]]]] = {
            device: defaultdict(list) for device in local_steps
        }
        self._served: dict[int, list[tuple[int, int]]] = {device: [] for device in local_steps}

    def compute(
        self, device: int, step: Step, flops: float, shape: MiniBatch | None = None
    ) -> None:
        """Enter one computation for samples of this shape (None: there are none)."""
        self._amounts[device][step.phase].append(flops)
        if step.place is Place.SERVER and shape is not None:
            self._served[device].append((shape.samples, shape.tokens))

    def send(self, device: int, step: Step, payloads: Mapping[str, Sent]) -> None:
        """Enter one transmission by or to one device, made of named payloads."""
        size = sum(sent.payload_bytes for sent in payloads.values())
        self._amounts[device][step.phase].append(size)
        self._alone[device][step].append(payloads)
        self._count(step, payloads)

    def broadcast(
        self, step: Step, devices: Iterable[int], parts: Iterable["BroadcastPart"]
    ) -> None:
        """Enter what `devices` hear: on the air once, part after part, and waited for by each until
        it has the last that is for it."""
        sizes = dict.fromkeys(devices, 0)
        for part in parts:
            for device in part.devices:
                sizes[device] += part.sent.payload_bytes
            self._count(step, {part.name: part.sent})
        for device, size in sizes.items():
            self._amounts[device][step.phase].append(size)

    def take_back(self, device: int, begun: Mapping[Phase, int]) -> None:
        """Of what a device sent and was sent alone only so many transmissions began before the
        round closed: the others never were."""
        for step, payloads in self._alone[device].items():
            for never in payloads[begun[step.phase] :]:
                self._count(step, {name: -sent for name, sent in never.items()})

    def nothing(self, device: int) -> None:
        """Enter the local steps of a micro-batch without samples."""
        for step in self._scheme.local:
            self._amounts[device][step.phase].append(0)
        self._served[device].append((0, 0))

    def _count(self, step: Step, payloads: Mapping[str, Sent]) -> None:
        for name, sent in payloads.items():
            self._sent[step.place, name] = self._sent.get((step.place, name), Sent(0, 0)) + sent

    def work(self, device: int, rates: DeviceRates, in_flight: int | None) -> DeviceWork:
        """The round's amounts of one device, for the timeline."""
        amounts = {
            phase: np.asarray(values, dtype=np.float64)
            for phase, values in self._amounts[device].items()
        }
        steps = self._local_steps[device]
        if steps == 0:  # it left before it had done one
            amounts |= {step.phase: np.zeros(0) for step in self._scheme.local}
        served = np.array(self._served[device], np.int64).reshape(-1, 2)
        return DeviceWork(
            amounts,
            rates,
            steps,
            self._micro_batches,
            in_flight,
            served if self._scheme.splits else None,
        )

    def byte_counts(self) -> dict[str, int]:
        """Bytes on the air each way, and what they would have been as plain float32."""
        up, down = Sent(0, 0), Sent(0, 0)
        for (place, _), sent in self._sent.items():
            if place is Place.UPLINK:
                up += sent
            else:
                down += sent
        return {
            "uplink_bytes": up.payload_bytes,
            "downlink_bytes": down.payload_bytes,
            "uncompressed_uplink_bytes": up.uncompressed_bytes,
            "uncompressed_downlink_bytes": down.uncompressed_bytes,
        }

    def bytes_by_payload(self) -> dict[str, int]:
        """Bytes on the air by what they carry."""
        found: dict[str, int] = {}
        for (_, name), sent in self._sent.items():
            found[name] = found.get(name, 0) + sent.payload_bytes
        return found

    @staticmethod
    def joined(costs: Sequence["RoundCosts"]) -> "RoundCosts":
        """Of the devices of all of these, which heard the same broadcasts, or the first of their
        parts: on the air once."""
        first, *others = costs
        steps = {device: count for each in costs for device, count in each._local_steps.items()}
        whole = RoundCosts(first._scheme, steps, first._micro_batches)
        whole._sent = dict(first._sent)
        for each in costs:
            whole._amounts |= each._amounts
            whole._served |= each._served
            whole._alone |= each._alone
        for each in others:
            for (place, name), sent in each._sent.items():
                known = whole._sent.get((place, name), Sent(0, 0))
                if place is not Place.BROADCAST:
                    whole._sent[place, name] = known + sent
                elif sent.payload_bytes > known.payload_bytes:
                    whole._sent[place, name] = sent
        return whole


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
    """A tensor and its samples' lengths as the other side decoded them of `packet`, knowing
    `before`, and what it cost."""

    tensor: Float[Tensor, "batch token width"]
    lengths: tuple[int, ...]
    sent: Sent
    packet: bytes
    before: CodecState


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
        return ReceivedTensor(
            decoded.tensor, decoded.lengths, outgoing.sent, outgoing.packet, stream.receiver
        )


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


def send_labels(batch: Batch, lengths: tuple[int, ...], classes: int) -> tuple[Targets, bytes]:
    """Labels as the server receives them, which has `lengths` from the activation; and the
    payload."""
    payload = pack_labels(batch, classes)
    return decode_targets(payload, batch.labels.shape, lengths, classes), payload


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

    `group`: what devices forward, those of them that have something to; None where the server holds
    all of it. `served`: each device's as the server has it.
    """

    number: int
    micro: int
    devices: tuple[int, ...]
    own: list["OwnMicroBatch"]
    group: GroupInputs | None
    device_rows: Float[Tensor, "forwarding device_parameter"]
    server_rows: Float[Tensor, "group server_parameter"]
    forwarded: Pending | None = None
    served: list[Served] = field(default_factory=list)
    gradient: Float[Tensor, "batch token width"] | None = None

    @property
    def forwarding(self) -> list[int]:
        """The places of the devices that forward samples."""
        return [place for place, own in enumerate(self.own) if own.batch is not None]

    @property
    def weights(self) -> list[float]:
        """The part of each device's loss that it carries."""
        return [own.weight for own in self.own]

    @property
    def pending(self) -> Pending:
        """What the device holds between forward and backward."""
        assert self.forwarded is not None, "a device's forward comes before its other steps"
        return self.forwarded

    def load(self, tensor: Tensor, place: int) -> Load:
        """The rows of the `place`-th device, which forwards some, to send: without the padding that
        others needed."""
        assert self.group is not None
        at, batch = self.forwarding.index(place), self.own[place].sent
        first = sum(self.group.sizes[:at])
        rows = tensor[first : first + self.group.sizes[at]]
        own = rows if batch.lengths is None else rows[:, : max(batch.lengths)]
        return Load(own, batch.lengths, self.own[place].forwarded)

    def device_shape(self, place: int) -> MiniBatch:
        """What the `place`-th device forwards, as the cost models take it."""
        batch = self.own[place].sent
        tokens = self.pending.shape[1] if batch.lengths is None else max(batch.lengths)
        return MiniBatch(len(batch.labels), tokens)

    def server_shape(self, place: int) -> MiniBatch:
        """What the server computes for the `place`-th device."""
        samples, tokens, _ = self.served[place].tensor.shape
        return MiniBatch(samples, tokens)


@dataclass(frozen=True)
class OwnMicroBatch:
    """One device's part of a mini-batch: sample numbers, and its part of the loss, its labels over
    the mini-batch's. `forwarded`: those of the samples that the device forwards, and their batch
    (None: it forwards none, since the server holds all of them)."""

    samples: tuple[int, ...]
    forwarded: tuple[int, ...]
    batch: Batch | None
    weight: float

    @property
    def sent(self) -> Batch:
        """What the device forwards, where it forwards something."""
        assert self.batch is not None, "a device that forwards nothing sends nothing"
        return self.batch


# the ones of a device's samples that the server does not hold, of these
Missing: TypeAlias = Callable[[int, Sequence[int]], tuple[int, ...]]


def all_missing(device: int, samples: Sequence[int]) -> tuple[int, ...]:
    """Of a server that holds none."""
    return tuple(samples)


def pieces_of(samples: Int[np.ndarray, " row"], count: int) -> list[tuple[int, ...]]:
    """A mini-batch's samples in at most `count` micro-batches, which differ by one at most."""
    return [tuple(piece.tolist()) for piece in np.array_split(samples, count) if len(piece)]


def micro_batches(
    device: DeviceSide, round_number: int, step: int, count: int, missing: Missing = all_missing
) -> list[OwnMicroBatch | None]:
    """A local step's mini-batch in `count` micro-batches that differ by one sample at most.

    Weights are each one's labels over all (one a sample, or one a predicted token), so that the
    weighted mean losses sum to the mini-batch's. None where there are fewer samples than that. At
    least one of the samples must be `missing`.
    """
    pieces = pieces_of(device.indices(round_number, step), count)
    batches = [device.batch(np.array(piece)) for piece in pieces]
    weights = loss_weights([batch.labels for batch in batches])
    found: list[OwnMicroBatch | None] = []
    for piece, batch, weight in zip(pieces, batches, weights, strict=True):
        forwarded = missing(device.number, piece)
        some = batch if len(forwarded) == len(piece) else None
        if forwarded and some is None:
            some = device.batch(np.array(forwarded))
        found.append(OwnMicroBatch(piece, forwarded, some, weight))
    return found + [None] * (count - len(found))


def held_micro_batches(
    pieces: Sequence[tuple[int, ...]], labels: Sequence[np.ndarray]
) -> list[OwnMicroBatch]:
    """A mini-batch in these pieces, of which the server holds every sample, with its labels."""
    weights = loss_weights(labels)
    return [
        OwnMicroBatch(piece, (), None, weight)
        for piece, weight in zip(pieces, weights, strict=True)
    ]


def loss_weights(labels: Sequence[np.ndarray]) -> list[float]:
    """What part of a mini-batch's mean loss each of its micro-batches' is, given their labels."""
    counts = [_counted(own) for own in labels]
    total = sum(counts)
    return [own / total if total else 1 / len(counts) for own in counts]


def _counted(labels: np.ndarray) -> int:
    """Labels that a mean loss is over."""
    predicted = labels if labels.ndim == 1 else labels[:, 1:]
    return int((predicted != IGNORED_LABEL).sum())
