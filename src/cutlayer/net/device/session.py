"""What a device does about what happens: events in, instructions out.

A pure state machine, the other end of `server_session`: no socket, no clock, no file and no tensor.
What the server has not answered is sent again on a new connection: one message at a time, or, while
the devices' part is frozen, as many activations as may be on their way.
"""

from collections import deque
from dataclasses import dataclass, replace
from typing import TypeAlias, final

from cutlayer.errors import FrameError
from cutlayer.net.wire import frames
from cutlayer.net.wire.frames import Bounds, Buffers, Wire, device_limits
from cutlayer.net.wire.messages import (
    NOWHERE,
    Activation,
    Adapter,
    Ask,
    Close,
    Echo,
    Fetch,
    Gradient,
    Hello,
    Introduce,
    Message,
    Open,
    OwnSamples,
    PartPiece,
    PartRange,
    Position,
    Probe,
    Refused,
    Terms,
    Welcome,
)

# activations without an answer, where nothing is trained here: the server is busy with the first,
# the second is on its way, the third is computed
AHEAD = 3


@dataclass(frozen=True)
class Linked:
    """There is a new connection to the server."""


@dataclass(frozen=True)
class Received:
    """A frame of the server."""

    frame: frames.Received


@dataclass(frozen=True)
class NeedBytes:
    """The outcome of `Prepare` or `Keep` where this is next of the file of the device's part."""

    place: PartRange


@dataclass(frozen=True)
class PartReady:
    """The outcome of `Prepare` or `Keep`: the longest payloads of the run. `void`: the stored state
    is of other samples, and nobody has it any more. `samples`: what the device has, for a server
    that keeps activations."""

    bounds: Bounds
    void: bool = False
    samples: OwnSamples | None = None


@dataclass(frozen=True)
class Begun:
    """The outcome of `Begin`."""

    message: Open


@dataclass(frozen=True)
class Forwarded:
    """The outcome of `Forward`."""

    message: Activation


@dataclass(frozen=True)
class NothingAsked:
    """The outcome of `Forward` where the server holds all that is left of the round."""


@dataclass(frozen=True)
class Stepped:
    """The outcome of `Backward`: the first activation on its way has been answered."""


@dataclass(frozen=True)
class Uploaded:
    """The outcome of `Upload`."""

    message: Adapter


@dataclass(frozen=True)
class Invalid:
    """The outcome of `Keep`, `Begin` or `Backward` where no server may send such a thing."""

    reason: str


@dataclass(frozen=True)
class Diverged:
    """The outcome of `Forward` or `Upload` where the device's own values are none to send."""

    reason: str


Event: TypeAlias = (
    Linked
    | Received
    | NeedBytes
    | PartReady
    | Begun
    | Forwarded
    | NothingAsked
    | Stepped
    | Uploaded
    | Invalid
    | Diverged
)


@dataclass(frozen=True)
class Send:
    """Send this frame to the server."""

    frame: Buffers


@dataclass(frozen=True)
class Prepare:
    """Get ready to compute on these terms; answered by `NeedBytes`, `PartReady` or `Invalid`."""

    terms: Terms


@dataclass(frozen=True)
class Keep:
    """Put a piece of the part's file on disk, then `Prepare`; answered as that, or by `Invalid`."""

    terms: Terms
    piece: PartPiece


@dataclass(frozen=True)
class Begin:
    """Take over the merged adapter; answered by `Begun` or `Invalid`."""

    message: Open


@dataclass(frozen=True)
class EchoReceived:
    """The frame that came is the answer to the probe: note when it came."""


@dataclass(frozen=True)
class Forward:
    """Compute an activation, the first from here on that the server does not hold; answered by
    `Forwarded`, `NothingAsked` or `Diverged`."""

    position: Position


@dataclass(frozen=True)
class Backward:
    """Compute with a gradient, or know that its activation is at the server; answered by `Stepped`
    or `Invalid`."""

    message: Gradient
    last: bool


