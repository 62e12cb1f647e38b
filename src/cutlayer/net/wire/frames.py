"""The frame of one message, how long it may be, and its place among a connection's others.

Who it is for is the link's business, what it means is `messages`'.

All numbers are little endian:

    magic "CUTF" | version u8 | kind u8 | sections u8 | zero u8
    | round u32 | local step u32 | micro-batch u32 | sequence number u64
    | tag u8, length u32 of each section | the sections

Any change to these bytes is a new version. There is no checksum: a link's TLS authenticates every
byte, and a journal has checksums of its own. A reader bounds every length by what it expects before
it copies anything.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from enum import IntEnum
from typing import Any, TypeAlias, TypeVar, final

import numpy as np
from pydantic import TypeAdapter, ValidationError

from cutlayer.errors import FrameError
from cutlayer.net.wire.messages import (
    NOWHERE,
    PIECE_BYTES,
    Activation,
    Adapter,
    Ask,
    Close,
    DeviceTimes,
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
    OwnSamples,
    PartPiece,
    PartRange,
    Position,
    Probe,
    Refused,
    Restarted,
    RoundClosed,
    StepTimes,
    Terms,
    Weight,
    Welcome,
)
from cutlayer.spec import MiniBatch
from cutlayer.units import KIB

# a frame as it came, which nobody else has
Received: TypeAlias = bytes | bytearray
# a frame to send: its bytes in one, or in parts that other frames may share
Buffers: TypeAlias = Received | tuple[bytes, ...]


def size_of(frame: Buffers) -> int:
    """How long a frame is [bytes]."""
    return sum(map(len, frame)) if isinstance(frame, tuple) else len(frame)


MAGIC = b"CUTF"
VERSION = 2
_HEADER = struct.Struct("<4sBBBBIIIQ")
_ENTRY = struct.Struct("<BI")
_LARGEST_U32 = 2**32 - 1


class Kind(IntEnum):
    """What a frame is."""

    HELLO = 1
    WELCOME = 2
    REFUSED = 3
    OPEN = 4
    ACTIVATION = 5
    GRADIENT = 6
    ADAPTER = 7
    CLOSE = 8
    # in a journal only
    RESTARTED = 9
    ROUND_CLOSED = 10
    # before a device is ready
    ASK = 11
    FETCH = 12
    PIECE = 13
    # what times are measured with
    PROBE = 14
    ECHO = 15
    # of a server that keeps activations; the second one in a journal only
    INTRODUCE = 16
    HELD = 17


class FrameSection(IntEnum):
    """What a section of a frame holds."""

    SETTINGS = 1
    ADAPTER_DOWN = 2
    ACTIVATION = 3
    LABELS = 4
    SAMPLES = 5
    GRADIENT = 6
    ADAPTER_UP = 7
    PIECE = 8
    TIMES = 9


# the kinds that a reader takes, the sections of each, and the most bytes of each section
Limits = Mapping[Kind, Mapping[FrameSection, int]]


@dataclass(frozen=True)
class Frame:
    """One message before anybody has read its sections."""

    kind: Kind
    position: Position
    sequence: int
    sections: Mapping[FrameSection, bytes]


def to_bytes(frame: Frame) -> bytes:
    """The bytes of `frame`. Raises FrameError: a section of 2^32 bytes or more."""
    return b"".join(to_parts(frame))


def to_parts(frame: Frame) -> tuple[bytes, ...]:
    """The bytes of `frame`, its sections as they are. Raises as `to_bytes`."""
    sections = frame.sections
    largest = max((len(section) for section in sections.values()), default=0)
    if largest > _LARGEST_U32:
        raise FrameError(f"a section of {largest} bytes: the format ends at {_LARGEST_U32}")
    place = frame.position
    numbers = (place.round, place.step, place.micro, frame.sequence)
    header = _HEADER.pack(MAGIC, VERSION, frame.kind, len(sections), 0, *numbers)
    entries = (_ENTRY.pack(tag, len(section)) for tag, section in sections.items())
    return b"".join((header, *entries)), *sections.values()


def kind_of(frame: Buffers) -> Kind:
    """The kind of a frame that `to_parts` or `to_bytes` made."""
    first = frame[0] if isinstance(frame, tuple) else frame
    return Kind(first[len(MAGIC) + 1])


def claims_kind(frame: Received, kind: Kind) -> bool:
    """Whether a frame that nobody has looked at yet says that it is of this kind."""
    return frame[len(MAGIC) + 1 : len(MAGIC) + 2] == bytes([kind])


def largest_frame(limits: Limits) -> int:
    """The most bytes [bytes] of any frame within `limits`: what a link need accept."""
    return max(_largest(sections) for sections in limits.values())


def from_bytes(data: Received, limits: Limits) -> Frame:
    """The frame in `data`.

    Raises FrameError: anything but a whole frame of this version, of a kind in `limits`, with the
    sections of that kind and none of them longer than its limit.
    """
    if len(data) < _HEADER.size:
        raise FrameError(f"a frame of {len(data)} bytes: too short to be one")
    magic, version, number, count, zero, *numbers = _HEADER.unpack_from(data)
    if magic != MAGIC or zero:
        raise FrameError(f"a frame starts with {MAGIC!r}, this one with {magic!r}, {zero}")
    if version != VERSION:
        raise FrameError(
            f"frame version {version}, expected {VERSION}; run the same version on both ends"
        )
    kind = next((kind for kind in limits if kind == number), None)
    if kind is None:
        raise FrameError(f"a frame of kind {number}, which is not expected here")
    if len(data) > _largest(limits[kind]):
        raise FrameError(
            f"a frame of {len(data)} bytes; {kind.name} has {_largest(limits[kind])} at most"
        )
    # a view: a frame may be as large as the tensor in it
    body = memoryview(data)
    sizes, start = _table(body, count, limits[kind])
    round_number, step, micro, sequence = numbers
    sections = _cut(body[start:], sizes)
    return Frame(kind, Position(round_number, step, micro), sequence, sections)


def _largest(sections: Mapping[FrameSection, int]) -> int:
    table = _ENTRY.size * len(sections)
    return _HEADER.size + table + sum(sections.values())


def _table(
    body: memoryview, count: int, limits: Mapping[FrameSection, int]
) -> tuple[dict[FrameSection, int], int]:
    """The length of each section, and where the first one starts."""
    start = _HEADER.size + _ENTRY.size * count
    if count != len(limits) or start > len(body):
        raise FrameError(f"a frame of {count} sections in {len(body)} bytes, not {len(limits)}")
    sizes: dict[FrameSection, int] = {}
    for number, size in _ENTRY.iter_unpack(body[_HEADER.size : start]):
        tag = next((tag for tag in limits if tag == number), None)
        if tag is None or tag in sizes:
            raise FrameError(f"a frame with section {number}, unexpected or repeated")
        if size > limits[tag]:
            raise FrameError(f"{tag.name} of {size} bytes, at most {limits[tag]}")
        sizes[tag] = size
    if start + sum(sizes.values()) != len(body):
        raise FrameError(
            f"sections of {sum(sizes.values())} bytes in a frame with {len(body) - start} of them"
        )
    return sizes, start


def _cut(data: memoryview, sizes: Mapping[FrameSection, int]) -> dict[FrameSection, bytes]:
    sections, at = {}, 0
    for tag, size in sizes.items():
        sections[tag] = bytes(data[at : at + size])
        at += size
    return sections


# A message as a frame, and back: settings are JSON.


_KEY_CHARACTERS = 80
SAMPLE = np.dtype("<u4")
Value = TypeVar("Value")
_READERS: Mapping[type, TypeAdapter[Any]] = {
    kind: TypeAdapter(kind)
    for kind in (Terms, PartRange, OwnSamples, Opening, Micro, Weight, MergedFrom, Ending)
}


def encode_message(message: Message, sequence: int) -> bytes:
    """The frame of `message`."""
    return b"".join(message_parts(message, sequence))


def message_parts(message: Message, sequence: int) -> tuple[bytes, ...]:
    """The frame of `message`; what is large in it is the message's own, and not copied."""
    kind, position, sections = _parts(message)
    return to_parts(Frame(kind, position, sequence, sections))


