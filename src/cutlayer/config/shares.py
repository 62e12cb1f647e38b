"""The bandwidth allocation that a configuration gives, and the bounds that it sets to one found.

Knows which settings exclude each other; imports no torch.
"""

from cutlayer.config.devices import each
from cutlayer.config.schema import Config, PlannerSection
from cutlayer.errors import ConfigError
from cutlayer.planner.allocation import Fixed, Shares, even


def fixed_shares(config: Config, devices: int) -> Fixed:
    """The shares that the configuration gives, else even ones; the channel checks that they fit.

    Raises ConfigError where they are given and another planner is to find them, or where that
    planner's shares would carry nothing up.
    """
    name, link = config.planner.name, config.link
    given = link.shares if isinstance(link.shares, tuple) else None
    if given is not None and len(given) != devices:
        raise ConfigError(
            f"link.shares lists {len(given)} shares for devices.count {devices}: give each device"
            " its own, or even"
        )
    if given is not None and "static" not in (link.uplink, link.downlink):
        raise ConfigError(
            f"link.shares lists {len(given)} shares, but with link.uplink {link.uplink} and"
            f" link.downlink {link.downlink} each transfer has all of the bandwidth: set one of"
            " them to static, or leave the shares out"
        )
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


def most_shares(section: PlannerSection, devices: int) -> Shares:
    """Each device's largest share. Raises ConfigError for a list of another length."""
    return each("planner.most_share", section.most_share, devices)
