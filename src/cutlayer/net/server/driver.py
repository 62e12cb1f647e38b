"""What a server computes and sends: it carries out what its session says.

Knows no socket, and no clock but its controller's watch: links come from the caller, and so does
the time. Events are handled one at a time, in order of arrival; frames that come meanwhile wait in
their links, so a device that sends too fast waits too, and one that does not read is hung up on.

Nothing leaves that a crash could take back: a frame carries the number of journal entries that were
made before it, and leaves when so many are on disk. Meanwhile the next event is handled. A
checkpoint waits for all entries.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeAlias, final

import torch
from torch import Tensor

from cutlayer.codec.codec import CodecState, Direction, Stream
from cutlayer.codec.packet import read_packet
from cutlayer.codec.raw import decode_targets
from cutlayer.errors import ModelError, PacketError, RunError
from cutlayer.model.optimizer import merged
from cutlayer.net.server import session as s
from cutlayer.net.server.journal import Entry, GroupCommit, Journal
from cutlayer.net.server.timing import (
    Controller,
    MeasuredRound,
    observed_round,
)
from cutlayer.net.wire.admission import OUTBOX_FRAMES
from cutlayer.net.wire.frames import Bounds, encode_message, kind_of
from cutlayer.net.wire.link import Compute, Link, LinkClosed, PacedLink, PatientLink
from cutlayer.net.wire.messages import (
    Activation,
    Adapter,
    PartOffset,
    PartPiece,
    Refused,
    Restarted,
    RoundClosed,
)
from cutlayer.training.exchange import Load, encode, pack_adapter, unpack_adapter
from cutlayer.training.server_batch import server_pass
from cutlayer.training.state import AdapterBank, AdapterState, RunState, ServerSide, Training
from cutlayer.training.torch_codec import Arrived, for_device

# What the server computes, a device's micro-batch at a time: by the same calls as the trainer.
#
# Knows no frames, no links and no order: the session says what is next. A call either succeeds or
# leaves everything as it was.


@final
class ServerWorker:
    """The server-side adapter of each of so many `devices` during a round, and what the server's
    ends of the streams remember; it takes nothing beyond `bounds`.

    Of the last round that closed: `train_loss`, a local step's mean loss [nat], and `plain_bytes`,
    what its activations would have been as float32, and as much its gradients. `samples`: how many
    each device says that it has, 0 as long as it has said nothing.
    """

    def __init__(
        self,
        training: Training,
        server: ServerSide,
        devices: int,
        bounds: Bounds,
        state: RunState,
    ) -> None:
        self._training = training
        self._server = server
        self._devices = devices
        self._bounds = bounds
        self.train_loss = math.nan
        self.plain_bytes = 0
        self.samples = [0] * devices
        self._start(state)

    @property
    def state(self) -> RunState:
        """The state as the round began: what a checkpoint holds."""
        return self._state

    @property
    def adapter(self) -> bytes:
        """The device-side adapter with which the round began, as a packet."""
        return pack_adapter(self._state.device.row)

    @property
    def held_bytes(self) -> int:
        """The adapters that devices have sent in this round [bytes]."""
        return sum(row.nbytes for row, _ in self._adapters.values())

    def train(self, device: int, message: Activation) -> bytes:
        """Forward and backward of one micro-batch, and the gradient's packet.

        After a mini-batch's last micro-batch the device's server-side adapter steps. Raises
        PacketError for anything that no device may send.
        """
        training, part, position = self._training, self._server.part, message.position
        arrived, labels = self._read(device, message)
        lengths = None if part.task == "image-classification" else arrived.lengths
        rows = self._side.gather((device,)).requires_grad_()
        weights, sizes = (message.micro.weight,), (len(labels),)
        result = server_pass(part, rows, sizes, arrived.tensor, lengths, labels, weights)
        key = (position.round, device, position.step, position.micro, Direction.DOWN)
        load = Load(result.gradient, lengths, message.samples)
        down = self._end(device, Direction.DOWN)
        codec = for_device(training.codecs.down, part.adapted.device)
        outgoing = encode(codec, load, training.seed, key, down)
        assert rows.grad is not None
        self._side.collect((device,), rows.grad)
        if message.micro.last:
            self._side.step((device,), training.rate_of(position.round))
        self._plain_bytes += outgoing.sent.uncompressed_bytes
        self._lose(device, message, result.losses)
        self._streams[device, Direction.UP] = Stream(receiver=arrived.state)
        self._streams[device, Direction.DOWN] = Stream(sender=outgoing.state)
        return outgoing.packet

    def store_adapter(self, device: int, message: Adapter) -> None:
        """Keep a device's adapter until the round closes. Raises PacketError: it is none."""
        row = unpack_adapter(message.packet, self._state.device.row.numel())
        self._adapters[device] = row, float(message.weight.samples)
        self.samples[device] = message.weight.samples

    def renew(self, device: int) -> None:
        """Void what a device has done of the round, and what its streams and optimiser hold."""
        self._side.renew(device, self._state.server.row)
        self._adapters.pop(device, None)
        self._losses.pop(device, None)
        for direction in Direction:
            self._streams.pop((device, direction), None)

    def merge(
        self, made: Sequence[int], measured: MeasuredRound | None = None, passed_s: float = 0.0
    ) -> None:
        """Close the round with the devices in `made`, weighted by the samples that each says it
        trained on; open the next one. `measured`: how long it took, if that was seen;
        else it took `passed_s`.

        The others begin it anew. Raises RunError for adapters that are not finite; the round is
        then as it was. Source: SFT eqs. (7), (8), over those who made it.
        """
        rows, weights = zip(*(self._adapters[device] for device in made), strict=True)
        device_row = merged(self._server.aggregation, torch.stack(rows), weights)
        server_row = merged(self._server.aggregation, self._side.gather(made), weights)
        if not (device_row.isfinite().all() and server_row.isfinite().all()):
            raise RunError(
                f"round {self._state.round + 1} diverged: its aggregated adapters are not finite;"
                " the state after the round before is kept, and resuming from it diverges again."
                " Start a new run with a lower optimizer.learning_rate"
            )
        self.train_loss, self.plain_bytes = self._mean_loss(made), self._plain_bytes
        for device in set(range(self._devices)) - set(made):
            self.renew(device)
        state, delay_s = self._state, passed_s
        if measured is not None:
            delay_s = measured.delay_s
            state = replace(state, observed=observed_round(measured, state.observed))
        self._start(
            replace(
                state,
                round=state.round + 1,
                virtual_time_s=state.virtual_time_s + delay_s,
                device=AdapterState(device_row, {}),
                server=AdapterState(server_row, self._side.optimizer),
                streams=dict(self._streams),
            )
        )

    def _start(self, state: RunState) -> None:
        self._state = state
        self._side = AdapterBank(
            state.server,
            self._devices,
            self._training.optimizer,
            shared=False,
            device=self._server.part.adapted.device,
        )
        self._streams = dict(state.streams)
        self._adapters: dict[int, tuple[torch.Tensor, float]] = {}
        # each local step's, as the parts of its micro-batches; read when the round closes
        self._losses: dict[int, list[list[Tensor]]] = {}
        self._plain_bytes = 0

    def _lose(self, device: int, message: Activation, loss: Tensor) -> None:
        """Enter a micro-batch's part of its local step's loss."""
        steps = self._losses.setdefault(device, [])
        if message.position.micro == 0:
            steps.append([])
        steps[-1].append(loss)

    def _mean_loss(self, made: Sequence[int]) -> float:
        steps = [step for device in made for step in self._losses[device]]
        losses: list[float] = [sum(torch.cat(step).cpu().tolist()) for step in steps]
        return sum(losses) / len(losses)

    def _read(self, device: int, message: Activation) -> tuple[Arrived, Tensor]:
        """The activation and its labels, if they are such as the run may have."""
        training, shape = self._training, self._shape(message)
        codec = for_device(training.codecs.up, self._server.part.adapted.device)
        arrived = codec.decode(message.packet, shape, self._end(device, Direction.UP))
        if training.task != "image-classification" and min(arrived.lengths) < 1:
            raise PacketError("an activation of a text without a token")
        labelled = shape[:2] if training.task == "causal-lm" else shape[:1]
        labels = decode_targets(message.labels, labelled, arrived.lengths, training.classes)
        return arrived, torch.from_numpy(labels)

    def _end(self, device: int, direction: Direction) -> CodecState:
        """What the server's end of a stream remembers."""
        stream = self._streams.get((device, direction), Stream())
        return stream.receiver if direction is Direction.UP else stream.sender

    def _shape(self, message: Activation) -> tuple[int, int, int]:
        """The shape that a packet claims, if it is one that the run may have."""
        shape, largest = read_packet(message.packet).shape, self._bounds
        if not (
            len(shape) == 3
            and 1 <= shape[0] <= largest.samples
            and 1 <= shape[1] <= largest.tokens
            and shape[2] == largest.width
        ):
            raise PacketError(
                f"an activation of shape {shape}; at most {largest.samples} samples of"
                f" {largest.tokens} tokens of {largest.width} values are taken"
            )
        if len(message.samples) != shape[0]:
            raise PacketError(f"{len(message.samples)} sample numbers for {shape[0]} samples")
        batch, token, width = shape
        return batch, token, width


