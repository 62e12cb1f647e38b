"""What cannot be played over a network is said before a run directory is made."""

from pathlib import Path

import pytest
import tiny
from train.conftest import vision

from cutlayer.config.job import new_directory, prepare
from cutlayer.config.net_job import check_net, open_net
from cutlayer.errors import ConfigError
from cutlayer.net.compute import in_place
from cutlayer.net.frames import largest_frame
from cutlayer.net.limits import server_limits
from cutlayer.train.run import Silent

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


def test_a_link_takes_no_frame_beyond_the_runs(vision: tuple[Path, Path], tmp_path: Path) -> None:
    config = tiny.config(*vision)
    net = open_net(prepare(config), new_directory(config, tmp_path), Silent(), in_place)
    assert net.limits.frame_bytes == largest_frame(server_limits(net.plan.bounds))
