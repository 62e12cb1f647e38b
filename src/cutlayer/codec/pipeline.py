"""The stages of a codec in order: centre, transform, sparsify, quantise, entropy-code.

What a stream learns for them from its tensors, a mean per column and a basis, is estimated by the
sender from the true tensors: from decoded ones the basis would collapse onto what it already keeps.
What is shipped is coarse, and both ends use what was shipped. Knows rows of values of one tensor at
a time; nothing of packets, nor of when something is learned.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, final

import numpy as np
from jaxtyping import Float, Float16, Float32, Float64, Int, Int16, Int64, UInt8

from cutlayer.codec.codec import CodecState, Segments
from cutlayer.codec.entropy import EntropyCoder, Sections
from cutlayer.codec.kernels.kernels import Array, Arrays, Kernels, dot
from cutlayer.codec.quantisers import MASSIVE_SHARE, Quantised, Quantiser, TokenRows
from cutlayer.errors import ConfigError

# rows of one packet that statistics are drawn from, at most
ROWS_PER_PACKET = 512
# a basis is about as long as two packets: it is not tried where it would serve fewer
FEWEST_SERVED = 3
EXPECTED_GROWTH = 4
# of a shipped direction
LARGEST_ENTRY = 32767
LARGEST_BLOCK = 256
ROWS_AT_ONCE = 256

Scope = Literal["sample", "token", "batch"]


@dataclass(frozen=True)
class LearnedBasis:
    """How a basis is learned, and when it is worth its bytes.

    The basis is the Karhunen-Loeve transform: eigenvectors v of the rows' second moments (about the
    mean where one is subtracted), those of largest eigenvalue w first. What ships is v sqrt(w),
    rounded to multiples of one step: the directions that matter most come finest, those below the
    step not at all. Both ends make it orthonormal again (QR, in this order), so that rounding only
    turns the basis a little and distorts nothing, and complete it with directions that are
    orthogonal to all of these. Eigenvectors differ in their last bits between machines, which is
    why no receiver could compute them itself; the QR of the same integers differs by rounding,
    which moves a decoded value no more.

    When the sender has seen `warm_up` rows per column it tries a basis of theirs on the next
    packet. If what that packet saves at the same error, over all packets still to come, is more
    than the basis takes, it ships; else the sender tries again after twice as many rows. Once it
    has shipped, another one is tried after `growth` times as many. Until then values are coded as
    they are. `packets`: how many the stream will have; None: four times as many as so far are
    expected to come.

    `share`: the part of the columns that is kept after the transform, those of most energy; 1: all,
    and nothing is lost; None: those that are worth bits, which the trial tells. At a packet's bits
    there is an energy, that of rounding, below which a column's values would all be zeros (reverse
    water-filling): such columns are neither shipped nor computed. `coarseness`: the step of shipped
    entries, in units of sqrt(mean eigenvalue / width), without the hundredth of directions that are
    largest: where one channel has nearly all energy, its share of the step would leave no other
    direction. At 1 a basis of 384 columns takes about 15 KiB, at 2 half of that.

    Raises ConfigError: share not within (0, 1], coarseness not above 0, warm_up or packets below
    1, growth below 2.
    """

    share: float | None = 1.0
    coarseness: float = 1.0
    warm_up: int = 2
    growth: int = 16
    packets: int | None = None

    def __post_init__(self) -> None:
        if self.share is not None and not 0.0 < self.share <= 1.0:
            raise ConfigError(f"basis share {self.share}: give a part of the columns in (0, 1]")
        if not 0.0 < self.coarseness <= 100.0:
            raise ConfigError(f"coarseness {self.coarseness}: give a number above 0, such as 1")
        if self.packets is not None and self.packets < 1:
            raise ConfigError(f"packets {self.packets}: give 1 or more, or none if not known")
        if self.warm_up < 1 or self.growth < 2:
            raise ConfigError(
                f"warm_up {self.warm_up}, growth {self.growth}: give at least 1 and 2"
            )

    def comes(self, width: int) -> bool:
        """Whether a stream of `packets` has the rows for a basis while it would serve enough."""
        packets = math.inf if self.packets is None else self.packets - FEWEST_SERVED
        return packets * ROWS_PER_PACKET >= self.warm_up * width

    def columns(self, width: int) -> int:
        """The most that are kept."""
        return width if self.share is None else max(1, round(self.share * width))

    def still_to_come(self, sent: int) -> int:
        """How many packets a basis would serve, the present one included."""
        return EXPECTED_GROWTH * sent if self.packets is None else max(self.packets - sent, 0)


@final
@dataclass(frozen=True)
class Hadamard:
    """The Walsh-Hadamard transform, which spreads what is large in one column over many.

    Random signs, then the transform of each run of up to 256 columns, a power of two that divides
    the width. Orthonormal. Costs little and needs no statistics, but leaves nothing small either:
    for plain quantisers, not for those that live on zeros.
    """

    def forward(
        self, values: Float32[Array, "row column"], kernels: Kernels
    ) -> Float32[Array, "row column"]:
        """The transformed rows."""
        return kernels.hadamard(values, block_of(values.shape[1]), inverse=False)

    def inverse(
        self, values: Float32[Array, "row column"], kernels: Kernels
    ) -> Float32[Array, "row column"]:
        """`forward` undone, to float32's precision."""
        return kernels.hadamard(values, block_of(values.shape[1]), inverse=True)