def decode_message(data: Received, limits: Limits) -> tuple[Message, int]:
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
        case Introduce(samples):
            return Kind.INTRODUCE, NOWHERE, {FrameSection.SETTINGS: _json(samples)}
        case Held(position, micro):
            return Kind.HELD, position, {FrameSection.SETTINGS: _json(micro)}
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
            return Fetch(_settings(PartRange, own))
        case Kind.PIECE:
            return PartPiece(_settings(PartRange, own), own[FrameSection.PIECE])
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
        case Kind.INTRODUCE:
            return Introduce(_settings(OwnSamples, own))
        case Kind.HELD:
            return Held(frame.position, _settings(Micro, own))
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
    # what these do not say takes no bytes
    silent = isinstance(settings, Weight | Opening)
    return _READERS[type(settings)].dump_json(settings, exclude_none=silent)


def _settings(kind: type[Value], sections: Mapping[FrameSection, bytes]) -> Value:
    try:
        found: Value = _READERS[kind].validate_json(sections[FrameSection.SETTINGS])
        return found
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        # a key that is not known is the other end's own choice
        where = ".".join(str(part) for part in first["loc"])[:_KEY_CHARACTERS]
        raise FrameError(
            f"settings of {kind.__name__}: {where} {first['msg']}; run the same version on"
            " both ends"
        ) from error


# When a device did what in a round, as bytes.


_VALUE = np.dtype("<f8")
_PROBE = 3
_STEP = 3
# no clock of a machine that runs shows more: 30,000 years
_LATEST_S = 1e12


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
        raise FrameError("impossible times of a round")
    asked_s, answered_s, ended_s = values[:_PROBE].tolist()
    rows = values[_PROBE:].reshape(steps, _STEP).tolist()
    return DeviceTimes(asked_s, answered_s, ended_s, tuple(StepTimes(*row) for row in rows))


