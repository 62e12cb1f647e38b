"""What a device computes, for itself alone: by the same calls as the trainer.

Knows no frames and no links: the session says what is next. What a stream remembers moves on when
the gradient has come, and not before: a device that is started again from its state makes the same
packet as the first time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from cutlayer.codec.codec import EMPTY, State
from cutlayer.codec.presets import CodecPair
from cutlayer.codec.targets import encode_targets
from cutlayer.data.batches import BatchMaker, BatchPlan
from cutlayer.data.samples import Samples
from cutlayer.model.holding import Pending, hold
from cutlayer.model.optimizer import Optimizer
from cutlayer.model.split import DevicePart
from cutlayer.net.frames import Position
from cutlayer.net.messages import Activation, Adapter, Gradient, Micro, Open, Weight
from cutlayer.spec import Holding
from cutlayer.train.device_codec.codec import for_device
from cutlayer.train.exchange import (
    Direction,
    Load,
    Stream,
    Streams,
    encode,
    pack_adapter,
    streams_from_tensors,
    streams_to_tensors,
    unpack_adapter,
)
from cutlayer.train.inputs import group_inputs
from cutlayer.train.micro_batch import Share, shares
from cutlayer.train.side import Side
from cutlayer.train.state import SideState

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
    holding: Holding
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
        pending = hold(tools.part, rows, group.sizes, group.inputs, tools.holding)
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
