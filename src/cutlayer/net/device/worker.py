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

from cutlayer.codec.codec import EMPTY, CodecPair, Direction, State, Stream, Streams
from cutlayer.codec.raw import encode_targets
from cutlayer.data.partition import BatchPlan
from cutlayer.data.samples import BatchMaker, Samples
from cutlayer.errors import RunError
from cutlayer.model.optimizer import Optimizer
from cutlayer.model.split import DevicePart, Pending, hold
from cutlayer.net.wire.frames import Position
from cutlayer.net.wire.messages import Activation, Adapter, Gradient, Micro, Open, Terms, Weight
from cutlayer.spec import ActivationPolicy
from cutlayer.train.exchange import (
    Load,
    Share,
    encode,
    group_inputs,
    pack_adapter,
    shares,
    streams_from_tensors,
    streams_to_tensors,
    unpack_adapter,
)
from cutlayer.train.files import Mend, write_atomically
from cutlayer.train.state import Side, SideState
from cutlayer.train.torch_codec import for_device

_HOST = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class DeviceTools:
    """What device `device` computes with: its part, its data, the run's rules."""

    device: int
    part: DevicePart
    codecs: CodecPair
    optimizer: Optimizer
    plan: BatchPlan
    local_steps: int
    samples: Samples
    batches: BatchMaker
    micro_batches: int
    activation_memory: ActivationPolicy
    classes: int
    seed: int


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A micro-batch whose gradient has not come, and its sender's state once it has."""

    pending: Pending
    rows: Tensor
    state: State


@final
class DeviceWorker:
    """One device's adapter, optimiser and ends of its streams."""

    def __init__(self, tools: DeviceTools) -> None:
        self._tools = tools
        row = torch.zeros(tools.part.adapted.layout.parameters)
        self._side = Side(SideState(row, {}), 1, tools.optimizer, shared=False)
        self._streams: Streams = {}
        self._learning_rate = 0.0
        self._waiting: _Waiting | None = None

    def begin(self, message: Open) -> None:
        """Take over the merged adapter. Raises PacketError: it is none of this run."""
        row = unpack_adapter(message.adapter, self._side.rows.shape[1])
        optimizer = {} if message.opening.fresh else self._side.optimizer
        self._side = Side(SideState(row, optimizer), 1, self._tools.optimizer, shared=False)
        if message.opening.fresh:
            self._streams = {}
        self._learning_rate = message.opening.learning_rate
        self._waiting = None

    def forward(self, position: Position) -> Activation:
        """Forward to the cut, and the packet of the activation."""
        tools = self._tools
        parts = self._parts(position)
        share = parts[position.micro]
        group = group_inputs([share.batch])
        rows = self._side.gather((0,)).requires_grad_()
        pending = hold(tools.part, rows, group.sizes, group.inputs, tools.activation_memory)
        load = Load(pending.activation, share.batch.lengths, share.samples)
        key = (position.round, tools.device, position.step, position.micro, Direction.UP)
        codec = for_device(tools.codecs.up, _HOST)
        outgoing = encode(codec, load, tools.seed, key, self._end(Direction.UP))
        pending.release()
        self._waiting = _Waiting(pending, rows, outgoing.state)
        return Activation(
            position=position,
            micro=Micro(share.weight, position.micro == len(parts) - 1),
            packet=outgoing.packet,
            labels=encode_targets(share.batch.labels, tools.classes),
            samples=share.samples,
        )

    def backward(self, message: Gradient, *, last: bool) -> None:
        """Backward from the cut; after a mini-batch's last micro-batch the adapter steps.

        Raises PacketError for what is no gradient of the activation; it may then come again.
        """
        assert self._waiting is not None, "a gradient is for the activation before it"
        waiting = self._waiting
        decoded = for_device(self._tools.codecs.down, _HOST).decode(
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
        weight = Weight(len(self._tools.plan.samples))
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
        self._side = Side(state, 1, self._tools.optimizer, shared=False)
        if "collected" in tensors:
            self._side.collected[0] = tensors["collected"].clone()
        self._streams = streams_from_tensors(tensors)
        self._learning_rate = float(tensors["learning_rate"])
        self._waiting = None

    def _parts(self, position: Position) -> list[Share]:
        """The micro-batches of a local step that have samples."""
        tools = self._tools
        done = (position.round - 1) * tools.local_steps
        indices = tools.plan.indices(done + position.step)
        found = shares(
            indices, tools.micro_batches, lambda part: tools.batches.make(tools.samples, part)
        )
        return [share for share in found if share is not None]

    def _end(self, direction: Direction) -> State:
        """What the device's end of a stream remembers."""
        stream = self._streams.get((0, direction))
        if stream is None:
            return EMPTY
        return stream.sender if direction is Direction.UP else stream.receiver


# Where a device keeps what it must not lose: one file, replaced as a whole, with a checksum.
#
# Knows neither sessions nor what the tensors are.


_Place = tuple[int, int, int]
# the shorter one is of a version that did not note the samples
_ABOUT = TypeAdapter[tuple[_Place, Terms, str | None] | tuple[_Place, Terms]](
    tuple[_Place, Terms, str | None] | tuple[_Place, Terms]
)
_MEND = Mend(
    "start `cutlayer join` again, it goes on where it was",
    "name a folder that can be written with --identity",
)


@dataclass(frozen=True, eq=False)
class Stored:
    """A device's state before `position` of a run on `terms`; `samples` says what it trained on
    (None: nobody noted it)."""

    position: Position
    terms: Terms
    tensors: dict[str, Tensor]
    samples: str | None = None


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
            position, terms, *samples = _ABOUT.validate_json(about)
        except (SafetensorError, ValidationError, KeyError, ValueError, TypeError) as error:
            raise RunError(
                f"{self._path} cannot be read: {error}; delete it, and the device begins its round"
                " anew"
            ) from error
        return Stored(Position(*position), terms, tensors, samples[0] if samples else None)


def _checksum(about: str, tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 of all that is in a file."""
    value = zlib.crc32(about.encode())
    for name, tensor in sorted(tensors.items()):
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.numpy().tobytes(), value)
    return value
