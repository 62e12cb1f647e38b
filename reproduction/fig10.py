"""Fig. 10 of the paper: a round's delay by the bandwidth allocation, over bandwidths.

    python -m reproduction fig10        15 s; expected/fig10.csv, expected/fig10-claims.csv

Analytic, by the timeline at full size, for three kinds of links, since the paper leaves the kind
open. Each draw is a round of SFT under three allocations: devices of 0.5 to 1.5 GHz, one SNR or
SNRs that differ, the server's queue included.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from cutlayer.channel.fading import Fading, NoFading, Rayleigh, SnrChannel
from cutlayer.channel.rates import RateCurves
from cutlayer.planner.allocation import (
    Allocation,
    ObservedRound,
    RandomAllocation,
    Shares,
    TwoTimescaleAllocation,
    bandwidth_problem,
    even_allocation,
    observed_work,
)
from cutlayer.planner.bandwidth import SolverStatus, solve_bandwidth
from cutlayer.report.drawing import new_figure
from cutlayer.rounds.schemes import SFT
from cutlayer.rounds.simulate import simulate
from cutlayer.rounds.work import DeviceWork
from reproduction.algorithms import PublishedAlgorithm3
from reproduction.catalogue import Cells, Made, Options, caption, write
from reproduction.claims import Claim, Said, judge_larger
from reproduction.evaluation import (
    DEVICE_FLOPS_PER_HZ,
    EVALUATION,
    SECONDS_PER_MINUTE,
    Setting,
    work_of,
)

_LOG = logging.getLogger(f"cutlayer.{__name__}")

DRAWS = 40
# "randomly generated between 0.5 GHz and 1.5 GHz" (Section VIII-A)
_DEVICE_HZ = (0.5e9, 1.5e9)
# of the bandwidth: far above what Algorithm 3's tolerance of 1e-9 moves shares by
_ALIKE = 1e-6


@dataclass(frozen=True)
class Links:
    """What tells the devices' links apart: a uniform spread of their mean SNRs, fading."""

    name: str
    spread_db: float
    fading: Fading


# the first one is what the paper's text says
LINKS = (
    Links("equal ratios", 0.0, NoFading()),
    Links("ratios within 10 dB either way", 10.0, NoFading()),
    Links("equal means, Rayleigh fading", 0.0, Rayleigh()),
)


@dataclass(frozen=True, eq=False)
class Delays:
    """Seconds of a round by allocation ("optimal", "even", "random"), the same draws for each."""

    links: Links
    bandwidth_hz: float
    delay_s: Mapping[str, Float64[np.ndarray, " draw"]]

    @property
    def draws(self) -> int:
        """How many there are."""
        return len(self.delay_s["optimal"])

    def saved_percent(self, baseline: str) -> Float64[np.ndarray, " draw"]:
        """By how much the optimal shares shorten a round against a baseline [%]."""
        return np.asarray(100 * (1 - self.delay_s["optimal"] / self.delay_s[baseline]))


def delays_by_links(bandwidth_hz: float, draws: int = DRAWS) -> tuple[Delays, ...]:
    """The rounds of each kind of links on a bandwidth of `bandwidth_hz`."""
    return tuple(delays_of(links, bandwidth_hz, draws) for links in LINKS)


def delays_of(links: Links, bandwidth_hz: float, draws: int = DRAWS) -> Delays:
    """Rounds of one epoch after the first; draw d is the same whatever the bandwidth is."""
    setting = EVALUATION
    allocations: dict[str, Allocation] = {
        "optimal": TwoTimescaleAllocation(setting.rules, (1.0,) * setting.devices),
        "even": even_allocation(setting.devices),
        "random": RandomAllocation(setting.devices, seed=0),
    }
    drawn = [_draw(links, bandwidth_hz, setting, number) for number in range(1, draws + 1)]
    delays = {
        name: np.array([draw.delay_s(allocation) for draw in drawn])
        for name, allocation in allocations.items()
    }
    return Delays(links, bandwidth_hz, delays)


def algorithm_3_agrees(links: Links, bandwidth_hz: float, draws: int = DRAWS) -> float:
    """Percent of the draws in which the published Algorithm 3 ends with the optimal shares."""
    drawn = [_draw(links, bandwidth_hz, EVALUATION, number) for number in range(1, draws + 1)]
    return 100 * sum(draw.algorithm_3_agrees() for draw in drawn) / draws


