"""What a device computes, for itself alone: by the same calls as the trainer.

Knows no frames and no links: the session says what is next. What a stream remembers moves on when
the gradient has come, and not before: a device that is started again from its state makes the same
packet as the first time.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import final

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cutlayer.codec.codec import EMPTY, CodecState, Direction, Stream, Streams
from cutlayer.codec.raw import encode_targets
from cutlayer.errors import RunError
from cutlayer.model.split import Pending, hold
from cutlayer.net.wire.frames import Position
from cutlayer.net.wire.messages import Activation, Adapter, Gradient, Micro, Open, Terms, Weight
from cutlayer.train.exchange import (
    Load,
    OwnMicroBatch,
    encode,
    group_inputs,
    micro_batches,
    pack_adapter,
    streams_from_tensors,
    streams_to_tensors,
    unpack_adapter,
)
from cutlayer.train.files import Mend, write_atomically
from cutlayer.train.state import DeviceSide, Side, SideState, Training
from cutlayer.train.torch_codec import for_device

_HOST = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A micro-batch whose gradient has not come, and its sender's state once it has."""

    pending: Pending
    rows: Tensor
    state: CodecState


@final
class DeviceWorker:
    """One device's adapter, optimiser and ends of its streams."""

    def __init__(self, training: Training, device: DeviceSide) -> None:
        self._training = training
        self._device = device
        row = torch.zeros(device.part.adapted.layout.parameters)
        self._side = Side(SideState(row, {}), 1, training.optimizer, shared=False)
        self._streams: Streams = {}
        self._learning_rate = 0.0
        self._waiting: _Waiting | None = None

    def begin(self, message: Open) -> None:
        """Take over the merged adapter. Raises PacketError: it is none of this run."""
        row = unpack_adapter(message.adapter, self._side.rows.shape[1])
        optimizer = {} if message.opening.fresh else self._side.optimizer
        self._side = Side(SideState(row, optimizer), 1, self._training.optimizer, shared=False)
        if message.opening.fresh:
            self._streams = {}
        self._learning_rate = message.opening.learning_rate
        self._waiting = None

    def forward(self, position: Position) -> Activation:
        """Forward to the cut, and the packet of the activation."""
        training, device = self._training, self._device
        parts = self._parts(position)
        own = parts[position.micro]
        group = group_inputs([own.batch])
        rows = self._side.gather((0,)).requires_grad_()
        pending = hold(device.part, rows, group.sizes, group.inputs, training.activation_memory)
        load = Load(pending.activation, own.batch.lengths, own.samples)
        key = (position.round, device.number, position.step, position.micro, Direction.UP)
        codec = for_device(training.codecs.up, _HOST)
        outgoing = encode(codec, load, training.seed, key, self._end(Direction.UP))
        pending.release()
        self._waiting = _Waiting(pending, rows, outgoing.state)
        return Activation(
            position=position,
            micro=Micro(own.weight, position.micro == len(parts) - 1),
            packet=outgoing.packet,
            labels=encode_targets(own.batch.labels, training.classes),
            samples=own.samples,
        )

    def backward(self, message: Gradient, *, last: bool) -> None:
        """Backward from the cut; after a mini-batch's last micro-batch the adapter steps.

        Raises PacketError for what is no gradient of the activation; it may then come again.
        """
        assert self._waiting is not None, "a gradient is for the activation before it"
        waiting = self._waiting
        decoded = for_device(self._training.codecs.down, _HOST).decode(
            message.packet, tuple(waiting.pending.shape), self._end(Direction.DOWN)
        )
        self._waiting = None
        waiting.pending.backward(decoded.tensor)
        assert waiting.rows.grad is not None
        self._side.collect((0,), waiting.rows.grad)
        if last:
            self._side.step((0,), self._learning_rate)
        self._streams = {
            (0, Direction.UP): Stream(sender=waiting.state),
            (0, Direction.DOWN): Stream(receiver=decoded.state),
        }

    def adapter(self, round_number: int) -> Adapter:
        """The adapter after the last local step."""
        weight = Weight(self._device.samples)
        return Adapter(round_number, weight, pack_adapter(self._side.rows[0]))

    def tensors(self) -> dict[str, Tensor]:
        """All that the device must not lose, between two micro-batches."""
        side = SideState(self._side.rows[0], self._side.optimizer)
        collected = self._side.collected.get(0)
        return {
            **side.tensors("device"),
            **({} if collected is None else {"collected": collected}),
            **streams_to_tensors(self._streams),
            "learning_rate": torch.tensor(self._learning_rate, dtype=torch.float64),
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from `tensors`."""
        state = SideState.from_tensors("device", dict(tensors))
        self._side = Side(state, 1, self._training.optimizer, shared=False)
        if "collected" in tensors:
            self._side.collected[0] = tensors["collected"].clone()
        self._streams = streams_from_tensors(tensors)
        self._learning_rate = float(tensors["learning_rate"])
        self._waiting = None

    def _parts(self, position: Position) -> list[OwnMicroBatch]:
        """The micro-batches of a local step that have samples."""
        count = self._training.micro_batches
        found = micro_batches(self._device, position.round, position.step, count)
        return [own for own in found if own is not None]

    def _end(self, direction: Direction) -> CodecState:
        """What the device's end of a stream remembers."""
        stream = self._streams.get((0, direction))
        if stream is None:
            return EMPTY
        return stream.sender if direction is Direction.UP else stream.receiver


# Where a device keeps what it must not lose: one file, replaced as a whole, with a checksum.
#
# Knows neither sessions nor what the tensors are.


_Place = tuple[int, int, int]
_ABOUT = TypeAdapter[tuple[_Place, Terms, str]](tuple[_Place, Terms, str])
_MEND = Mend(
    "start `cutlayer join` again, it goes on where it was",
    "name a folder that can be written with --identity",
)


@dataclass(frozen=True, eq=False)
class Stored:
    """A device's state before `position` of a run on `terms`; `samples` says what it trained on."""

    position: Position
    terms: Terms
    tensors: dict[str, Tensor]
    samples: str


@final
class DeviceStore:
    """The file at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def path(self) -> Path:
        """The file, which may not be there."""
        return self._path

    def save(self, stored: Stored) -> None:
        """Put a state in the place of the one before. Raises RunError if it cannot be written."""
        about = json.dumps((astuple(stored.position), asdict(stored.terms), stored.samples))
        tensors = {name: tensor.contiguous() for name, tensor in stored.tensors.items()}
        # one key: safetensors writes several in random order
        metadata = {"device": json.dumps((about, _checksum(about, tensors)))}
        write_atomically(self._path, lambda path: save_file(tensors, path, metadata), _MEND)

    def load(self) -> Stored | None:
        """The last state saved, or None. Raises RunError for a file that cannot be read."""
        if not self._path.exists():
            return None
        try:
            with safe_open(self._path, framework="pt") as file:
                about, checksum = json.loads(file.metadata()["device"])
                tensors = {name: file.get_tensor(name) for name in list(file.keys())}
            if _checksum(about, tensors) != checksum:
                raise ValueError("its checksum is another")
            position, terms, samples = _ABOUT.validate_json(about)
        except (SafetensorError, ValidationError, KeyError, ValueError, TypeError) as error:
            raise RunError(
                f"{self._path} cannot be read: {error}; delete it, and the device begins its round"
                " anew"
            ) from error
        return Stored(Position(*position), terms, tensors, samples)


def _checksum(about: str, tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 of all that is in a file."""
    value = zlib.crc32(about.encode())
    for name, tensor in sorted(tensors.items()):
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.numpy().tobytes(), value)
    return value
