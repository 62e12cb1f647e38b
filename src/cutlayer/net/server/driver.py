"""What a server computes and sends: it carries out what its session says.

Knows no socket, and no clock but its controller's watch: links come from the caller, and so does
the time. Events are handled one at a time, in order of arrival; frames that come meanwhile wait in
their links, so a device that sends too fast waits too, and one that does not read is hung up on.
Where mini-batches are taken together, the first one's turn is that of all frames that wait but
adapters: the session sees one after the other, and what it wants trained is computed in as few
passes as sizes allow. Adapters, time and new connections wait, so that no round closes and no
device is another one within a batch.

Nothing leaves that a crash could take back: a frame carries the number of journal entries that were
made before it, and leaves when so many are on disk. Meanwhile the next event is handled. A
checkpoint waits for all entries.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, final

from cutlayer.errors import ModelError, PacketError, RunError, UnavailableError
from cutlayer.net.server import events
from cutlayer.net.server import session as s
from cutlayer.net.server.journal import Entry, GroupCommit, Journal
from cutlayer.net.server.timing import Controller, MeasuredRound
from cutlayer.net.server.worker import ServerWorker
from cutlayer.net.wire.frames import Buffers, Kind, claims_kind, encode_message, kind_of, size_of
from cutlayer.net.wire.link import (
    OUTBOX_FRAMES,
    Compute,
    Link,
    LinkClosed,
    PacedLink,
    PatientLink,
    QuestionPace,
    Turns,
)
from cutlayer.net.wire.messages import (
    Activation,
    Adapter,
    Held,
    MergedFrom,
    OwnSamples,
    PartPiece,
    PartRange,
    Refused,
    Restarted,
    RoundClosed,
)
from cutlayer.rounds.batching import ServerBatch, ServerBatching, Waiting
from cutlayer.training.state import RunState

_LOG = logging.getLogger(__name__)
ALONE = ServerBatching()


def no_part(offset: int, size: int) -> bytes:
    """For a run whose devices have their part. Raises PacketError."""
    raise PacketError(
        f"a piece of the part from byte {offset} on, which this server does not distribute"
    )


# puts the checkpoint of a round in place, with how long it took if that was seen; whether the run
# ends with this round, before its last one
Save: TypeAlias = Callable[[RunState, MeasuredRound | None], bool]


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
        batch: list[events.Train] = []
        for entry in journal.entries(number):
            if entry.device is not None and isinstance(entry.message, Activation | Held):
                batch.append(events.Train(entry.device, entry.message))
                if not entry.more:
                    session.handle(_trained(batch, worker))
                    batch = []
                continue
            for instruction in _replay(session, worker, controller, entry):
                if isinstance(instruction, events.Checkpoint):
                    session.handle(events.Saved(save(worker.state, None)))


def _trained(batch: Sequence[events.Train], worker: ServerWorker) -> events.BatchTrained:
    """The outcome of one pass."""
    packets = worker.train([(one.device, one.message) for one in batch])
    gradients = zip(batch, packets, strict=True)
    return events.BatchTrained(
        tuple(events.GradientReady(one.device, one.message, packet) for one, packet in gradients)
    )


def _replay(
    session: s.ServerSession, worker: ServerWorker, controller: Controller, entry: Entry
) -> list[events.Instruction]:
    """What one entry that is no activation led to, done again; and what the session wants done."""
    match entry:
        case Entry(int(device), Adapter() as message):
            worker.store_adapter(device, message)
            return session.handle(events.AdapterStored(device, message))
        case Entry(int(device), Restarted()):
            worker.renew(device)
            return session.handle(events.Renewed(device))
        case Entry(None, RoundClosed(number, made)):
            if number <= worker.state.round:  # who of them was merged, once it was known
                return []
            controller.close()  # nobody saw it: since the server's start
            merged = worker.merge(made.devices, None, controller.passed_s)
            shares = controller.reopen(worker.state, None, len(worker.adapter))
            return session.handle(_merged(merged, worker, shares))
        case other:
            raise RunError(f"{other} in a journal, where no server writes it")


def _merged(
    made: tuple[int, ...], worker: ServerWorker, shares: tuple[float, ...]
) -> events.Merged:
    """The next round, as its worker opens it."""
    return events.Merged(made, worker.adapter, shares, worker.own_adapters, worker.whole_adapter)


@dataclass(eq=False)
class _Arrival:
    """A frame that waits for its turn. `entries`: once it was handled, the number of journal
    entries on disk before the device's next frame is received. `settled`: done as soon as it was
    handled with a frame before it, and is no part of a pass."""

    connection: "_Connection"
    event: events.ReceivedFrom
    arrived_s: float
    settled: asyncio.Future[None]
    entries: int = 0

    @property
    def may_close(self) -> bool:
        """Whether a round may close by it. Everything else is its own device's alone."""
        return claims_kind(self.event.frame, Kind.ADAPTER)


