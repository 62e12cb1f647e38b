"""A claim of the paper beside our number, the verdict that follows from the two, and many of them.

Knows no figure: who makes a claim brings the numbers and the reason. A verdict is never chosen, it
comes out of one of the functions `judge_*`.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum

CLOSE = 0.05


class Verdict(Enum):
    """How far our numbers bear a claim out."""

    EXACT = "exact"
    WITHIN = "within 5 %"
    RATIO = "ratio only"
    ORDERING = "ordering only"
    CONTRADICTS_ITSELF = "contradicts itself"
    NOT_REPRODUCED = "not reproduced"


@dataclass(frozen=True)
class Reference:
    """What a number is compared with, where two numbers of a claim belong together."""

    paper: Decimal
    ours: float


@dataclass(frozen=True)
class Claim:
    """One claim: what it is about, what the paper says, our number [unit], the verdict and why.

    `paper` is the number as published (its last digit tells how far it was rounded), None where the
    paper gives none; `says` is how it is shown. `ours` is NaN where it cannot be computed yet.
    `reason` is one sentence or a few.
    """

    name: str
    says: str
    paper: Decimal | None
    ours: float
    unit: str
    verdict: Verdict
    reason: str

    @property
    def difference(self) -> float | None:
        """Ours less the paper's [unit]; None where either is missing."""
        if self.paper is None or math.isnan(self.ours):
            return None
        return self.ours - float(self.paper)

    def line(self) -> str:
        """The claim in one line of text; the difference in per cent of the paper's number."""
        apart = f" ({self.difference_shown})" if self.difference_shown else ""
        return (
            f"{self.name}: paper {self.says}, ours {self.ours_shown}{apart}:"
            f" {self.verdict.value}. {self.reason}"
        )

    @property
    def ours_shown(self) -> str:
        """Our number with its unit."""
        return "not computed" if math.isnan(self.ours) else f"{_shown(self.ours)} {self.unit}"

    @property
    def difference_shown(self) -> str:
        """In per cent of the paper's number, of percentages in points; empty without one."""
        if self.paper is None or self.difference is None:
            return ""
        if self.unit.startswith(("%", "points")) or self.paper == 0:
            return f"{self.difference:+.2f} points"
        return f"{100 * self.difference / float(self.paper):+.1f} %"


@dataclass(frozen=True)
class Said:
    """What the paper says of `name`, how that is shown, and the number that it prints [unit]."""

    name: str
    says: str
    unit: str
    paper: Decimal | None = None

    def judged(self, ours: float, verdict: Verdict, reason: str) -> Claim:
        """The claim with a verdict from one of the functions `judge_*`."""
        return Claim(self.name, self.says, self.paper, ours, self.unit, verdict, reason)

    def number(
        self,
        ours: float,
        reason: str,
        *,
        reference: Reference | None = None,
        implied: float | None = None,
    ) -> Claim:
        """The claim by `judge_number`."""
        verdict = judge_number(self._published, ours, reference=reference, implied=implied)
        return self.judged(ours, verdict, reason)

    def at_most(self, ours: float, reason: str, *, reach: float) -> Claim:
        """The claim by `judge_at_most`."""
        return self.judged(ours, judge_at_most(self._published, ours, reach=reach), reason)

    def reduction(self, ours: float, reason: str, *, implied: float | None = None) -> Claim:
        """The claim by `judge_reduction`."""
        return self.judged(ours, judge_reduction(self._published, ours, implied=implied), reason)

    @property
    def _published(self) -> Decimal:
        if self.paper is None:
            raise ValueError(f"{self.name}: the paper prints no number to be judged by")
        return self.paper


CLAIM_COLUMNS = ("claim", "paper says", "paper", "ours", "unit", "difference", "verdict", "reason")


def claim_rows(claims: Iterable[Claim]) -> list[tuple[str, ...]]:
    """A row of `CLAIM_COLUMNS` for each claim; empty cells where the paper gives no number."""
    return [
        (
            claim.name,
            claim.says,
            "" if claim.paper is None else f"{claim.paper:f}",
            f"{claim.ours:.4f}",
            claim.unit,
            "" if claim.difference is None else f"{claim.difference:.4f}",
            claim.verdict.value,
            claim.reason,
        )
        for claim in claims
    ]