# Events, instructions, links.


_LOG = logging.getLogger(__name__)


def no_part(offset: int) -> bytes:
    """For a run whose devices have their part. Raises PacketError."""
    raise PacketError(
        f"a piece of the part from byte {offset} on, which this server does not distribute"
    )


# puts the checkpoint of a round in place, with how long it took if that was seen
Save: TypeAlias = Callable[[RunState, MeasuredRound | None], None]


def recover(
    session: s.ServerSession,
    worker: ServerWorker,
    journal: Journal,
    controller: Controller,
    save: Save,
) -> None:
    """Bring a session and a worker that stand at the beginning of a round to where the journal
    ends: the tensors come out as they were, bit for bit.

    A round that had closed without its checkpoint gets it now. One whose adapters are all there is
    closed by the first `Passed`. Raises RunError for a journal that is damaged.
    """
    number = 0
    while number < session.round:
        number = session.round
        for entry in journal.entries(number):
            for instruction in _replay(session, worker, controller, entry):
                if isinstance(instruction, s.Checkpoint):
                    save(worker.state, None)


def _replay(
    session: s.ServerSession, worker: ServerWorker, controller: Controller, entry: Entry
) -> list[s.Instruction]:
    """What one entry led to, done again; and what the session wants done."""
    match entry:
        case Entry(int(device), Activation() as message):
            packet = worker.train(device, message)
            return session.handle(s.GradientReady(device, message, packet))
        case Entry(int(device), Adapter() as message):
            worker.store_adapter(device, message)
            return session.handle(s.AdapterStored(device, message))
        case Entry(int(device), Restarted()):
            worker.renew(device)
            return session.handle(s.Renewed(device))
        case Entry(None, RoundClosed(_, made)):
            controller.close()  # nobody saw it: since the server's start
            worker.merge(made.devices, None, controller.passed_s)
            shares = controller.reopen(worker.state, None)
            return session.handle(s.Merged(tuple(made.devices), worker.adapter, shares))
        case other:
            raise RunError(f"{other} in a journal, where no server writes it")


