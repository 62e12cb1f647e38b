"""A codec put together from stages: centre, transform, sparsify, quantise, entropy-code.

Knows what a packet says of its stages, and when a stream learns a mean or a basis and ships it;
what the stages do is in files of their own.
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float32, Int16

from cutlayer.codec.codec import Codec, CodecState, Decoded, Encoded, Segments, segments_of
from cutlayer.codec.dead_zone import DeadZone
from cutlayer.codec.entropy import EntropyCoder, FixedWidth, Golomb
from cutlayer.codec.kernels.kernels import Array, Kernels, dot
from cutlayer.codec.kernels.native import load_kernels
from cutlayer.codec.packet import (
    Packet,
    packet_bytes,
    packet_from_bytes,
    packet_to_bytes,
    read_varint,
    sections_from_bytes,
    sections_to_bytes,
    varint,
)
from cutlayer.codec.pipeline import (
    Coded,
    Hadamard,
    Learned,
    LearnedBasis,
    Stages,
    Statistics,
    TopK,
    Transformed,
    drawn,
    kept_counts,
)
from cutlayer.codec.quantisers import (
    ATTEMPTS,
    CLOSE_ENOUGH,
    FIXED_STEP,
    GAIN,
    SEARCH_GAIN,
    Float8,
    Integer,
    Outcome,
    Quantised,
    Quantiser,
    StochasticLevels,
    next_ratio,
)
from cutlayer.codec.two_way import TwoWay
from cutlayer.errors import PacketError

TRANSFORMS: dict[type | None, int] = {None: 0, Hadamard: 1, LearnedBasis: 2}
SCOPES = {None: 0, "sample": 1, "token": 2, "batch": 3}
QUANTISERS: dict[type[Quantiser], int] = {StochasticLevels: 1, DeadZone: 2, Integer: 3, Float8: 4}
ENTROPY_CODERS: dict[type[EntropyCoder], int] = {FixedWidth: 1, Golomb: 2, TwoWay: 3}
# so that no sum over a row overflows float32
LARGEST_MAGNITUDE = 2.0**96
# a trial: whole samples up to about so many rows tell enough
ENOUGH_ROWS = 1024
# a column whose values are of a step's rounding, step^2 / 12, has about so many that are not zero
LEAST_USED = 0.05
WIDEST_MOVE = math.log(32.0)
HALVINGS = 9
OWN_SECTIONS = ("stages", "mean", "basis", "basis id", "quantiser")


@final
@dataclass(frozen=True)
class StagedCodec(Codec):
    """Centre, transform, sparsify, quantise, entropy-code, in this order.

    `centre` subtracts a mean per column, learned and shipped. Never ask for it on gradients: where
    a token's own gradient quantises to zero the receiver would read the mean of others, a constant
    bias. `transform` and `sparsify` are left out where None.
    """

    quantiser: Quantiser
    entropy: EntropyCoder
    centre: bool = False
    transform: Hadamard | LearnedBasis | None = None
    sparsify: TopK | None = None
    kernels: Kernels = field(default_factory=load_kernels, repr=False, compare=False)
    name: ClassVar[str] = "staged"

    def encode(
        self,
        tensor: Float32[Array, "..."],
        state: CodecState,
        rng: np.random.Generator,
        *,
        lengths: Sequence[int] | None = None,
        samples: Sequence[int] | None = None,
    ) -> Encoded:
        segments = segments_of(tensor, lengths)
        values = segments.gather(tensor.reshape(segments.shape), self.kernels, LARGEST_MAGNITUDE)
        shipped, learned, counted = self._learn(values, segments, state, rng)
        sections = {"stages": self._stages(), **shipped}
        if learned.identity:
            sections["basis id"] = learned.identity.to_bytes(4, "little")
        known = None if shipped or "ratio" not in state else float(state["ratio"])
        coded, ratio = self._code(values, segments, self._pipeline(learned), known, rng)
        after = {**learned.to_state(), **counted()}
        packet = packet_to_bytes(
            Packet(self.name, tensor.shape, segments, {**sections, **coded.sections})
        )
        return Encoded(packet, {**after, "ratio": np.array(ratio)})

    def decode(self, packet: bytes, shape: tuple[int, ...], state: CodecState) -> Decoded:
        frame = packet_from_bytes(packet, self.name, shape)
        sections, segments = frame.sections, frame.segments
        self._check_stages(sections.get("stages"))
        learned = self._receive(sections, segments.width, state)
        columns = segments.width if learned.basis is None else learned.basis.shape[1]
        coded = {name: data for name, data in sections.items() if name not in OWN_SECTIONS}
        symbols = self.entropy.decode(coded, segments.rows, columns, self.kernels)
        quantised = Quantised(self.kernels.arrays.of(symbols), sections.get("quantiser", b""))
        with np.errstate(over="ignore", invalid="ignore"):
            values = self._pipeline(learned).restore(quantised, segments)
        if not math.isfinite(self.kernels.largest(values)):
            raise PacketError("values: they overflow float32, which no encoder's do")
        tensor = segments.scatter(values, self.kernels.arrays).reshape(shape)
        return Decoded(tensor, segments.lengths, learned.to_state())

    def expected_bytes(self, shape: tuple[int, int, int]) -> float:
        batch, token, width = shape
        values = token * width
        kept = values
        if self.sparsify is not None:
            kept = int(kept_counts(np.array([values]), self.sparsify.keep_ratio)[0])
        magnitudes = self.quantiser.expected_magnitudes(kept, values)
        coded = self.entropy.expected_bytes(magnitudes, batch * token, width)
        sizes = (
            len(self._stages()),
            self.quantiser.settings_bytes(batch, batch * token),
            *coded.values(),
        )
        return packet_bytes(shape, Segments.full(shape), sizes)

    def remembered_bytes(self, width: int) -> tuple[int, int]:
        mean = 4 * width if self.centre else 0
        how = self.transform if isinstance(self.transform, LearnedBasis) else None
        # in float64
        sums = 8 * width if self.centre or how else 0
        if how is None or not how.comes(width):
            return mean + sums, mean
        basis = 4 * width * how.columns(width)
        return mean + basis + sums + 8 * width**2, mean + basis

    def _pipeline(self, learned: Learned) -> Stages:
        hadamard = self.transform if isinstance(self.transform, Hadamard) else None
        return Stages(self.quantiser, self.entropy, hadamard, self.sparsify, learned, self.kernels)

    def _code(
        self,
        values: Float32[Array, "row width"],
        segments: Segments,
        pipeline: Stages,
        ratio: float | None,
        rng: np.random.Generator,
    ) -> tuple[Coded, float]:
        """The coded values and the step's ratio for the next packet; without one, look for it."""
        rule = self.quantiser.step_rule
        searching = ratio is None
        ratio = rule.start if ratio is None else ratio
        transformed = pipeline.transform(values, segments)
        for _ in range(ATTEMPTS):
            quantised = pipeline.quantise(transformed, ratio, rng)
            coded = pipeline.code(quantised)
            cosine = partial(pipeline.cosine, values, quantised, segments)
            excess = rule.excess(Outcome(8.0 * coded.bytes / max(segments.total, 1), cosine))
            if not searching or abs(excess) <= CLOSE_ENOUGH:
                break
            ratio = next_ratio(ratio, excess, SEARCH_GAIN)
        return coded, ratio if searching else next_ratio(ratio, excess, GAIN)

    def _learn(
        self,
        values: Float32[Array, "row width"],
        segments: Segments,
        state: CodecState,
        rng: np.random.Generator,
    ) -> tuple[dict[str, bytes], Learned, Callable[[], CodecState]]:
        """What this packet ships, what is known after it, and a call for the statistics with its
        rows, which are summed up beside what follows where there are threads for it."""
        arrays = self.kernels.arrays
        learned = Learned.of(state, arrays)
        how = self.transform if isinstance(self.transform, LearnedBasis) else None
        if segments.total == 0 or not (self.centre or how):
            return {}, learned, dict
        width = segments.width
        statistics = Statistics.of(state, arrays)
        shipped: dict[str, bytes] = {}
        if statistics is None:
            wait = (how or LearnedBasis()).warm_up * width
            # what no basis will be made of is not summed up: it has the width squared of float64
            wanted = how is not None and how.comes(width)
            statistics = Statistics.fresh(width, wait, arrays, moment=wanted)
            if self.centre:
                first = statistics.seen(drawn(values, rng, arrays), arrays)
                shipped["mean"] = first.mean(arrays).tobytes()
        elif how is not None and statistics.comes_due(how):
            if statistics.moment is None:  # the stream goes on for longer than was known
                statistics = statistics.restarted(statistics.wait, arrays)
            elif statistics.due:
                shipped = self._trial(values, segments, statistics, how, state)
                wait = (how.growth if shipped else 2) * statistics.wait
                statistics = replace(statistics, wait=wait)
                if shipped:
                    statistics = statistics.restarted(wait, arrays)
        if how is not None and not statistics.comes_due(how):
            statistics = replace(statistics, moment=None)
        learned = self._received(learned, shipped, width)
        rows = drawn(values, rng, arrays)
        after = self.kernels.start(lambda: statistics.seen(rows, arrays).to_state())
        return shipped, learned, after

    def _trial(
        self,
        values: Float32[Array, "row width"],
        segments: Segments,
        statistics: Statistics,
        how: LearnedBasis,
        state: CodecState,
    ) -> dict[str, bytes]:
        """A new basis (and mean), if it is worth its bytes: see `LearnedBasis`."""
        basis = statistics.basis(how, self.kernels.arrays, about_mean=self.centre)
        if basis is None:
            return {}
        symbols, kept = basis
        mean = {"mean": statistics.mean(self.kernels.arrays).tobytes()} if self.centre else {}
        present = Learned.of(state, self.kernels.arrays)
        trial = Trial.of(values, segments, float(state["ratio"]), self._pipeline(present))

        def proposed() -> tuple[dict[str, bytes], Stages]:
            shipped = {"basis": basis_to_bytes(symbols, kept, self.kernels), **mean}
            return shipped, self._pipeline(self._received(present, shipped, segments.width))

        shipped, pipeline = proposed()
        if how.share is None:
            worth = trial.columns_worth(pipeline)
            if worth < symbols.shape[1]:
                symbols, kept = np.ascontiguousarray(symbols[:, :worth]), worth
                shipped, pipeline = proposed()
        saved = trial.bytes_saved(pipeline)
        cost = sum(len(section) for section in shipped.values())
        return shipped if saved * how.still_to_come(statistics.sent) >= cost else {}

    def _received(self, learned: Learned, shipped: Mapping[str, bytes], width: int) -> Learned:
        """What is known after what a packet ships. Raises PacketError: not a mean or basis for
        `width`."""
        mean, basis = shipped.get("mean"), shipped.get("basis")
        if mean is None and basis is None:
            return learned
        arrays, kernels = self.kernels.arrays, self.kernels
        return Learned(
            learned.mean if mean is None else arrays.of(mean_from_bytes(mean, width)),
            learned.basis if basis is None else arrays.of(basis_from_bytes(basis, width, kernels)),
            # zero means that nothing was learned
            zlib.crc32((mean or b"") + (basis or b""), learned.identity) or 1,
        )

    def _receive(self, sections: Mapping[str, bytes], width: int, state: CodecState) -> Learned:
        learned = self._received(Learned.of(state, self.kernels.arrays), sections, width)
        named = int.from_bytes(sections.get("basis id", b""), "little")
        if named != learned.identity:
            raise PacketError(
                f"a packet for mean and basis {named:08x}, but the receiver has "
                f"{learned.identity:08x}; a packet was lost: start the stream again"
            )
        for name, array in (("mean", learned.mean), ("basis", learned.basis)):
            if array is not None and len(array) != width:
                raise PacketError(f"{name} of {len(array)} columns for {width}")
        return learned

    def _stages(self) -> bytes:
        """One byte a stage."""
        scope = None if self.sparsify is None else self.sparsify.scope
        transform = None if self.transform is None else type(self.transform)
        return bytes(
            (
                self.centre,
                TRANSFORMS[transform],
                SCOPES[scope],
                QUANTISERS[type(self.quantiser)],
                ENTROPY_CODERS[type(self.entropy)],
            )
        )

    def _check_stages(self, stages: bytes | None) -> None:
        if stages != self._stages():
            found = "none" if stages is None else stages.hex(" ")
            raise PacketError(
                f"a packet of stages {found}, expected {self._stages().hex(' ')}; set the same "
                "codec on both ends"
            )


