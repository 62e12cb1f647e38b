"""How a change of an adapter row is coded: each of its tensors quantised alone, all of them
entropy-coded together.

A row is many small tensors (LoRA A and B of each layer, a head) whose changes differ in scale by
their layer and kind, so each has a step of its own. Tables and code have fixed costs that a small
tensor would not pay for, so tensors of one length share them: A is [rank, inputs], B [outputs,
rank], and both are rank vectors, each a row of symbols with a score of its own. Knows nothing of
rows' owners, of what they change from, and of what a packet lost.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
from jaxtyping import Float32, Int16

from cutlayer.codec.codec import Segments
from cutlayer.codec.dead_zone import DeadZone, robust_scale
from cutlayer.codec.entropy import signed_entropy
from cutlayer.codec.kernels.kernels import Kernels
from cutlayer.codec.kernels.native import load_kernels
from cutlayer.codec.packet import (
    Packet,
    packet_from_bytes,
    packet_to_bytes,
    read_varint,
    sections_from_bytes,
    sections_to_bytes,
    varint,
)
from cutlayer.codec.quantisers import Integer, Quantised, Quantiser, TargetBits, TokenRows
from cutlayer.codec.two_way import TwoWay
from cutlayer.codec.weights import SLICE_VALUES, Numbers, decode_slice, encode_weights
from cutlayer.errors import ConfigError, PacketError

_KIND, _ROW = "adapter", "row"
_FLOATS = Numbers(4, turned=True)
_ROUNDING = 0.35
# as many are taken as one tensor, to say what a value costs
_MANY = 1 << 20
_FLOAT_BITS = 32
# by the numbers that stages have in other packets
_QUANTISERS: dict[type[Quantiser], int] = {DeadZone: 2, Integer: 3}
_TWO_WAY = 3
# so that no sum overflows float32
_LARGEST = 2.0**96
# of the search for a step: as many values tell, and this is the range of ln(step / scale)
_SAMPLE = 1 << 16
_NARROWEST, _WIDEST, _CLOSE = math.log(1e-3), math.log(1e3), 0.02
_MOST_LEVELS = np.float32(4095.0)
# the shapes of a row's tensors, in their order
Shapes = Sequence[tuple[int, ...]]


@final
@dataclass(frozen=True)
class AdapterCodec:
    """Changes of rows to packets and back; a value, which no call changes.

    Both ends know the `shapes` of the row's tensors. A packet says all else, and the two ends need
    the same quantiser: int8 takes 7 bits a value and loses next to nothing, a dead zone as few as
    are asked for, what it loses being the sender's to send later.
    """

    name: str
    quantiser: Quantiser
    kernels: Kernels = field(default_factory=load_kernels, repr=False, compare=False)

    def encode(self, change: Float32[np.ndarray, " parameter"], shapes: Shapes) -> bytes:
        """The packet of `change`.

        Raises PacketError: not as many values as `shapes` have, or one that is not finite or of a
        magnitude that no training gives.
        """
        tensors = _tensors(shapes)
        Segments.full((1, 1, sum(one.values for one in tensors))).gather(
            self._sized(change, tensors), self.kernels, _LARGEST
        )
        vectors = [one.vectors(change[one.first : one.end]) for one in tensors]
        ratio = self._step_ratio(vectors)
        rng = np.random.default_rng(0)  # which no quantiser of these draws from
        coded = [
            self.quantiser.quantise(
                TokenRows(own, None, np.array([len(own)]), ratio), self.kernels, rng
            )
            for own in vectors
        ]
        code = b""
        for group in _groups(tensors):
            symbols = np.concatenate([coded[place].symbols for place in group])
            own_code = sections_to_bytes(TwoWay().encode(symbols, self.kernels))
            code += varint(len(own_code)) + own_code
        sections = {
            "stages": self._stages,
            "quantiser": b"".join(one.settings for one in coded),
            "code": code,
        }
        shape = change.shape
        return packet_to_bytes(Packet(_KIND, shape, Segments.full((1, 1, *shape)), sections))

    def decode(self, packet: bytes, shapes: Shapes) -> Float32[np.ndarray, " parameter"]:
        """The change in `packet`. Memory is proportional to the row, whatever the packet claims.

        Raises PacketError: no packet of this codec and these shapes, or of a value that is not
        finite or of a magnitude that no sender's has.
        """
        tensors = _tensors(shapes)
        change = np.zeros(sum(one.values for one in tensors), dtype=np.float32)
        frame = packet_from_bytes(packet, _KIND, change.shape)
        if set(frame.sections) != {"stages", "quantiser", "code"}:
            raise PacketError(f"sections {', '.join(frame.sections)}; expected those of a change")
        if frame.sections["stages"] != self._stages:
            raise PacketError(
                f"a change of stages {frame.sections['stages'].hex(' ')}, expected"
                f" {self._stages.hex(' ')}; set the same adapter_codec on both ends"
            )
        symbols = self._symbols(frame.sections["code"], tensors)
        settings, at = frame.sections["quantiser"], 0
        with np.errstate(over="ignore", invalid="ignore"):
            for place, one in enumerate(tensors):
                end = at + self.quantiser.settings_bytes(1, one.rows)
                quantised = Quantised(symbols[place], settings[at:end])
                values = self.quantiser.dequantise(quantised, np.array([one.rows]), self.kernels)
                change[one.first : one.end] = one.values_of(values)
                at = end
        if at != len(settings):
            raise PacketError(f"quantiser: {len(settings)} bytes of settings, expected {at}")
        largest = self.kernels.largest(change)
        if not largest < 2 * _LARGEST:
            raise PacketError(f"a change of magnitude {largest:.3g}, which no sender's has")
        return change

    @property
    def expected_ratio(self) -> float:
        """Bytes of a packet over those of float32, to plan with: of independent Laplace values,
        without what tables and settings take."""
        return signed_entropy(self.quantiser.expected_magnitudes(_MANY, _MANY)) / _FLOAT_BITS

    def _step_ratio(self, vectors: Sequence[Float32[np.ndarray, "_ _"]]) -> float:
        """The largest step, over each tensor's scale, at which values take the bits that are asked
        for. A fixed one would send nothing of a change whose values are of one magnitude, again and
        again, while what is lost grows; this one always sends the largest."""
        rule = self.quantiser.step_rule
        if not isinstance(rule, TargetBits):
            return rule.start
        changed = [own for own in vectors if own.any()]
        scales = [
            np.float32(robust_scale(own, self.kernels.largest(own), self.kernels))
            for own in changed
        ]
        over = [abs(own.reshape(-1)) / scale for own, scale in zip(changed, scales, strict=True)]
        sizes = np.concatenate(over) if over else np.zeros(0, dtype=np.float32)
        # what has not changed takes nothing, and the others its bits
        share = sizes.size / max(sum(own.size for own in vectors), 1)
        some = sizes[:: max(sizes.size // _SAMPLE, 1)]
        low, high = _NARROWEST, _WIDEST
        while high - low > _CLOSE:
            middle = (low + high) / 2
            if share * _entropy_bits(some, math.exp(middle)) >= rule.bits:
                low = middle
            else:
                high = middle
        return math.exp(low)

    def _symbols(
        self, code: bytes, tensors: Sequence["_Tensor"]
    ) -> dict[int, Int16[np.ndarray, "_ _"]]:
        """Those of each tensor, by its place."""
        found: dict[int, Int16[np.ndarray, "_ _"]] = {}
        at = 0
        for group in _groups(tensors):
            rows = [tensors[place].rows for place in group]
            size, at = read_varint(code, at)
            sections = sections_from_bytes(code[at : at + size])
            at += size
            columns = tensors[group[0]].columns
            symbols = TwoWay().decode(sections, sum(rows), columns, self.kernels)
            found.update(zip(group, np.split(symbols, np.cumsum(rows)[:-1]), strict=True))
        if at != len(code):
            raise PacketError(f"code: {len(code)} bytes, expected {at}")
        return found

    @property
    def _stages(self) -> bytes:
        # as of other packets: neither centred, transformed nor sparsified
        return bytes((0, 0, 0, _QUANTISERS[type(self.quantiser)], _TWO_WAY))

    @staticmethod
    def _sized(
        change: Float32[np.ndarray, " parameter"], tensors: Sequence["_Tensor"]
    ) -> Float32[np.ndarray, "1 1 parameter"]:
        expected = sum(one.values for one in tensors)
        if change.shape != (expected,):
            raise PacketError(f"a row of shape {change.shape}, expected {expected} values")
        return change.reshape(1, 1, -1)


def encode_row(row: Float32[np.ndarray, " parameter"], shapes: Shapes, kernels: Kernels) -> bytes:
    """The packet of a whole row, to the bit: tensors of zeros, as each B is before training, are
    named, and the others' byte planes are coded as weights are.

    Raises PacketError: a value that is not finite.
    """
    if not math.isfinite(kernels.largest(row)):
        raise PacketError("an adapter that is NaN or infinite")
    tensors = _tensors(shapes)
    # of -0.0 the bits are not
    zeros = [not row[one.first : one.end].view(np.uint32).any() for one in tensors]
    some = [row[one.first : one.end] for one, zero in zip(tensors, zeros, strict=True) if not zero]
    values = memoryview(b"".join(own.astype("<f4", copy=False).tobytes() for own in some))
    code = b"".join(encode_weights(values, _FLOATS, kernels))
    sections = {"zeros": np.packbits(zeros).tobytes(), "code": code}
    return packet_to_bytes(Packet(_ROW, row.shape, Segments.full((1, 1, *row.shape)), sections))


def decode_row(
    packet: bytes, shapes: Shapes, kernels: Kernels
) -> Float32[np.ndarray, " parameter"]:
    """The row of `encode_row`. Memory is proportional to the row, whatever the packet claims.

    Raises PacketError: no such packet of these shapes, or of a value that is not finite.
    """
    tensors = _tensors(shapes)
    row = np.zeros(sum(one.values for one in tensors), dtype=np.float32)
    frame = packet_from_bytes(packet, _ROW, row.shape)
    if set(frame.sections) != {"zeros", "code"}:
        raise PacketError(f"sections {', '.join(frame.sections)}; expected those of a row")
    told, code = frame.sections["zeros"], memoryview(frame.sections["code"])
    if len(told) != -(-len(tensors) // 8):
        raise PacketError(f"zeros: {len(told)} bytes for {len(tensors)} tensors")
    zeros = np.unpackbits(np.frombuffer(told, np.uint8), count=len(tensors))
    some = [one for one, zero in zip(tensors, zeros, strict=True) if not zero]
    left, parts = sum(one.values for one in some), []
    while left:
        count = min(left, SLICE_VALUES)
        part, read = decode_slice(code, count, _FLOATS, kernels)
        parts.append(part)
        left, code = left - count, code[read:]
    if len(code):
        raise PacketError(f"code: {len(code)} bytes too many")
    values, at = np.frombuffer(b"".join(parts), dtype="<f4"), 0
    for one in some:
        row[one.first : one.end] = values[at : at + one.values]
        at += one.values
    if not math.isfinite(kernels.largest(row)):
        raise PacketError("an adapter that is NaN or infinite, which no encoder sends")
    return row


@dataclass(frozen=True)
class AdapterCodecs:
    """What changes go through up and down, with the same quantiser. What comes up is a mean over
    devices, which lose different things; what comes down is heard by all at once, and lost to
    all."""

    up: AdapterCodec
    down: AdapterCodec

    @property
    def kernels(self) -> Kernels:
        """Of both."""
        return self.up.kernels

    @property
    def expected_ratio(self) -> tuple[float, float]:
        """Up and down, as of one way."""
        return self.up.expected_ratio, self.down.expected_ratio


def int8() -> AdapterCodec:
    """Eight bits to each vector's largest value."""
    return AdapterCodec("int8", Integer(8))


