"""A connection's frames: numbered, none twice, and how long each may be."""

from dataclasses import dataclass
from typing import final

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from cutlayer.errors import FrameError, IdentityError
from cutlayer.net.wire.frames import FrameSection, Kind, Limits
from cutlayer.net.wire.messages import (
    PIECE_BYTES,
    SAMPLE,
    Message,
    decode_message,
    encode_message,
    times_bytes,
)
from cutlayer.spec import MiniBatch, Task

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
            FrameSection.SETTINGS: _SETTINGS_BYTES,
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
        Kind.ROUND_CLOSED: {FrameSection.SETTINGS: _SETTINGS_BYTES},
    }


# One connection's messages as frames: numbered from 0 each way, and none twice.
#
# Knows no link: bytes go in and come out.


@final
class Wire:
    """Both directions of a connection, seen from one end; `limits` is what this end takes."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._sent = 0
        self._received = 0

    def outgoing(self, message: Message) -> bytes:
        """The next frame to send."""
        frame = encode_message(message, self._sent)
        self._sent += 1
        return frame

    def incoming(self, frame: bytes) -> Message:
        """The message of the next frame. Raises FrameError: no such frame, or not the next one."""
        message, sequence = decode_message(frame, self.limits)
        if sequence != self._received:
            raise FrameError(
                f"frame {sequence} where {self._received} is next: replayed or out of order"
            )
        self._received += 1
        return message


# What a device is told of a run before it has an identity: enough to see whether its data fit.


# it is of the terms, whose bound is its own
OUTLINE_BYTES = TERMS_BYTES


@checked(frozen=True)
class Outline:
    """The task, and the names of the classes; none for language modelling."""

    task: Task
    class_names: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """As JSON."""
        return _ADAPTER.dump_json(self)


_ADAPTER = TypeAdapter(Outline)


def read_outline(content: bytes) -> Outline:
    """What `to_bytes` gave. Raises IdentityError."""
    try:
        return _ADAPTER.validate_json(content)
    except ValidationError as error:
        raise IdentityError(
            "what the server says of its run cannot be read: run one cutlayer on both ends"
        ) from error
