"""The claims of the paper on a terminal: a row each."""

import io
import math
from dataclasses import replace
from decimal import Decimal

from rich.console import Console

from reproduction.claims import Claim, Verdict
from reproduction.claims_table import claims_table

CLAIM = Claim("minutes of [SFT]", "81.4", Decimal("81.4"), 82.85, "min", Verdict.WITHIN, "Because.")


def test_a_row_has_both_numbers_and_the_verdict_and_no_reason() -> None:
    text = io.StringIO()
    unknown = replace(CLAIM, ours=math.nan)
    Console(file=text, width=100).print(claims_table([("fig8", CLAIM), ("fig9", unknown)]))
    _, _, row, other = text.getvalue().splitlines()
    assert row.split() == [
        *("fig8", "minutes", "of", "[SFT]", "81.4"),
        *("82.85", "min", "+1.8", "%", "within", "5", "%"),
    ]
    assert other.split()[-5:] == ["not", "computed", "within", "5", "%"]
    assert "Because" not in text.getvalue()
