"""A codec that remembers tokens: each row is coded as its difference to one that was sent before.

Wraps any codec. Tokens of a language come again, in other contexts and in later epochs, and at the
cut their activations resemble those of before. Knows nothing of stages, nor what a token is.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float32, Int64

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
from cutlayer.codec.entropy import pack_integers, unpack_integers
from cutlayer.codec.packet import Packet, packet_bytes, packet_from_bytes, packet_to_bytes
from cutlayer.errors import ConfigError, PacketError

MOST_ROWS = 65536
# how much of a remembered row is taken away: none, or so many of MOST_GAIN parts
GAIN_BITS = 3
MOST_GAIN = (1 << GAIN_BITS) - 1
# a reference that takes less of a row's energy away costs more bits than it saves
LEAST_TAKEN = 0.1
# rows that are compared at once: their products with all remembered ones are in memory
ROWS_AT_ONCE = 256


@final
@dataclass(frozen=True)
class References(Codec):
    """Codes how each row differs from the part of a remembered row that it is nearest to.

    Both ends remember the last `rows` rows as they were decoded, in float32. The sender looks for
    the row d and the gain g in 0, 1/7 .. 1 that leave least of its own row x, all about the mean of
    what is remembered, and x - g d goes through the wrapped codec, of which the mean stays a part.
    A reference takes 3 bits for the gain and log2 of the rows remembered. It is found by comparing
    each row with every remembered one: rows x rows remembered x width products a packet.

    Raises ConfigError: rows not within 1..65536.
    """

    inner: Codec
    rows: int
    name: ClassVar[str] = "references"

    def __post_init__(self) -> None:
        if not 1 <= self.rows <= MOST_ROWS:
            raise ConfigError(f"references to {self.rows} rows: give 1 to {MOST_ROWS}")

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
        memory = Memory.of(state, segments.width)
        rows = tensor.reshape(segments.shape)[segments.token_mask]
        chosen = memory.chosen(rows)
        base = memory.base(chosen)
        with np.errstate(invalid="ignore", over="ignore"):
            difference = _scattered(rows - base, segments).reshape(tensor.shape)
        encoded = self.inner.encode(
            difference, part_of(state, "inner."), rng, lengths=lengths, samples=samples
        )
        # the receiver's own arithmetic, so that both remember the same
        decoded = self.inner.decode(encoded.packet, tensor.shape, part_of(state, "mirror."))
        came = base + decoded.tensor.reshape(segments.shape)[segments.token_mask]
        after = {
            **under("inner.", encoded.state),
            **under("mirror.", decoded.state),
            **memory.after(came, encoded.packet, self.rows).to_state(),
        }
        sections = {"known": memory.name_bytes, "inner": encoded.packet}
        if chosen.gains.any():
            sections["references"] = memory.to_bytes(chosen)
        whole = Segments.full(segments.shape)
        return Encoded(packet_to_bytes(Packet(self.name, tensor.shape, whole, sections)), after)

    def decode(self, packet: bytes, shape: tuple[int, ...], state: CodecState) -> Decoded:
        frame = packet_from_bytes(packet, self.name, shape)
        sections = frame.sections
        if not {"known", "inner"} <= set(sections) <= {"known", "inner", "references"}:
            raise PacketError(f"sections {', '.join(sections)}; expected those of references")
        memory = Memory.of(state, frame.segments.width)
        if sections["known"] != memory.name_bytes:
            raise PacketError(
                "references to rows that the receiver does not remember; a packet was lost: start "
                "the stream again"
            )
        decoded = self.inner.decode(sections["inner"], shape, part_of(state, "inner."))
        segments = Segments.of(frame.segments.shape, decoded.lengths)
        chosen = memory.from_bytes(sections.get("references"), segments.rows)
        tensor = decoded.tensor.reshape(segments.shape)
        with np.errstate(over="ignore"):
            came = memory.base(chosen) + tensor[segments.token_mask]
        if not np.isfinite(came).all():
            raise PacketError("values: they overflow float32, which no encoder's do")
        after = {
            **under("inner.", decoded.state),
            **memory.after(came, sections["inner"], self.rows).to_state(),
        }
        return Decoded(_scattered(came, segments).reshape(shape), decoded.lengths, after)

    def expected_bytes(self, shape: tuple[int, int, int]) -> float:
        batch, token, _ = shape
        bits = GAIN_BITS + (self.rows - 1).bit_length()
        sizes = (4, self.inner.expected_bytes(shape), batch * token * bits / 8)
        return packet_bytes(shape, Segments.full(shape), sizes)

    def remembered_bytes(self, width: int) -> tuple[int, int]:
        sender, receiver = self.inner.remembered_bytes(width)
        rows = 4 * self.rows * width
        return sender + receiver + rows, receiver + rows


def _scattered(
    rows: Float32[np.ndarray, "row width"], segments: Segments
) -> Float32[np.ndarray, "batch token width"]:
    tensor = np.zeros(segments.shape, dtype=np.float32)
    tensor[segments.token_mask] = rows
    return tensor


@dataclass(frozen=True, eq=False)
class Chosen:
    """Of each row, the remembered row that it refers to, and the gain in sevenths; 0: to none."""

    places: Int64[np.ndarray, " row"]
    gains: Int64[np.ndarray, " row"]


@dataclass(frozen=True, eq=False)
class Memory:
    """The rows that both ends remember, oldest first, and a number that names all that was sent."""

    rows: Float32[np.ndarray, "remembered width"]
    name: int

    @staticmethod
    def of(state: CodecState, width: int) -> "Memory":
        """What `state` holds. Raises PacketError: rows of another width."""
        if "rows" not in state:
            return Memory(np.zeros((0, width), dtype=np.float32), 0)
        rows = np.asarray(state["rows"])
        if rows.shape[1] != width:
            raise PacketError(f"remembered rows of {rows.shape[1]} columns for {width}")
        return Memory(rows, int(state["name"]))

    def to_state(self) -> CodecState:
        """As arrays by name."""
        return {"rows": self.rows, "name": np.array(self.name)}

    def after(self, came: Float32[np.ndarray, "row width"], packet: bytes, most: int) -> "Memory":
        """With the rows of one more packet, and no more than `most`."""
        kept = np.concatenate((self.rows, came.astype(np.float32, copy=False)))[-most:]
        # a copy: a view would hold on to what is forgotten
        return Memory(kept.copy(), zlib.crc32(packet, self.name))

    @property
    def name_bytes(self) -> bytes:
        """What a packet says of the memory that it was coded with."""
        return self.name.to_bytes(4, "little")

    @property
    def _index_bits(self) -> int:
        return max(len(self.rows) - 1, 0).bit_length()

    def _mean(self) -> Float32[np.ndarray, " width"]:
        mean: Float32[np.ndarray, " width"] = self.rows.mean(0, dtype=np.float64).astype(np.float32)
        return mean

    def chosen(self, rows: Float32[np.ndarray, "row width"]) -> Chosen:
        """The best reference of each row."""
        places, gains = np.zeros((2, len(rows)), dtype=np.int64)
        if not len(self.rows):
            return Chosen(places, gains)
        mean = self._mean()
        # rows that are not finite, or whose squares are not, refer to none
        with np.errstate(all="ignore"):
            known = self.rows - mean
            energies = (known * known).sum(1)
            inverse = np.where(energies > 0, 1 / energies, np.float32(0))
            for first in range(0, len(rows), ROWS_AT_ONCE):
                some = slice(first, first + ROWS_AT_ONCE)
                own = rows[some] - mean
                products = own @ known.T
                gain = np.clip(products * inverse, 0, 1)
                # what is taken away of |own|^2
                taken = gain * (2 * products - gain * energies)
                best = taken.argmax(1)
                each = np.arange(len(own))
                worth = taken[each, best] > LEAST_TAKEN * (own * own).sum(1)
                places[some] = np.where(worth, best, 0)
                nearest = np.rint(MOST_GAIN * np.where(worth, gain[each, best], 0))
                gains[some] = nearest.astype(np.int64)
        return Chosen(np.where(gains > 0, places, 0), gains)

    def base(self, chosen: Chosen) -> Float32[np.ndarray, "row width"]:
        """What is taken away of each row."""
        if not chosen.gains.any():
            return np.zeros((len(chosen.gains), self.rows.shape[1]), dtype=np.float32)
        parts = (chosen.gains / MOST_GAIN).astype(np.float32)[:, None]
        taken: Float32[np.ndarray, "row width"] = parts * (self.rows[chosen.places] - self._mean())
        return taken

    def to_bytes(self, chosen: Chosen) -> bytes:
        """The gains, then the places of the rows that refer to one."""
        places = chosen.places[chosen.gains > 0]
        return pack_integers(chosen.gains, GAIN_BITS) + pack_integers(places, self._index_bits)

    def from_bytes(self, section: bytes | None, rows: int) -> Chosen:
        """`to_bytes` undone; without a section no row refers to one. Raises PacketError: no such
        bytes, or a row that is not remembered."""
        places, gains = np.zeros((2, rows), dtype=np.int64)
        if section is None:
            return Chosen(places, gains)
        if not len(self.rows):
            raise PacketError("references, but no row is remembered")
        head = (rows * GAIN_BITS + 7) // 8
        gains = unpack_integers(section[:head], rows, GAIN_BITS, "gains")
        referring = np.flatnonzero(gains)
        bits = self._index_bits
        places[referring] = unpack_integers(section[head:], referring.size, bits, "references")
        if int(places.max(initial=0)) >= len(self.rows):
            raise PacketError(f"a reference to row {places.max()} of {len(self.rows)}")
        return Chosen(places, gains)
