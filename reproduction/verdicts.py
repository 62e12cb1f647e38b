"""The verdicts of many figures as one table: how many of each, and a line for each claim.

Knows claims and no figure.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from cutlayer.report.save import save_table
from reproduction.claims import CLAIM_COLUMNS, Claim, Verdict, claim_rows

COLUMNS = ("figure", *CLAIM_COLUMNS)


def save_verdicts(path: Path, claims: Mapping[str, Sequence[Claim]]) -> Path:
    """A CSV file of all claims by figure. Raises RunError: cannot be written."""
    rows = [(name, *row) for name, some in claims.items() for row in claim_rows(some)]
    return save_table(path, COLUMNS, rows)


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
