"""What a device computes, for itself alone: by the same calls as the trainer.

Knows no frames and no links: the session says what is next. What a stream remembers moves on when
the answer has come, and not before: a device that is started again from its state makes the same
packets as the first time.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from cutlayer.codec.codec import EMPTY, CodecState, Direction, Stream, Streams
from cutlayer.errors import PacketError
from cutlayer.model.placement import to_device
from cutlayer.model.split import Pending, device_forward, frozen_forward
from cutlayer.net.wire.messages import (
    Activation,
    Adapter,
    Gradient,
    Micro,
    Open,
    Position,
    Weight,
)
from cutlayer.training.adapter_rows import RowCodec, SentRow, pack_adapter
from cutlayer.training.evaluation import share_of
from cutlayer.training.exchange import (
    Load,
    Missing,
    OwnMicroBatch,
    all_missing,
    encode,
    group_inputs,
    micro_batches,
    pack_labels,
    streams_from_tensors,
    streams_to_tensors,
)
from cutlayer.training.state import AdapterBank, AdapterState, DeviceSide, Training
from cutlayer.training.torch_codec import for_device


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A micro-batch that has not been answered, and its sender's state once it has; `pending`:
    what was forwarded of it."""

    pending: Pending | None
    rows: Tensor
    state: CodecState


