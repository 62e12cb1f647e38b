"""A cut for each device: of all that fit it, the one that leaves most of the band to the others.

For a common deadline each device takes the cut that needs the smallest share, so the shortest
deadline whose shares fit the band is the best of all combinations, queues apart. What the server is
asked for has a price besides; several prices are tried, and the timeline decides between them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int

from cutlayer.channel.curves import Curves
from cutlayer.planner.allocation import best_shares
from cutlayer.planner.bandwidth.demand import demand_of
from cutlayer.planner.bandwidth.share_problem import ShareProblem
from cutlayer.planner.decision import Decision, Limits
from cutlayer.planner.estimate import amounts_of
from cutlayer.planner.forecast import device_need
from cutlayer.planner.observed import share_problem
from cutlayer.planner.workload import Workload
from cutlayer.timeline.rules import Rules

# of the whole server, in parts of the band
_PRICES = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
_BISECTIONS = 40


@dataclass(frozen=True, eq=False)
class _Option:
    """One cut for whoever can hold it: `server_s` is a round's, infinite `misfit` shuts it out."""

    cut: int
    problem: ShareProblem
    server_s: Float64[np.ndarray, " device"]
    misfit: Float64[np.ndarray, " device"]


def cut_by_device(
    workload: Workload, limits: Limits, decision: Decision, curves: Curves
) -> list[Decision]:
    """Decisions like this one with a cut for each device, one for each price of the server."""
    options = [
        _option(workload, limits, decision, cut, curves)
        for cut in range(limits.least_cut, workload.model.blocks)
    ]
    ways = {
        tuple(options[number].cut for number in _cheapest(options, price, decision.rules))
        for price in _PRICES
    }
    found = []
    for cuts in sorted(ways):
        other = replace(decision, cuts=cuts)
        observed = amounts_of(workload, other).observed()
        shares = best_shares(observed, curves, decision.rules, limits.most_share)
        found.append(replace(other, shares=shares))
    return found


def _option(
    workload: Workload, limits: Limits, decision: Decision, cut: int, curves: Curves
) -> _Option:
    count = len(workload.devices)
    amounts = amounts_of(workload, replace(decision, cuts=(cut,) * count))
    problem = share_problem(amounts.observed(), curves, decision.rules, np.array(limits.most_share))
    need = device_need(workload, decision.scheme, cut, decision.held).total
    room = [device.memory_bytes or np.inf for device in workload.devices]
    misfit = np.where(np.array(room, dtype=np.float64) >= need, 0.0, np.inf)
    return _Option(cut, problem, amounts.local_steps * amounts.server_s, misfit)


def _cheapest(options: Sequence[_Option], price: float, rules: Rules) -> Int[np.ndarray, " device"]:
    """Which option each device takes at the shortest deadline that the band allows."""
    workers = rules.server_workers
    low = 0.0
    high = max(float((each.problem.fixed_s + each.problem.at_cap_s).max()) for each in options)
    high *= options[0].problem.devices
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        costs, shares = _costs(options, middle, price, workers)
        taken = np.take_along_axis(shares, costs.argmin(axis=0)[None], axis=0)
        if taken.sum() <= 1.0:
            high = middle
        else:
            low = middle
    return np.asarray(_costs(options, high, price, workers)[0].argmin(axis=0))


def _costs(
    options: Sequence[_Option], deadline_s: float, price: float, workers: int
) -> tuple[Float64[np.ndarray, "option device"], Float64[np.ndarray, "option device"]]:
    """What each option costs each device, and its share of the band: infinite if too slow."""
    shares = np.stack([_needed(each, deadline_s) for each in options])
    served = np.stack([each.server_s for each in options]) / (workers * deadline_s)
    return shares + price * served, shares


def _needed(option: _Option, deadline_s: float) -> Float64[np.ndarray, " device"]:
    """The share with which each device meets the deadline."""
    demand = demand_of(option.problem)
    left_s = deadline_s - option.problem.fixed_s
    possible = (left_s >= demand.least_s) & (option.misfit == 0)
    seconds = np.where(possible, left_s, demand.least_s)
    needed = demand.needed(seconds, option.problem.most).shares
    return np.where(possible, needed, np.inf)