@dataclass(frozen=True, eq=False)
class _Draw:
    """One round's devices and channel; `number` tells it from the others."""

    number: int
    setting: Setting
    channel: SnrChannel

    @property
    def curves(self) -> RateCurves:
        """The round's rates."""
        return self.channel.curves(self.number, 0.0)

    @cached_property
    def observed(self) -> ObservedRound:
        """The round's amounts, the same on any shares."""
        return observed_work(SFT, self._work(even_allocation(self.setting.devices).value))

    def delay_s(self, allocation: Allocation) -> float:
        """The round on the allocation's shares, with the server's queue [s]."""
        shares = allocation.shares(self.number, self.observed, self.curves)
        return simulate(SFT, self._work(shares), self.setting.rules).delay_s

    def algorithm_3_agrees(self) -> bool:
        """Whether the published algorithm, from even shares, ends with those of the exact one."""
        most = np.ones(self.setting.devices)
        problem = bandwidth_problem(self.observed, self.curves, self.setting.rules, most)
        theirs = PublishedAlgorithm3().solve(problem)
        ours = solve_bandwidth(problem).shares
        return theirs.status is SolverStatus.OPTIMAL and bool(
            abs(theirs.shares - ours).max() < _ALIKE
        )

    def _work(self, shares: Shares) -> list[DeviceWork]:
        links = self.channel.rates(self.number, 0.0, shares)
        return work_of(self.setting, SFT, links, first_round=False)


def _draw(links: Links, bandwidth_hz: float, setting: Setting, number: int) -> _Draw:
    rng = np.random.default_rng(number)
    hertz = rng.uniform(*_DEVICE_HZ, setting.devices)
    spread_db = rng.uniform(-links.spread_db, links.spread_db, setting.devices)
    ratios_db = setting.snr_db + spread_db
    return _Draw(
        number,
        replace(setting, device_flops_per_s=tuple((DEVICE_FLOPS_PER_HZ * hertz).tolist())),
        SnrChannel(bandwidth_hz, ratios_db, ratios_db, fading=links.fading),
    )


REDUCTION_PERCENT = Decimal("53.1")
BASELINES = ("even", "random")


def claims_of(
    rounds: Mapping[float, Sequence[Delays]], agreeing: Mapping[float, Sequence[float]]
) -> tuple[Claim, ...]:
    """The largest gain, that there is one everywhere, and that a narrow bandwidth keeps it.

    By bandwidth [Hz], for each kind of links: `rounds`, and `agreeing`, the percent of them in
    which the published Algorithm 3 ends with the optimal shares.
    """
    narrow, wide = min(rounds), max(rounds)
    everywhere = [delays for some in rounds.values() for delays in some]
    return (
        reduction(rounds[narrow]),
        _outperforms(everywhere, [agreeing[narrow], agreeing[wide]]),
        _narrow(rounds[narrow][0], rounds[wide][0]),
    )


def reduction(narrow: Sequence[Delays]) -> Claim:
    """The largest gain over even shares on the paper's bandwidth; of its own words, the first."""
    own, spread, fading = narrow
    ours = _most(own)
    reached = 100 * float(np.mean(fading.saved_percent("even") >= float(REDUCTION_PERCENT)))
    said = Said(
        "delay reduced by the allocation of bandwidth",
        f"up to {REDUCTION_PERCENT} %",
        "%",
        REDUCTION_PERCENT,
    )
    return said.reduction(
        ours,
        f"With the text's equal ratios of {EVALUATION.snr_db:g} dB only devices' compute rates "
        f"differ: against even shares {_mean(own):.1f} % on average, {ours:.1f} % at most of "
        f"{own.draws} rounds. With {spread.links.name} it is {_mean(spread):.1f} and "
        f"{_most(spread):.1f} %; with {fading.links.name} {_mean(fading):.1f} and "
        f"{_most(fading):.1f} %, and {reached:.0f} % of rounds reach what is published. Against "
        f"random shares it is {_mean(own, 'random'):.1f} % on average with equal ratios: it takes "
        "fading, or that baseline.",
    )


def _outperforms(everywhere: Sequence[Delays], agreeing: Sequence[Sequence[float]]) -> Claim:
    means = {
        (baseline, delays.bandwidth_hz, delays.links.name): _mean(delays, baseline)
        for delays in everywhere
        for baseline in BASELINES
    }
    baseline, bandwidth_hz, links = nearest = min(means, key=means.__getitem__)
    ours = means[nearest]
    worst = min(float(delays.saved_percent("even").min()) for delays in everywhere)
    said = Said(
        "optimal shares against even and random ones, every bandwidth",
        "consistently outperforms",
        "%",
    )
    return said.judged(
        ours,
        judge_larger(ours, 0.0, noise=0.0),
        f"The least mean gain is against {baseline} shares at {bandwidth_hz / 1e6:g} MHz, {links}"
        f". Of single rounds the worst is {worst:+.2f} % against even shares: shares are optimal "
        "for a round without a queue at the server. Algorithm 3 as published ends with the same "
        f"shares in {_listed(agreeing[0])} % of the rounds of the three interpretations on the "
        f"narrowest bandwidth, in {_listed(agreeing[1])} % on the widest.",
    )


def _narrow(narrow: Delays, wide: Delays) -> Claim:
    ours, other = _mean(narrow), _mean(wide)
    said = Said(
        "gain over even shares, narrow bandwidth against wide",
        "maintained in a constrained network",
        "%",
    )
    return said.judged(
        ours,
        judge_larger(ours, other, noise=0.0),
        f"With equal ratios the mean is {ours:.1f} % at {narrow.bandwidth_hz / 1e6:g} MHz and "
        f"{other:.1f} % at {wide.bandwidth_hz / 1e6:g} MHz, where the server's queue takes more of "
        "a round than the links.",
    )


