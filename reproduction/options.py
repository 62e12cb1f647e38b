"""What a user may choose about a figure that needs training, and what making a figure gives.

Imports neither torch nor matplotlib.
"""

from dataclasses import dataclass
from pathlib import Path

from reproduction.claims import Claim


@dataclass(frozen=True)
class Options:
    """A model and data by name or path, where to cut, how long, over how many seeds.

    `rounds`: None for the figure's own number. `quick`: a small grid and a few steps, to see that
    everything works; its numbers say nothing.
    """

    data: str
    model: str
    cut: int
    rounds: int | None
    seeds: int
    quick: bool


@dataclass(frozen=True)
class Made:
    """What was trained on, in words; the claims; the files written."""

    setting: str
    claims: tuple[Claim, ...]
    files: tuple[Path, ...]
