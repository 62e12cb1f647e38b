"""The verdicts of many figures as one table: how many of each, and a line for each claim.

Knows claims and no figure.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cutlayer.paper.claims import CLAIM_COLUMNS, Claim, Verdict, claim_rows
from cutlayer.report.save import save_table

COLUMNS = ("figure", *CLAIM_COLUMNS)


def save_verdicts(path: Path, claims: Mapping[str, Sequence[Claim]]) -> Path:
    """A CSV file of all claims by figure. Raises RunError: cannot be written."""
    rows = [(name, *row) for name, some in claims.items() for row in claim_rows(some)]
    return save_table(path, COLUMNS, rows)


def verdict_lines(claims: Mapping[str, Sequence[Claim]]) -> Iterator[str]:
    """Counts by verdict, then every claim; one that several figures make is said once."""
    once: dict[tuple[str, str], tuple[str, Claim]] = {}
    for name, some in claims.items():
        for claim in some:
            once.setdefault((claim.name, claim.says), (name, claim))
    counts = Counter(claim.verdict for _, claim in once.values())
    yield f"{len(once)} claims of the paper: " + ", ".join(
        f"{counts[verdict]} {verdict.value}" for verdict in Verdict
    )
    for name, claim in once.values():
        yield f"{name}: {claim.line()}"
