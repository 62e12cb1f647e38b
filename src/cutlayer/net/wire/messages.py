"""What devices and server say to each other: one value for each message, and its frame.

Tensors are packets of the codec; settings are JSON, checked field by field. Knows neither who says
what when, nor what a packet holds.
"""

from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from typing import Annotated, Any, TypeAlias, TypeVar

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from cutlayer.errors import FrameError
from cutlayer.net.wire.frames import (
    NOWHERE,
    Frame,
    FrameSection,
    Kind,
    Limits,
    Position,
    from_bytes,
    to_bytes,
)
from cutlayer.spec import Task

# When a device did what in a round, by its own clock: what it tells the server with its adapter.
#
# Knows no clock and no link. The server lays these times beside its own (`measured`); the probe, a
# frame without content that is answered at once, tells how far apart the two clocks are.


_VALUE = np.dtype("<f8")
_PROBE = 3
_STEP = 3
# no clock of a machine that runs shows more: 30,000 years
_LATEST_S = 1e12


@dataclass(frozen=True)
class StepTimes:
    """One micro-batch [s]: its forward begins, its activation begins to leave, its gradient has
    come."""

    began_s: float
    sent_s: float
    got_s: float


@dataclass(frozen=True)
class DeviceTimes:
    """A device's round [s], by a clock of its own that never goes back.

    Its probe left at `asked_s` and was answered by `heard_s`; its adapter began to leave at
    `ended_s`. `steps`: every micro-batch in its order.
    """

    asked_s: float
    heard_s: float
    ended_s: float
    steps: tuple[StepTimes, ...]


def times_bytes(steps: int) -> int:
    """Bytes of the times of so many micro-batches."""
    return _VALUE.itemsize * (_PROBE + _STEP * steps)


def times_to_bytes(times: DeviceTimes | None) -> bytes:
    """Nothing for None, else float64 by float64, little endian."""
    return b"" if times is None else np.fromiter(_values(times), _VALUE).tobytes()


def times_from_bytes(data: bytes) -> DeviceTimes | None:
    """The inverse of `times_to_bytes`. Raises FrameError: no times."""
    if not data:
        return None
    steps, rest = divmod(len(data) - times_bytes(0), times_bytes(1) - times_bytes(0))
    if rest or steps < 0:
        raise FrameError(f"times of a round in {len(data)} bytes")
    values = np.frombuffer(data, _VALUE)
    # NaN is not either
    if not (np.abs(values) <= _LATEST_S).all():
        raise FrameError("times of a round that no clock shows")
    asked_s, heard_s, ended_s = values[:_PROBE].tolist()
    rows = values[_PROBE:].reshape(steps, _STEP).tolist()
    return DeviceTimes(asked_s, heard_s, ended_s, tuple(StepTimes(*row) for row in rows))


def _values(times: DeviceTimes) -> Iterator[float]:
    yield from (times.asked_s, times.heard_s, times.ended_s)
    for step in times.steps:
        yield from astuple(step)


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
    `settings`: those keys of the server's configuration that a device computes by.
    """

    run: Annotated[str, Field(pattern="^[A-Za-z0-9]{1,64}$")]
    device: Index
    task: Task
    classes: Count
    class_names: list[str]
    width: Count
    tokens: Count
    part_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    part_bytes: Annotated[int, Field(ge=1)]
    uplink_bit_s: Annotated[float, Field(gt=0)] | None
    rounds: Count
    local_steps: Count
    micro_batches: Count
    settings: dict[str, Any]


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
class PartOffset:
    """A place in the file of the device's part [bytes from its start]."""

    offset: Annotated[int, Field(ge=0, le=_LARGEST_OFFSET)]


@checked(frozen=True, config=_STRICT)
class MergedFrom:
    """The devices whose adapters a round is the mean of."""

    devices: list[Index]


@checked(frozen=True, config=_STRICT)
class Ending:
    """Whether the run has reached its end."""

    finished: bool


_READERS: Mapping[type, TypeAdapter[Any]] = {
    kind: TypeAdapter(kind)
    for kind in (Terms, PartOffset, Opening, Micro, Weight, MergedFrom, Ending)
}


@dataclass(frozen=True)
class Ask:
    """A device that is not ready yet asks for the terms."""


@dataclass(frozen=True)
class Fetch:
    """A device asks for the file of its part, from here on."""

    place: PartOffset


@dataclass(frozen=True)
class PartPiece:
    """The bytes of that file at `place`, at most `PIECE_BYTES`."""

    place: PartOffset
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
    made: MergedFrom