@final
class ServerDriver:
    """A run's server. `save` puts a checkpoint in place; `piece` gives the bytes of the file of the
    devices' part from one on. A device that takes longer than `patience_s` to read a frame is hung
    up on; frames to all leave at `downlink_bit_s` in all, each device's at its share (None: as fast
    as the line is)."""

    def __init__(
        self,
        session: s.ServerSession,
        worker: ServerWorker,
        journal: Journal,
        controller: Controller,
        save: Save,
        compute: Compute,
        piece: Callable[[int], bytes] = no_part,
        patience_s: float = math.inf,
        downlink_bit_s: float | None = None,
    ) -> None:
        self._session = session
        self._worker = worker
        self._journal = journal
        self._entries = GroupCommit(journal, compute, self._fail)
        self._controller = controller
        self._watch = controller.watch
        self._measured: MeasuredRound | None = None
        self._save = save
        self._compute = compute
        self._piece = piece
        self._patience_s = patience_s
        self._downlink_bit_s = downlink_bit_s
        # when devices that are away have left, by the watch [s]
        self.left_s: dict[int, float] = {}
        self._connections: dict[int, _Connection] = {}
        self._one_at_a_time = asyncio.Lock()
        self._end = asyncio.Event()
        self._failure: Exception | None = None
        if session.finished:
            self._end.set()

    async def welcome(self, number_of: Callable[[str], int | None], link: Link) -> None:
        """Serve one connection of somebody who has a certificate of the run. `number_of`: which
        device of that name it is; None: none, which is refused."""
        device = number_of(link.peer)
        if device is None:
            _LOG.warning("refused %s: the run has all its devices, none revoked", link.peer)
            await link.send(encode_message(Refused(), 0))
            return
        _LOG.info("%s is device %d", link.peer, device)
        try:
            await self.attend(device, self._paced(device, link))
        finally:
            self.left_s[device] = self._watch.now()

    def _paced(self, device: int, link: Link) -> Link:
        """The device's share of the way down; it is given up if it reads too slowly."""
        patient, rate_bit_s = PatientLink(link, self._patience_s), self._downlink_bit_s
        if rate_bit_s is None:
            return patient
        return PacedLink(patient, lambda: self._session.shares[device] * rate_bit_s)

    async def attend(self, device: int, link: Link) -> None:
        """Serve one connection of an authenticated device, until it ends. Whether a device reads
        what it is sent is the link's to find out."""
        own = _Connection(link, self._entries.until)
        own.leaves = lambda frame: self._leaves(device, own, frame)
        writer = asyncio.create_task(own.write())
        try:
            await self._join(device, own)
            while self._connections.get(device) is own:
                await self._receive(device, own, link)
        except LinkClosed as closed:
            _LOG.info("device %d: %s", device, closed)
            await link.close()  # what waits for its share of the bandwidth waits no longer
        finally:
            try:
                with suppress(LinkClosed):
                    await self._leave(device, own)
            finally:  # even if this is cancelled while it waits for its turn
                own.hang_up()
                await writer

    @property
    def held_bytes(self) -> int:
        """Frames that wait for their turn or for a device to read them [bytes], and what the round
        keeps of devices."""
        frames = sum(own.held_bytes for own in self._connections.values())
        return frames + self._session.held_bytes + self._worker.held_bytes

    async def handle(self, event: s.Event) -> None:
        """Let something happen. The first error of worker or journal ends the run."""
        async with self._one_at_a_time:
            await self._handle(event)

    async def finished(self) -> None:
        """Wait for the run's end. Raises what ended it, if it was not its last round."""
        await self._end.wait()
        if self._failure is not None:
            raise self._failure

    async def stop(self) -> None:
        """Let what is being computed or written end, and handle nothing after it."""
        async with self._one_at_a_time:
            with suppress(LinkClosed):
                await self._entries.until(self._entries.entered)
            self._failure = self._failure or LinkClosed("the server is stopping")

    async def _join(self, device: int, own: "_Connection") -> None:
        async with self._one_at_a_time:
            before = self._connections.pop(device, None)
            if before is not None:
                before.hang_up()
            await self._handle(s.Joined(device))
            self._connections[device] = own

    async def _leave(self, device: int, own: "_Connection") -> None:
        async with self._one_at_a_time:
            if self._connections.get(device) is own:
                del self._connections[device]
                await self._handle(s.Left(device))

    async def _receive(self, device: int, own: "_Connection", link: Link) -> None:
        """Handle the next frame; apart from `attend`, which would keep it until the one after."""
        frame = await link.receive()
        await self._handle_frame(own, s.ReceivedFrom(device, frame), self._watch.now())

    async def _handle_frame(
        self, own: "_Connection", event: s.ReceivedFrom, arrived_s: float
    ) -> None:
        own.received_bytes = len(event.frame)
        async with self._one_at_a_time:
            # the frame of a connection that another one replaced meanwhile means nothing
            before = self._entries.entered
            if self._connections.get(event.device) is own:
                self._watch.arrived(event.device, arrived_s)
                await self._handle(event)
            after = self._entries.entered
        if after > before:  # a device that sends too fast waits for the disk too
            await self._entries.until(after)
        own.received_bytes = 0

    async def _handle(self, event: s.Event) -> None:
        if self._failure is not None:
            raise LinkClosed("the server has stopped")
        try:
            for instruction in self._session.handle(event):
                outcome = await self._do(instruction)
                if outcome is not None:
                    await self._handle(outcome)
        except Exception as error:
            self._fail(error)
            raise
        except asyncio.CancelledError:
            # what was computed may go on in its thread: nobody may build on it
            self._fail(RunError("the run stopped within a step; --resume repeats the step"))
            raise

    def _fail(self, error: Exception) -> None:
        """The first error is the one that ends the run."""
        self._failure = self._failure or error
        self._entries.stop()
        self._end.set()

    async def _do(self, instruction: s.Instruction) -> s.Event | None:
        match instruction:
            case s.SendTo(device, frame):
                self._send(device, frame)
            case s.HangUpOn(device, reason):
                self._hang_up(device, reason)
            case s.Read(device, offset):
                return self._read(device, offset)
            case s.Train() | s.StoreAdapter():
                return await self._work(instruction)
            case s.Renew(device):
                self._worker.renew(device)
                return s.Renewed(device)
            case s.Merge(made):
                return await self._merge(made)
            case s.AppendToJournal(device, message):
                self._entries.enter(self._session.round, Entry(device, message))
            case s.Checkpoint(round_number):
                await self._entries.until(self._entries.entered)
                state, measured = self._worker.state, self._measured
                await self._compute(lambda: self._save(state, measured))
                # the round's own journal still says who made it
                self._journal.drop_before(round_number)
            case s.Warn(text):
                _LOG.warning("%s", text)
            case s.GiveUp(reason):
                raise RunError(reason)
            case s.Finish():
                self._end.set()
        return None

    async def _merge(self, made: tuple[int, ...]) -> s.Event:
        self._measured = measured = self._controller.close()
        passed_s = self._controller.passed_s
        await self._compute(lambda: self._worker.merge(made, measured, passed_s))
        shares = self._controller.reopen(self._worker.state, measured)
        return s.Merged(made, self._worker.adapter, shares)

    def _read(self, device: int, offset: int) -> s.Event:
        try:
            return s.PieceRead(device, PartPiece(PartOffset(offset), self._piece(offset)))
        except PacketError as error:
            return s.InvalidFrom(device, str(error))

    async def _work(self, instruction: s.Train | s.StoreAdapter) -> s.Event:
        device, message = instruction.device, instruction.message
        try:
            if isinstance(message, Adapter):
                self._worker.store_adapter(device, message)
                self._watch.took(device, message)
                return s.AdapterStored(device, message)
            self._watch.starts(device)
            packet = await self._compute(lambda: self._worker.train(device, message))
            self._watch.trained(device, message, packet)
            return s.GradientReady(device, message, packet)
        except (PacketError, ModelError) as error:  # what a device sends ends its own link alone
            return s.InvalidFrom(device, str(error))

    def _send(self, device: int, frame: bytes) -> None:
        connection = self._connections.get(device)
        if connection is not None and not connection.push(frame, self._entries.entered):
            self._hang_up(device, "it does not read what it is sent")

    def _leaves(self, device: int, own: "_Connection", frame: bytes) -> None:
        """A frame begins to leave; on a connection that another one replaced it counts no more."""
        if self._connections.get(device) is own:
            self._watch.sends(device, kind_of(frame))

    def _hang_up(self, device: int, reason: str) -> None:
        _LOG.info("device %d: disconnected: %s", device, reason)
        connection = self._connections.pop(device, None)
        if connection is not None:
            connection.hang_up()


