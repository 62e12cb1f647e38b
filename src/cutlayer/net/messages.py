"""What devices and server say to each other: one value for each message, and its frame.

Tensors are packets of the codec; settings are JSON, checked field by field. Knows neither who says
what when, nor what a packet holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from cutlayer.errors import FrameError
from cutlayer.net.frames import (
    NOWHERE,
    Frame,
    Kind,
    Limits,
    Position,
    Section,
    from_bytes,
    to_bytes,
)
from cutlayer.net.times import DeviceTimes, times_from_bytes, times_to_bytes
from cutlayer.spec import Task

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_LARGEST_U32 = 2**32 - 1
# beyond any file, and within what every system seeks and every JSON reader counts to
_LARGEST_OFFSET = 2**53
_KEY_CHARACTERS = 80
SAMPLE = np.dtype("<u4")
# of the file of a device's part, at a time: a frame of it fits in a link's chunk
PIECE_BYTES = 1_000_000

Count: TypeAlias = Annotated[int, Field(ge=1, le=_LARGEST_U32)]
Index: TypeAlias = Annotated[int, Field(ge=0, le=_LARGEST_U32)]
Part: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Value = TypeVar("Value")


@checked(frozen=True, config=_STRICT)
class Terms:
    """All that a device must know to take part, its data apart.

    `run`: the run's own name, so that a device's state is never taken for another run's. `width`,
    `tokens`: values a token and the most tokens of a sample at the cut. `class_names`: what labels
    are numbers of; none for language modelling. `part_sha256`, `part_bytes`: of the file of the
    device's part. `uplink_bit_s`: the band that the devices share, up [bit/s]; None: not paced.
    `codec`, `optimizer`, `adapter`: sections of the server's configuration.
    """

    run: Annotated[str, Field(pattern="^[A-Za-z0-9]{1,64}$")]
    device: Index
    task: Task
    model: str
    cut: Count
    classes: Count
    class_names: list[str]
    width: Count
    tokens: Count
    image_size: Count
    max_tokens: Count
    base: Literal["float32", "bfloat16"]
    part_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    part_bytes: Annotated[int, Field(ge=1)]
    uplink_bit_s: Annotated[float, Field(gt=0)] | None
    holding: Literal["keep", "checkpoint", "recompute"]
    rounds: Count
    local_steps: Count
    micro_batches: Count
    batch_size: Count
    seed: Annotated[int, Field(ge=0, lt=2**64)]
    codec: dict[str, Any]
    optimizer: dict[str, Any]
    adapter: dict[str, Any]


@checked(frozen=True, config=_STRICT)
class Opening:
    """A round's settings for one device: its learning rate, and its share of the band.

    `fresh`: the device begins anew. Its optimiser and what its codecs remember are void, because
    the server's side of them is.
    """

    learning_rate: Annotated[float, Field(gt=0)]
    share: Annotated[float, Field(gt=0, le=1)]
    fresh: bool


@checked(frozen=True, config=_STRICT)
class Micro:
    """A micro-batch's part of its mini-batch's mean loss, and whether it is the last one."""

    weight: Part
    last: bool


@checked(frozen=True, config=_STRICT)
class Weight:
    """What an adapter counts in the mean: the samples that it was trained on."""

    samples: Count


@checked(frozen=True, config=_STRICT)
class Place:
    """A place in the file of the device's part [bytes from its start]."""

    offset: Annotated[int, Field(ge=0, le=_LARGEST_OFFSET)]


@checked(frozen=True, config=_STRICT)
class Made:
    """The devices whose adapters a round is the mean of."""

    devices: list[Index]


@checked(frozen=True, config=_STRICT)
class Ending:
    """Whether the run has reached its end."""

    finished: bool


_READERS: Mapping[type, TypeAdapter[Any]] = {
    kind: TypeAdapter(kind) for kind in (Terms, Place, Opening, Micro, Weight, Made, Ending)
}


@dataclass(frozen=True)
class Ask:
    """A device that is not ready yet asks for the terms."""


@dataclass(frozen=True)
class Fetch:
    """A device asks for the file of its part, from here on."""

    place: Place


@dataclass(frozen=True)
class Piece:
    """The bytes of that file at `place`, at most `PIECE_BYTES`."""

    place: Place
    data: bytes


@dataclass(frozen=True)
class Hello:
    """A device is here. `round`: the last one that it opened, whose state it still has; or 0."""

    round: int


@dataclass(frozen=True)
class Welcome:
    """The server takes part with a device, on these terms."""

    terms: Terms


@dataclass(frozen=True)
class Refused:
    """The server does not; a stranger is not told why."""


@dataclass(frozen=True)
class Open:
    """A round begins for a device, from this adapter (a packet of `pack_adapter`)."""

    round: int
    opening: Opening
    adapter: bytes


@dataclass(frozen=True)
class Activation:
    """One micro-batch at the cut: the codec's packet, the labels' payload, the samples' numbers.

    The numbers are the device's own names for its samples, for codecs that remember samples.
    """

    position: Position
    micro: Micro
    packet: bytes
    labels: bytes
    samples: tuple[int, ...]


@dataclass(frozen=True)
class Gradient:
    """The answer to the activation of the same position: the codec's packet."""

    position: Position
    packet: bytes


@dataclass(frozen=True)
class Adapter:
    """A device's adapter after its last local step (a packet of `pack_adapter`).

    `times`: when it did what in the round; None if it has not seen all of it.
    """

    round: int
    weight: Weight
    packet: bytes
    times: DeviceTimes | None = None


@dataclass(frozen=True)
class Probe:
    """A device asks for an echo, to compare the two clocks by."""


