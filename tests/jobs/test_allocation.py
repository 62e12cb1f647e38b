"""The planner section: names, and what excludes what."""

import pytest

from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError
from cutlayer.jobs.build import fixed_shares

NAMES = ["random", "static", "two-timescale"]


def _config(planner: object, **link: object) -> Config:
    return Config.model_validate({"devices": {"count": 2}, "link": link, "planner": planner})


def test_shares_are_even_or_as_given() -> None:
    assert fixed_shares(_config("even"), 2).value == (0.5, 0.5)
    assert fixed_shares(_config({"name": "fixed", "shares": [0.2, 0.7]}), 2).value == (0.2, 0.7)


def test_a_name_with_an_underscore_is_the_same() -> None:
    assert _config("two_timescale").planner.name == "two-timescale"
    assert _config({"name": "two_timescale", "most_share": 0.5}).planner.name == "two-timescale"


@pytest.mark.parametrize("most", [0.0, 1.5, [0.5, 2.0]])
def test_a_largest_share_is_a_part_of_the_band(most: object) -> None:
    with pytest.raises(ConfigError, match="most_share"):
        _config({"name": "static", "most_share": most})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("uplink", ["in-turn", "shared"])
def test_an_uplink_without_shares_needs_no_planner(name: str, uplink: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} .* link.uplink {uplink} .* to even"):
        fixed_shares(_config(name, uplink=uplink), 2)
    assert fixed_shares(_config("even", uplink=uplink), 2).value == (0.5, 0.5)
    assert fixed_shares(_config(name, downlink=uplink), 2).value == (0.5, 0.5)
