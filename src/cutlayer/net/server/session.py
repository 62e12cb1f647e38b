"""What a server does about what happens: events in, instructions out.

A pure state machine: no socket, no clock, no file and no tensor. Its driver carries out the
instructions in order, and brings the outcome of a computation as the very next event; before that
of a `Train` it may bring other devices' frames but adapters, to compute them together. Frames are
numbered in each connection; positions (round, local step, micro-batch) tell what was trained
already. A step is trained once: the last reply of each device is kept, and sent again when its
activation comes again.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import final

from cutlayer.errors import FrameError
from cutlayer.net.server.devices import (
    RESTARTS,
    Asks,
    DeviceProgress,
    NameOf,
    PassCounter,
    TrafficCounter,
    missing,
)
from cutlayer.net.server.events import (
    AdapterStored,
    AppendToJournal,
    BatchTrained,
    Checkpoint,
    Event,
    Finish,
    GiveUp,
    GradientReady,
    HangUpOn,
    Instruction,
    InvalidFrom,
    Joined,
    Know,
    Known,
    Left,
    Merge,
    Merged,
    PieceRead,
    Read,
    ReceivedFrom,
    Renew,
    Renewed,
    Saved,
    SendTo,
    StoreAdapter,
    Tick,
    Train,
    Warn,
)
from cutlayer.net.wire.frames import Bounds, Received, Wire, server_limits, size_of
from cutlayer.net.wire.messages import (
    Activation,
    Adapter,
    Ask,
    Close,
    Echo,
    Ending,
    Fetch,
    Gradient,
    Held,
    Hello,
    Introduce,
    MergedFrom,
    Message,
    Micro,
    Open,
    Opening,
    Position,
    Probe,
    Restarted,
    RoundClosed,
    Terms,
    Welcome,
)
from cutlayer.rounds.participants import RoundEnd, RoundVerdict


@dataclass(frozen=True)
class RunPlan:
    """What a session is to bring about: `terms` of each device, and when a round ends.

    `shares`: each device's part of the bandwidth in the first round that is played. `name_of`: a
    device's name, for messages. `keeps`: whether adapters stay on the devices as a round ends.
    `asks`: what a device is asked for in a round by a server that keeps activations, as things are
    (None: everything).
    """

    terms: tuple[Terms, ...]
    shares: tuple[float, ...]
    end: RoundEnd
    bounds: Bounds
    name_of: NameOf = lambda device: None
    keeps: Callable[[int], bool] = lambda number: False
    asks: Callable[[int, int], Asks | None] = lambda device, number: None


@final
class ServerSession:
    """A run from round `round_number` on, whose adapter is `adapter`.

    `missed`: devices that did not make the round before, whose state is void. `ended`: the run
    ended with that round, early. `own`, `whole`: see `Merged`.
    """

    def __init__(
        self,
        plan: RunPlan,
        adapter: bytes,
        round_number: int = 1,
        missed: Iterable[int] = (),
        *,
        ended: bool = False,
        own: tuple[bytes, ...] = (),
        whole: bytes = b"",
    ) -> None:
        self.round = round_number
        self.traffic = TrafficCounter()
        self.passes = PassCounter()
        # adapters that came and were not merged, by device
        self.left_out: Counter[int] = Counter()
        self.shares = plan.shares
        self._plan = plan
        self._adapter, self._own, self._whole = adapter, own, whole
        self._missed = frozenset(missed)
        self._progress = [DeviceProgress() for _ in plan.terms]
        self._wires: dict[int, Wire] = {}
        self._greeted: set[int] = set()
        self._told: set[int] = set()
        self._elapsed_s = 0.0
        self._warned = False
        self._ended = ended
        # devices that the round was opened for, and the last round that needed each of them
        self._opened: set[int] = set()
        self._needed = [round_number - 1] * len(plan.terms)
        self._asks = self._asked()

    def _asked(self) -> list[Asks | None]:
        """What each device is asked for in the round that begins."""
        if self.finished:
            return [None] * len(self._progress)
        return [self._plan.asks(device, self.round) for device in range(len(self._progress))]

    @property
    def finished(self) -> bool:
        """Whether the last round has closed, or the one with which the run ended early."""
        return self._ended or self.round > self._plan.terms[0].rounds

    @property
    def elapsed_s(self) -> float:
        """How long the round in progress has been going on, as `Tick` says [s]."""
        return self._elapsed_s

    @property
    def untold(self) -> frozenset[int]:
        """The devices that have not been told of the run's end."""
        return frozenset(range(len(self._progress))) - self._told

    @property
    def held_bytes(self) -> int:
        """The last replies, kept for devices that ask again [bytes]."""
        replies = (own.reply for own in self._progress)
        return sum(len(reply.packet) for reply in replies if reply is not None)

    @property
    def progress(self) -> tuple[DeviceProgress, ...]:
        """How far each device is."""
        return tuple(
            replace(own, connected=device in self._greeted)
            for device, own in enumerate(self._progress)
        )

    @property
    def training(self) -> frozenset[int]:
        """The devices that are here and have local steps of the round left."""
        steps = [terms.local_steps for terms in self._plan.terms]
        return frozenset(n for n in self._greeted if self._progress[n].step < steps[n])

    @property
    def own_work(self) -> list[Train]:
        """The next micro-batch of each device of which the server holds every sample: to be trained
        before anything else is handled."""
        if self.finished or self._asks.count(None) == len(self._asks):
            return []
        found = []
        for device, (progress, asks) in enumerate(zip(self._progress, self._asks, strict=True)):
            if asks is not None and progress.step in asks.own:
                last = progress.micro + 1 == asks.own[progress.step]
                place = Position(self.round, progress.step, progress.micro)
                # what it weighs is in its labels
                found.append(Train(device, Held(place, Micro(0.0, last))))
        return found

    def _needs(self, device: int) -> bool:
        """Whether the round needs this device."""
        asks = self._asks[device]
        return asks is None or len(asks.own) < self._plan.terms[device].local_steps

    @property
    def missing_adapters(self) -> int:
        """Those without which the round does not close, its deadline having passed."""
        made = len(self._made)
        short = self._plan.end.verdict(made, self._elapsed_s) is RoundVerdict.SHORT
        return self._plan.end.needed - made if short else 0

    def handle(self, event: Event) -> list[Instruction]:
        """What to do now, in this order."""
        match event:
            case Joined(device):
                self._forget(device)
                self._wires[device] = Wire(server_limits(self._plan.bounds))
                return []
            case Left(device):
                self._forget(device)
                return []
            case ReceivedFrom(device, frame):
                return self._received(device, frame)
            case Tick(seconds):
                self._elapsed_s += max(seconds, 0.0)
                return self._closing()
            case PieceRead(device, piece):
                return self._answer(device, piece)
            case BatchTrained(gradients):
                return self._trained(gradients)
            case AdapterStored(device, message):
                progress = self._progress[device]
                self._progress[device] = replace(progress, done=True)
                return [AppendToJournal(device, message), *self._closing()]
            case Renewed(device):
                restarts = self._progress[device].restarts + 1
                self._progress[device] = DeviceProgress(restarts=restarts)
                self._asks[device] = self._plan.asks(device, self.round)
                return self._open(device, fresh=True)
            case Known(device):
                if self._asks[device] is None and not self.finished:
                    self._asks[device] = self._plan.asks(device, self.round)
                return []
            case InvalidFrom(device, reason):
                return self._hang_up(device, reason)
            case Merged():
                return self._merged(event)
            case Saved(ended):
                self._ended = self._ended or ended
                return self._go_on()

    def _received(self, device: int, frame: Received) -> list[Instruction]:
        wire = self._wires.get(device)
        if wire is None:
            return []  # it was hung up on
        try:
            message = wire.incoming(frame)
        except FrameError as error:
            return self._hang_up(device, str(error))
        self.traffic.add(self.round, message, len(frame))
        self.traffic.crossed(device, up=len(frame))
        match message:
            case Ask() if self.finished:
                return self._farewell(device)
            case Ask():
                return self._answer(device, Welcome(self._plan.terms[device]))
            case Fetch(place):
                return [Read(device, place)]
            case Introduce(samples) if device not in self._greeted:
                return [Know(device, samples)] if self._plan.terms[device].cached else []
            case Hello(number) if device not in self._greeted:
                return self._greet(device, number)
            case Probe() if device in self._greeted:
                return self._answer(device, Echo())
            case Activation() if device in self._greeted:
                return self._activation(device, message)
            case Adapter() if device in self._greeted:
                return self._take(device, message)
            case other:
                return self._hang_up(device, f"{type(other).__name__}, which is not expected here")

    def _greet(self, device: int, known: int) -> list[Instruction]:
        self._greeted.add(device)
        if self.finished:
            # and no welcome: the device would answer it, on a link that is closed by then
            return self._farewell(device)
        progress = self._progress[device]
        if known != self.round and not progress.untouched and progress.restarts >= RESTARTS:
            return self._hang_up(
                device,
                f"it lost its state {RESTARTS} times in round {self.round}, and is"
                " accepted again in the next one",
            )
        welcome = self._send(device, Welcome(self._plan.terms[device]))
        if known == self.round:
            return welcome
        if progress.untouched and progress.restarts:
            # its state is void already, and it has not heard of that
            return [*welcome, *self._open(device, fresh=True)]
        # rounds that the server made by itself it need not have heard of
        heard = self._needed[device] <= known < self.round
        if progress.untouched and device not in self._missed and heard:
            return [*welcome, *self._open(device, fresh=False)]
        # it missed a round, or lost its state: the two ends would not fit together any more
        return [*welcome, AppendToJournal(device, Restarted(self.round)), Renew(device)]

    def _activation(self, device: int, message: Activation) -> list[Instruction]:
        place, progress = message.position, self._progress[device]
        if place.round < self.round:
            return []  # it was on its way when the round closed
        terms = self._plan.terms[device]
        if progress.reply is not None and place == progress.reply.position:
            return self._send(device, progress.reply)
        if terms.frozen(place.round) and (place.step, place.micro) < (
            progress.step,
            progress.micro,
        ):
            return self._send(device, Gradient(place, b""))
        expected = Position(self.round, progress.step, progress.micro)
        beyond = place.step >= terms.local_steps or (
            place.micro + 1 >= terms.micro_batches and not message.micro.last
        )
        if place != expected or beyond:
            return self._hang_up(device, f"an activation of {place}, expected {expected}")
        return [Train(device, message)]

    def _trained(self, gradients: tuple[GradientReady, ...]) -> list[Instruction]:
        """All entries come before any reply: a pass is in the journal whole, or nobody knows it."""
        self.passes.add(len(gradients))
        entries: list[Instruction] = []
        replies: list[Instruction] = []
        for own in gradients:
            device, place = own.device, own.message.position
            last = own.message.micro.last
            step, micro = (place.step + 1, 0) if last else (place.step, place.micro + 1)
            ended = step == self._plan.terms[device].local_steps
            progress = replace(self._progress[device], step=step, micro=micro)
            if isinstance(own.message, Activation):
                progress = replace(progress, reply=Gradient(place, own.packet))
                replies += self._send(device, Gradient(place, own.packet))
            elif ended and not self._needs(device):
                progress = replace(progress, done=True)
            self._progress[device] = progress
            entries.append(AppendToJournal(device, own.message, more=own is not gradients[-1]))
        # with some missing it may still be in the middle of other devices' passes
        whole = len(self._made) == len(self._progress)
        return [*entries, *replies, *(self._closing() if whole else [])]

    def _take(self, device: int, message: Adapter) -> list[Instruction]:
        progress = self._progress[device]
        if message.round < self.round or (message.round == self.round and progress.done):
            return []
        if message.round > self.round or progress.step < self._plan.terms[device].local_steps:
            return self._hang_up(
                device,
                f"an adapter of round {message.round} after {progress.step} local steps of round"
                f" {self.round}",
            )
        return [StoreAdapter(device, message)]

    @property
    def _made(self) -> tuple[int, ...]:
        """The devices whose adapters have come."""
        return tuple(device for device, own in enumerate(self._progress) if own.done)

    def _closing(self) -> list[Instruction]:
        """Close the round if it is time. If it is, and too few have made it: say so, or give up."""
        made = self._made
        if self.finished:
            return []
        match self._plan.end.verdict(len(made), self._elapsed_s):
            case RoundVerdict.CLOSE:
                return [
                    AppendToJournal(None, RoundClosed(self.round, MergedFrom(list(made)))),
                    Merge(made),
                ]
            case RoundVerdict.GIVE_UP:
                return [GiveUp(f"{self._short()}; start them again, then resume the run")]
            case RoundVerdict.SHORT if not self._warned:
                self._warned = True
                return [Warn(f"{self._short()}; the round stays open until they have")]
        return []

    def _short(self) -> str:
        plan = self._plan
        late = missing(self.progress, plan.terms[0].local_steps, plan.name_of)
        return (
            f"round {self.round} has {len(self._made)} of the {plan.end.needed} adapters that it"
            f" needs, {self._elapsed_s:.0f} s after it began; not yet sent by {late}"
        )

    def _merged(self, merged: Merged) -> list[Instruction]:
        closed = self.round
        self.left_out.update(set(self._made) - set(merged.made))
        self.round += 1
        self.passes.close()
        self._adapter, self._own, self._whole = merged.adapter, merged.own, merged.whole
        self.shares = merged.shares
        self._elapsed_s = 0.0
        self._warned = False
        everyone = frozenset(range(len(self._progress)))
        # who has not come since it missed a round still has
        self._missed = (everyone - set(merged.made)) | (self._missed - self._opened)
        for device in everyone:
            if self._needs(device):
                self._needed[device] = closed
        self._opened.clear()
        self._progress = [DeviceProgress() for _ in self._progress]
        self._asks = self._asked()
        return [Checkpoint(closed)]

    def _go_on(self) -> list[Instruction]:
        """The next round opens, or there is none."""
        out: list[Instruction] = []
        for device in sorted(self._greeted):
            if self.finished:
                out += self._farewell(device)
            else:
                # who is here was sent the last round's, even if it missed its end
                out += self._open(device, fresh=device in self._missed, knows=True)
        return [*out, Finish()] if self.finished else out

    def _open(self, device: int, *, fresh: bool, knows: bool = False) -> list[Instruction]:
        """Open the round for a device; `knows`: it has the adapter of the one before, though what
        it has done is void."""
        self._opened |= {device} & self._greeted
        asks, keeps = self._asks[device], self._plan.keeps(self.round) or None
        opening = Opening(self.shares[device], fresh, keeps, None if asks is None else asks.held)
        adapter = self._whole if self._whole and fresh and not knows else self._adapter
        if self.round > 1 and not fresh and self._plan.terms[device].frozen(self.round - 1):
            adapter = b""  # it has it from then
        if self._own:  # it has its own, unless there is none yet, or it has lost it
            adapter = self._own[device] if fresh or self.round == 1 else b""
        return self._send(device, Open(self.round, opening, adapter))

    def _farewell(self, device: int) -> list[Instruction]:
        self._told.add(device)
        bye = self._answer(device, Close(Ending(finished=True)))
        return [*bye, *self._hang_up(device, "the run has ended")]

    def _send(self, device: int, message: Message) -> list[Instruction]:
        """Nothing if the device is away: it hears all that matters when it comes back."""
        if device not in self._greeted:
            return []
        return self._answer(device, message)

    def _answer(self, device: int, message: Message) -> list[Instruction]:
        """For a device that is connected."""
        frame = self._wires[device].outgoing(message)
        size = size_of(frame)
        self.traffic.add(self.round, message, size)
        self.traffic.crossed(device, down=size)
        return [SendTo(device, frame)]

    def _hang_up(self, device: int, reason: str) -> list[Instruction]:
        self._forget(device)
        return [HangUpOn(device, reason)]

    def _forget(self, device: int) -> None:
        self._wires.pop(device, None)
        self._greeted.discard(device)
