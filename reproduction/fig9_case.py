"""Both time scales for a number of devices: Algorithm 2, printed and mended, then Algorithm 3.

Knows the paper's setting and which solver runs; judges nothing.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from cutlayer.planner.allocation import observe, share_problem
from cutlayer.planner.bandwidth import BandwidthStatus, ShareProblem, solve_shares
from cutlayer.planner.configuration import (
    Choice,
    ConfigurationProblem,
    ConfigurationSolution,
    EntropyRatio,
    solve,
)
from cutlayer.rounds.parameters import vit_spec
from cutlayer.rounds.schemes import SFT
from cutlayer.units import MIB
from reproduction.algorithm2 import PublishedAlgorithm2
from reproduction.algorithm2_mended import MendedAlgorithm2
from reproduction.algorithm3 import PublishedAlgorithm3
from reproduction.fig6_curves import DEVICE_MIB
from reproduction.fig9_accuracy import LEAST_ACCURACY, ToldSurface
from reproduction.setting import EVALUATION, Setting, channel_of, round_works, spread_devices

# the paper names none for Fig. 9; 8 and 20 are those of its other figures
USER_NUMBERS = (4, 8, 12, 20)
MOST_STEPS = 60


@dataclass(frozen=True, eq=False)
class Case:
    """What each algorithm did, iteration by iteration, and the best there is.

    `deadlines_s`: the round after 0, 1, 2, ... steps of Algorithm 3 as printed, from even shares;
    `best_deadline_s`: that of the best shares. Both at the `best` configuration.
    """

    devices: int
    best: Choice
    published: ConfigurationSolution
    mended: ConfigurationSolution
    deadlines_s: tuple[float, ...]
    best_deadline_s: float


def case_of(devices: int) -> Case:
    """The setting with so many devices, evenly from 0.5 to 1.5 GHz."""
    setting = replace(EVALUATION, device_flops_per_s=spread_devices(devices))
    problem = configuration_of(setting)
    best = solve(problem).chosen()
    shares = shares_of(replace(setting, cut=best.cut, compression_ratio=1.0 / best.ratio))
    return Case(
        devices,
        best,
        PublishedAlgorithm2().solve(problem),
        MendedAlgorithm2().solve(problem),
        _deadlines_s(shares),
        solve_shares(shares).deadline_s,
    )


def configuration_of(setting: Setting) -> ConfigurationProblem:
    """(P1) on even shares, without a queue at the server, as (26) has it, by round of one epoch.

    Memory by (34) against 8 GiB.
    """
    spec = vit_spec(setting.dimensions)
    cuts = range(1, spec.blocks)
    even = np.full(setting.devices, 1.0 / setting.devices)

    def rounds_s(compression_ratio: float) -> Float64[np.ndarray, "cut device"]:
        each = [replace(setting, cut=cut, compression_ratio=compression_ratio) for cut in cuts]
        return np.stack([shares_of(one).delays_s(even) for one in each])

    # nothing sent, and everything
    fixed_s, whole_s = rounds_s(np.inf), rounds_s(1.0)
    need = [setting.accounting.memory(spec, cut, setting.batch).total for cut in cuts]
    return ConfigurationProblem(
        fixed_s=fixed_s,
        per_ratio_s=whole_s - fixed_s,
        compression=EntropyRatio(),
        surface=ToldSurface(),
        least_accuracy=LEAST_ACCURACY,
        need_bytes=np.repeat(np.array(need, dtype=np.float64)[:, None], setting.devices, axis=1),
        limit_bytes=np.full(setting.devices, DEVICE_MIB * MIB),
        server_busy=np.zeros(len(cuts)),
        box=ToldSurface().box,
    )


def shares_of(setting: Setting) -> ShareProblem:
    """(P2) of a later round; no device is limited to less than the band."""
    observed = observe(SFT, round_works(setting, SFT, first_round=False))
    curves = channel_of(setting).curves(1, 0.0)
    return share_problem(observed, curves, setting.rules, np.ones(setting.devices))


def _deadlines_s(problem: ShareProblem) -> tuple[float, ...]:
    """Algorithm 3 stopped after each number of steps, until it ends by itself."""
    even = np.full(problem.devices, 1.0 / problem.devices)
    deadlines = [problem.deadline_s(even)]
    for steps in range(1, MOST_STEPS + 1):
        found = PublishedAlgorithm3(most_steps=steps).solve(problem, even)
        deadlines.append(found.deadline_s)
        if found.status is not BandwidthStatus.NO_CONVERGENCE:
            break
    return tuple(deadlines)
