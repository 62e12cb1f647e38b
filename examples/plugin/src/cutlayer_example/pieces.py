"""A codec, a channel, an allocation, a scheme, a partition and an aggregation of one's own.

Each is what a run's configuration names; `docs/extending.md` builds them one after another.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor

from cutlayer import (
    SCHEMES,
    Aggregation,
    Allocation,
    Channel,
    Codec,
    CodecState,
    ConfigError,
    Decoded,
    Encoded,
    ObservedRound,
    PacketError,
    PacketFrame,
    ProportionalRates,
    RateCurves,
    ServerOrder,
)


@final
@dataclass(frozen=True)
class Truncated(Codec):
    """The upper `kept` bytes of each float32, of four: two are a bfloat16, rounded towards zero."""

    kept: int = 2
    name: ClassVar[str] = "other"

    def __post_init__(self) -> None:
        if self.kept not in (2, 3):
            raise ConfigError(f"kept {self.kept}: 2 or 3 of a float32's four bytes")

    def encode(
        self,
        tensor: np.ndarray,
        state: CodecState,
        rng: np.random.Generator,
        *,
        lengths: Sequence[int] | None = None,
        samples: Sequence[int] | None = None,
    ) -> Encoded:
        frame = PacketFrame.of(tensor, lengths)
        rows = frame.rows(tensor).astype(">f4")
        upper = rows.reshape(-1, 1).view(np.uint8)[:, : self.kept]
        return Encoded(frame.packet(upper.tobytes()), state)

    def decode(self, packet: bytes, shape: tuple[int, ...], state: CodecState) -> Decoded:
        frame, data = PacketFrame.read(packet, shape)
        rows, width = frame.size
        if len(data) != self.kept * rows * width:
            raise PacketError(f"{len(data)} bytes of values, not {self.kept * rows * width}")
        whole = np.zeros((rows * width, 4), dtype=np.uint8)
        whole[:, : self.kept] = np.frombuffer(data, dtype=np.uint8).reshape(-1, self.kept)
        return frame.decoded(whole.view(">f4").reshape(rows, width).astype(np.float32), state)

    def expected_bytes(self, shape: tuple[int, int, int]) -> float:
        return PacketFrame.full(shape).packet_bytes(self.kept * math.prod(shape))


@final
@dataclass(frozen=True)
class Tide(Channel):
    """A rate that falls to its half and rises again, over `period` rounds; `count`: devices."""

    count: int
    high_bit_s: float = 2e7
    period: int = 4

    def __post_init__(self) -> None:
        if not (self.high_bit_s > 0 and self.period >= 1):
            raise ConfigError(f"high_bit_s {self.high_bit_s}, period {self.period}: both above 0")

    def curves(self, round_number: int, start_s: float) -> RateCurves:
        return self._at(0.75 + 0.25 * np.cos(2 * np.pi * (round_number - 1) / self.period))

    @property
    def devices(self) -> int:
        return self.count

    def mean_curves(self) -> RateCurves:
        return self._at(0.75)

    def _at(self, factor: float) -> RateCurves:
        rates = ProportionalRates(np.full(self.count, factor * self.high_bit_s))
        return RateCurves(rates, rates)


@final
@dataclass(frozen=True)
class ByDemand(Allocation):
    """As much of the bandwidth as a device sent bits in the round before; `floor` for each."""

    floor: float = 0.01

    def shares(
        self, round_number: int, observed: ObservedRound, curves: RateCurves
    ) -> tuple[float, ...]:
        bits = observed.uplink_bits + observed.downlink_bits
        parts = bits / bits.sum() if bits.sum() > 0 else np.full(len(bits), 1 / len(bits))
        raised = np.maximum(parts, self.floor)
        return tuple((raised / raised.sum()).tolist())


# a value does as well as a class: SFT, whose server waits for a local step of all devices
SFT_TOGETHER = replace(
    SCHEMES["sft"], name="sft-together", title="SFT, all together", server=ServerOrder.TOGETHER
)


def by_label(
    labels: np.ndarray, count: int, rng: np.random.Generator, pieces: int = 2
) -> tuple[np.ndarray, ...]:
    """Samples in the order of their labels, cut into `pieces` a device, which are dealt."""
    order = np.argsort(labels, kind="stable")
    cut = np.array_split(order, count * pieces)
    dealt = rng.permutation(len(cut)).reshape(count, pieces)
    return tuple(np.concatenate([cut[piece] for piece in own]) for own in dealt)


@final
@dataclass(frozen=True)
class Median(Aggregation):
    """The middle of each value: one device alone cannot move it far. Weights are not read."""

    def merge(self, rows: Tensor, weights: Sequence[float]) -> Tensor:
        return torch.quantile(rows.double(), 0.5, dim=0).to(rows.dtype)
