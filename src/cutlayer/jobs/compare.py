"""The runs of a comparison: found finished, refused for memory, resumed or trained; then written.

All are checked before any is trained, so that a mistake in the last costs no hours of the first. A
comparison that was killed and is started again keeps what has finished and resumes what has not.
"""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cutlayer.config.read import config_yaml
from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError, CutlayerError
from cutlayer.jobs.build import make_devices
from cutlayer.jobs.check import runs_of
from cutlayer.jobs.compared import Compared, NamedRun
from cutlayer.jobs.prepare import prepare
from cutlayer.jobs.train import resume, start
from cutlayer.logs import heard_through
from cutlayer.report.compare_page import compare_page
from cutlayer.report.comparison import (
    ComparedRun,
    Comparison,
    Entry,
    RefusedRun,
    check_target,
    check_tasks,
    compare,
    csv_text,
)
from cutlayer.report.run_reader import read_record
from cutlayer.training.files import storage_error, write_text
from cutlayer.training.records import Observer

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _ToTrain:
    """A run that fits; `begun`: its directory, if an earlier comparison was stopped in it."""

    label: str
    config: Config
    task: str
    begun: Path | None


def compare_runs(
    wanted: Sequence[NamedRun],
    output: Path,
    target: float | None = None,
    observer: Observer | None = None,
) -> Compared:
    """Check all runs, train those that are not finished in `output`/runs, compare them, and write
    compare.csv and compare.html into `output`.

    A run that its devices cannot hold is part of the comparison as such. Raises CutlayerError: a
    run cannot be for another reason, none fits, or they cannot be compared or written.
    """
    with heard_through(_each_line_once()):
        plans = [_plan(one, output) for one in wanted]
    tasks = [(plan.label, task) for plan in plans if (task := _task(plan)) is not None]
    if tasks:
        check_tasks(tasks)
        if target is not None:
            check_target(tasks[0][1], target)
    entries: list[Entry] = []
    for number, plan in enumerate(plans, start=1):
        if isinstance(plan, _ToTrain):
            _LOG.info(f"{plan.label}: run {number} of {len(plans)}")
            entries.append(_train(plan, output, observer))
        else:
            entries.append(plan)
    comparison = compare(entries, target)
    return Compared(comparison, _write(comparison, output))


def _write(comparison: Comparison, output: Path) -> Path:
    """Both files; returns the page. Raises RunError: they cannot be written."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(output, error) from error
    write_text(output / "compare.csv", csv_text(comparison))
    write_text(output / "compare.html", compare_page(comparison))
    return output / "compare.html"


def _plan(wanted: NamedRun, output: Path) -> Entry | _ToTrain:
    """What is to be done about one run. Raises CutlayerError, naming the run."""
    source = wanted.source
    if isinstance(source, Path):
        return ComparedRun(wanted.label, read_record(source), str(source))
    found = _found(source, output)
    if found is not None and (found / "summary.json").is_file():
        _LOG.info(f"{wanted.label}: finished before, in {found}")
        return ComparedRun(wanted.label, read_record(found), str(found))
    try:
        return _checked(wanted.label, source, found)
    except CutlayerError as error:
        raise ConfigError(f"{wanted.label}: {error}") from error


def _checked(label: str, config: Config, begun: Path | None) -> RefusedRun | _ToTrain:
    """Make the run ready, memory aside, and hold what a device needs against what it has."""
    boundless = config.devices.model_copy(update={"memory_mib": None})
    job = prepare(config.model_copy(update={"devices": boundless}))
    limits = [
        device.memory_bytes
        for device in make_devices(config.devices)
        if device.memory_bytes is not None
    ]
    held = asdict(job.memory.device)
    if limits and min(limits) < sum(held.values()):
        refused = RefusedRun(label, config_yaml(config), held, min(limits))
        _LOG.info(f"{label}: {refused.reason}")
        return refused
    return _ToTrain(label, config, job.prepared.task, begun)


def _train(plan: _ToTrain, output: Path, observer: Observer | None) -> ComparedRun:
    if plan.begun is not None:
        directory = resume(plan.begun, observer).path
    else:
        folder = re.sub(r"[^A-Za-z0-9._-]+", "-", plan.label).strip(".-") or "run"
        directory = start(plan.config, output / "runs" / folder, observer).path
    return ComparedRun(plan.label, read_record(directory), str(directory))


def _found(config: Config, output: Path) -> Path | None:
    """The run directory of exactly this configuration in `output`, a finished one first."""
    same = runs_of(config, (output / "runs").glob("*/*"))
    return max(same, key=lambda path: (path / "summary.json").is_file(), default=None)


def _task(plan: Entry | _ToTrain) -> str | None:
    if isinstance(plan, RefusedRun):
        return None
    return plan.task if isinstance(plan, _ToTrain) else plan.record.summary.task


def _each_line_once() -> Callable[[logging.LogRecord], bool]:
    """Runs of one model say the same of it: a line that was said is not said again."""
    said: set[str] = set()

    def once(record: logging.LogRecord) -> bool:
        known, line = len(said), record.getMessage()
        said.add(line)
        return len(said) > known

    return once
