"""A configuration made into a run in its directory: prepared, trained, exported, reported."""

import logging
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

import torch
from safetensors.torch import save_file

from cutlayer.config.read import config_sha256, config_yaml
from cutlayer.config.schema import Config
from cutlayer.data.partition import label_counts
from cutlayer.errors import StorageError
from cutlayer.jobs.check import changed_config, with_full_paths
from cutlayer.jobs.overview import overview
from cutlayer.jobs.prepare import Job, prepare, use_threads
from cutlayer.jobs.resume import settle
from cutlayer.model.peft_format import save_adapter
from cutlayer.report.run_page import write_report
from cutlayer.report.wording import counted, round_line
from cutlayer.spec import Trained
from cutlayer.train.files import write_folder_atomically, write_json, write_text
from cutlayer.train.records import Observer, Partition, RoundRecord, Silent
from cutlayer.train.run import run_rounds, write_summary
from cutlayer.train.run_directory import RunDirectory
from cutlayer.train.state import RunState

_LOG = logging.getLogger(__name__)


def start(config: Config, output: Path, observer: Observer | None = None) -> RunDirectory:
    """Train as `config` says, in a new directory under `output`; returns that directory.

    Everything that can be wrong is found before the directory is made. Raises CutlayerError.
    """
    config = with_full_paths(config)
    use_threads(config)
    job = prepare(config)
    return finish(job, new_directory(config, output), observer)


def new_directory(config: Config, output: Path) -> RunDirectory:
    """A new run directory under `output`, with its configuration. Raises RunError."""
    directory = RunDirectory.create(output, f"{_slug(config.model.name)}-{_slug(config.data.name)}")
    write_text(directory.config_path, config_yaml(config))
    return directory


def resume(
    path: Path,
    observer: Observer | None = None,
    changes: Mapping[str, Any] | None = None,
) -> RunDirectory:
    """Go on with the run in `path` from its last finished round, to the same last bytes.

    `changes`: settings by dotted key, of those that may change. Raises CutlayerError, before
    anything is written, for inputs that are not those which the run began with.
    """
    directory = RunDirectory.open(path)
    config = changed_config(path, changes or {})
    use_threads(config)
    job = prepare(config)
    return finish(job, directory, observer)


def finish(job: Job, directory: RunDirectory, observer: Observer | None = None) -> RunDirectory:
    """Train what is left of the job in `directory`, then write adapter, summary and report.

    Raises CutlayerError; KeyboardInterrupt, if there was one, saying how the run goes on.
    """
    with _to_go_on(directory):
        settle(job, directory)
        for line in overview(job.config, job.prepared, job.setup):
            _LOG.info(line)
        _LOG.info(f"run directory: {directory.path}")
        _tell_where(directory.finished(), job.config.training.rounds)
        write_json(directory.path / "partition.json", _partition(job).written())
        rounds = job.config.training.rounds
        state, records = run_rounds(
            job.setup, directory, rounds, _RoundLinesInLog(observer, rounds)
        )
        export(job, state, directory)
        write_summary(directory, records, about(job))
        write_report(directory.path)
    return directory


@final
class _RoundLinesInLog(Observer):
    """Another observer, and rounds as lines of the log."""

    def __init__(self, observer: Observer | None, rounds: int) -> None:
        self._observer = observer or Silent()
        self._rounds = rounds

    def round_begins(self, number: int, rounds: int) -> None:
        """It is told."""
        self._observer.round_begins(number, rounds)

    def step_done(self, round_number: int, done: int, total: int) -> None:
        """It is told; a step is no line."""
        self._observer.step_done(round_number, done, total)

    def round_done(self, record: RoundRecord) -> None:
        """What came of it."""
        self._observer.round_done(record)
        _LOG.info(round_line(record, self._rounds))


def _tell_where(finished: int | None, rounds: int) -> None:
    """Of a run that has begun before: where it goes on, or that there is nothing left of it."""
    if finished is not None and finished >= rounds:
        _LOG.info(
            f"already finished: all of {counted(rounds, 'round')}; more with --training.rounds"
        )
    elif finished is not None:
        _LOG.info(f"resumes with round {finished + 1} of {rounds}")


@contextmanager
def _to_go_on(directory: RunDirectory) -> Iterator[None]:
    """Whoever interrupts a run, or has no room for it, is told the command that goes on."""
    command = f"cutlayer train --resume {shlex.quote(str(directory.path))}"
    try:
        yield
    except KeyboardInterrupt as error:
        finished = directory.finished()
        after = f"after round {finished}" if finished else "before round 1 was finished"
        raise KeyboardInterrupt(f"interrupted {after}; resume with: {command}") from error
    except StorageError as error:
        raise StorageError(f"{error} (resume with: {command})") from error


def _slug(name: str) -> str:
    """The last part of a path or hub id, fit for a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).name) or "run"


def _partition(job: Job) -> Partition:
    data = job.prepared.data
    counts = label_counts(data.train.labels, job.prepared.parts, len(data.class_names))
    return Partition(class_names=tuple(data.class_names), counts=tuple(map(tuple, counts.tolist())))


def export(job: Job, state: RunState, directory: RunDirectory) -> None:
    """Write what was trained into the run's directory: an adapter as PEFT has it, or a model."""
    device, server = (part.adapted.layout for part in job.setup.parts)
    named = {**device.named(state.device.row), **server.named(state.server.row)}
    if job.setup.training.scheme.trained is Trained.WEIGHTS:
        write_folder_atomically(directory.path / "model", lambda to: _save_model(job, named, to))
        return

    def write(folder: Path) -> None:
        transposed = job.setup.server.device_part.adapted.transposed
        base, task = job.found.weights, job.prepared.task
        save_adapter(folder, named, job.adapter, base, task, transposed=transposed)

    write_folder_atomically(directory.path / "adapter", write)


def _save_model(job: Job, named: dict[str, torch.Tensor], folder: Path) -> None:
    """All weights as a folder that `from_pretrained` reads."""
    job.setup.server.part.adapted.model.config.save_pretrained(folder)
    whole = {name: value.contiguous() for name, value in named.items()}
    save_file(whole, folder / "model.safetensors", {"format": "pt"})


def about(job: Job) -> dict[str, Any]:
    """What a summary says of a run besides what it came to."""
    setup, memory = job.setup, job.memory
    model, devices = setup.simulation.model, setup.simulation.devices
    limits = [device.memory_bytes for device in devices if device.memory_bytes is not None]
    return {
        "clock": "virtual",
        "scheme": setup.training.scheme.name,
        "model": job.config.model.name,
        "model_source": job.found.source,
        "data": job.config.data.name,
        "data_source": job.prepared.data.source,
        "task": setup.training.task,
        "cut": setup.server.device_part.cut,
        "blocks": model.blocks,
        "devices": len(setup.devices),
        "samples_per_device": tuple(device.samples for device in setup.devices),
        "skipped_samples": job.prepared.skipped,
        "left_out": tuple(job.prepared.data.left_out),
        "device_peak_bytes": memory.device.total,
        "device_memory_bytes": asdict(memory.device),
        "server_peak_bytes": memory.server.total,
        "server_memory_bytes": asdict(memory.server),
        "device_memory_limit_bytes": min(limits) if limits else None,
        "model_bytes": model.parameters * model.bytes_per_value,
        "unsplit_peak_bytes": memory.unsplit_bytes,
        "seed": setup.training.seed,
        "config_sha256": config_sha256(job.config),
    }
