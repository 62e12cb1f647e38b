"""A lab from its configuration to its comparison: what may be run, and the two records.

The first round calibrates; those after it are compared with what it predicts for them.
"""

import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cutlayer.channel.rates import LinkRates
from cutlayer.config.job import Job, prepare, use_threads
from cutlayer.config.net_job import check_net
from cutlayer.config.overview import overview
from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError, RunError
from cutlayer.lab.comparison import Comparison, compare
from cutlayer.lab.ground import Ground, NoNamespacesError, loopback, namespaces
from cutlayer.lab.leftovers import another, delete_folders, lab_folder
from cutlayer.lab.play import Play, play, whole_lines
from cutlayer.lab.prediction import calibrate, computing, predict, unicast
from cutlayer.lab.processes import Processes
from cutlayer.lab.signals import Stop
from cutlayer.planner.allocation import Fixed
from cutlayer.timeline.rules import Rules
from cutlayer.train.heartbeat import Heartbeat, so_far
from cutlayer.train.records import UNOBSERVED
from cutlayer.train.round_log import lines_of_round

_LOG = logging.getLogger(__name__)

_CALIBRATION = 1


@dataclass(frozen=True)
class LabRun:
    """A lab that has ended: the run's directory, what came of it, and where it ran in a line."""

    directory: Path
    comparison: Comparison
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
        stop = stack.enter_context(Stop())
        ground = stack.enter_context(_ground(links, on_loopback))
        folder = stack.enter_context(_folder())
        processes = stack.enter_context(Processes(folder))
        with stop.heeded():
            directory = play(Play(job, links, shares, ground, folder, output), processes)
    return LabRun(directory, _compared(job, links, directory), ground.title)


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
    if setup.rules != Rules():
        raise ConfigError(
            "the lab gives each device a link of its own to one server: set link.uplink and"
            " link.downlink to static, link.duplex to full, server.workers to 1"
        )
    if not isinstance(setup.allocation, Fixed):
        raise ConfigError(
            f"planner {job.config.planner.name} allocates the bandwidth anew each round, the lab's"
            " links keep their rates: set planner to even or static"
        )
    check_net(job)
    shares = setup.allocation.value
    return unicast(setup.channel.rates(1, 0.0, shares)), shares


@contextmanager
def _ground(links: Sequence[LinkRates], on_loopback: bool) -> Iterator[Ground]:
    """Namespaces if they are to be had."""
    with ExitStack() as stack:
        if on_loopback:
            ground = loopback(len(links), "asked for")
        else:
            try:
                ground = stack.enter_context(namespaces(links))
            except NoNamespacesError as error:
                ground = loopback(len(links), f"no network namespaces, {error}")
        _LOG.info(ground.title)
        yield ground


@contextmanager
def _folder() -> Iterator[Path]:
    left = delete_folders(Path(tempfile.gettempdir()), another)
    if left:
        _LOG.info(f"deleted what a lab that was killed has left: {', '.join(left)}")
    with lab_folder() as folder:
        yield folder


def _compared(job: Job, links: Sequence[LinkRates], directory: Path) -> Comparison:
    scheme = job.setup.scheme
    trace = lines_of_round(directory / "trace.jsonl", _CALIBRATION)
    first = [json.loads(line) for line in trace if line.endswith("\n")]
    timeline = predict(job.setup, links, calibrate(scheme, first, len(links)))
    predicted = {
        "delay_s": timeline.delay_s,
        "delay_by_phase_s": {
            phase.value: seconds for phase, seconds in timeline.critical_phase_seconds().items()
        },
    }
    measured = [
        record
        for record in whole_lines(directory / "rounds.jsonl")
        if record["round"] > _CALIBRATION and UNOBSERVED not in record["delay_by_phase_s"]
    ]
    if not measured:
        raise RunError(
            f"no round of {directory} after the first was seen from end to end: a device had to be"
            " started again, or its link broke; run the lab again"
        )
    return compare(predicted, measured, computing(scheme))