@dataclass(frozen=True)
class Upload:
    """Make the adapter's packet; answered by `Uploaded` or `Diverged`."""

    round: int


@dataclass(frozen=True)
class SaveState:
    """Put the device's state on disk: it stands before `position` of a run on `terms`."""

    position: Position
    terms: Terms


@dataclass(frozen=True)
class HangUp:
    """End the connection, and try again."""

    reason: str


@dataclass(frozen=True)
class Stop:
    """Give up: trying again would not help."""

    reason: str


@dataclass(frozen=True)
class Leave:
    """The run has reached its end."""


Instruction: TypeAlias = (
    Send
    | Prepare
    | Keep
    | Begin
    | EchoReceived
    | Forward
    | Backward
    | Upload
    | SaveState
    | HangUp
    | Stop
    | Leave
)


@final
class DeviceSession:
    """A device's part in a run. `position`, `terms`: where its stored state stands, if it has one
    (round 0: none); `kept`: what the state is called in messages, such as its file."""

    def __init__(
        self,
        position: Position = NOWHERE,
        terms: Terms | None = None,
        kept: str = "the state of this device",
    ) -> None:
        self._kept = kept
        self._position = position
        self._terms = terms
        self._bounds: Bounds | None = None
        self._unanswered: deque[Activation | Adapter] = deque()
        # what is computed next
        self._ahead = position
        self._wire = Wire(device_limits(None))
        self._probes = 0
        self._samples: OwnSamples | None = None

    @property
    def progress(self) -> str:
        """How far this device is: `47 %: round 3 of 5, step 7 of 10`."""
        terms, place = self._terms, self._position
        if terms is None or self._bounds is None:
            return "getting ready"
        if not place.round:
            return "waiting for the first round"
        ended = any(isinstance(message, Adapter) for message in self._unanswered)
        done = terms.local_steps if ended else place.step
        part = (place.round - 1 + done / terms.local_steps) / terms.rounds
        of = f"{100 * part:.0f} %: round {place.round} of {terms.rounds}"
        if ended:
            return f"{of}, done here, waiting for the other devices"
        return f"{of}, step {done} of {terms.local_steps}"

    def handle(self, event: Event) -> list[Instruction]:
        """What to do now, in this order."""
        match event:
            case Linked():
                self._wire = Wire(device_limits(self._bounds))
                self._probes = 0
                return self._send(Ask()) if self._bounds is None else self._hello()
            case Received(frame):
                try:
                    return self._received(self._wire.incoming(frame))
                except FrameError as error:
                    return [HangUp(str(error))]
            case NeedBytes(place):
                return self._send(Fetch(place))
            case PartReady(bounds, void, samples):
                self._bounds, self._samples = bounds, samples
                if void:
                    self._position = self._ahead = NOWHERE
                self._wire.limits = device_limits(bounds)
                return self._hello()
            case Begun(opened):
                self._position = self._ahead = Position(opened.round)
                self._unanswered.clear()
                return [*self._persist(), *self._probe()]
            case Forwarded(message):
                self._unanswered.append(message)
                self._ahead = _after(message)
                more = self._next() if self._frozen else []
                return [*self._send(message), *more]
            case NothingAsked():
                assert self._terms is not None
                self._ahead = Position(self._ahead.round, self._terms.local_steps)
                return self._next()
            case Uploaded(message):
                self._unanswered.append(message)
                return self._send(message)
            case Stepped():
                return self._stepped()
            case Invalid(reason):
                return [HangUp(reason)]
            case Diverged(reason):
                # the next round may open with an adapter that can be computed with
                return [
                    HangUp(
                        f"round {self._position.round}, local step {self._position.step}: {reason};"
                        " the run diverges, unless the adapter that the round began with was"
                        " another device's doing: waiting for the next round"
                    )
                ]

    def _received(self, message: Message) -> list[Instruction]:
        match message:
            case Welcome(terms):
                return self._welcome(terms)
            case PartPiece() if self._terms is not None and self._bounds is None:
                return [Keep(self._terms, message)]
            case Refused():
                return [Stop("the server refuses this device; its log says why")]
            case Close(ending):
                return [Leave()] if ending.finished else [HangUp("the server closed the session")]
            case Open() if self._may_begin(message):
                return [Begin(message)]
            case Echo() if self._probes:
                return self._echo_received()
            case Gradient():
                return self._gradient(message)
            case other:
                return [HangUp(f"{type(other).__name__}, which is not expected here")]

    def _may_begin(self, message: Open) -> bool:
        """Rounds only go on, unless all is void: a server that goes on from an older copy of its
        directory is behind its devices."""
        return message.round >= (1 if message.opening.fresh else max(self._position.round, 1))

    def _welcome(self, terms: Terms) -> list[Instruction]:
        if self._terms is not None and not _same_run(terms, self._terms):
            return [
                Stop(
                    f"the server is on another run than {self._kept} (run {self._terms.run}):"
                    " delete that to join this one"
                )
            ]
        self._terms = terms
        return self._welcomed() if self._bounds is not None else [Prepare(terms)]

    def _hello(self) -> list[Instruction]:
        told = [] if self._samples is None else self._send(Introduce(self._samples))
        return [*told, *self._send(Hello(self._position.round))]

    def _welcomed(self) -> list[Instruction]:
        """Go on with the round, if there is one."""
        return self._probe() if self._position.round else []

    def _probe(self) -> list[Instruction]:
        """Compare the clocks, on each connection and in each round, before anything else."""
        self._probes += 1
        return self._send(Probe())

    def _echo_received(self) -> list[Instruction]:
        """Say again what the server may not have heard, or go on."""
        self._probes -= 1
        if self._probes:
            return []  # a round opened meanwhile, and is waited for
        again = [one for message in self._unanswered for one in self._send(message)]
        more = self._next() if self._frozen or not again else []
        return [EchoReceived(), *again, *more]

    def _gradient(self, message: Gradient) -> list[Instruction]:
        waiting = self._unanswered[0] if self._unanswered else None
        if isinstance(waiting, Activation) and message.position == waiting.position:
            return [Backward(message, waiting.micro.last)]
        place, own = message.position, self._position
        if (place.round, place.step, place.micro) < (own.round, own.step, own.micro):
            return []  # it was sent twice, because its activation was
        return [HangUp(f"a gradient of {place}, which nothing waits for")]

    def _stepped(self) -> list[Instruction]:
        answered = self._unanswered.popleft()
        assert isinstance(answered, Activation)
        self._position = _after(answered)
        return [*self._persist(), *self._next()]

    def _persist(self) -> list[Instruction]:
        assert self._terms is not None
        return [SaveState(self._position, self._terms)]

    def _next(self) -> list[Instruction]:
        """What to compute now: nothing while enough is on its way."""
        assert self._terms is not None
        if self._ahead.step < self._terms.local_steps:
            room = len(self._unanswered) < (AHEAD if self._frozen else 1)
            return [Forward(self._ahead)] if room else []
        return [] if self._unanswered else [Upload(self._position.round)]

    @property
    def _frozen(self) -> bool:
        """Whether nothing comes back in this round."""
        return self._terms is not None and self._terms.frozen(self._position.round)

    def _send(self, message: Message) -> list[Instruction]:
        return [Send(self._wire.outgoing(message))]


def _after(message: Activation) -> Position:
    """The place of the micro-batch that follows."""
    place = message.position
    step, micro = (place.step + 1, 0) if message.micro.last else (place.step, place.micro + 1)
    return Position(place.round, step, micro)


def _same_run(terms: Terms, known: Terms) -> bool:
    """Whether terms are of the same run, which may go on longer or at another rate than known."""
    same = replace(terms, rounds=known.rounds, uplink_bit_s=known.uplink_bit_s)
    return same == known
