"""A lab from its configuration to its comparison: what may be run, and the two records.

The first round calibrates; those after it are compared with what the timeline predicts for them:
bytes are what the codec expects, link rates the channel's on each device's share, seconds of
computing those of the first round, by the same processes on the same machine, which share its
cores. The comparison is printed as a table and written as CSV and as a picture.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from cutlayer.channel.rates import LinkRates
from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError, RunError
from cutlayer.jobs.network import check_net
from cutlayer.jobs.prepare import Job, prepare, use_threads
from cutlayer.jobs.train import overview
from cutlayer.lab.environment import (
    Environment,
    NoNamespacesError,
    lab_folder,
    loopback,
    network_namespaces,
)
from cutlayer.lab.run import LabProcesses, LabSetup, StopSignals, run_processes, whole_json_lines
from cutlayer.logs import Heartbeat, so_far
from cutlayer.planner.allocation import FixedAllocation
from cutlayer.report.drawing import (
    OURS,
    Series,
    draw_bars,
    legend_and_title,
    new_figure,
    plain_style,
    save_figure,
    save_table,
)
from cutlayer.report.wording import OTHER_COLOUR, PHASES, WAITS
from cutlayer.rounds.result import RoundTimeline
from cutlayer.rounds.schemes import Phase, Scheme
from cutlayer.rounds.simulate import simulate
from cutlayer.rounds.work import DeviceRates, DeviceWork, SharingRules
from cutlayer.training.records import UNOBSERVED, lines_of_round
from cutlayer.training.round import expected_work
from cutlayer.training.state import Setup
from cutlayer.units import format_seconds

# Predicted seconds beside measured ones, by phase and for the round as a whole.
#
# A pure function of records: one of a predicted round, and those of the measured ones, with the
# keys that `rounds.jsonl` has.


CALIBRATED = "calibrated in round 1"
_QUEUE = "timeline"
_LINK = "channel and codec"
_ROUND = "round"


@dataclass(frozen=True)
class PhaseComparison:
    """One phase, or the round [s]. `basis`: where the prediction has its number from."""

    label: str
    predicted_s: float
    measured_s: float
    basis: str

    @property
    def difference(self) -> float | None:
        """How much longer it was than predicted, as a part of that; None: nothing was predicted."""
        return self.measured_s / self.predicted_s - 1.0 if self.predicted_s > 0 else None


@dataclass(frozen=True)
class LabComparison:
    """`phases` are those of the round's slowest device; `rounds`: which ones were measured."""

    phases: tuple[PhaseComparison, ...]
    round: PhaseComparison
    rounds: tuple[int, ...]

    def within(self, tolerance: float) -> bool:
        """Whether the measured round is that near to the predicted one."""
        difference = self.round.difference
        return difference is not None and abs(difference) <= tolerance


def compare_rounds(
    predicted: Mapping[str, Any],
    measured: Sequence[Mapping[str, Any]],
    calibrated: Collection[str],
) -> LabComparison:
    """Medians of the measured rounds beside the predicted one.

    Phases that took no time in either are left out. `calibrated`: phases whose seconds of a
    micro-batch were measured before. Raises ValueError without a measured round.
    """
    if not measured:
        raise ValueError("no round was measured")
    by_phase = {
        name: median(record["delay_by_phase_s"].get(name, 0.0) for record in measured)
        for name in PHASES
    }
    expected = predicted["delay_by_phase_s"]
    phases = tuple(
        PhaseComparison(
            PHASES[name].label, expected.get(name, 0.0), own_s, _basis(name, calibrated)
        )
        for name, own_s in by_phase.items()
        if expected.get(name, 0.0) > 0 or own_s > 0
    )
    delay_s = median(record["delay_s"] for record in measured)
    whole = PhaseComparison(_ROUND, predicted["delay_s"], delay_s, "all of it")
    return LabComparison(phases, whole, tuple(record["round"] for record in measured))


def _basis(phase: str, calibrated: Collection[str]) -> str:
    if phase in calibrated:
        return CALIBRATED
    return _QUEUE if phase in WAITS else _LINK


_LOG = logging.getLogger(__name__)

_CALIBRATION = 1
TOLERANCE = 0.1
_NAME = "lab"
_CSV = ("phase", "predicted_s", "measured_s", "difference", "basis")
_PIXELS_A_ROW = 46
_PIXELS_AROUND = 130

# mean seconds of a micro-batch by phase
Seconds = Mapping[Phase, float]

# an amount of work is given in the seconds that it takes
_UNIT = 1.0


