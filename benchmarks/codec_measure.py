"""What the codec's benchmark measures: tensors, contenders behind one face, times, figures.

A sequence of tensors goes in and one row of figures comes out. Knows how to measure, not what is
printed.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import numpy as np
from codec_peers import Peer, message_bytes
from jaxtyping import Float32

from cutlayer.codec.codec import EMPTY, Codec
from cutlayer.codec.measure import bits_per_element, fidelity
from cutlayer.codec.packet import read_packet
from cutlayer.jobs.codec_bench import CutProbe, device_gradient, server_gradient

# a learned basis of the speed tensor's width is there after six packets
SENT = 8

Array = Float32[np.ndarray, "batch token width"]


@dataclass(frozen=True, eq=False)
class Stream:
    """Tensors of one direction in the order in which they are sent; the last one is measured.

    `judge` gives the gradient cosine of a decoded last tensor, None where no model is at hand.
    """

    name: str
    direction: str
    tensors: tuple[Array, ...]
    source: str
    judge: Callable[[Array], float] | None


def speed_stream(shape: tuple[int, int, int], path: Path | None) -> Stream:
    """One tensor of `shape`, sent again and again: a codec that learns has learned at the last."""
    if path is None:
        tensor, source = synthetic(shape), "synthetic, heavy-tailed rows and columns, seed 0"
    else:
        tensor, source = tiled(np.load(path, allow_pickle=False), shape), f"{path.name}, tiled"
    return Stream("speed", "up", (tensor,) * SENT, source, judge=None)


def synthetic(shape: tuple[int, int, int]) -> Array:
    """A tensor whose shares are like those of activations: a few large columns, uneven rows, and
    columns that move together (a decaying spectrum in a random basis)."""
    batch, token, width = shape
    rng = np.random.default_rng(0)
    spectrum = (1.0 + np.arange(width, dtype=np.float32)) ** np.float32(-0.35)
    basis, _ = np.linalg.qr(rng.standard_normal((width, width), dtype=np.float32))
    values = rng.laplace(size=(batch * token, width)).astype(np.float32) * spectrum
    values = values @ (basis.astype(np.float32))
    values *= np.exp(rng.normal(0.0, 0.35, width)).astype(np.float32)
    values *= np.exp(rng.normal(0.0, 0.25, (batch * token, 1))).astype(np.float32)
    values[:, rng.choice(width, 4, replace=False)] *= 8.0
    values += (values.std(0) * rng.normal(0.0, 0.5, width)).astype(np.float32)
    return values.reshape(shape)


def tiled(tensor: np.ndarray, shape: tuple[int, int, int]) -> Array:
    """Real rows repeated along columns and rows until `shape` is full.

    Columns keep their statistics; each copy starts at another row and has a factor of its own, so
    that no compressor finds a repetition.
    """
    rows = tensor.reshape(-1, tensor.shape[-1]).astype(np.float32)
    rng = np.random.default_rng(0)
    out = np.empty((shape[0] * shape[1], shape[2]), dtype=np.float32)
    for left in range(0, out.shape[1], rows.shape[1]):
        for top in range(0, len(out), len(rows)):
            part = out[top : top + len(rows), left : left + rows.shape[1]]
            copy = np.roll(rows, int(rng.integers(len(rows))), axis=0)
            copy *= np.float32(np.exp(rng.normal(0.0, 0.1)))
            part[:] = copy[: part.shape[0], : part.shape[1]]
    return out.reshape(shape)


def real_streams(probe: CutProbe, packet: int) -> tuple[Stream, ...]:
    """The activations that go up and the gradients that come down, judged by the adapters'
    gradients on the other side; and both in mini-batches of `packet` samples."""
    last = probe.crossings[-1]
    true_server = _flat(server_gradient(probe.parts, last, last.activation))
    true_device = _flat(device_gradient(probe.parts, last, last.gradient))

    def judge_up(decoded: Array) -> float:
        return fidelity(true_server, _flat(server_gradient(probe.parts, last, decoded))).cosine

    def judge_down(decoded: Array) -> float:
        return fidelity(true_device, _flat(device_gradient(probe.parts, last, decoded))).cosine

    up = tuple(crossing.activation for crossing in probe.crossings)
    down = tuple(crossing.gradient for crossing in probe.crossings)
    return (
        Stream("activation", "up", up, probe.source, judge_up),
        Stream("gradient", "down", down, probe.source, judge_down),
        Stream("packet up", "up", _first(up, packet), probe.source, None),
        Stream("packet down", "down", _first(down, packet), probe.source, None),
    )


def _first(tensors: Sequence[Array], samples: int) -> tuple[Array, ...]:
    return tuple(np.ascontiguousarray(tensor[:samples]) for tensor in tensors)


def _flat(gradient: object) -> Float32[np.ndarray, " parameter"]:
    return np.asarray(gradient, dtype=np.float32).reshape(-1)


@dataclass(frozen=True)
class Repeats:
    """How often a call is timed: `most` times, or until `budget_s` [s] is used up, at least
    twice."""

    most: int
    budget_s: float


@dataclass(frozen=True)
class Seconds:
    """The least of all repeats [s], of encode, decode and a memcpy in between."""

    encode: float
    decode: float
    copy: float


@dataclass(frozen=True)
class Times:
    """The same calls by two clocks: what the busiest thread computed, what a bystander waited."""

    processor: Seconds
    wall: Seconds


def least_times(
    tensor: np.ndarray,
    encode: Callable[[], object],
    decode: Callable[[], object],
    repeats: Repeats,
    threads: int = 1,
) -> Times:
    """Copy, encode, decode, again and again; the least of each.

    Other processes can only add time, so the minimum is the figure that repeats best.
    """
    target = np.empty_like(tensor)
    calls = (encode, decode, lambda: np.copyto(target, tensor))
    best = np.full((2, 3), np.inf)
    end = time.perf_counter() + repeats.budget_s
    for turn in range(repeats.most):
        if turn >= 2 and time.perf_counter() > end:
            break
        best = np.minimum(best, np.array([_timed(call, threads) for call in calls]).T)
    processor, wall = best.tolist()
    return Times(Seconds(*processor), Seconds(*wall))


def _timed(call: Callable[[], object], threads: int) -> tuple[float, float]:
    """Seconds of the busiest thread (this one, or its helpers' mean), and of the wall."""
    wall, own, whole = time.perf_counter(), time.thread_time(), time.process_time()
    call()
    own, whole = time.thread_time() - own, time.process_time() - whole
    helpers = (whole - own) / (threads - 1) if threads > 1 else 0.0
    return max(own, helpers), time.perf_counter() - wall


@dataclass(frozen=True)
class Row:
    """What was measured of one contender on one stream.

    `bits`: per element, of the last tensor's message; `learned_bytes`: of mean and basis, in all
    messages of the stream, which are sent a few times in a whole training. `encode_s`, `decode_s`,
    `copy_s` (memcpy): processor time of the busiest thread [s], which busy neighbours change least;
    `*_wall_s` is wall time. `encode_copies`,
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
            self.threads,
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
    seconds = outcome.times.processor
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
        copy_s = min(other.copy_s for other in rows)
        encode, decode = row.encode_s / copy_s, row.decode_s / copy_s
        out.append(replace(row, copy_s=copy_s, encode_copies=encode, decode_copies=decode))
    return out


def _learned_bytes(packet: bytes) -> int:
    sections = read_packet(packet).sections
    return len(sections.get("mean", b"")) + len(sections.get("basis", b""))
