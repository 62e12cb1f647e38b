"""What a device computes, keeps and sends: it carries out what its session says.

Knows no socket, and no clock but by its watch: the caller dials, and waits between two attempts.
"""

import asyncio
import json
import logging
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Bool
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cutlayer.codec.codec import EMPTY, CodecState, Direction, Stream, Streams
from cutlayer.errors import PacketError, RunError
from cutlayer.files import Remedy, write_atomically
from cutlayer.model.placement import to_device
from cutlayer.model.split import Pending, device_forward, frozen_forward
from cutlayer.net.device import session as d
from cutlayer.net.wire.frames import Bounds, Kind, kind_of
from cutlayer.net.wire.link import Compute, Link, LinkClosed
from cutlayer.net.wire.messages import (
    Activation,
    Adapter,
    DeviceTimes,
    Gradient,
    Micro,
    Open,
    Opening,
    OwnSamples,
    PartPiece,
    Position,
    StepTimes,
    Terms,
    Weight,
)
from cutlayer.net.wire.part_files import PartCache
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

# What a device computes, for itself alone: by the same calls as the trainer.
#
# Knows no frames and no links: the session says what is next. What a stream remembers moves on when
# the answer has come, and not before: a device that is started again from its state makes the same
# packets as the first time.


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
            1,
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


# Where a device keeps what it must not lose: one file, replaced as a whole, with a checksum.
#
# Knows neither sessions nor what the tensors are.


_Place = tuple[int, int, int]
_ABOUT = TypeAdapter[tuple[_Place, Terms, str]](tuple[_Place, Terms, str])
_REMEDY = Remedy(
    "join again, which resumes where it was",
    "name a folder that can be written as identity",
    "identity",
)


@dataclass(frozen=True, eq=False)
class Stored:
    """A device's state before `position` of a run on `terms`; `samples` says what it trained on."""

    position: Position
    terms: Terms
    tensors: dict[str, Tensor]
    samples: str


@final
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
        write_atomically(self._path, lambda path: save_file(tensors, path, metadata), _REMEDY)

    def load(self) -> Stored | None:
        """The last state saved, or None. Raises RunError for a file that cannot be read."""
        if not self._path.exists():
            return None
        try:
            with safe_open(self._path, framework="pt") as file:
                about, checksum = json.loads(file.metadata()["device"])
                tensors = {name: file.get_tensor(name) for name in list(file.keys())}
            if _checksum(about, tensors) != checksum:
                raise ValueError("its checksum is wrong")
            position, terms, samples = _ABOUT.validate_json(about)
        except (SafetensorError, ValidationError, KeyError, ValueError, TypeError) as error:
            raise RunError(
                f"{self._path} cannot be read: {error}; delete it, and the device restarts its"
                " round"
            ) from error
        return Stored(Position(*position), terms, tensors, samples)


