"""What cannot be played over a network is said before a run directory is made."""

from pathlib import Path

import pytest
import tiny
from train.conftest import vision

from cutlayer.config.job import prepare
from cutlayer.config.net_job import check_net
from cutlayer.errors import ConfigError

__all__ = ["vision"]


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"scheme": "sl"}, "scheme sl cannot be played"),
        ({"training": {"local_epochs": 1}}, "does not know how many samples"),
        ({"net": {"devices": ("a", "b")}}, "2 names for devices.count 3"),
        ({"net": {"devices": ("a", "b", "a")}}, "one of its own"),
        ({"net": {"quorum": 4}}, "quorum 4 of devices.count 3"),
        ({"planner": "two-timescale"}, "anew each round"),
    ],
)
def test_what_cannot_be(sections: dict[str, object], words: str, vision: tuple[Path, Path]) -> None:
    job = prepare(tiny.config(*vision, **sections))
    with pytest.raises(ConfigError, match=words):
        check_net(job)