@final
class _Connection:
    """A link and the few frames that wait for it. `until` waits until so many journal entries are
    on disk; `leaves` is told of each frame as it begins to leave. `received_bytes`: of a frame that
    has come and waits for its turn."""

    def __init__(self, link: Link, until: Callable[[int], Awaitable[None]]) -> None:
        self._link = link
        self._until = until
        # one place more, for the end
        self._outbox: asyncio.Queue[tuple[bytes, int] | None] = asyncio.Queue(OUTBOX_FRAMES + 1)
        self._unsent_bytes = 0
        self._ended = False
        self.leaves: Callable[[bytes], None] = lambda frame: None
        self.received_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Of all frames [bytes]."""
        return self.received_bytes + self._unsent_bytes

    def push(self, frame: bytes, entries: int) -> bool:
        """Whether there was room for a frame, which leaves when so many entries are on disk."""
        if self._ended or self._outbox.qsize() >= OUTBOX_FRAMES:
            return False
        self._outbox.put_nowait((frame, entries))
        self._unsent_bytes += len(frame)
        return True

    def hang_up(self) -> None:
        """Close the link when what waits has been sent."""
        if not self._ended:
            self._ended = True
            self._outbox.put_nowait(None)

    async def write(self) -> None:
        """Send what is pushed, until the link ends."""
        try:
            while (waiting := await self._outbox.get()) is not None:
                await self._send(*waiting)
        except LinkClosed:
            pass  # the reader's side tells
        finally:
            await self._link.close()

    async def _send(self, frame: bytes, entries: int) -> None:
        await self._until(entries)
        self.leaves(frame)
        await self._link.send(frame)
        self._unsent_bytes -= len(frame)
