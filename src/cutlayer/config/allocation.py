"""The planner section made into an allocation: who has which share of the band in each round.

Knows which settings exclude each other; how shares are found is the planner's.
"""

from cutlayer.config.devices import each
from cutlayer.config.schema import Config, PlannerSection
from cutlayer.errors import ConfigError
from cutlayer.planner.allocation import (
    Allocation,
    Fixed,
    Random,
    Shares,
    TwoTimescale,
    best_shares,
    even,
)
from cutlayer.train.expected import expected_round
from cutlayer.train.setup import Setup


def fixed_shares(config: Config, devices: int) -> Fixed:
    """The shares that the configuration gives, else even ones; the channel checks that they fit.

    Raises ConfigError where they are given and another planner is to find them, or where that
    planner's shares would carry nothing up.
    """
    name, link = config.planner.name, config.link
    given = link.shares if isinstance(link.shares, tuple) else None
    if name != "even" and given is not None:
        raise ConfigError(
            f"link.shares lists {len(given)} shares, but planner {name} finds them itself: set "
            "link.shares to even, or planner to even to keep the list"
        )
    if name != "even" and link.uplink != "static":
        raise ConfigError(
            f"planner {name} allocates the bandwidth, but with link.uplink {link.uplink} each"
            " transfer has all of it: set link.uplink to static, or planner to even"
        )
    return even(devices) if given is None else Fixed(given)


def make_allocation(config: Config, setup: Setup) -> Allocation:
    """What the planner makes of a run whose shares are fixed so far.

    `static` decides on the channel's mean and on what the first round is expected to take. Raises
    ConfigError for shares that cannot be.
    """
    section, devices = config.planner, len(setup.devices)
    match section.name:
        case "even":
            return setup.allocation
        case "random":
            return Random(devices, config.seed)
        case "static":
            mean, most = setup.channel.mean_curves(), _most(section, devices)
            return Fixed(best_shares(expected_round(setup), mean, setup.rules, most))
        case "two-timescale":
            return TwoTimescale(setup.rules, _most(section, devices))


def _most(section: PlannerSection, devices: int) -> Shares:
    return each("planner.most_share", section.most_share, devices)