def block_of(width: int) -> int:
    """The largest power of two up to 256 that divides `width`."""
    return min(LARGEST_BLOCK, width & -width) if width else 1


@final
@dataclass(frozen=True)
class TopK:
    """Keeps the values of largest magnitude of each sample, of each token, or of the whole batch.

    `keep_ratio` is the paper's rho, a retained share in (0, 1]; its "80 % sparsity" is 0.2. Of
    equal magnitudes the first ones are kept, so exactly K are.

    Raises ConfigError: keep_ratio out of range.
    Source: SFT eq. (15) and (16), per sample since s_l there is one sample's [token, width].
    """

    keep_ratio: float
    scope: Scope = "sample"

    def __post_init__(self) -> None:
        if not 0.0 < self.keep_ratio <= 1.0:
            raise ConfigError(f"keep_ratio {self.keep_ratio}: give a share in (0, 1], such as 0.2")

    def kept(
        self,
        values: Float32[Array, "row column"],
        sizes: Int64[np.ndarray, " batch"],
        kernels: Kernels,
    ) -> UInt8[Array, " value"]:
        """1 where a value is kept. `sizes`: the number of values of each sample."""
        if self.scope == "token":
            sizes = np.full(len(values), values.shape[1], dtype=np.int64)
        elif self.scope == "batch":
            sizes = np.array([sizes.sum()], dtype=np.int64)
        return kernels.top_k(values.reshape(-1), sizes, kept_counts(sizes, self.keep_ratio))


def kept_counts(sizes: Int[np.ndarray, " batch"], keep_ratio: float) -> Int64[np.ndarray, " batch"]:
    """K of each segment: `keep_ratio * size` rounded half up, at least 1, at most its size.

    Source: SFT eq. (16), which calls keep_ratio rho.
    """
    rounded = np.floor(keep_ratio * sizes + 0.5).astype(np.int64)
    counts: Int64[np.ndarray, " batch"] = np.minimum(np.maximum(rounded, 1), sizes)
    return counts


@dataclass(frozen=True, eq=False)
class Learned:
    """What both ends know: the mean and the basis in use, and a number that names them."""

    mean: Float32[Array, " width"] | None = None
    basis: Float32[Array, "width component"] | None = None
    identity: int = 0

    @staticmethod
    def of(state: CodecState, arrays: Arrays) -> "Learned":
        """What `state` holds, where values live."""
        identity = int(state["identity"]) if "identity" in state else 0
        mean, basis = (_there(state, name, arrays) for name in ("mean", "basis"))
        return Learned(mean, basis, identity)

    def to_state(self) -> CodecState:
        """As arrays by name."""
        arrays = {"mean": self.mean, "basis": self.basis}
        state = {name: array for name, array in arrays.items() if array is not None}
        return {**state, "identity": np.array(self.identity)} if self.identity else state


