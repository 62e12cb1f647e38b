"""What a device keeps and sends: it carries out what its session says.

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
from typing import Any, TypeVar, final

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cutlayer.errors import PacketError, RunError
from cutlayer.files import Remedy, write_atomically
from cutlayer.net.device import session as d
from cutlayer.net.device.worker import DeviceWorker
from cutlayer.net.wire.frames import Bounds, Buffers, Kind, kind_of
from cutlayer.net.wire.link import Compute, Link, LinkClosed
from cutlayer.net.wire.messages import (
    DeviceTimes,
    Opening,
    OwnSamples,
    PartPiece,
    Position,
    StepTimes,
    Terms,
)
from cutlayer.net.wire.part_files import PartCache

Waited = TypeVar("Waited")

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
        self._finished = self._leaving = False
        # while nothing is computed here
        self._waiting: asyncio.Task[Any] | None = None

    @property
    def finished(self) -> bool:
        """Whether the run has ended."""
        return self._finished

    @property
    def progress(self) -> str:
        """How far this device is, for a person."""
        return self._session.progress

    async def take_part(self, dial: Callable[[], Awaitable[Link]]) -> None:
        """Dial, and dial again when the link breaks, until the run ends or `leave` was called.

        Raises RunError if the server refuses the device or runs on other terms; what `dial` raises
        when it gives up.
        """
        while not self._over:
            link = await self._unless_told(dial())
            if link is None:
                return
            try:
                await self._handle(d.Linked(), link)
                while not self._over:
                    await self._sent()
                    frame = await self._unless_told(link.receive())
                    if frame is None:
                        break
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

    def leave(self) -> None:
        """Take part no longer: what is being computed is finished and kept, and nothing is waited
        for."""
        self._leaving = True
        if self._waiting is not None:
            self._waiting.cancel()

    @property
    def _over(self) -> bool:
        return self._finished or self._leaving

    async def _unless_told(self, wait: Awaitable[Waited]) -> Waited | None:
        """What comes of a wait; None: this device is to leave."""
        self._waiting = task = asyncio.current_task()
        try:
            return await wait
        except asyncio.CancelledError:
            if not self._leaving or task is None:
                raise
            task.uncancel()
            return None
        finally:
            self._waiting = None

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

    async def _send(self, link: Link, frame: Buffers) -> None:
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
