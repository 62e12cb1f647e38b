"""The paper's claims beside our numbers, for a terminal: a row each, without the reasons.

Knows claims and rich's tables; files and scripts have the lines.
"""

from collections.abc import Iterable

from rich import box
from rich.table import Table
from rich.text import Text

from reproduction.claims import Claim


def claims_table(claims: Iterable[tuple[str, Claim]]) -> Table:
    """Of each claim, named by its figure: what the paper says, ours, the difference, the
    verdict."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("figure", "claim", "paper", "ours", "difference", "verdict"):
        right = heading in ("ours", "difference")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for figure, claim in claims:
        shown = (claim.name, claim.says, claim.ours_shown, claim.difference_shown)
        table.add_row(*(Text(cell) for cell in (figure, *shown, claim.verdict.value)))
    return table