@dataclass(frozen=True)
class Echo:
    """The answer to a probe, as soon as it is seen."""


@dataclass(frozen=True)
class Close:
    """The server hangs up."""

    ending: Ending


@dataclass(frozen=True)
class Restarted:
    """Journal only: a device began the round anew; what it had done of it is void."""

    round: int


@dataclass(frozen=True)
class RoundClosed:
    """Journal only: a round closed with these devices."""

    round: int
    made: Made


Message: TypeAlias = (
    Ask
    | Fetch
    | Piece
    | Hello
    | Welcome
    | Refused
    | Open
    | Activation
    | Gradient
    | Adapter
    | Probe
    | Echo
    | Close
    | Restarted
    | RoundClosed
)


def encode_message(message: Message, sequence: int) -> bytes:
    """The frame of `message`."""
    kind, position, sections = _parts(message)
    return to_bytes(Frame(kind, position, sequence, sections))


def decode_message(data: bytes, limits: Limits) -> tuple[Message, int]:
    """The message in a frame, and its sequence number. Raises FrameError: anything else."""
    frame = from_bytes(data, limits)
    return _message(frame), frame.sequence


def _parts(message: Message) -> tuple[Kind, Position, dict[Section, bytes]]:
    match message:
        case Ask():
            return Kind.ASK, NOWHERE, {}
        case Fetch(place):
            return Kind.FETCH, NOWHERE, {Section.SETTINGS: _json(place)}
        case Piece(place, data):
            return Kind.PIECE, NOWHERE, {Section.SETTINGS: _json(place), Section.PIECE: data}
        case Hello(number):
            return Kind.HELLO, Position(number), {}
        case Welcome(terms):
            return Kind.WELCOME, NOWHERE, {Section.SETTINGS: _json(terms)}
        case Refused():
            return Kind.REFUSED, NOWHERE, {}
        case Open(number, opening, adapter):
            sections = {Section.SETTINGS: _json(opening), Section.ADAPTER_DOWN: adapter}
            return Kind.OPEN, Position(number), sections
        case Activation():
            return Kind.ACTIVATION, message.position, _activation_sections(message)
        case Gradient(position, packet):
            return Kind.GRADIENT, position, {Section.GRADIENT: packet}
        case Adapter(number):
            return Kind.ADAPTER, Position(number), _adapter_sections(message)
        case Probe():
            return Kind.PROBE, NOWHERE, {}
        case Echo():
            return Kind.ECHO, NOWHERE, {}
        case Close(ending):
            return Kind.CLOSE, NOWHERE, {Section.SETTINGS: _json(ending)}
        case Restarted(number):
            return Kind.RESTARTED, Position(number), {}
        case RoundClosed(number, made):
            return Kind.ROUND_CLOSED, Position(number), {Section.SETTINGS: _json(made)}


def _message(frame: Frame) -> Message:
    own, number = frame.sections, frame.position.round
    match frame.kind:
        case Kind.ASK:
            return Ask()
        case Kind.FETCH:
            return Fetch(_settings(Place, own))
        case Kind.PIECE:
            return Piece(_settings(Place, own), own[Section.PIECE])
        case Kind.HELLO:
            return Hello(number)
        case Kind.WELCOME:
            return Welcome(_settings(Terms, own))
        case Kind.REFUSED:
            return Refused()
        case Kind.OPEN:
            return Open(number, _settings(Opening, own), own[Section.ADAPTER_DOWN])
        case Kind.ACTIVATION:
            return _activation(frame)
        case Kind.GRADIENT:
            return Gradient(frame.position, own[Section.GRADIENT])
        case Kind.ADAPTER:
            weight, times = _settings(Weight, own), times_from_bytes(own[Section.TIMES])
            return Adapter(number, weight, own[Section.ADAPTER_UP], times)
        case Kind.PROBE:
            return Probe()
        case Kind.ECHO:
            return Echo()
        case Kind.CLOSE:
            return Close(_settings(Ending, own))
        case Kind.RESTARTED:
            return Restarted(number)
        case Kind.ROUND_CLOSED:
            return RoundClosed(number, _settings(Made, own))


def _activation_sections(message: Activation) -> dict[Section, bytes]:
    return {
        Section.SETTINGS: _json(message.micro),
        Section.ACTIVATION: message.packet,
        Section.LABELS: message.labels,
        Section.SAMPLES: np.asarray(message.samples, dtype=SAMPLE).tobytes(),
    }


def _adapter_sections(message: Adapter) -> dict[Section, bytes]:
    return {
        Section.SETTINGS: _json(message.weight),
        Section.ADAPTER_UP: message.packet,
        Section.TIMES: times_to_bytes(message.times),
    }


def _activation(frame: Frame) -> Activation:
    own = frame.sections
    if len(own[Section.SAMPLES]) % SAMPLE.itemsize:
        raise FrameError(f"numbers of samples in {len(own[Section.SAMPLES])} bytes")
    return Activation(
        position=frame.position,
        micro=_settings(Micro, own),
        packet=own[Section.ACTIVATION],
        labels=own[Section.LABELS],
        samples=tuple(np.frombuffer(own[Section.SAMPLES], SAMPLE).tolist()),
    )


def _json(settings: object) -> bytes:
    return _READERS[type(settings)].dump_json(settings)


def _settings(kind: type[Value], sections: Mapping[Section, bytes]) -> Value:
    try:
        found: Value = _READERS[kind].validate_json(sections[Section.SETTINGS])
        return found
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        # a key that is not known is the other end's own choice
        where = ".".join(str(part) for part in first["loc"])[:_KEY_CHARACTERS]
        raise FrameError(f"settings of {kind.__name__}: {where} {first['msg']}") from error
