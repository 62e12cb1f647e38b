"""Connects a device's session with its worker, its store and one link after another.

Knows no socket, and no clock but by its watch: the caller dials, and waits between two attempts.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import final

from cutlayer.errors import PacketError, RunError
from cutlayer.net.device import session as d
from cutlayer.net.device.worker import DeviceStore, DeviceWorker, Stored
from cutlayer.net.wire.frames import Kind, kind_of
from cutlayer.net.wire.limits import Bounds
from cutlayer.net.wire.link import Compute, Link, LinkClosed
from cutlayer.net.wire.messages import DeviceTimes, Opening, PartPiece, StepTimes, Terms
from cutlayer.net.wire.part_files import PartCache

# Notes when a device does what in a round, for the times that go with its adapter.
#
# Knows one clock, and neither links nor tensors. A device that is started again within a round has
# not seen all of it, and tells nothing of it.


@final
class DeviceWatch:
    """`clock`: seconds, from any beginning, that never go back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._asked_s = self._heard_s = self._arrived_s = self._began_s = 0.0
        self._sent_s: float | None = None
        # None: not seen from its beginning
        self._steps: list[StepTimes] | None = None

    def arrived(self) -> None:
        """A frame is here."""
        self._arrived_s = self._clock()

    def opened(self) -> None:
        """A round begins."""
        self._steps = []

    def heard(self) -> None:
        """The frame that is here answers the probe."""
        self._heard_s = self._arrived_s

    def forward(self) -> None:
        """The forward of a micro-batch begins."""
        self._began_s, self._sent_s = self._clock(), None

    def sends(self, kind: Kind) -> None:
        """A frame begins to leave; an activation that leaves again has left before."""
        if kind is Kind.PROBE:
            self._asked_s = self._clock()
        elif kind is Kind.ACTIVATION and self._sent_s is None:
            self._sent_s = self._clock()

    def stepped(self) -> None:
        """The frame that is here was the gradient that was waited for."""
        if self._steps is not None:
            assert self._sent_s is not None, "a gradient answers what was sent"
            self._steps.append(StepTimes(self._began_s, self._sent_s, self._arrived_s))

    def closed(self) -> DeviceTimes | None:
        """The adapter begins to leave: the times of the round, if all of it was seen."""
        if self._steps is None:
            return None
        return DeviceTimes(self._asked_s, self._heard_s, self._clock(), tuple(self._steps))


_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Ready:
    """A device that can compute on the terms it was given, and the run's longest payloads.
    `samples`: how many it has, and a hash of what is in them."""

    terms: Terms
    worker: DeviceWorker
    bounds: Bounds
    samples: str


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
                    frame = await link.receive()
                    self._watch.arrived()
                    await self._handle(d.Received(frame), link)
            except LinkClosed as closed:
                _LOG.warning("%s: %s", link.peer, closed)
            finally:
                await link.close()

    async def _handle(self, event: d.Event, link: Link) -> None:
        for instruction in self._session.handle(event):
            outcome = await self._do(instruction, link)
            if outcome is not None:
                await self._handle(outcome, link)

    async def _do(self, instruction: d.Instruction, link: Link) -> d.Event | None:
        match instruction:
            case d.Send(frame):
                self._watch.sends(kind_of(frame))
                await link.send(frame)
            case d.EchoReceived():
                self._watch.heard()
            case d.Prepare(terms):
                await self._compute(lambda: self._check(terms))
                return await self._get_ready(terms)
            case d.Keep(terms, piece):
                return await self._keep(terms, piece)
            case d.HangUp(reason):
                raise LinkClosed(reason)
            case d.Stop(reason):
                raise RunError(reason)
            case d.Finish():
                self._finished = True
            case d.Persist(position, terms):
                own = self._own
                stored = Stored(position, terms, own.worker.tensors(), own.samples)
                await self._compute(lambda: self._store.save(stored))
                self._got_on()
            case computation:
                return await self._work(computation)
        return None

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
                    self._watch.forward()
                    return d.Forwarded(await self._compute(lambda: worker.forward(position)))
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
        try:
            self._parts.add(terms, piece)
        except PacketError as error:
            return d.Invalid(str(error))
        self._got_on()
        return await self._get_ready(terms)

    async def _get_ready(self, terms: Terms) -> d.Event:
        lacking = None if self._parts is None else self._parts.lacking(terms)
        if lacking is not None:
            return d.NeedBytes(lacking)
        void = await self._compute(lambda: self._make_ready(terms))
        return d.PartReady(self._own.bounds, void)

    def _make_ready(self, terms: Terms) -> bool:
        """Go on from the stored state; True if there is one, of other samples: it is void then."""
        self._ready = self._prepare(terms)
        stored, self._stored = self._stored, None
        if stored is None:
            return False
        if stored.samples != self._ready.samples:
            _LOG.warning(
                "this device's samples changed since it last took part: it had %s, and has %s; it"
                " begins its round anew",
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
