"""The planner section made into an allocation: who has which share of the band in each round.

Imports torch, for what the first round is expected to take; how shares are found is the planner's.
"""

from cutlayer.config.schema import (
    Config,
    EvenPlanner,
    FixedPlanner,
    RandomPlanner,
    StaticPlanner,
    TwoTimescalePlanner,
)
from cutlayer.config.shares import most_shares
from cutlayer.planner.allocation import (
    Allocation,
    Fixed,
    Random,
    TwoTimescale,
    best_shares,
)
from cutlayer.train.expected import expected_round
from cutlayer.train.setup import Setup


def make_allocation(config: Config, setup: Setup) -> Allocation:
    """What the planner makes of a run whose shares are fixed so far.

    `static` decides on the channel's mean and on what the first round is expected to take. Raises
    ConfigError for shares that cannot be.
    """
    section, devices = config.planner, len(setup.devices)
    match section:
        case EvenPlanner() | FixedPlanner():
            return setup.allocation
        case RandomPlanner():
            return Random(devices, config.seed)
        case StaticPlanner():
            mean, most = setup.channel.mean_curves(), most_shares(section, devices)
            return Fixed(best_shares(expected_round(setup), mean, setup.rules, most))
        case TwoTimescalePlanner():
            return TwoTimescale(setup.rules, most_shares(section, devices))