@dataclass(frozen=True)
class LabRun:
    """A lab that has ended: the run's directory, what came of it, and where it ran in a line."""

    directory: Path
    comparison: LabComparison
    where: str


def run_lab(config: Config, output: Path, *, on_loopback: bool) -> LabRun:
    """Run `config` between processes, over links with the channel's rates, and compare.

    On loopback if asked, or where there are no namespaces. The run's directory is made under
    `output`; nothing else is left, however this ends. Raises CutlayerError for what cannot be run
    and for a process that fails, KeyboardInterrupt if it is told to stop.
    """
    # a thread a process: there are more of these than cores
    config = config.model_copy(update={"threads": 1})
    use_threads(config)
    with Heartbeat(so_far("getting ready")):
        job = prepare(config)
    links, shares = check_lab(job)
    for line in overview(job.config, job.prepared, job.setup):
        _LOG.info(line)
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignals())
        environment = stack.enter_context(_environment(links, on_loopback))
        folder = stack.enter_context(lab_folder())
        processes = stack.enter_context(LabProcesses(folder))
        with stop.heeded():
            directory = run_processes(
                LabSetup(job, links, shares, environment, folder, output), processes
            )
    return LabRun(directory, _compared(job, links, directory), environment.title)


def check_lab(job: Job) -> tuple[tuple[LinkRates, ...], tuple[float, ...]]:
    """The links that the job's devices get, and their shares: the first round's, throughout.

    Raises ConfigError for a job that separate links and one server cannot play, or that has no
    round to compare.
    """
    setup = job.setup
    if job.config.training.rounds <= _CALIBRATION:
        raise ConfigError(
            f"training.rounds is {job.config.training.rounds}: the lab's first round calibrates, so"
            " it needs 2 or more"
        )
    if setup.simulation.rules != SharingRules():
        raise ConfigError(
            "the lab gives each device a link of its own to one server: set link.uplink and"
            " link.downlink to static, link.duplex to full, server.workers to 1"
        )
    if not isinstance(setup.simulation.allocation, FixedAllocation):
        raise ConfigError(
            f"planner {job.config.planner.name} changes the bandwidth allocation each round, the"
            " lab's links keep their rates: set planner to even or static"
        )
    check_net(job)
    shares = setup.simulation.allocation.value
    return unicast_links(setup.simulation.channel.rates(1, 0.0, shares)), shares


@contextmanager
def _environment(links: Sequence[LinkRates], on_loopback: bool) -> Iterator[Environment]:
    """Namespaces if they are to be had."""
    with ExitStack() as stack:
        if on_loopback:
            environment = loopback(len(links), "asked for")
        else:
            try:
                environment = stack.enter_context(network_namespaces(links))
            except NoNamespacesError as error:
                environment = loopback(len(links), f"no network namespaces, {error}")
        _LOG.info(environment.title)
        yield environment


def _compared(job: Job, links: Sequence[LinkRates], directory: Path) -> LabComparison:
    scheme = job.setup.training.scheme
    trace = lines_of_round(directory / "trace.jsonl", _CALIBRATION)
    first = [json.loads(line) for line in trace if line.endswith("\n")]
    timeline = predicted_round(job.setup, links, calibrated_seconds(scheme, first, len(links)))
    predicted = {
        "delay_s": timeline.delay_s,
        "delay_by_phase_s": {
            phase.value: seconds for phase, seconds in timeline.critical_phase_seconds().items()
        },
    }
    measured = [
        record
        for record in whole_json_lines(directory / "rounds.jsonl")
        if record["round"] > _CALIBRATION and UNOBSERVED not in record["delay_by_phase_s"]
    ]
    if not measured:
        raise RunError(
            f"no round of {directory} after the first was observed from end to end: a device had to"
            " be started again, or its link broke; run the lab again"
        )
    return compare_rounds(predicted, measured, computing_phases(scheme))


def unicast_links(links: Sequence[LinkRates]) -> tuple[LinkRates, ...]:
    """The channel's rates with a link of its own for each device: what a radio broadcasts on the
    whole bandwidth goes to each on its share."""
    return tuple(replace(link, broadcast_bit_per_s=link.downlink_bit_per_s) for link in links)


def computing_phases(scheme: Scheme) -> tuple[Phase, ...]:
    """The phases whose seconds are calibrated."""
    return tuple(step.phase for step in scheme.local if not step.sends)


