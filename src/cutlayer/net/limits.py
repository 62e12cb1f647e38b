"""How long the frames of a run may be: what each end takes of the other, and nothing else.

Knows the run's shapes; what is in a section is its reader's business.
"""

from dataclasses import dataclass

from cutlayer.net.frames import Kind, Limits, Section
from cutlayer.net.messages import PIECE_BYTES, SAMPLE
from cutlayer.net.times import times_bytes
from cutlayer.spec import MiniBatch

_SETTINGS_BYTES = 64 * 1024
# terms have the names of all classes in them
TERMS_BYTES = 1024 * 1024
# header, table and small sections of a codec's packet
_PACKET_BYTES = 4096
_FLOAT_BYTES = 4
_LABEL_BYTES = 8


@dataclass(frozen=True)
class Bounds:
    """The longest payloads of a run [bytes]; `samples`: of a micro-batch; `steps`: micro-batches of
    a device's round."""

    activation_bytes: int
    labels_bytes: int
    gradient_bytes: int
    adapter_bytes: int
    samples: int
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
        steps=steps,
    )


def server_limits(bounds: Bounds) -> Limits:
    """What a server takes from a device."""
    return {
        Kind.ASK: {},
        Kind.FETCH: {Section.SETTINGS: _SETTINGS_BYTES},
        Kind.HELLO: {},
        Kind.ACTIVATION: {
            Section.SETTINGS: _SETTINGS_BYTES,
            Section.ACTIVATION: bounds.activation_bytes,
            Section.LABELS: bounds.labels_bytes,
            Section.SAMPLES: bounds.samples * SAMPLE.itemsize,
        },
        Kind.ADAPTER: {
            Section.SETTINGS: _SETTINGS_BYTES,
            Section.ADAPTER_UP: bounds.adapter_bytes,
            Section.TIMES: times_bytes(bounds.steps),
        },
        Kind.PROBE: {},
    }


def device_limits(bounds: Bounds | None) -> Limits:
    """What a device takes from a server; None: before it knows the terms."""
    greeting: Limits = {
        Kind.WELCOME: {Section.SETTINGS: TERMS_BYTES},
        Kind.PIECE: {Section.SETTINGS: _SETTINGS_BYTES, Section.PIECE: PIECE_BYTES},
        Kind.REFUSED: {},
        Kind.CLOSE: {Section.SETTINGS: _SETTINGS_BYTES},
    }
    if bounds is None:
        return greeting
    return {
        **greeting,
        Kind.OPEN: {
            Section.SETTINGS: _SETTINGS_BYTES,
            Section.ADAPTER_DOWN: bounds.adapter_bytes,
        },
        Kind.GRADIENT: {Section.GRADIENT: bounds.gradient_bytes},
        Kind.ECHO: {},
    }


def journal_limits(bounds: Bounds) -> Limits:
    """What a server reads from its own journal."""
    return {
        **server_limits(bounds),
        Kind.RESTARTED: {},
        Kind.ROUND_CLOSED: {Section.SETTINGS: _SETTINGS_BYTES},
    }
