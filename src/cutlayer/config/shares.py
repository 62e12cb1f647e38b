"""The bandwidth allocation that a configuration gives, and the bounds that it sets to one found.

Knows which settings exclude each other; imports no torch.
"""

from cutlayer.config.devices import each
from cutlayer.config.schema import Config, EvenPlanner, FixedPlanner, PlannerSection
from cutlayer.errors import ConfigError
from cutlayer.planner.allocation import Fixed, Shares, even


def fixed_shares(config: Config, devices: int) -> Fixed:
    """The shares that the configuration gives, else even ones; the channel checks that they fit.

    Raises ConfigError for another number of them than of devices, or where the planner's shares
    would carry nothing up, or given ones nothing at all.
    """
    planner, link = config.planner, config.link
    if isinstance(planner, FixedPlanner):
        if len(planner.shares) != devices:
            raise ConfigError(
                f"planner.shares lists {len(planner.shares)} shares for devices.count {devices}:"
                " give each device its own, or set planner to even"
            )
        if "static" not in (link.uplink, link.downlink):
            raise ConfigError(
                f"planner.shares lists {len(planner.shares)} shares, but with link.uplink"
                f" {link.uplink} and link.downlink {link.downlink} each transfer has all of the"
                " bandwidth: set one of them to static, or planner to even"
            )
        return Fixed(planner.shares)
    if not isinstance(planner, EvenPlanner) and link.uplink != "static":
        raise ConfigError(
            f"planner {planner.name} allocates the bandwidth, but with link.uplink {link.uplink}"
            " each transfer has all of it: set link.uplink to static, or planner to even"
        )
    return even(devices)


def most_shares(section: PlannerSection, devices: int) -> Shares:
    """Each device's largest share. Raises ConfigError for a list of another length."""
    return each("planner.most_share", section.most_share, devices)