@dataclass(frozen=True, eq=False)
class _Job:
    """A micro-batch that is to be trained."""

    train: events.Train
    size: Waiting


@final
class ServerDriver:
    """A run's server. `save` puts a checkpoint in place; `piece` gives so many bytes of the file of
    the devices' part from one on. A device that takes longer than `patience_s` to read a frame is
    hung up on; frames to all leave at `downlink_bit_s` in all, each device's at its share (None: as
    fast as the line is). `batching`: which mini-batches share a pass."""

    def __init__(
        self,
        session: s.ServerSession,
        worker: ServerWorker,
        journal: Journal,
        controller: Controller,
        save: Save,
        compute: Compute,
        piece: Callable[[int, int], bytes] = no_part,
        patience_s: float = math.inf,
        downlink_bit_s: float | None = None,
        batching: ServerBatching = ALONE,
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
        self._batching = batching
        self._waiting: list[_Arrival] = []
        self._came = asyncio.Event()
        # when devices that are away have left, by the watch [s]
        self.left_s: dict[int, float] = {}
        self._connections: dict[int, _Connection] = {}
        self._one_at_a_time = Turns()
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

    async def handle(self, event: events.Event) -> None:
        """Let something happen. The first error of worker or journal ends the run."""
        async with self._one_at_a_time:
            await self._handle(event)
            with self._or_fail():
                await self._catch_up()

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
            await self._handle(events.Joined(device))
            self._connections[device] = own

    async def _leave(self, device: int, own: "_Connection") -> None:
        async with self._one_at_a_time:
            if self._connections.get(device) is own:
                del self._connections[device]
                await self._handle(events.Left(device))

    async def _receive(self, device: int, own: "_Connection", link: Link) -> None:
        """Handle the next frame; apart from `attend`, which would keep it until the one after."""
        frame = await link.receive()
        arrived_s = self._watch.now()
        if pause_s := own.questions.wait_s(frame, arrived_s):
            await asyncio.sleep(pause_s)
        await self._handle_frame(own, events.ReceivedFrom(device, frame), arrived_s)

    async def _handle_frame(
        self, own: "_Connection", event: events.ReceivedFrom, arrived_s: float
    ) -> None:
        own.received_bytes = len(event.frame)
        arrival = _Arrival(own, event, arrived_s, asyncio.get_running_loop().create_future())
        self._waiting.append(arrival)
        self._came.set()
        try:
            async with self._turn_of(arrival) as has_turn:
                if has_turn and arrival in self._waiting:
                    with self._or_fail():
                        await self._take(arrival)
        finally:
            if arrival in self._waiting:
                self._waiting.remove(arrival)
        # a device that sends too fast waits for the disk too
        await self._entries.until(arrival.entries)
        own.received_bytes = 0

    @asynccontextmanager
    async def _turn_of(self, arrival: _Arrival) -> AsyncIterator[bool]:
        """Wait for a frame's turn; not if it settles before: the frames before it may then be
        waiting for what its device sends next."""
        if self._one_at_a_time.free:  # which is usual, and costs no task
            async with self._one_at_a_time:
                yield True
            return
        turn = asyncio.ensure_future(self._one_at_a_time.acquire())
        try:
            await asyncio.wait((turn, arrival.settled), return_when=asyncio.FIRST_COMPLETED)
            yield turn.done()
        finally:
            if turn.done() and not turn.cancelled():
                self._one_at_a_time.release()
            turn.cancel()

    async def _take(self, first: _Arrival) -> None:
        """Handle a frame, and with an activation those that may share its passes."""
        before, looked = self._entries.entered, [first]
        await self._catch_up()
        jobs = await self._look(looked)
        while jobs and self._batching.batch is ServerBatch.ARRIVALS:
            # before looking: what comes meanwhile ends the pause
            self._came.clear()
            others = [own for own in self._waiting if not own.may_close]
            jobs += await self._look(others)
            looked += others
            pause_s = self._pause_s(jobs, first.arrived_s)
            if not pause_s:
                break
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._came.wait()
        while jobs:
            sizes = [job.size for job in jobs]
            taken = self._batching.take(sizes)
            for places in self._batching.passes([sizes[place] for place in taken]):
                await self._train([jobs[taken[place]].train for place in places])
            jobs = [job for place, job in enumerate(jobs) if place not in taken]
        await self._catch_up()
        if self._entries.entered > before:
            for arrival in looked:
                arrival.entries = self._entries.entered

    async def _catch_up(self) -> None:
        """Train what needs no device, a micro-batch of each at a time, to the round's end at most:
        whoever wants something comes between two rounds."""
        number = self._session.round
        while self._session.round == number and (trains := self._session.own_work):
            sizes = [self._worker.waiting(own.device, own.message) for own in trains]
            taken = self._batching.take(sizes)
            for places in self._batching.passes([sizes[place] for place in taken]):
                await self._train([trains[taken[place]] for place in places])

    async def _look(self, arrivals: Sequence[_Arrival]) -> list[_Job]:
        """Let the session see frames; what it wants trained."""
        jobs: list[_Job] = []
        for arrival in arrivals:
            if arrival not in self._waiting:  # its connection was let go meanwhile
                continue
            self._waiting.remove(arrival)
            device = arrival.event.device
            # the frame of a connection that another one replaced meanwhile means nothing
            if self._connections.get(device) is not arrival.connection:
                continue
            self._watch.arrived(device, arrival.arrived_s)
            trains = await self._handle(arrival.event)
            for train in trains:
                try:
                    jobs.append(_Job(train, self._worker.waiting(device, train.message)))
                except PacketError as error:
                    await self._handle(events.InvalidFrom(device, str(error)))
            if not trains:
                arrival.entries = self._entries.entered
                arrival.settled.set_result(None)
        return jobs

    def _pause_s(self, jobs: Sequence[_Job], first_s: float) -> float:
        """How much longer to wait for others [s]."""
        if not self._batching.coalesce_s:
            return 0.0
        more = self._session.training - {job.train.device for job in jobs}
        sizes = [job.size for job in jobs]
        return self._batching.pause_s(sizes, self._watch.now() - first_s, bool(more))

    async def _train(self, batch: Sequence[events.Train]) -> None:
        """One pass. What a device sends ends its own link alone: if a pass of several fails, each
        is computed by itself."""
        for one in batch:
            self._watch.starts(one.device)
        try:
            outcome = await self._compute(partial(_trained, batch, self._worker))
        except (PacketError, ModelError) as error:
            if len(batch) == 1:
                await self._handle(events.InvalidFrom(batch[0].device, str(error)))
                return
            for one in batch:
                await self._train([one])
            return
        for own in outcome.gradients:
            if isinstance(own.message, Activation):
                self._watch.trained(own.device, own.message, own.packet)
        await self._handle(outcome)
        await self._compute(self._worker.step)  # the replies are on their way

    async def _handle(self, event: events.Event) -> list[events.Train]:
        """Let something happen; what is to be trained is left to the caller."""
        trains: list[events.Train] = []
        with self._or_fail():
            for instruction in self._session.handle(event):
                if isinstance(instruction, events.Train):
                    trains.append(instruction)
                    continue
                outcome = await self._do(instruction)
                if outcome is not None:
                    trains += await self._handle(outcome)
        return trains

    @contextmanager
    def _or_fail(self) -> Iterator[None]:
        """The first error in here ends the run."""
        if self._failure is not None:
            raise LinkClosed("the server has stopped")
        try:
            yield
        except Exception as error:
            self._fail(error)
            raise
        except asyncio.CancelledError:
            # what was computed may go on in its thread: nobody may build on it
            self._fail(RunError("the run stopped within a step: resumed, it repeats the step"))
            raise

    def _fail(self, error: Exception) -> None:
        """The first error is the one that ends the run."""
        self._failure = self._failure or error
        self._entries.stop()
        self._end.set()

    async def _do(self, instruction: events.Instruction) -> events.Event | None:
        match instruction:
            case events.SendTo(device, frame):
                self._send(device, frame)
            case events.HangUpOn(device, reason):
                self._hang_up(device, reason)
            case events.Read(device, place):
                return self._read(device, place)
            case events.StoreAdapter(device, message):
                return self._store(device, message)
            case events.Renew(device):
                self._worker.renew(device)
                return events.Renewed(device)
            case events.Know(device, samples):
                return self._know(device, samples)
            case events.Merge(made):
                return await self._merge(made)
            case events.AppendToJournal(device, message, more):
                self._entries.enter(self._session.round, Entry(device, message, more))
            case events.Checkpoint(round_number):
                await self._entries.until(self._entries.entered)
                state, measured = self._worker.state, self._measured
                ended = await self._compute(lambda: self._save(state, measured))
                # the round's own journal still says who made it
                self._journal.drop_before(round_number)
                return events.Saved(ended)
            case events.Warn(text):
                _LOG.warning("%s", text)
            case events.GiveUp(reason):
                raise UnavailableError(reason)
            case events.Finish():
                self._end.set()
        return None

    async def _merge(self, made: tuple[int, ...]) -> events.Event:
        self._measured = measured = self._controller.close()
        passed_s = self._controller.passed_s
        worker, number = self._worker, self._session.round
        merged = await self._compute(lambda: worker.merge(made, measured, passed_s))
        for text in worker.warnings(merged):
            _LOG.warning("%s", text)
        if merged != made:  # a server that is started again voids the others' state too
            self._entries.enter(number, Entry(None, RoundClosed(number, MergedFrom(list(merged)))))
        shares = self._controller.reopen(worker.state, measured, len(worker.adapter))
        return _merged(merged, worker, shares)

    def _know(self, device: int, samples: OwnSamples) -> events.Event:
        try:
            self._worker.know(device, samples)
        except PacketError as error:
            _LOG.warning("device %d: %s", device, error)
            return events.InvalidFrom(device, str(error))
        return events.Known(device)

    def _read(self, device: int, place: PartRange) -> events.Event:
        try:
            data = self._piece(place.offset, place.size)
            return events.PieceRead(device, PartPiece(place, data))
        except PacketError as error:
            return events.InvalidFrom(device, str(error))

    def _store(self, device: int, message: Adapter) -> events.Event:
        try:
            self._worker.store_adapter(device, message)
        except PacketError as error:  # what a device sends ends its own link alone
            return events.InvalidFrom(device, str(error))
        self._watch.took(device, message)
        return events.AdapterStored(device, message)

    def _send(self, device: int, frame: Buffers) -> None:
        connection = self._connections.get(device)
        if connection is not None and not connection.push(frame, self._entries.entered):
            self._hang_up(device, "it does not read what it is sent")

    def _leaves(self, device: int, own: "_Connection", frame: Buffers) -> None:
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
        self._outbox: asyncio.Queue[tuple[Buffers, int] | None] = asyncio.Queue(OUTBOX_FRAMES + 1)
        self._unsent_bytes = 0
        self._ended = False
        self.leaves: Callable[[Buffers], None] = lambda frame: None
        self.questions = QuestionPace()
        self.received_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Of all frames [bytes]."""
        return self.received_bytes + self._unsent_bytes

    def push(self, frame: Buffers, entries: int) -> bool:
        """Whether there was room for a frame, which leaves when so many entries are on disk."""
        if self._ended or self._outbox.qsize() >= OUTBOX_FRAMES:
            return False
        self._outbox.put_nowait((frame, entries))
        self._unsent_bytes += size_of(frame)
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

    async def _send(self, frame: Buffers, entries: int) -> None:
        await self._until(entries)
        self.leaves(frame)
        await self._link.send(frame)
        self._unsent_bytes -= size_of(frame)
