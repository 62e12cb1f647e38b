"""A cut for each device: of all that fit it, the one that leaves most of the band to the others.

For a common deadline each device takes the cut that needs the smallest share, so the shortest
deadline whose shares fit the band is the best of all combinations, queues apart. What the server
is asked for must fit it too, and has a price: several are tried, and the timeline decides between
them.
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
    """Which option each device takes at the shortest deadline that band and server allow."""
    workers = rules.server_workers
    low, high = 0.0, _long_enough_s(options, workers)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        needed = _needs(options, middle, workers)
        taken = needed.cheapest(price)[None]
        used = [
            float(np.take_along_axis(each, taken, axis=0).sum())
            for each in (needed.shares, needed.served)
        ]
        if max(used) <= 1.0:
            high = middle
        else:
            low = middle
    return _needs(options, high, workers).cheapest(price)


def _long_enough_s(options: Sequence[_Option], workers: int) -> float:
    """A deadline at which any choice fits: an even share is enough, and the server gets through."""
    alone_s = max(float((each.problem.fixed_s + each.problem.at_cap_s).max()) for each in options)
    served_s = np.max([each.server_s for each in options], axis=0).sum() / workers
    return max(options[0].problem.devices * alone_s, float(served_s))


@dataclass(frozen=True, eq=False)
class _Needs:
    """What each option takes of the band and of the server; of the band infinite if too slow."""

    shares: Float64[np.ndarray, "option device"]
    served: Float64[np.ndarray, "option device"]

    def cheapest(self, price: float) -> Int[np.ndarray, " device"]:
        """Which option costs each device least."""
        return np.asarray((self.shares + price * self.served).argmin(axis=0))


def _needs(options: Sequence[_Option], deadline_s: float, workers: int) -> _Needs:
    return _Needs(
        shares=np.stack([_needed(each, deadline_s) for each in options]),
        served=np.stack([each.server_s for each in options]) / (workers * deadline_s),
    )


def _needed(option: _Option, deadline_s: float) -> Float64[np.ndarray, " device"]:
    """The share with which each device meets the deadline."""
    demand = demand_of(option.problem)
    left_s = deadline_s - option.problem.fixed_s
    possible = (left_s >= demand.least_s) & (option.misfit == 0)
    seconds = np.where(possible, left_s, demand.least_s)
    needed = demand.needed(seconds, option.problem.most).shares
    return np.where(possible, needed, np.inf)