@final
class DeviceWorker:
    """One device's adapter, optimiser and ends of its streams."""

    def __init__(self, training: Training, device: DeviceSide) -> None:
        self._training = training
        self._device = device
        row = torch.zeros(device.part.adapted.layout.parameters)
        self._place = device.part.adapted.device
        self._side = self._bank(AdapterState(row, {}))
        self._streams: Streams = {}
        # in their order: several where nothing comes back
        self._waiting: deque[_Waiting] = deque()
        # whether the adapter stays here as the round ends, and whether it is trained
        self._keeps, self._trains = False, True
        # what the server holds of the round's samples as it opens, local step by local step
        self._held: Bool[np.ndarray, " row"] | None = None
        # of rows that go as changes: what the next one is from (None: nothing has come yet)
        self._rows = RowCodec(training.adapter_codec, device.part.adapted.layout)
        self._sent: SentRow | None = None

    def begin(self, message: Open) -> None:
        """Take over the merged adapter, or go on with its own. Raises PacketError: it is none of
        this run."""
        opening = message.opening
        trains = self._training.scheme_of(message.round).trains_device
        given = opening.fresh or (self._training.merging.device and trains)
        if message.adapter or (given and self._rows.layout.parameters):
            row = self._rows.decode(
                message.adapter, None if self._sent is None else self._sent.base
            )
            lost = None if opening.fresh else self._lost
            sent: SentRow | None = SentRow(row, lost)
        elif not trains:
            row, sent = self._side.rows[0], self._sent
        else:
            row, sent = self._side.rows[0], self._uploaded
        if self._rows.codec is not None:
            self._sent = sent
        self._side = self._bank(AdapterState(row, {} if opening.fresh else self._side.optimizer))
        self._keeps, self._trains = bool(opening.keeps), trains
        self._held = None
        if opening.held is not None:
            bits = np.frombuffer(bytes.fromhex(opening.held), np.uint8)
            self._held = np.unpackbits(bits).astype(bool)
        if opening.fresh:
            self._streams = {}
        self._waiting.clear()

    def asked(self, position: Position) -> Position | None:
        """The first micro-batch from this one on of a local step that the server does not hold all
        of; None: there is none in the round."""
        if self._held is None:
            return position
        for step in range(position.step, self._device.local_steps):
            samples = self._device.indices(position.round, step).tolist()
            if self._missing(position.round, step)(self._device.number, samples):
                micro = position.micro if step == position.step else 0
                return Position(position.round, step, micro)
        return None

    def _missing(self, round_number: int, step: int) -> Missing:
        """What the server does not hold of a local step's samples: neither as the round opened, nor
        from an earlier step of it."""
        if self._held is None:
            return all_missing
        known: set[int] = set()
        at = 0
        for number in range(step + 1):
            samples = self._device.indices(round_number, number).tolist()
            bits = self._held[at : at + len(samples)].tolist()
            known |= {sample for sample, held in zip(samples, bits, strict=False) if held}
            known |= set(samples) if number < step else set()
            at += len(samples)
        return lambda device, samples: tuple(one for one in samples if one not in known)

    def forward(self, position: Position) -> Activation:
        """Forward to the cut, and the packet of the activation."""
        training, device = self._training, self._device
        parts = self._parts(position)
        own = parts[position.micro]
        micro = Micro(own.weight, position.micro == len(parts) - 1)
        if own.batch is None:
            before = self._waiting[-1].state if self._waiting else self._end(Direction.UP)
            self._waiting.append(_Waiting(None, self._side.rows[:0], before))
            return Activation(position, micro, b"", b"", ())
        group = group_inputs([own.batch])
        rows = self._side.gather((0,)).requires_grad_(self._trains)
        given = (device.part, rows, group.sizes, group.inputs)
        if self._trains:
            draws = training.draws(position.round, device.number, position.step, own.samples)
            pending = device_forward(*given, training.activation_memory, draws)
        else:
            pending = frozen_forward(*given)
        load = Load(pending.activation, own.batch.lengths, own.forwarded)
        key = (position.round, device.number, position.step, position.micro, Direction.UP)
        codec = for_device(training.codecs.up, self._place)
        before = self._waiting[-1].state if self._waiting else self._end(Direction.UP)
        outgoing = encode(codec, load, training.seed, key, before)
        pending.release()
        self._waiting.append(_Waiting(pending, rows, outgoing.state))
        return Activation(
            position=position,
            micro=micro,
            packet=outgoing.packet,
            labels=pack_labels(own.batch, training.classes),
            samples=own.forwarded,
        )

    def backward(self, message: Gradient, *, last: bool) -> None:
        """Backward from the cut; after a mini-batch's last micro-batch the adapter steps. Where it
        is frozen, nothing: the activation has come.

        Raises PacketError for what is no gradient of the activation; it may then come again.
        """
        waiting = self._waiting[0]
        if not self._trains:
            if message.packet:
                raise PacketError("a gradient, for a part that is frozen")
            self._waiting.popleft()
            self._streams = {**self._streams, (0, Direction.UP): Stream(sender=waiting.state)}
            return
        assert waiting.pending is not None
        decoded = for_device(self._training.codecs.down, self._place).decode(
            message.packet, tuple(waiting.pending.shape), self._end(Direction.DOWN)
        )
        self._waiting.popleft()
        waiting.pending.backward(decoded.tensor)
        assert waiting.rows.grad is not None
        self._side.collect((0,), waiting.rows.grad)
        if last:
            place, steps = message.position, self._device.local_steps
            self._side.step({0: self._training.rate_of(place.round, place.step, steps)})
        self._streams = {
            (0, Direction.UP): Stream(sender=waiting.state),
            (0, Direction.DOWN): Stream(receiver=decoded.state),
        }

    def adapter(self, round_number: int) -> Adapter:
        """The adapter after the last local step."""
        told = share_of(self._device).labels if self._training.tells_labels else None
        weight = Weight(self._device.samples, None if told is None else list(told))
        row, sent = self._side.rows[0], self._sent
        if self._keeps or not self._trains:
            packet = b""
        elif sent is None:
            packet = pack_adapter(row)
        else:
            packet = self._rows.encode(sent.wanted(row)).packet
        return Adapter(round_number, weight, packet)

    @property
    def _uploaded(self) -> SentRow | None:
        """What is remembered of the last round's upload, which the server has if the next round
        begins: made again, since the device may have been started again meanwhile."""
        if self._sent is None or self._keeps:
            return self._sent
        row, merges = self._side.rows[0], self._training.merging.device
        return self._sent.after(row, self._rows.encode(self._sent.wanted(row)), merges=merges)

    @property
    def _lost(self) -> Tensor | None:
        uploaded = self._uploaded
        return None if uploaded is None else uploaded.lost

    def tensors(self) -> dict[str, Tensor]:
        """All that the device must not lose, between two micro-batches; on the host."""
        coded = {} if self._sent is None else self._sent.tensors()
        optimizer = self._side.optimizer if self._trains else {}
        side = AdapterState(self._side.rows[0], optimizer, coded)
        collected = self._side.collected.get(0)
        tensors = {
            **side.tensors("device"),
            **({} if collected is None else {"collected": collected}),
            **({} if self._side.anchor is None else {"anchor": self._side.anchor}),
            **({"keeps": torch.ones(1)} if self._keeps else {}),
            **({} if self._trains else {"frozen": torch.ones(1)}),
            **({} if self._held is None else {"held": torch.from_numpy(self._held)}),
            **streams_to_tensors(self._streams),
        }
        return {name: tensor.cpu() for name, tensor in tensors.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from `tensors`."""
        state = AdapterState.from_tensors("device", dict(tensors))
        self._side = self._bank(state, tensors.get("anchor"))
        self._sent = SentRow.from_tensors(state.coded)
        self._keeps, self._trains = "keeps" in tensors, "frozen" not in tensors
        self._held = tensors["held"].numpy() if "held" in tensors else None
        if "collected" in tensors:
            self._side.collected[0] = to_device(tensors["collected"], self._place).clone()
        self._streams = streams_from_tensors(tensors)
        self._waiting.clear()

    def _bank(self, state: AdapterState, anchor: Tensor | None = None) -> AdapterBank:
        """The adapter during a round, on the part's device; `anchor`: what it began with."""
        rule, mu = self._training.rule(self._device.part.adapted.layout), self._training.merging
        return AdapterBank(
            state,
            (0,),
            rule,
            shared=False,
            device=self._place,
            proximal_mu=mu.proximal_mu,
            anchor=anchor,
        )

    def _parts(self, position: Position) -> list[OwnMicroBatch]:
        """The micro-batches of a local step that have samples."""
        count = self._training.micro_batches
        missing = self._missing(position.round, position.step)
        found = micro_batches(self._device, position.round, position.step, count, missing)
        return [own for own in found if own is not None]

    def _end(self, direction: Direction) -> CodecState:
        """What the device's end of a stream remembers."""
        stream = self._streams.get((0, direction))
        if stream is None:
            return EMPTY
        return stream.sender if direction is Direction.UP else stream.receiver