def _mean(delays: Delays, baseline: str = "even") -> float:
    return float(delays.saved_percent(baseline).mean())


def _most(delays: Delays, baseline: str = "even") -> float:
    return float(delays.saved_percent(baseline).max())


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.0f}" for value in values)


_LINES = {
    "optimal": ("optimal shares", "#1f5a93", "o"),
    "even": ("even shares", "#35ab9b", "s"),
    "random": ("random shares", "#b3560f", "^"),
}
_MINUTES = (20, 50, 100, 200, 400)
# of the draws, the middle ones that a bandwidth shows
_MIDDLE_PERCENT = (10, 90)


def draw(rounds: Mapping[float, Sequence[Delays]], setting: str) -> Figure:
    """Medians and the middle 80 % of the draws; call it inside `plain_style`."""
    figure = new_figure(360)
    bandwidths = list(rounds)
    panels = figure.subplots(1, len(rounds[bandwidths[0]]), sharey=True)
    for axes, delays in zip(panels, zip(*rounds.values(), strict=True), strict=True):
        for name in _LINES:
            _line(axes, bandwidths, [one.delay_s[name] for one in delays], name)
        axes.set_title(delays[0].links.name)
        axes.set_xticks([bandwidth / 1e6 for bandwidth in bandwidths])
        axes.set_xlabel("bandwidth [MHz]")
    panels[0].set_yscale("log")
    panels[0].set_ylabel("delay of a round [min]")
    panels[0].set_yticks(_MINUTES, [f"{minutes:g}" for minutes in _MINUTES])
    panels[0].yaxis.set_minor_formatter(NullFormatter())
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(_LINES))
    caption(figure, setting)
    return figure


def _line(
    axes: Axes, bandwidths: Sequence[float], delays_s: Sequence[np.ndarray], name: str
) -> None:
    label, colour, mark = _LINES[name]
    minutes = [delay_s / SECONDS_PER_MINUTE for delay_s in delays_s]
    megahertz = [bandwidth / 1e6 for bandwidth in bandwidths]
    low, high = (np.array([np.percentile(m, end) for m in minutes]) for end in _MIDDLE_PERCENT)
    axes.fill_between(megahertz, low, high, color=colour, alpha=0.15, linewidth=0)
    medians = [float(np.median(m)) for m in minutes]
    axes.plot(megahertz, medians, mark + "-", color=colour, markersize=4.5, label=label)


BANDWIDTHS_HZ = (5e6, 10e6, 20e6, 30e6)
_QUICK_DRAWS = 4


def make(options: Options, output: Path) -> Made:
    """Compute, judge, write; of the options `quick` alone matters: a few draws."""
    draws = _QUICK_DRAWS if options.quick else DRAWS
    rounds = {}
    for bandwidth_hz in BANDWIDTHS_HZ:
        _LOG.info(f"{bandwidth_hz / 1e6:g} MHz: {draws} rounds of each interpretation")
        rounds[bandwidth_hz] = delays_by_links(bandwidth_hz, draws)
    agreeing = {
        bandwidth_hz: [algorithm_3_agrees(links, bandwidth_hz, draws) for links in LINKS]
        for bandwidth_hz in BANDWIDTHS_HZ
    }
    claims, tables = claims_of(rounds, agreeing), {"fig10": _rows(rounds, agreeing)}
    setting = (
        f"{EVALUATION.dimensions.name} cut after block {EVALUATION.cut}, {EVALUATION.devices} "
        f"devices of 0.5 to 1.5 GHz, mean ratio {EVALUATION.snr_db:g} dB; an epoch by the timeline,"
        f" nothing trained; median and middle 80 % of {draws} rounds"
    )
    return write("fig10", output, setting, claims, tables, lambda: draw(rounds, setting))


def _rows(
    rounds: Mapping[float, Sequence[Delays]], agreeing: Mapping[float, Sequence[float]]
) -> Iterator[Cells]:
    """Each kind of links, bandwidth and allocation."""
    for bandwidth_hz, some in rounds.items():
        for delays, percent in zip(some, agreeing[bandwidth_hz], strict=True):
            for name, delay_s in delays.delay_s.items():
                saved = delays.saved_percent(name)
                yield {
                    "interpretation": delays.links.name,
                    "bandwidth_mhz": f"{bandwidth_hz / 1e6:g}",
                    "allocation": name,
                    "mean_s": f"{delay_s.mean():.6f}",
                    "median_s": f"{np.median(delay_s):.6f}",
                    "longest_s": f"{delay_s.max():.6f}",
                    "optimal_saves_mean_percent": f"{saved.mean():.6f}",
                    "optimal_saves_most_percent": f"{saved.max():.6f}",
                    "algorithm_3_agrees_percent": f"{percent:.6f}" if name == "optimal" else "",
                }