def mean_from_bytes(data: bytes, width: int) -> Float32[np.ndarray, " width"]:
    """Raises PacketError: not `width` finite float16."""
    if len(data) != 2 * width:
        raise PacketError(f"mean: {len(data)} bytes, expected {2 * width}")
    mean = np.frombuffer(data, dtype="<f2").astype(np.float32)
    if not np.isfinite(mean).all():
        raise PacketError("mean: NaN or infinity")
    return mean


def basis_to_bytes(
    symbols: Int16[np.ndarray, "width component"], kept: int, kernels: Kernels
) -> bytes:
    """The shipped directions, one a column, and how many of them `kept` makes with orthogonal
    ones."""
    sections = TwoWay().encode(symbols, kernels)
    return varint(symbols.shape[1]) + varint(kept) + sections_to_bytes(sections)


def basis_from_bytes(
    data: bytes, width: int, kernels: Kernels
) -> Float32[np.ndarray, "width component"]:
    """Orthonormal columns. Raises PacketError: not 1..width of them, or no such integers."""
    shipped, at = read_varint(data, 0)
    kept, at = read_varint(data, at)
    if not 1 <= shipped <= width or kept not in (shipped, width):
        raise PacketError(f"basis: {shipped} directions of {kept}, expected 1 to {width}")
    sections = sections_from_bytes(data[at:])
    symbols = TwoWay().decode(sections, width, shipped, kernels)
    directions = symbols.astype(np.float64)
    if kept == shipped:
        orthonormal = np.linalg.qr(directions, mode="reduced").Q
    else:
        orthonormal = np.linalg.qr(directions, mode="complete").Q
    return np.ascontiguousarray(orthonormal, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Trial:
    """What a new basis would save: the same rows at the same error, coded with it and without it.

    Rows of a packet that the basis was not learned from (on its own rows any basis looks good),
    and how the present pipeline codes them at its step's ratio.
    """

    values: Float32[Array, "row width"]
    segments: Segments
    ratio: float
    part: float
    present: Stages
    now: Quantised
    bytes_now: int

    @staticmethod
    def of(
        values: Float32[Array, "row width"], segments: Segments, ratio: float, present: Stages
    ) -> "Trial":
        """Of whole samples, as many as tell enough."""
        rows = np.cumsum(segments.lengths)
        samples = min(int(np.searchsorted(rows, ENOUGH_ROWS)) + 1, len(rows))
        _, token, width = segments.shape
        fewer = Segments((samples, token, width), segments.lengths[:samples])
        some = values[: fewer.rows]
        now = present.quantise(present.transform(some, fewer), ratio, _generator())
        part = len(some) / len(values)
        return Trial(some, fewer, ratio, part, present, now, present.code(now).bytes)

    def columns_worth(self, proposed: Stages) -> int:
        """How many of its columns are not nearly all zeros, at the bytes of the present packet."""
        if proposed.quantiser.step_rule is FIXED_STEP:
            return self.segments.width
        transformed = proposed.transform(self.values, self.segments)
        _, ratio = self._edge(
            proposed, transformed, lambda then: proposed.code(then).bytes > self.bytes_now
        )
        then = proposed.quantise(transformed, ratio, _generator())
        used = proposed.kernels.arrays.to_host((then.symbols != 0).sum(0))
        return max(int((used >= LEAST_USED * len(self.values)).sum()), 1)

    def bytes_saved(self, proposed: Stages) -> float:
        """Of the packet [bytes]; infinite for a quantiser that has no step to compare at."""
        if self.present.quantiser.step_rule is FIXED_STEP:
            return math.inf
        goal = _error(self.values, self.present, self.now, self.segments)
        transformed = proposed.transform(self.values, self.segments)
        ratio, _ = self._edge(
            proposed,
            transformed,
            lambda then: _error(self.values, proposed, then, self.segments) <= goal,
        )
        then = proposed.quantise(transformed, ratio, _generator())
        return (self.bytes_now - proposed.code(then).bytes) / self.part

    def _edge(
        self, pipeline: Stages, transformed: Transformed, finer: Callable[[Quantised], bool]
    ) -> tuple[float, float]:
        """Two ratios, near each other: what is `finer` than wanted at the lower one is not at the
        upper one. The smallest or the largest tried where all ratios are alike."""
        low, high = -WIDEST_MOVE, WIDEST_MOVE
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            quantised = pipeline.quantise(transformed, self.ratio * math.exp(middle), _generator())
            if finer(quantised):
                low = middle
            else:
                high = middle
        return self.ratio * math.exp(low), self.ratio * math.exp(high)


def _error(
    values: Float32[Array, "row width"],
    pipeline: Stages,
    quantised: Quantised,
    segments: Segments,
) -> float:
    arrays = pipeline.kernels.arrays
    lost = arrays.wide(values - pipeline.restore(quantised, segments))
    return math.sqrt(dot(lost, lost, arrays))


def _generator() -> np.random.Generator:
    """A trial draws nothing from the packet's own stream."""
    return np.random.default_rng(0)
