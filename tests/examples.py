"""How many examples Hypothesis draws: few in the tests that one runs all the time."""

import os
from typing import Any

from hypothesis import settings

_FEW = 8


def at_most(count: int, **others: Any) -> settings:
    """`count` examples with `CUTLAYER_TESTS=all`, else a few of them."""
    everything = os.environ.get("CUTLAYER_TESTS") == "all"
    return settings(max_examples=count if everything else min(count, _FEW), **others)