def best(target_bits: float) -> AdapterCodec:
    """A dead zone whose step, in proportion to each tensor's own scale, is such that values take
    `target_bits` each, of which contexts save some.

    Raises ConfigError: bits not within 0.05..8.
    """
    if not 0.05 <= target_bits <= 8.0:
        raise ConfigError(f"target_bits {target_bits}: give bits per value from 0.05 to 8")
    return AdapterCodec("best", DeadZone(TargetBits(target_bits), _ROUNDING))


@dataclass(frozen=True)
class _Tensor:
    """A tensor in a row, from its value `first` on, as `rows` vectors of its longer side."""

    first: int
    rows: int
    columns: int
    turned: bool

    @property
    def values(self) -> int:
        return self.rows * self.columns

    @property
    def end(self) -> int:
        return self.first + self.values

    def vectors(self, values: Float32[np.ndarray, " value"]) -> Float32[np.ndarray, "row column"]:
        if not self.turned:
            return values.reshape(self.rows, self.columns)
        return np.ascontiguousarray(values.reshape(self.columns, self.rows).T)

    def values_of(
        self, vectors: Float32[np.ndarray, "row column"]
    ) -> Float32[np.ndarray, " value"]:
        return (vectors.T if self.turned else vectors).reshape(-1)


def _entropy_bits(sizes: Float32[np.ndarray, " value"], ratio: float) -> float:
    """Of a value of these magnitudes, over its tensor's scale, at a step of that ratio."""
    if not sizes.size:
        return 0.0
    levels = np.minimum(sizes / np.float32(ratio), _MOST_LEVELS) + np.float32(_ROUNDING)
    return signed_entropy(np.bincount(levels.astype(np.int64)) / sizes.size)


def _tensors(shapes: Shapes) -> list[_Tensor]:
    found, first = [], 0
    for shape in shapes:
        # a bias is one vector; a kernel's places belong to its inputs
        outer = shape[0] if len(shape) > 1 else 1
        inner = math.prod(shape) // outer
        turned = outer > inner
        found.append(_Tensor(first, min(outer, inner), max(outer, inner), turned))
        first = found[-1].end
    return found


def _groups(tensors: Sequence[_Tensor]) -> Iterator[list[int]]:
    """The places of tensors whose vectors are of one length, by their first."""
    lengths: dict[int, list[int]] = {}
    for place, one in enumerate(tensors):
        lengths.setdefault(one.columns, []).append(place)
    return iter(lengths.values())