def _values(times: DeviceTimes) -> Iterator[float]:
    yield from (times.asked_s, times.answered_s, times.ended_s)
    for step in times.steps:
        yield from astuple(step)


# How long the frames of a run may be: what each end takes of the other, and nothing else.
#
# Knows the run's shapes; what is in a section is its reader's business.


_SETTINGS_BYTES = 64 * 1024
# terms have the names of all classes in them
TERMS_BYTES = 1024 * 1024
# header, table and small sections of a codec's packet
_PACKET_BYTES = 4096
_FLOAT_BYTES = 4
_LABEL_BYTES = 8


@dataclass(frozen=True)
class Bounds:
    """The longest payloads of a run [bytes]; the most `samples` of a micro-batch, `tokens` of a
    sample, values of a token (`width`) and micro-batches of a device's round (`steps`)."""

    activation_bytes: int
    labels_bytes: int
    gradient_bytes: int
    adapter_bytes: int
    samples: int
    tokens: int
    width: int
    steps: int


def bounds_of(largest: MiniBatch, width: int, adapter_parameters: int, steps: int) -> Bounds:
    """The bounds for micro-batches up to `largest` of `width` values a token, `steps` a round.

    No codec makes a packet longer than the plain values and, where it learns one, a mean and a
    basis of `width` columns.
    """
    values = largest.samples * largest.tokens * width + (width + 1) * width
    packet = _FLOAT_BYTES * values + _PACKET_BYTES
    return Bounds(
        activation_bytes=packet,
        labels_bytes=_LABEL_BYTES * (largest.samples * largest.tokens + 1),
        gradient_bytes=packet,
        adapter_bytes=_FLOAT_BYTES * adapter_parameters + _PACKET_BYTES,
        samples=largest.samples,
        tokens=largest.tokens,
        width=width,
        steps=steps,
    )


def server_limits(bounds: Bounds) -> Limits:
    """What a server takes from a device."""
    return {
        Kind.ASK: {},
        Kind.FETCH: {FrameSection.SETTINGS: _SETTINGS_BYTES},
        Kind.INTRODUCE: {FrameSection.SETTINGS: _SETTINGS_BYTES},
        Kind.HELLO: {},
        Kind.ACTIVATION: {
            FrameSection.SETTINGS: _SETTINGS_BYTES,
            FrameSection.ACTIVATION: bounds.activation_bytes,
            FrameSection.LABELS: bounds.labels_bytes,
            FrameSection.SAMPLES: bounds.samples * SAMPLE.itemsize,
        },
        Kind.ADAPTER: {
            FrameSection.SETTINGS: _SETTINGS_BYTES,
            FrameSection.ADAPTER_UP: bounds.adapter_bytes,
            FrameSection.TIMES: times_bytes(bounds.steps),
        },
        Kind.PROBE: {},
    }


def device_limits(bounds: Bounds | None) -> Limits:
    """What a device takes from a server; None: before it knows the terms."""
    greeting: Limits = {
        Kind.WELCOME: {FrameSection.SETTINGS: TERMS_BYTES},
        Kind.PIECE: {FrameSection.SETTINGS: _SETTINGS_BYTES, FrameSection.PIECE: PIECE_BYTES},
        Kind.REFUSED: {},
        Kind.CLOSE: {FrameSection.SETTINGS: _SETTINGS_BYTES},
    }
    if bounds is None:
        return greeting
    return {
        **greeting,
        Kind.OPEN: {
            # a bit for each sample, as hexadecimal digits
            FrameSection.SETTINGS: _SETTINGS_BYTES + bounds.samples * bounds.steps // 4,
            FrameSection.ADAPTER_DOWN: bounds.adapter_bytes,
        },
        Kind.GRADIENT: {FrameSection.GRADIENT: bounds.gradient_bytes},
        Kind.ECHO: {},
    }


def journal_limits(bounds: Bounds) -> Limits:
    """What a server reads from its own journal."""
    return {
        **server_limits(bounds),
        Kind.RESTARTED: {},
        Kind.HELD: {FrameSection.SETTINGS: _SETTINGS_BYTES},
        Kind.ROUND_CLOSED: {FrameSection.SETTINGS: _SETTINGS_BYTES},
    }


# One connection's messages as frames: numbered from 0 each way, and none twice.
#
# Knows no link: bytes go in and come out.


# frames up to here are one piece
_COPIED_BYTES = 64 * KIB


@final
class Wire:
    """Both directions of a connection, seen from one end; `limits` is what this end takes."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._sent = 0
        self._received = 0

    def outgoing(self, message: Message) -> Buffers:
        """The next frame to send."""
        frame = message_parts(message, self._sent)
        self._sent += 1
        return frame if size_of(frame) > _COPIED_BYTES else b"".join(frame)

    def incoming(self, frame: Received) -> Message:
        """The message of the next frame. Raises FrameError: no such frame, or not the next one."""
        message, sequence = decode_message(frame, self.limits)
        if sequence != self._received:
            raise FrameError(
                f"frame {sequence} where {self._received} is next: replayed or out of order"
            )
        self._received += 1
        return message
