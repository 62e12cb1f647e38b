"""What a stream learns from its tensors and ships: a mean per column, and a basis.

Both are estimated by the sender, from the true tensors: from decoded ones the basis would collapse
onto what it already keeps. What is shipped is coarse, and both ends use what was shipped. Knows
rows of values; nothing of packets or of what is done with transformed values.

The basis is the Karhunen-Loeve transform: eigenvectors v of the rows' second moments (about the
mean where one is subtracted), those of largest eigenvalue w first. What ships is v sqrt(w), rounded
to multiples of one step: the directions that matter most come finest, those below the step not at
all. Both ends make it orthonormal again (QR, in this order), so that rounding only turns the basis
a little and distorts nothing, and complete it with directions that are orthogonal to all of these.
Eigenvectors differ in their last bits between machines, which is why no receiver could compute them
itself; the QR of the same integers differs by rounding, which moves a decoded value no more.
"""

import zlib
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Float64

from cutlayer.codec.codec import State
from cutlayer.codec.entropy.two_way import TwoWay
from cutlayer.codec.kernels.arrays import Array, Arrays
from cutlayer.codec.kernels.kernels import Kernels
from cutlayer.codec.packet import read_varint, sections_from_bytes, sections_to_bytes, varint
from cutlayer.errors import ConfigError, PacketError

# rows of one packet that statistics are drawn from, at most
ROWS_PER_PACKET = 512
EXPECTED_GROWTH = 4


@dataclass(frozen=True)
class LearnedBasis:
    """How a basis is learned, and when it is worth its bytes.

    When the sender has seen `warm_up` rows per column it tries a basis of theirs on the next
    packet. If what that packet saves at the same error, over all packets still to come, is more
    than the basis takes, it ships; else the sender tries again after twice as many rows. Once it
    has shipped, another one is tried after `growth` times as many. Until then values are coded as
    they are. `packets`: how many the stream will have; None: four times as many as so far are
    expected to come.

    `share`: the part of the columns that is kept after the transform, those of most energy; 1: all,
    and nothing is lost. `coarseness`: the step of shipped entries, in units of sqrt(mean eigenvalue
    / width). At 1 a basis of 384 columns takes about 15 KiB, at 2 half of that.

    Raises ConfigError: share not within (0, 1], coarseness not above 0, warm_up or packets below
    1, growth below 2.
    """

    share: float = 1.0
    coarseness: float = 1.0
    warm_up: int = 2
    growth: int = 16
    packets: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise ConfigError(f"basis share {self.share}: give a part of the columns in (0, 1]")
        if not 0.0 < self.coarseness <= 100.0:
            raise ConfigError(f"coarseness {self.coarseness}: give a number above 0, such as 1")
        if self.packets is not None and self.packets < 1:
            raise ConfigError(f"packets {self.packets}: give 1 or more, or none if not known")
        if self.warm_up < 1 or self.growth < 2:
            raise ConfigError(
                f"warm_up {self.warm_up}, growth {self.growth}: give at least 1 and 2"
            )

    def still_to_come(self, sent: int) -> int:
        """How many packets a basis would serve, the present one included."""
        return EXPECTED_GROWTH * sent if self.packets is None else max(self.packets - sent, 0)


@dataclass(frozen=True, eq=False)
class Learned:
    """What both ends know: the mean and the basis in use, and a number that names them."""

    mean: Float32[Array, " width"] | None = None
    basis: Float32[Array, "width component"] | None = None
    identity: int = 0

    @staticmethod
    def of(state: State, arrays: Arrays) -> "Learned":
        """What `state` holds, where values live."""
        identity = int(state["identity"]) if "identity" in state else 0
        mean, basis = (_there(state, name, arrays) for name in ("mean", "basis"))
        return Learned(mean, basis, identity)

    def to_state(self) -> State:
        """As arrays by name."""
        arrays = {"mean": self.mean, "basis": self.basis}
        state = {name: array for name, array in arrays.items() if array is not None}
        return {**state, "identity": np.array(self.identity)} if self.identity else state

    def received(
        self, mean: bytes | None, basis: bytes | None, width: int, kernels: Kernels
    ) -> "Learned":
        """After what a packet ships. Raises PacketError: not a mean or basis for `width`."""
        if mean is None and basis is None:
            return self
        arrays = kernels.arrays
        return Learned(
            self.mean if mean is None else arrays.of(mean_from_bytes(mean, width)),
            self.basis if basis is None else arrays.of(basis_from_bytes(basis, width, kernels)),
            # zero means that nothing was learned
            zlib.crc32((mean or b"") + (basis or b""), self.identity) or 1,
        )


