"""Codecs that remember what they sent of each sample: deltas and error feedback.

Both wrap any codec. Samples are known by their numbers. Knows nothing of stages.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float32

from cutlayer.codec.codec import (
    Codec,
    CodecState,
    Decoded,
    Encoded,
    Segments,
    part_of,
    segments_of,
    under,
)
from cutlayer.codec.packet import (
    Packet,
    packet_bytes,
    packet_from_bytes,
    packet_to_bytes,
    read_varint,
    varint,
)
from cutlayer.errors import PacketError


@final
@dataclass(frozen=True)
class Delta(Codec):
    """Codes how a sample differs from what the receiver last decoded of it.

    Both ends remember each sample's last decoded tensor, in float32; in later epochs, when adapters
    move little, the difference is small. A packet is a frame around the wrapped codec's, with the
    samples' numbers, since the receiver must know whose memory to add.

    Source: J. Wang et al., "Fine-tuning language models over slow networks using activation
    quantization with guarantees" (AQ-SGD), arXiv:2206.01299.
    """

    inner: Codec
    name: ClassVar[str] = "delta"

    def encode(
        self,
        tensor: Float32[np.ndarray, "..."],
        state: CodecState,
        rng: np.random.Generator,
        *,
        lengths: Sequence[int] | None = None,
        samples: Sequence[int] | None = None,
    ) -> Encoded:
        segments = segments_of(tensor, lengths)
        numbers = check_samples(samples, tensor, "delta coding")
        known = part_of(state, "sample.")
        base = _base(known, numbers, segments)
        difference = segments.zero_padding(tensor) - base
        encoded = self.inner.encode(difference, part_of(state, "inner."), rng, lengths=lengths)
        sections = {
            "samples": b"".join(varint(int(number)) for number in numbers),
            "known": _flags(known, numbers),
            "inner": encoded.packet,
        }
        # the receiver's own arithmetic, so that both remember the same
        decoded = self.inner.decode(encoded.packet, tensor.shape, part_of(state, "mirror."))
        after = {
            **under("inner.", encoded.state),
            **under("mirror.", decoded.state),
            **under("sample.", _remembered(known, numbers, base + decoded.tensor, segments)),
        }
        whole = Segments.full(segments.shape)
        return Encoded(packet_to_bytes(Packet(self.name, tensor.shape, whole, sections)), after)

    def decode(self, packet: bytes, shape: tuple[int, ...], state: CodecState) -> Decoded:
        frame = packet_from_bytes(packet, self.name, shape)
        if set(frame.sections) != {"samples", "known", "inner"}:
            raise PacketError(f"sections {', '.join(frame.sections)}; expected those of a delta")
        decoded = self.inner.decode(frame.sections["inner"], shape, part_of(state, "inner."))
        segments = Segments.of(frame.segments.shape, decoded.lengths)
        numbers = _numbers(frame.sections["samples"], shape[0])
        known = part_of(state, "sample.")
        if frame.sections["known"] != _flags(known, numbers):
            raise PacketError(
                "a delta from samples that the receiver does not remember alike; a packet was "
                "lost: start the stream again"
            )
        tensor = _base(known, numbers, segments) + decoded.tensor
        after = {
            **under("inner.", decoded.state),
            **under("sample.", _remembered(known, numbers, tensor, segments)),
        }
        return Decoded(tensor, decoded.lengths, after)

    def expected_bytes(self, shape: tuple[int, int, int]) -> float:
        inner = self.inner.expected_bytes(shape)
        # numbers below 2^14 take two bytes
        sizes = (2 * shape[0], (shape[0] + 7) // 8, inner)
        return packet_bytes(shape, Segments.full(shape), sizes)

    def remembered_bytes(self, width: int) -> tuple[int, int]:
        return _with_mirror(self.inner, width)


def _base(
    known: CodecState, numbers: list[str], segments: Segments
) -> Float32[np.ndarray, "batch token width"]:
    """What the receiver has of each sample; zero where it has nothing.

    Raises PacketError: a sample that comes back with another number of tokens.
    """
    base = np.zeros(segments.shape, dtype=np.float32)
    for place, (number, length) in enumerate(zip(numbers, segments.lengths, strict=True)):
        if number in known:
            if known[number].shape != (length, segments.width):
                raise PacketError(
                    f"sample {number} came with {known[number].shape} values before, now with "
                    f"({length}, {segments.width}); give different samples different numbers"
                )
            base[place, :length] = known[number]
    return base


def _remembered(
    known: CodecState,
    numbers: list[str],
    tensor: Float32[np.ndarray, "batch token width"],
    segments: Segments,
) -> CodecState:
    fresh = {
        number: tensor[place, : segments.lengths[place]].copy()
        for place, number in enumerate(numbers)
    }
    return {**known, **fresh}


def _flags(known: CodecState, numbers: list[str]) -> bytes:
    """One bit a sample: whether the sender has it."""
    flags = np.array([number in known for number in numbers], dtype=np.bool_)
    return np.packbits(flags, bitorder="little").tobytes()


def _numbers(data: bytes, batch: int) -> list[str]:
    numbers, at = [], 0
    while at < len(data):
        number, at = read_varint(data, at)
        numbers.append(str(number))
    if len(numbers) != batch or len(set(numbers)) != batch:
        raise PacketError(f"samples: {len(numbers)} numbers, expected {batch} different ones")
    return numbers


@final
@dataclass(frozen=True)
class ErrorFeedback(Codec):
    """Adds what a packet lost of a sample to the sample's next visit; packets are the wrapped
    codec's own.

    Remembers on the sender, for each sample, what its last packet lost, in float32: memory grows by
    a sample's tensor for each sample seen.

    Source: S. U. Stich, J.-B. Cordonnier, M. Jaggi, "Sparsified SGD with memory", arXiv:1809.07599.
    """

    inner: Codec

    # not a class variable: a receiver cannot tell it from the wrapped codec
    @property
    def name(self) -> str:  # type: ignore[override]
        """The wrapped codec's."""
        return self.inner.name

    def encode(
        self,
        tensor: Float32[np.ndarray, "..."],
        state: CodecState,
        rng: np.random.Generator,
        *,
        lengths: Sequence[int] | None = None,
        samples: Sequence[int] | None = None,
    ) -> Encoded:
        segments = segments_of(tensor, lengths)
        numbers = check_samples(samples, tensor, "error feedback")
        owed = dict(part_of(state, "lost."))
        wanted = segments.zero_padding(tensor)
        for place, (number, length) in enumerate(zip(numbers, segments.lengths, strict=True)):
            lost = owed.get(number)
            if lost is not None and lost.shape == (length, segments.width):
                wanted[place, :length] += lost
        encoded = self.inner.encode(wanted, part_of(state, "inner."), rng, lengths=lengths)
        mirror = part_of(state, "mirror.")
        decoded = self.inner.decode(encoded.packet, wanted.shape, mirror)
        rest = wanted - decoded.tensor
        for place, (number, length) in enumerate(zip(numbers, segments.lengths, strict=True)):
            owed[number] = rest[place, :length].copy()
        after = {
            **under("inner.", encoded.state),
            **under("mirror.", decoded.state),
            **under("lost.", owed),
        }
        return Encoded(encoded.packet, after)

    def decode(self, packet: bytes, shape: tuple[int, ...], state: CodecState) -> Decoded:
        return self.inner.decode(packet, shape, state)

    def expected_bytes(self, shape: tuple[int, int, int]) -> float:
        return self.inner.expected_bytes(shape)

    def remembered_bytes(self, width: int) -> tuple[int, int]:
        return _with_mirror(self.inner, width)


def _with_mirror(inner: Codec, width: int) -> tuple[int, int]:
    """A sender that remembers what its receiver does too."""
    sender, receiver = inner.remembered_bytes(width)
    return sender + receiver, receiver


def check_samples(
    samples: Sequence[int] | None, tensor: Float32[np.ndarray, "..."], who: str
) -> list[str]:
    """The samples' numbers as names in a state.

    Raises PacketError: none given, not [batch, token, width], not one for each sample, repeated, or
    outside 0..2^32-1.
    """
    if samples is None or tensor.ndim != 3:
        raise PacketError(
            f"{who} remembers samples: give a tensor [batch, token, width] and the samples' numbers"
        )
    numbers = [int(sample) for sample in samples]
    if len(numbers) != len(tensor) or len(set(numbers)) != len(numbers):
        raise PacketError(f"{who}: {len(numbers)} sample numbers, expected {len(tensor)} different")
    for number in numbers:
        if not 0 <= number < 2**32:
            raise PacketError(f"{who}: sample number {number} is not within 0..{2**32 - 1}")
    return [str(number) for number in numbers]
