"""A lab from its configuration to its comparison: what may be run, and the two records.

The first round warms up, the second calibrates; each of those after it is compared with what the
timeline predicts for it: bytes are what the codec expects, link rates the channel's on each
device's share, seconds of computing those of the rounds before it, by the same processes on the
same machine, which share its cores. The comparison is printed as tables and written as CSV and as
a picture.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from cutlayer.channel.rates import LinkRates
from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError, RunError
from cutlayer.jobs.network import check_net
from cutlayer.jobs.prepare import Job, prepare, use_torch
from cutlayer.jobs.train import overview
from cutlayer.lab.environment import (
    Environment,
    NoNamespacesError,
    lab_folder,
    loopback,
    network_namespaces,
)
from cutlayer.lab.prediction import (
    CONFIDENCE,
    WARM_UP,
    ComputeSeconds,
    LabComparison,
    PhaseComparison,
    RoundComparison,
    RoundModel,
    compare_rounds,
    compute_seconds,
    unicast_links,
)
from cutlayer.lab.run import LabProcesses, LabSetup, StopSignals, run_processes, whole_json_lines
from cutlayer.logs import Heartbeat, so_far
from cutlayer.planner.allocation import FixedAllocation
from cutlayer.report.drawing import (
    INK,
    OURS,
    Series,
    draw_bars,
    legend_and_title,
    new_figure,
    plain_style,
    save_figure,
    save_table,
)
from cutlayer.report.wording import OTHER_COLOUR
from cutlayer.rounds.work import SharingRules
from cutlayer.training.expected import expected_work
from cutlayer.training.records import UNOBSERVED, lines_of_round
from cutlayer.units import format_seconds

_LOG = logging.getLogger(__name__)

# one that warms up, one that calibrates, one that is predicted
_LEAST_ROUNDS = WARM_UP + 2
TOLERANCE = 0.1
_NAME = "lab"
_CSV = ("phase", "predicted_s", "measured_s", "difference", "basis")
_ROUNDS_CSV = (
    "round",
    "predicted_s",
    "low_s",
    "high_s",
    "measured_s",
    "difference",
    "timeline_difference",
)
_PIXELS_A_ROW = 46
_PIXELS_AROUND = 130


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
    use_torch(config)
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
    if job.config.training.rounds < _LEAST_ROUNDS:
        raise ConfigError(
            f"training.rounds is {job.config.training.rounds}: the lab's first round warms up, the"
            f" second calibrates, so it needs {_LEAST_ROUNDS} or more"
        )
    if setup.simulation.rules != SharingRules():
        raise ConfigError(
            "the lab gives each device a link of its own to one server that computes one mini-batch"
            " at a time: set link.uplink and link.downlink to static, link.duplex to full,"
            " server.workers to 1, server.batch to alone"
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
    setup = job.setup
    scheme, observed = setup.training.scheme, dict[int, Sequence[ComputeSeconds]]()
    records = [
        record
        for record in whole_json_lines(directory / "rounds.jsonl")
        if record["round"] > 0 and UNOBSERVED not in record["delay_by_phase_s"]
    ]
    for number in (record["round"] for record in records):
        trace = lines_of_round(directory / "trace.jsonl", number)
        lines = [json.loads(line) for line in trace if line.endswith("\n")]
        seconds = compute_seconds(scheme, lines, len(links))
        if seconds is not None:
            observed[number] = seconds
    work = expected_work(setup, links, first_round=False)
    model = RoundModel(scheme, work, setup.simulation.rules)
    compared = compare_rounds(model, records, observed)
    if compared is None:
        raise RunError(
            f"fewer than 2 rounds of {directory} after the first were observed from end to end: a"
            " device had to be started again, or its link broke; run the lab again"
        )
    return compared


def phase_table(comparison: LabComparison) -> Table:
    """A row a phase of the slowest device, then the round."""
    table = _table("phase", "predicted", "measured", "difference")
    table.add_column("predicted from")
    for line in comparison.phases:
        table.add_row(*_texts(line))
    table.add_section()
    table.add_row(*_texts(comparison.round), style="bold")
    table.caption = f"medians of {rounds_text(comparison)}, each by its slowest device"
    return table


def round_table(comparison: LabComparison) -> Table:
    """A row a round, predicted from those before it."""
    interval = f"{100 * CONFIDENCE:.0f} % interval"
    table = _table("round", "predicted", interval, "measured", "difference", "timeline alone")
    for one in comparison.rounds:
        table.add_row(
            str(one.number),
            format_seconds(one.predicted_s),
            " to ".join(format_seconds(end_s) for end_s in one.interval_s or ()),
            format_seconds(one.measured_s),
            _percent(one.difference),
            _percent(one.timeline_difference),
        )
    table.caption = (
        "timeline alone: the difference if the round's own seconds of computing are given"
    )
    return table


def comparison_verdict(comparison: LabComparison) -> str:
    """Whether the round is as long as predicted, in a sentence."""
    line = comparison.round
    word = "within" if comparison.within(TOLERANCE) else "not within"
    return (
        f"measured {format_seconds(line.measured_s)}, predicted {format_seconds(line.predicted_s)}:"
        f" {_percent(line.difference)}, {word} {100 * TOLERANCE:.0f} %"
    )


def comparison_certainty(comparison: LabComparison) -> str:
    """How far off single rounds were, in a sentence."""
    known = [one.expected for one in comparison.rounds if one.expected is not None]
    held = f"; {sum(known)} of {len(known)} rounds within their intervals" if known else ""
    return (
        f"a round differs by {100 * comparison.mean_error:.1f} % on average, by"
        f" {100 * comparison.timeline_error:.1f} % if its own seconds of computing are given{held}"
    )


def write_comparison(comparison: LabComparison, folder: Path) -> list[Path]:
    """`lab.csv`, `lab_rounds.csv`, `lab.png` and `lab.svg` in the run's directory. Raises
    RunError."""
    phases = [
        (one.label, one.predicted_s, one.measured_s, one.difference, one.basis)
        for one in (*comparison.phases, comparison.round)
    ]
    rounds = [
        (
            one.number,
            one.predicted_s,
            *(one.interval_s or (None, None)),
            one.measured_s,
            one.difference,
            one.timeline_difference,
        )
        for one in comparison.rounds
    ]
    tables = [
        save_table(folder / f"{_NAME}.csv", _CSV, phases),
        save_table(folder / f"{_NAME}_rounds.csv", _ROUNDS_CSV, rounds),
    ]
    with plain_style():
        pictures = save_figure(folder / _NAME, comparison_figure(comparison))
    return [*tables, *pictures]


def comparison_figure(comparison: LabComparison) -> Figure:
    """Bars by phase and for the median round, predicted above measured; below them those of each
    round, with its interval. Call it inside `plain_style`."""
    lines, rounds = (*comparison.phases, comparison.round), comparison.rounds
    figure = new_figure(_PIXELS_AROUND + _PIXELS_A_ROW * (len(lines) + len(rounds)))
    above, below = figure.subplots(2, height_ratios=(len(lines), len(rounds)))
    _draw_pairs(above, [line.label for line in lines], lines)
    _draw_pairs(below, [f"round {one.number}" for one in rounds], rounds)
    ends = [(row, *one.interval_s) for row, one in enumerate(rounds) if one.interval_s is not None]
    if ends:
        label = f"{100 * CONFIDENCE:.0f} % interval"
        below.hlines(*zip(*ends, strict=True), colors=INK, linewidth=1.6, label=label)
        right = max(below.get_xlim()[1], 1.02 * max(high_s for _, _, high_s in ends))
        below.set_xlim(0, right)
    title = f"{comparison_verdict(comparison)}; medians of {rounds_text(comparison)}"
    legend_and_title(figure, [below], title)
    return figure


def _draw_pairs(
    axes: Axes, labels: Sequence[str], lines: Sequence[PhaseComparison | RoundComparison]
) -> None:
    series = [
        Series("predicted", [line.predicted_s for line in lines], OTHER_COLOUR, digits=2),
        Series("measured", [line.measured_s for line in lines], OURS, digits=2),
    ]
    draw_bars(axes, labels, series, "seconds")


def rounds_text(comparison: LabComparison) -> str:
    """Which rounds were compared."""
    numbers = tuple(one.number for one in comparison.rounds)
    if len(numbers) == 1:
        return f"round {numbers[0]}"
    if numbers == tuple(range(numbers[0], numbers[-1] + 1)):
        return f"rounds {numbers[0]} to {numbers[-1]}"
    return f"rounds {', '.join(map(str, numbers))}"


def _table(first: str, *numbers: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, caption_justify="left")
    table.add_column(first)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _texts(line: PhaseComparison) -> tuple[str, ...]:
    seconds = (format_seconds(line.predicted_s), format_seconds(line.measured_s))
    return (line.label, *seconds, _percent(line.difference), line.basis)


def _percent(difference: float | None) -> str:
    return "" if difference is None else f"{100 * difference:+.1f} %"