Message: TypeAlias = (
    Ask
    | Fetch
    | PartPiece
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


def _parts(message: Message) -> tuple[Kind, Position, dict[FrameSection, bytes]]:
    match message:
        case Ask():
            return Kind.ASK, NOWHERE, {}
        case Fetch(place):
            return Kind.FETCH, NOWHERE, {FrameSection.SETTINGS: _json(place)}
        case PartPiece(place, data):
            return (
                Kind.PIECE,
                NOWHERE,
                {FrameSection.SETTINGS: _json(place), FrameSection.PIECE: data},
            )
        case Hello(number):
            return Kind.HELLO, Position(number), {}
        case Welcome(terms):
            return Kind.WELCOME, NOWHERE, {FrameSection.SETTINGS: _json(terms)}
        case Refused():
            return Kind.REFUSED, NOWHERE, {}
        case Open(number, opening, adapter):
            sections = {FrameSection.SETTINGS: _json(opening), FrameSection.ADAPTER_DOWN: adapter}
            return Kind.OPEN, Position(number), sections
        case Activation():
            return Kind.ACTIVATION, message.position, _activation_sections(message)
        case Gradient(position, packet):
            return Kind.GRADIENT, position, {FrameSection.GRADIENT: packet}
        case Adapter(number):
            return Kind.ADAPTER, Position(number), _adapter_sections(message)
        case Probe():
            return Kind.PROBE, NOWHERE, {}
        case Echo():
            return Kind.ECHO, NOWHERE, {}
        case Close(ending):
            return Kind.CLOSE, NOWHERE, {FrameSection.SETTINGS: _json(ending)}
        case Restarted(number):
            return Kind.RESTARTED, Position(number), {}
        case RoundClosed(number, made):
            return Kind.ROUND_CLOSED, Position(number), {FrameSection.SETTINGS: _json(made)}


def _message(frame: Frame) -> Message:
    own, number = frame.sections, frame.position.round
    match frame.kind:
        case Kind.ASK:
            return Ask()
        case Kind.FETCH:
            return Fetch(_settings(PartOffset, own))
        case Kind.PIECE:
            return PartPiece(_settings(PartOffset, own), own[FrameSection.PIECE])
        case Kind.HELLO:
            return Hello(number)
        case Kind.WELCOME:
            return Welcome(_settings(Terms, own))
        case Kind.REFUSED:
            return Refused()
        case Kind.OPEN:
            return Open(number, _settings(Opening, own), own[FrameSection.ADAPTER_DOWN])
        case Kind.ACTIVATION:
            return _activation(frame)
        case Kind.GRADIENT:
            return Gradient(frame.position, own[FrameSection.GRADIENT])
        case Kind.ADAPTER:
            weight, times = _settings(Weight, own), times_from_bytes(own[FrameSection.TIMES])
            return Adapter(number, weight, own[FrameSection.ADAPTER_UP], times)
        case Kind.PROBE:
            return Probe()
        case Kind.ECHO:
            return Echo()
        case Kind.CLOSE:
            return Close(_settings(Ending, own))
        case Kind.RESTARTED:
            return Restarted(number)
        case Kind.ROUND_CLOSED:
            return RoundClosed(number, _settings(MergedFrom, own))


def _activation_sections(message: Activation) -> dict[FrameSection, bytes]:
    return {
        FrameSection.SETTINGS: _json(message.micro),
        FrameSection.ACTIVATION: message.packet,
        FrameSection.LABELS: message.labels,
        FrameSection.SAMPLES: np.asarray(message.samples, dtype=SAMPLE).tobytes(),
    }


def _adapter_sections(message: Adapter) -> dict[FrameSection, bytes]:
    return {
        FrameSection.SETTINGS: _json(message.weight),
        FrameSection.ADAPTER_UP: message.packet,
        FrameSection.TIMES: times_to_bytes(message.times),
    }


def _activation(frame: Frame) -> Activation:
    own = frame.sections
    if len(own[FrameSection.SAMPLES]) % SAMPLE.itemsize:
        raise FrameError(f"numbers of samples in {len(own[FrameSection.SAMPLES])} bytes")
    return Activation(
        position=frame.position,
        micro=_settings(Micro, own),
        packet=own[FrameSection.ACTIVATION],
        labels=own[FrameSection.LABELS],
        samples=tuple(np.frombuffer(own[FrameSection.SAMPLES], SAMPLE).tolist()),
    )


def _json(settings: object) -> bytes:
    return _READERS[type(settings)].dump_json(settings)


def _settings(kind: type[Value], sections: Mapping[FrameSection, bytes]) -> Value:
    try:
        found: Value = _READERS[kind].validate_json(sections[FrameSection.SETTINGS])
        return found
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        # a key that is not known is the other end's own choice
        where = ".".join(str(part) for part in first["loc"])[:_KEY_CHARACTERS]
        raise FrameError(
            f"settings of {kind.__name__}: {where} {first['msg']}; run one cutlayer on both ends"
        ) from error