@dataclass(frozen=True, eq=False)
class Statistics:
    """Sums over the rows since the last shipment, how many rows the next trial waits for, how many
    packets the stream has had, and the most rows that one of them gave."""

    sent: int
    rows: int
    wait: int
    most: int
    total: Float[Array, " width"]
    moment: Float[Array, "width width"] | None

    @staticmethod
    def fresh(width: int, wait: int, arrays: Arrays, *, moment: bool) -> "Statistics":
        """Of a stream's first packet, without rows; `moment`: whether second moments are wanted."""
        square = arrays.full((width, width), 0.0, np.float64) if moment else None
        return Statistics(0, 0, wait, 0, arrays.full((width,), 0.0, np.float64), square)

    def restarted(self, wait: int, arrays: Arrays) -> "Statistics":
        """Without rows, for a trial after `wait` of them."""
        width = len(self.total)
        anew = Statistics.fresh(width, wait, arrays, moment=True)
        return replace(anew, sent=self.sent, most=self.most)

    @staticmethod
    def of(state: CodecState, arrays: Arrays) -> "Statistics | None":
        """What `state` holds, where values live."""
        if "statistics.counts" not in state:
            return None
        sent, rows, wait, most = state["statistics.counts"].tolist()
        total, moment = (_there(state, f"statistics.{n}", arrays) for n in ("total", "moment"))
        return Statistics(sent, rows, wait, most, total, moment)

    def to_state(self) -> CodecState:
        """As arrays by name."""
        state = {
            "statistics.counts": np.array([self.sent, self.rows, self.wait, self.most]),
            "statistics.total": self.total,
        }
        return state if self.moment is None else {**state, "statistics.moment": self.moment}

    def seen(self, rows: Float32[Array, "row width"], arrays: Arrays) -> "Statistics":
        """With the rows of one more packet, or those that are `drawn` of it. Once no basis will be
        made of them, they are counted alone: the first packet has shipped its mean."""
        counted = replace(
            self,
            sent=self.sent + 1,
            rows=self.rows + len(rows),
            most=max(self.most, len(rows)),
        )
        if self.moment is None and self.sent:
            return counted
        wide = arrays.wide(rows)
        moment = None if self.moment is None else self.moment + wide.T @ wide
        return replace(counted, total=self.total + wide.sum(0), moment=moment)

    @property
    def due(self) -> bool:
        """Whether it is time to ship."""
        return self.rows >= self.wait

    def comes_due(self, how: LearnedBasis) -> bool:
        """Whether it will be while a basis would serve enough packets, if none has more rows than
        the largest so far: if not, moments are of no use."""
        if how.packets is None:
            return True
        most = self.most or ROWS_PER_PACKET
        return self.rows + (how.packets - self.sent - FEWEST_SERVED) * most >= self.wait

    def mean(self, arrays: Arrays) -> Float16[np.ndarray, " width"]:
        """The mean to ship: float16, what is beyond its range at the range's end."""
        limit = float(np.finfo(np.float16).max)
        mean = _wide(arrays.to_host(self.total)) / max(self.rows, 1)
        return np.clip(mean, -limit, limit).astype("<f2")

    def basis(
        self, how: LearnedBasis, arrays: Arrays, *, about_mean: bool
    ) -> tuple[Int16[np.ndarray, "width component"], int] | None:
        """The basis to ship, and how many directions it is completed to: see `LearnedBasis`. None
        where no direction stands out."""
        assert self.moment is not None
        moment = _wide(arrays.to_host(self.moment)) / max(self.rows, 1)
        if about_mean:
            mean = _wide(arrays.to_host(self.total)) / max(self.rows, 1)
            moment = moment - np.outer(mean, mean)
        width = len(moment)
        columns = how.columns(width)
        # ascending, so the last ones are the largest
        energies, vectors = np.linalg.eigh(moment)
        energies = np.maximum(energies[::-1], 0.0)
        usual = energies[math.ceil(MASSIVE_SHARE * width) :].mean() if width > 1 else 0.0
        step = how.coarseness * np.sqrt((usual or energies.mean()) / width)
        # no entry leaves int16
        step = max(step, np.sqrt(energies[0]) / LARGEST_ENTRY)
        if step == 0.0:
            return None
        scaled = vectors[:, ::-1] * np.sqrt(energies)
        symbols = np.rint(scaled[:, :columns] / step).astype(np.int16)
        symbols = np.ascontiguousarray(symbols[:, symbols.any(axis=0)])
        if symbols.size == 0:
            return None
        return symbols, width if columns == width else symbols.shape[1]


def drawn(
    values: Float32[Array, "row width"], rng: np.random.Generator, arrays: Arrays
) -> Float32[Array, "some width"]:
    """The rows that statistics are made of: all, or a random part where they are many."""
    if len(values) <= ROWS_PER_PACKET:
        return values
    some = np.sort(rng.choice(len(values), ROWS_PER_PACKET, replace=False))
    return values[arrays.of(some)]