@dataclass(frozen=True, eq=False)
class Statistics:
    """Sums over the rows since the last shipment, how many rows the next trial waits for, and how
    many packets the stream has had."""

    sent: int
    rows: int
    wait: int
    total: Float64[Array, " width"]
    moment: Float64[Array, "width width"] | None

    @staticmethod
    def fresh(width: int, wait: int, arrays: Arrays, *, sent: int, moment: bool) -> "Statistics":
        """Without rows; `moment`: whether second moments are wanted."""
        square = arrays.full((width, width), 0.0, np.float64) if moment else None
        return Statistics(sent, 0, wait, arrays.full((width,), 0.0, np.float64), square)

    @staticmethod
    def of(state: State, arrays: Arrays) -> "Statistics | None":
        """What `state` holds, where values live."""
        if "statistics.counts" not in state:
            return None
        sent, rows, wait = state["statistics.counts"].tolist()
        total, moment = (_there(state, f"statistics.{n}", arrays) for n in ("total", "moment"))
        return Statistics(sent, rows, wait, total, moment)

    def to_state(self) -> State:
        """As arrays by name."""
        state = {
            "statistics.counts": np.array([self.sent, self.rows, self.wait]),
            "statistics.total": self.total,
        }
        return state if self.moment is None else {**state, "statistics.moment": self.moment}

    def seen(
        self, values: Float32[Array, "row width"], rng: np.random.Generator, arrays: Arrays
    ) -> "Statistics":
        """With the rows of one more packet, or a random part of them where they are many."""
        if len(values) > ROWS_PER_PACKET:
            drawn = np.sort(rng.choice(len(values), ROWS_PER_PACKET, replace=False))
            values = values[arrays.of(drawn)]
        wide = arrays.wide(values)
        return replace(
            self,
            sent=self.sent + 1,
            rows=self.rows + len(values),
            total=self.total + wide.sum(0),
            moment=None if self.moment is None else self.moment + wide.T @ wide,
        )

    @property
    def due(self) -> bool:
        """Whether it is time to ship."""
        return self.rows >= self.wait

    def mean(self, arrays: Arrays) -> bytes:
        """The mean to ship: float16, what is beyond its range at the range's end."""
        limit = float(np.finfo(np.float16).max)
        mean = arrays.to_host(self.total) / max(self.rows, 1)
        return np.clip(mean, -limit, limit).astype("<f2").tobytes()

    def basis(self, how: LearnedBasis, kernels: Kernels, *, about_mean: bool) -> bytes | None:
        """The basis to ship: see the module. None where no direction stands out."""
        assert self.moment is not None
        moment = kernels.arrays.to_host(self.moment) / max(self.rows, 1)
        if about_mean:
            mean = kernels.arrays.to_host(self.total) / max(self.rows, 1)
            moment = moment - np.outer(mean, mean)
        width = len(moment)
        columns = max(1, round(how.share * width))
        # ascending, so the last ones are the largest
        energies, vectors = np.linalg.eigh(moment)
        energies = np.maximum(energies[::-1], 0.0)
        step = how.coarseness * np.sqrt(energies.mean() / width)
        if step == 0.0:
            return None
        scaled = vectors[:, ::-1] * np.sqrt(energies)
        symbols = np.rint(scaled[:, :columns] / step).astype(np.int16)
        symbols = np.ascontiguousarray(symbols[:, symbols.any(axis=0)])
        if symbols.size == 0:
            return None
        sections = TwoWay().encode(symbols, kernels)
        kept = width if columns == width else symbols.shape[1]
        return varint(symbols.shape[1]) + varint(kept) + sections_to_bytes(sections)


def _there(state: State, name: str, arrays: Arrays) -> Array | None:
    """An array of `state` where values live; a state from a checkpoint is on the host."""
    return arrays.of(state[name]) if name in state else None


def mean_from_bytes(data: bytes, width: int) -> Float32[np.ndarray, " width"]:
    """Raises PacketError: not `width` finite float16."""
    if len(data) != 2 * width:
        raise PacketError(f"mean: {len(data)} bytes, expected {2 * width}")
    mean = np.frombuffer(data, dtype="<f2").astype(np.float32)
    if not np.isfinite(mean).all():
        raise PacketError("mean: NaN or infinity")
    return mean


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