def judge_number(
    paper: Decimal,
    ours: float,
    *,
    reference: Reference | None = None,
    implied: float | None = None,
) -> Verdict:
    """The verdict on a published number.

    - contradicts itself: `implied`, what the paper's own other numbers give for it, is further than
      5 % from it. This comes first: such a number cannot be reproduced, only met by chance.
    - exact: ours, rounded as the paper rounds, is the paper's number.
    - within 5 %: of the paper's number.
    - ratio only: the ratio to `reference` agrees within 5 %.
    - ordering only: ours is on the same side of its reference as the paper's.
    """
    number = float(paper)
    if implied is not None and not _close(implied, number):
        return Verdict.CONTRADICTS_ITSELF
    if abs(ours - number) <= _half_last_digit(paper):
        return Verdict.EXACT
    if _close(ours, number):
        return Verdict.WITHIN
    if reference is not None and reference.ours != 0 and reference.paper != 0:
        if _close(ours / reference.ours, number / float(reference.paper)):
            return Verdict.RATIO
        if (ours - reference.ours) * (number - float(reference.paper)) > 0:
            return Verdict.ORDERING
    return Verdict.NOT_REPRODUCED


def judge_at_most(bound: Decimal, ours: float, *, reach: float) -> Verdict:
    """The verdict on "at most `bound`", where nothing could have gone above `reach`.

    A bound that is kept is judged as a number, and is ordering only where it is kept by more: ours
    bears out the side and not the number. within 5 %: it is missed by no more than a twentieth of
    it. A bound that could not have been missed (`reach` within it) is not reproduced by being kept.
    """
    limit = float(bound)
    if not reach > limit:
        return Verdict.NOT_REPRODUCED
    if ours <= limit:
        verdict = judge_number(bound, ours)
        return Verdict.ORDERING if verdict is Verdict.NOT_REPRODUCED else verdict
    return Verdict.WITHIN if _close(ours, limit) else Verdict.NOT_REPRODUCED


def judge_reduction(paper: Decimal, ours: float, *, implied: float | None = None) -> Verdict:
    """The verdict on a reduction [%], by what it leaves: 99 % is not within 5 % of 95 %."""
    left = None if implied is None else 100 - implied
    return judge_number(100 - paper, 100 - ours, implied=left)


def judge_larger(larger: float, smaller: float, *, noise: float) -> Verdict:
    """The verdict on "`larger` is more than `smaller`", said without a number.

    At best ordering only; a difference within `noise` shows nothing.
    """
    return Verdict.ORDERING if larger - smaller > noise else Verdict.NOT_REPRODUCED


def _shown(number: float) -> str:
    """Two decimals, none for a count."""
    return f"{number:.0f}" if float(number).is_integer() else f"{number:.2f}"


def _close(ours: float, paper: float) -> bool:
    return abs(ours - paper) <= CLOSE * abs(paper)


def _half_last_digit(number: Decimal) -> float:
    """Half a unit of the last digit published: 0.5 for 12, 0.005 for 4122.92."""
    exponent = number.as_tuple().exponent
    return 0.5 * 10.0 ** int(exponent)


def each_once(claims: Mapping[str, Sequence[Claim]]) -> list[tuple[str, Claim]]:
    """Every claim with its figure; one that several figures make is of the first."""
    once: dict[tuple[str, str], tuple[str, Claim]] = {}
    for name, some in claims.items():
        for claim in some:
            once.setdefault((claim.name, claim.says), (name, claim))
    return list(once.values())


def count_line(claims: Mapping[str, Sequence[Claim]]) -> str:
    """`52 claims of the paper: 20 exact, ...`."""
    once = each_once(claims)
    counts = Counter(claim.verdict for _, claim in once)
    by_verdict = ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict)
    return f"{len(once)} claims of the paper: {by_verdict}"