def calibrated_seconds(
    scheme: Scheme, trace: Sequence[Mapping[str, Any]], devices: int
) -> tuple[Seconds, ...]:
    """Each device's mean seconds of a micro-batch, by phase that computes, in one round's trace.

    `trace`: lines as `train.run.trace_lines` makes them. The first local step, in which a
    process computes for the first time, is left out if there is another. Raises RunError for a
    device or phase that is not in the trace.
    """
    seconds: dict[tuple[int, Phase], list[float]] = defaultdict(list)
    warm = max((line["local_step"] or 0 for line in trace), default=0) > 0
    for line in trace:
        if line["local_step"] is not None and (line["local_step"] > 0 or not warm):
            key = line["device"], Phase(line["phase"])
            seconds[key].append(line["end_s"] - line["start_s"])

    def mean(device: int, phase: Phase) -> float:
        if not seconds[device, phase]:
            raise RunError(
                f"device {device} was not observed through the calibration round ({phase} is not in"
                " trace.jsonl): run the lab again"
            )
        return float(np.mean(seconds[device, phase]))

    return tuple(
        {phase: mean(device, phase) for phase in computing_phases(scheme)}
        for device in range(devices)
    )


def predicted_round(
    setup: Setup, links: Sequence[LinkRates], compute_s: Sequence[Seconds]
) -> RoundTimeline:
    """A round after the first over `links`, with each device's seconds of computing."""
    work = [
        _with_seconds(own, seconds)
        for own, seconds in zip(
            expected_work(setup, links, first_round=False), compute_s, strict=True
        )
    ]
    return simulate(setup.training.scheme, work, setup.simulation.rules)


def _with_seconds(work: DeviceWork, seconds: Seconds) -> DeviceWork:
    measured = {phase: np.full(work.repeats, each_s) for phase, each_s in seconds.items()}
    rates = DeviceRates(_UNIT, _UNIT, work.rates.link)
    return replace(work, amounts={**work.amounts, **measured}, rates=rates)


def comparison_table(comparison: LabComparison) -> Table:
    """A row a phase of the slowest device, then the round."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, caption_justify="left")
    table.add_column("phase")
    for heading in ("predicted", "measured", "difference"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("predicted from")
    for line in comparison.phases:
        table.add_row(*_texts(line))
    table.add_section()
    table.add_row(*_texts(comparison.round), style="bold")
    table.caption = f"measured: median of {rounds_text(comparison)}, each by its slowest device"
    return table


def comparison_verdict(comparison: LabComparison) -> str:
    """Whether the round is as long as predicted, in a sentence."""
    line = comparison.round
    word = "within" if comparison.within(TOLERANCE) else "not within"
    return (
        f"measured {format_seconds(line.measured_s)}, predicted {format_seconds(line.predicted_s)}:"
        f" {_percent(line)}, {word} {100 * TOLERANCE:.0f} %"
    )


def write_comparison(comparison: LabComparison, folder: Path) -> list[Path]:
    """`lab.csv`, `lab.png` and `lab.svg` in the run's directory. Raises RunError."""
    lines = (*comparison.phases, comparison.round)
    rows = [
        (one.label, one.predicted_s, one.measured_s, one.difference, one.basis) for one in lines
    ]
    table = save_table(folder / f"{_NAME}.csv", _CSV, rows)
    with plain_style():
        pictures = save_figure(folder / _NAME, comparison_figure(comparison))
    return [table, *pictures]


def comparison_figure(comparison: LabComparison) -> Figure:
    """Bars by phase and for the round, predicted above measured. Call it inside `plain_style`."""
    lines = (*comparison.phases, comparison.round)
    figure = new_figure(_PIXELS_AROUND + _PIXELS_A_ROW * len(lines))
    axes = figure.subplots()
    series = [
        Series("predicted", [line.predicted_s for line in lines], OTHER_COLOUR, digits=2),
        Series("measured", [line.measured_s for line in lines], OURS, digits=2),
    ]
    draw_bars(axes, [line.label for line in lines], series, "seconds")
    legend_and_title(
        figure, [axes], f"{comparison_verdict(comparison)}; median of {rounds_text(comparison)}"
    )
    return figure


def rounds_text(comparison: LabComparison) -> str:
    """Which rounds were measured."""
    numbers = comparison.rounds
    if len(numbers) == 1:
        return f"round {numbers[0]}"
    if numbers == tuple(range(numbers[0], numbers[-1] + 1)):
        return f"rounds {numbers[0]} to {numbers[-1]}"
    return f"rounds {', '.join(map(str, numbers))}"


def _texts(line: PhaseComparison) -> tuple[str, ...]:
    seconds = (format_seconds(line.predicted_s), format_seconds(line.measured_s))
    return (line.label, *seconds, _percent(line), line.basis)


def _percent(line: PhaseComparison) -> str:
    return "" if line.difference is None else f"{100 * line.difference:+.1f} %"