def _checksum(about: str, tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 of all that is in a file."""
    value = zlib.crc32(about.encode())
    for name, tensor in sorted(tensors.items()):
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.numpy().tobytes(), value)
    return value


# Notes when a device does what in a round, for the times that go with its adapter.
#
# Knows one clock, and neither links nor tensors. A device that is started again within a round has
# not seen all of it, and tells nothing of it.


@final
class DeviceWatch:
    """`clock`: seconds, from any beginning, that never go back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._asked_s = self._answered_s = self._arrived_s = 0.0
        # of the micro-batches on their way: their forward began, their activation left
        self._began_s: deque[float] = deque()
        self._sent_s: deque[float] = deque()
        # None: not seen from its beginning
        self._steps: list[StepTimes] | None = None

    def arrived(self) -> None:
        """A frame is here."""
        self._arrived_s = self._clock()

    def opened(self) -> None:
        """A round begins."""
        self._steps = []
        self._began_s.clear()
        self._sent_s.clear()

    def echo_received(self) -> None:
        """The frame that is here answers the probe."""
        self._answered_s = self._arrived_s

    def forward(self) -> None:
        """The forward of a micro-batch begins."""
        self._began_s.append(self._clock())

    def sends(self, kind: Kind) -> None:
        """A frame begins to leave; an activation that leaves again has left before."""
        if kind is Kind.PROBE:
            self._asked_s = self._clock()
        elif kind is Kind.ACTIVATION and len(self._sent_s) < len(self._began_s):
            self._sent_s.append(self._clock())

    def stepped(self) -> None:
        """The frame that is here was the answer to the first of them."""
        began_s, sent_s = self._began_s.popleft(), self._sent_s.popleft()
        if self._steps is not None:
            self._steps.append(StepTimes(began_s, sent_s, self._arrived_s))

    def closed(self) -> DeviceTimes | None:
        """The adapter begins to leave: the times of the round, if all of it was seen."""
        if self._steps is None:
            return None
        return DeviceTimes(self._asked_s, self._answered_s, self._clock(), tuple(self._steps))


_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Ready:
    """A device that can compute on the terms it was given, and the run's longest payloads.
    `samples`: how many it has, and a hash of what is in them; `own_samples`: the same for a server
    that keeps activations."""

    terms: Terms
    worker: DeviceWorker
    bounds: Bounds
    samples: str
    own_samples: OwnSamples | None = None


@final
class DeviceDriver:
    """A device's part in a run, from where its store left it. `prepare` makes it ready on terms.

    `check`: raises where this device's data do not fit the terms, before anything is fetched.
    `watch`: notes when it does what. `parts`: where the files of parts are kept; None if the device
    has its part. `opened`: told each round's opening, before anything of the round is sent;
    `got_on`: told whenever something is on disk that need not be done again.
    """

    def __init__(
        self,
        store: DeviceStore,
        prepare: Callable[[Terms], Ready],
        compute: Compute,
        watch: DeviceWatch,
        parts: PartCache | None = None,
        opened: Callable[[Opening, Terms], None] = lambda opening, terms: None,
        got_on: Callable[[], None] = lambda: None,
        check: Callable[[Terms], None] = lambda terms: None,
    ) -> None:
        self._store = store
        self._prepare = prepare
        self._compute = compute
        self._watch = watch
        self._parts = parts
        self._opened = opened
        self._got_on = got_on
        self._check = check
        self._stored = store.load()
        stored = self._stored
        self._session = (
            d.DeviceSession()
            if stored is None
            else d.DeviceSession(stored.position, stored.terms, str(store.path))
        )
        self._ready: Ready | None = None
        self._saving: asyncio.Task[None] | None = None
        self._sending: asyncio.Task[None] | None = None
        self._finished = False

    @property
    def progress(self) -> str:
        """How far this device is, for a person."""
        return self._session.progress

    async def take_part(self, dial: Callable[[], Awaitable[Link]]) -> None:
        """Dial, and dial again when the link breaks, until the run ends.

        Raises RunError if the server refuses the device or runs on other terms; what `dial` raises
        when it gives up.
        """
        while not self._finished:
            link = await dial()
            try:
                await self._handle(d.Linked(), link)
                while not self._finished:
                    await self._sent()
                    frame = await link.receive()
                    self._watch.arrived()
                    await self._handle(d.Received(frame), link)
            except LinkClosed as closed:
                _LOG.warning("%s: %s", link.peer, closed)
            finally:
                with suppress(RunError):  # whatever ended the link counts more
                    await self._saved()
                await link.close()
                with suppress(LinkClosed):
                    await self._sent()

    async def _handle(self, event: d.Event, link: Link) -> None:
        for instruction in self._session.handle(event):
            outcome = await self._do(instruction, link)
            if outcome is not None:
                await self._handle(outcome, link)

    async def _do(self, instruction: d.Instruction, link: Link) -> d.Event | None:
        match instruction:
            case d.Send(frame):
                await self._saved()
                await self._sent()
                # while it leaves, the next one is computed
                self._sending = asyncio.create_task(self._send(link, frame))
            case d.EchoReceived():
                self._watch.echo_received()
            case d.Prepare(terms):
                await self._compute(lambda: self._check(terms))
                return await self._get_ready(terms)
            case d.Keep(terms, piece):
                return await self._keep(terms, piece)
            case d.HangUp(reason):
                raise LinkClosed(reason)
            case d.Stop(reason):
                raise RunError(reason)
            case d.Leave():
                self._finished = True
            case d.SaveState(position, terms):
                own = self._own
                stored = Stored(position, terms, own.worker.tensors(), own.samples)
                await self._saved()
                self._saving = asyncio.create_task(self._save(stored))
            case computation:
                return await self._work(computation)
        return None

    async def _send(self, link: Link, frame: bytes) -> None:
        self._watch.sends(kind_of(frame))
        await link.send(frame)

    async def _sent(self) -> None:
        """Wait until the last frame has left. Raises what kept it from that."""
        sending, self._sending = self._sending, None
        if sending is not None:
            await sending

    async def _save(self, stored: Stored) -> None:
        await self._compute(lambda: self._store.save(stored))
        self._got_on()

    async def _saved(self) -> None:
        """Wait until the last state is on disk, which is before anything leaves that builds on it;
        what is computed meanwhile changes none of its tensors. Raises RunError: it cannot be."""
        saving, self._saving = self._saving, None
        if saving is not None:
            await saving

    async def _work(self, instruction: d.Begin | d.Forward | d.Backward | d.Upload) -> d.Event:
        worker = self._own.worker
        try:
            match instruction:
                case d.Begin(message):
                    worker.begin(message)
                    self._watch.opened()
                    self._opened(message.opening, self._own.terms)
                    return d.Begun(message)
                case d.Forward(position):
                    asked = worker.asked(position)
                    if asked is None:
                        return d.NothingAsked()
                    self._watch.forward()
                    return d.Forwarded(await self._compute(lambda: worker.forward(asked)))
                case d.Backward(message, last):
                    await self._compute(lambda: worker.backward(message, last=last))
                    self._watch.stepped()
                    return d.Stepped()
                case d.Upload(round_number):
                    adapter = worker.adapter(round_number)
                    return d.Uploaded(replace(adapter, times=self._watch.closed()))
        except PacketError as error:
            own = isinstance(instruction, d.Forward | d.Upload)
            return d.Diverged(str(error)) if own else d.Invalid(str(error))

    async def _keep(self, terms: Terms, piece: PartPiece) -> d.Event:
        assert self._parts is not None, "a device fetches what it keeps"
        parts = self._parts
        try:
            await self._compute(lambda: parts.add(terms, piece))
        except PacketError as error:
            return d.Invalid(str(error))
        self._got_on()
        return await self._get_ready(terms)

    async def _get_ready(self, terms: Terms) -> d.Event:
        parts = self._parts
        if parts is not None:
            try:
                needed = await self._compute(lambda: parts.needed(terms))
            except PacketError as error:
                return d.Invalid(str(error))
            if needed is not None:
                return d.NeedBytes(needed)
        void = await self._compute(lambda: self._make_ready(terms))
        return d.PartReady(self._own.bounds, void, self._own.own_samples)

    def _make_ready(self, terms: Terms) -> bool:
        """Go on from the stored state; True if there is one, of other samples: it is void then."""
        self._ready = self._prepare(terms)
        stored, self._stored = self._stored, None
        if stored is None:
            return False
        if stored.samples != self._ready.samples:
            _LOG.warning(
                "this device's samples changed since it last took part: it had %s, and has %s; it"
                " restarts its round",
                stored.samples,
                self._ready.samples,
            )
            return True
        self._ready.worker.restore(stored.tensors)
        return False

    @property
    def _own(self) -> Ready:
        assert self._ready is not None, "a session prepares before it computes"
        return self._ready
