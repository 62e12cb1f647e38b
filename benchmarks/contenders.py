"""Ours and the peers behind one face: a tensor sequence in, one row of figures out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from peers import Peer, message_bytes
from speed import Repeats, Times, least_times
from tensors import Stream

from cutlayer.codec.codec import EMPTY, Codec
from cutlayer.codec.measure import bits_per_element, fidelity
from cutlayer.codec.packet import read


@dataclass(frozen=True)
class Row:
    """What was measured of one contender on one stream.

    `bits`: per element, of the last tensor's message; `learned_bytes`: of mean and basis, in all
    messages of the stream, which are sent a few times in a whole training. `encode_s`, `decode_s`,
    `copy_s` (memcpy): processor time of one thread [s], which busy neighbours change least, or wall
    time where there are more threads; `*_wall_s` is always wall time. `encode_copies`,
    `decode_copies`: over the least memcpy of the stream by the same clock. `*_mb_s`: float32 input
    [MB/s]. `error` and `cosine` of the decoded tensor; `gradient_cosine` of the adapter's gradient.
    """

    name: str
    ours: bool
    threads: int
    stream: str
    bits: float
    learned_bytes: int
    ratio: float
    encode_s: float
    decode_s: float
    copy_s: float
    encode_wall_s: float
    decode_wall_s: float
    encode_copies: float
    decode_copies: float
    encode_mb_s: float
    decode_mb_s: float
    error: float
    cosine: float
    gradient_cosine: float | None


class Contender(ABC):
    """Something that sends tensors."""

    name: str
    ours: bool
    threads: int

    @abstractmethod
    def run(self, stream: Stream, repeats: Repeats) -> "Outcome":
        """Send the stream; time the last tensor."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """Bytes of the last message, and of what all of them taught; the last tensor decoded; times."""

    message_bytes: int
    learned_bytes: int
    decoded: np.ndarray
    times: Times


@final
@dataclass(frozen=True)
class Ours(Contender):
    """A preset of the package: the last tensor is sent with the state that those before it left."""

    name: str
    up: Codec
    down: Codec
    threads: int = 1
    ours: bool = True

    def run(self, stream: Stream, repeats: Repeats) -> Outcome:
        codec = self.up if stream.direction == "up" else self.down
        sender, receiver, learned = EMPTY, EMPTY, 0
        for tensor in stream.tensors[:-1]:
            encoded = codec.encode(tensor, sender, np.random.default_rng(0))
            decoded = codec.decode(encoded.packet, tensor.shape, receiver)
            sender, receiver = encoded.state, decoded.state
            learned += _learned_bytes(encoded.packet)
        last = stream.tensors[-1]
        encoded = codec.encode(last, sender, np.random.default_rng(1))
        decoded = codec.decode(encoded.packet, last.shape, receiver)
        # a state goes in and comes out unchanged: the same call can be repeated
        times = least_times(
            last,
            lambda: codec.encode(last, sender, np.random.default_rng(1)),
            lambda: codec.decode(encoded.packet, last.shape, receiver),
            repeats,
        )
        learned += _learned_bytes(encoded.packet)
        return Outcome(len(encoded.packet), learned, decoded.tensor, times)


@final
@dataclass(frozen=True)
class Theirs(Contender):
    """A peer: stateless, so the last tensor is all that counts."""

    peer: Peer
    threads: int = 1
    ours: bool = False

    @property
    def name(self) -> str:  # type: ignore[override]
        """The peer's."""
        return self.peer.name

    def run(self, stream: Stream, repeats: Repeats) -> Outcome:
        last = stream.tensors[-1]
        message = self.peer.encode(last)
        decoded = self.peer.decode(message, last.shape)
        times = least_times(
            last,
            lambda: self.peer.encode(last),
            lambda: self.peer.decode(message, last.shape),
            repeats,
        )
        return Outcome(message_bytes(message), 0, decoded, times)


def row_of(contender: Contender, stream: Stream, repeats: Repeats) -> Row:
    """All figures of `contender` on `stream`."""
    last = stream.tensors[-1]
    outcome = contender.run(stream, repeats)
    close = fidelity(last, outcome.decoded)
    seconds = outcome.times.processor if contender.threads == 1 else outcome.times.wall
    megabytes = last.nbytes / 1e6
    bits = bits_per_element(outcome.message_bytes, last.size)
    return Row(
        name=contender.name,
        ours=contender.ours,
        threads=contender.threads,
        stream=stream.name,
        bits=bits,
        learned_bytes=outcome.learned_bytes,
        ratio=32 / bits,
        encode_s=seconds.encode,
        decode_s=seconds.decode,
        copy_s=seconds.copy,
        encode_wall_s=outcome.times.wall.encode,
        decode_wall_s=outcome.times.wall.decode,
        encode_copies=seconds.encode / seconds.copy,
        decode_copies=seconds.decode / seconds.copy,
        encode_mb_s=megabytes / seconds.encode,
        decode_mb_s=megabytes / seconds.decode,
        error=close.error,
        cosine=close.cosine,
        gradient_cosine=stream.judge(outcome.decoded) if stream.judge else None,
    )


def with_one_yardstick(rows: Sequence[Row]) -> list[Row]:
    """The rows of a stream, their times over the least memcpy that any of them saw."""
    out = []
    for row in rows:
        copy_s = min(other.copy_s for other in rows if (other.threads > 1) == (row.threads > 1))
        encode, decode = row.encode_s / copy_s, row.decode_s / copy_s
        out.append(replace(row, copy_s=copy_s, encode_copies=encode, decode_copies=decode))
    return out


def _learned_bytes(packet: bytes) -> int:
    sections = read(packet).sections
    return len(sections.get("mean", b"")) + len(sections.get("basis", b""))