def _wide(array: Float[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    return array.astype(np.float64, copy=False)


def _there(state: CodecState, name: str, arrays: Arrays) -> Array | None:
    """An array of `state` where values live; a state from a checkpoint is on the host."""
    return arrays.of(state[name]) if name in state else None


@dataclass(frozen=True, eq=False)
class Transformed:
    """Rows after centring and transform, and which of their values are kept (None: all)."""

    values: Float32[Array, "row column"]
    kept: UInt8[Array, " value"] | None
    segments: Segments


@dataclass(frozen=True, eq=False)
class Coded:
    """Symbols with their settings, and the sections that they take."""

    quantised: Quantised
    sections: Sections

    @property
    def bytes(self) -> int:
        """The length [bytes] of all sections."""
        return sum(len(section) for section in self.sections.values())


@final
@dataclass(frozen=True)
class Stages:
    """Centre, transform, sparsify, quantise, entropy-code. A learned basis goes before Hadamard:
    there is one transform."""

    quantiser: Quantiser
    entropy: EntropyCoder
    hadamard: Hadamard | None
    sparsify: TopK | None
    learned: Learned
    kernels: Kernels

    def transform(self, values: Float32[Array, "row width"], segments: Segments) -> Transformed:
        """Everything before the quantiser, which one packet may try with several steps."""
        mean, basis = self.learned.mean, self.learned.basis
        if basis is not None:
            rows = self.kernels.turn(values, mean, basis)
        else:
            rows = values if mean is None else values - mean
        if basis is None and self.hadamard is not None and not self._quantiser_turns:
            rows = self.hadamard.forward(rows, self.kernels)
        kept = None
        if self.sparsify is not None:
            kept = self.sparsify.kept(rows, segments.sizes(rows.shape[1]), self.kernels)
        return Transformed(rows, kept, segments)

    def quantise(
        self, transformed: Transformed, ratio: float, rng: np.random.Generator
    ) -> Quantised:
        """The symbols at a step of `ratio` times the values' scale."""
        values, segments = transformed.values, transformed.segments
        block = self._block(values.shape[1])
        rows = TokenRows(values, transformed.kept, segments.sizes(values.shape[1]), ratio, block)
        return self.quantiser.quantise(rows, self.kernels, rng)

    def code(self, quantised: Quantised) -> Coded:
        """The sections of these symbols, which cross to the host here."""
        symbols = self.kernels.arrays.to_host(quantised.symbols)
        sections = self.entropy.encode(symbols, self.kernels)
        return Coded(quantised, {"quantiser": quantised.settings, **sections})

    def restore(self, quantised: Quantised, segments: Segments) -> Float32[Array, "row width"]:
        """The rows that these symbols stand for. Raises PacketError: no such symbols."""
        sizes = segments.sizes(quantised.symbols.shape[1])
        turned = replace(quantised, block=self._block(quantised.symbols.shape[1]))
        values = self.quantiser.dequantise(turned, sizes, self.kernels)
        mean, basis = self.learned.mean, self.learned.basis
        if basis is not None:
            # the columns of least energy are often all zero
            alive = self.kernels.arrays.to_host(quantised.symbols.any(0))
            live = int(np.flatnonzero(alive).max(initial=-1)) + 1
            return self.kernels.turn_back(values[:, :live], mean, basis)
        if self.hadamard is not None and not self._quantiser_turns:
            # in place, some rows at a time: a decoder must not take much more than its tensor
            for first in range(0, len(values), ROWS_AT_ONCE):
                some = slice(first, first + ROWS_AT_ONCE)
                values[some] = self.hadamard.inverse(values[some], self.kernels)
        if mean is not None:
            values += mean
        return values

    @property
    def _quantiser_turns(self) -> bool:
        """Whether the Hadamard transform is the quantiser's: nothing is selected in between."""
        transforms = self.hadamard is not None and self.learned.basis is None
        return transforms and self.sparsify is None and self.quantiser.turns

    def _block(self, columns: int) -> int:
        """Of the Hadamard transform that is left to the quantiser; 1: none."""
        return block_of(columns) if self._quantiser_turns else 1

    def cosine(
        self, values: Float32[Array, "row width"], quantised: Quantised, segments: Segments
    ) -> float:
        """Between rows and what they decode to, both about the mean in use."""
        arrays = self.kernels.arrays
        a, b = arrays.wide(values), arrays.wide(self.restore(quantised, segments))
        if self.learned.mean is not None:
            a, b = a - self.learned.mean, b - self.learned.mean
        norms = math.sqrt(dot(a, a, arrays)) * math.sqrt(dot(b, b, arrays))
        return dot(a, b, arrays) / norms if norms > 0 else 0.0
