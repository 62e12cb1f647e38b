"""What the paper's text says of Fig. 7, judged by what was seen in trainings and by arithmetic."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from reproduction.claims import (
    Claim,
    Reference,
    Verdict,
    judge_at_most,
    judge_larger,
    judge_number,
)
from reproduction.fig7_grid import CLAIMED, HALF, SPARSEST_CLAIMED, UNCOMPRESSED, Point

FLOAT32_BITS = 32
PAPER_WIDTH = 768  # ViT-B, whose activations the paper compresses
MOST_LOST = Decimal("2")
SPARSIFIED_RATIO = Decimal("12")
CODED_RATIO = Decimal("20")


@dataclass(frozen=True)
class Seen:
    """Means over the seeds: accuracy [%], bits per element of activations, the same values' bits in
    `paper-rans`; `before` is the accuracy [%] before training, `width` the model's."""

    before: float
    accuracy: Mapping[Point, float]
    bits: Mapping[Point, float]
    bits_plus: Mapping[Point, float]
    width: int
    test_samples: int

    def lost(self, point: Point) -> float:
        """Accuracy that `point` costs against no compression [points]."""
        return self.accuracy[UNCOMPRESSED] - self.accuracy[point]

    @property
    def noise(self) -> float:
        """The standard error of an accuracy that comes from so many test samples [points].

        sqrt(p (1 - p) / n) of the uncompressed one. All points share the test samples, so the error
        of a difference is at most sqrt(2) times that.
        """
        share = self.accuracy[UNCOMPRESSED] / 100
        return 100 * math.sqrt(share * (1 - share) / self.test_samples)


def claims_of(seen: Seen) -> tuple[Claim, ...]:
    """The text's four claims."""
    return (_most_lost(seen), _sharp_drop(seen), _sparsified(seen), _coded(seen))


def indexed_ratio(width: int, point: Point, sign: bool) -> float:
    """How many times fewer bits than float32, by a column index for each kept value.

    32 / (rho (ceil(log2 width) + q [+ 1 for the sign])). Source: SFT section VI-B.3, whose 12x is
    this without a sign.
    """
    kept_bits = math.ceil(math.log2(width)) + point.bits + int(sign)
    return FLOAT32_BITS / (point.keep_ratio * kept_bits)


def _most_lost(seen: Seen) -> Claim:
    lost = seen.lost(CLAIMED)
    error = math.sqrt(2) * seen.noise
    reach = seen.accuracy[UNCOMPRESSED] - seen.before
    verdict = judge_at_most(MOST_LOST, lost, reach=reach)
    reason = (
        f"{seen.accuracy[UNCOMPRESSED]:.1f} % uncompressed (from {seen.before:.1f} % untrained), "
        f"{seen.accuracy[CLAIMED]:.1f} % compressed, the difference uncertain by {error:.1f} points"
        f" on {seen.test_samples} test samples"
    )
    if not reach > float(MOST_LOST):
        reason += "; the training gained too little for anything to be lost"
    elif abs(lost - float(MOST_LOST)) <= error:
        reason += ": too close to the bound to be sure"
    return Claim(
        f"accuracy lost at {CLAIMED}",
        f"at most {MOST_LOST}",
        MOST_LOST,
        lost,
        "points",
        verdict,
        f"{reason}; {_most_within(seen)}.",
    )


def _most_within(seen: Seen) -> str:
    """The point of fewest bits that keeps the bound."""
    within = [
        point
        for point in seen.accuracy
        if point != UNCOMPRESSED and seen.lost(point) <= float(MOST_LOST)
    ]
    if not within:
        return f"no compressed point of the grid stays within {MOST_LOST} points"
    most = min(within, key=seen.bits.__getitem__)
    ratio = FLOAT32_BITS / seen.bits[most]
    return (
        f"of the grid's points within {MOST_LOST} points, {most} takes fewest bits ({ratio:.1f}x)"
    )


def _sharp_drop(seen: Seen) -> Claim:
    late = _drop_per_tenth(seen, CLAIMED, SPARSEST_CLAIMED)
    early = _drop_per_tenth(seen, HALF, CLAIMED)
    # of a weighted sum of three accuracies: (4/3) a(80 %) - a(90 %) - (1/3) a(50 %)
    noise = seen.noise * math.sqrt((4 / 3) ** 2 + 1 + (1 / 3) ** 2)
    verdict = judge_larger(late, early, noise=noise)
    compared = "more" if verdict is Verdict.ORDERING else "not clearly more"
    return Claim(
        "accuracy lost from 80 to 90 % sparsity",
        "a sharp drop",
        None,
        late,
        "points",
        verdict,
        f"That is {compared} than the {early:.2f} points lost per 10 % of sparsity from 50 to 80 %"
        f" (uncertain by {noise:.1f} points); the text gives no number.",
    )


def _drop_per_tenth(seen: Seen, dense: Point, sparse: Point) -> float:
    """Accuracy lost per 10 % of sparsity between two points [points]."""
    return (seen.accuracy[dense] - seen.accuracy[sparse]) / (sparse.sparsity - dense.sparsity) * 10


def _sparsified(seen: Seen) -> Claim:
    ours = indexed_ratio(PAPER_WIDTH, CLAIMED, sign=False)
    index_bits = math.ceil(math.log2(PAPER_WIDTH))
    return Claim(
        f"compression by {CLAIMED}",
        f"{SPARSIFIED_RATIO}x",
        SPARSIFIED_RATIO,
        ours,
        "times",
        judge_number(SPARSIFIED_RATIO, ours),
        f"{FLOAT32_BITS} / ({CLAIMED.keep_ratio} x ({index_bits}-bit column index + "
        f"{CLAIMED.bits} bits)) at the paper's width of {PAPER_WIDTH}; it leaves out the sign,"
        f" with which it is {indexed_ratio(PAPER_WIDTH, CLAIMED, sign=True):.2f}; at this model's"
        f" width of {seen.width} it is {indexed_ratio(seen.width, CLAIMED, sign=False):.2f} without"
        f" and {indexed_ratio(seen.width, CLAIMED, sign=True):.2f} with it.",
    )


def _coded(seen: Seen) -> Claim:
    ours = FLOAT32_BITS / seen.bits[CLAIMED]
    plus = FLOAT32_BITS / seen.bits_plus[CLAIMED]
    return Claim(
        f"compression by {CLAIMED} with lossless encoding",
        f"{CODED_RATIO}x",
        CODED_RATIO,
        ours,
        "times",
        judge_number(
            CODED_RATIO,
            ours,
            reference=Reference(SPARSIFIED_RATIO, indexed_ratio(seen.width, CLAIMED, sign=False)),
        ),
        f"Measured on every activation packet of the training: Golomb gaps, {CLAIMED.bits} bits and"
        f" a sign, {seen.bits[CLAIMED]:.3f} bits an element; paper-rans makes {plus:.1f}x of the"
        f" same values ({seen.bits_plus[CLAIMED]:.3f} bits).",
    )
