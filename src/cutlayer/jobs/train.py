"""A configuration made into a run: finds, checks, deals, loads, trains, reports.

This is where names become objects; everything below takes objects.
"""

import logging
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from cutlayer.channel.rates import Channel
from cutlayer.codec.codec import CodecPair
from cutlayer.codec.presets import none
from cutlayer.config.read import config_sha256, config_yaml, read_written
from cutlayer.config.schema import (
    AdamWOptimizer,
    AdapterSection,
    AggregationSection,
    Config,
    EvenPlanner,
    FedAvgAggregation,
    FixedPlanner,
    OptimizerSection,
    PluginPlanner,
    RandomPlanner,
    SgdOptimizer,
    StaticPlanner,
    TwoTimescalePlanner,
)
from cutlayer.config.section import AGGREGATIONS, ALLOCATIONS, PluginSection
from cutlayer.data.find import FoundAsset, find_model
from cutlayer.data.partition import BatchPlan, PreparedData, label_counts
from cutlayer.errors import ConfigError, StorageError
from cutlayer.jobs.build import (
    count_micro_batches,
    fixed_shares,
    local_steps,
    make_channel,
    make_codecs,
    make_devices,
    make_rules,
    make_scheme,
    most_shares,
    trains_head,
)
from cutlayer.jobs.check import check_changes, with_full_paths
from cutlayer.jobs.dataset import prepare_data
from cutlayer.jobs.model_spec import model_request
from cutlayer.jobs.overview import overview
from cutlayer.jobs.plugins import plugged
from cutlayer.jobs.resume import Inputs, settle
from cutlayer.model.aggregation import Aggregation, FedAvg
from cutlayer.model.describe import BASES, count_model
from cutlayer.model.load import load_device_part, load_server_part
from cutlayer.model.lora import AdapterSpec
from cutlayer.model.optimizer import AdamW, Optimizer, Sgd
from cutlayer.model.peft_format import save_adapter
from cutlayer.planner.allocation import (
    Allocation,
    FixedAllocation,
    RandomAllocation,
    TwoTimescaleAllocation,
    best_shares,
)
from cutlayer.report.run_page import write_report
from cutlayer.report.wording import counted
from cutlayer.rounds.memory import ACCOUNTINGS
from cutlayer.rounds.schemes import Scheme
from cutlayer.spec import ActivationPolicy, Device, Task, Trained
from cutlayer.train.files import write_folder_atomically, write_json, write_text
from cutlayer.train.memory import Memory, measure_memory
from cutlayer.train.records import Observer, Partition, Silent
from cutlayer.train.round import expected_round, initial_state
from cutlayer.train.run import run_rounds, write_summary
from cutlayer.train.run_directory import RunDirectory
from cutlayer.train.state import LocalWork, RunState, Setup
from cutlayer.units import format_bytes

# The planner section made into an allocation: who has which share of the band in each round.
#
# Imports torch, for what the first round is expected to take; how shares are found is the
# planner's.


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
            return RandomAllocation(devices, config.seed)
        case StaticPlanner():
            mean, most = setup.channel.mean_curves(), most_shares(section, devices)
            return FixedAllocation(best_shares(expected_round(setup), mean, setup.rules, most))
        case TwoTimescalePlanner():
            return TwoTimescaleAllocation(setup.rules, most_shares(section, devices))
        case PluginPlanner():
            of_the_run = {
                "count": devices,
                "rules": setup.rules,
                "most_share": most_shares(section, devices),
                "seed": config.seed,
            }
            return plugged("planner", section, Allocation, of_the_run, group=ALLOCATIONS)  # type: ignore[type-abstract]


_LOG = logging.getLogger(__name__)

_REMEDY = {
    True: "raise training.micro_batches, set devices.activation_memory to recompute, or lower"
    " model.cut or training.batch_size",
    False: "this scheme holds the whole model on every device; take one that splits it, lower"
    " training.batch_size, or set devices.memory_mib to null",
}
# of a language model, that devices of one pass may have: 1 GiB, and their gradient as much
_MOST_LOGITS = 2**28


@dataclass(frozen=True, eq=False)
class Job:
    """A configuration with its names resolved, checked and loaded; ready to train."""

    config: Config
    found: FoundAsset
    prepared: PreparedData
    adapter: AdapterSpec
    setup: Setup
    memory: Memory


def start(config: Config, output: Path, observer: Observer | None = None) -> RunDirectory:
    """Train as `config` says, in a new directory under `output`; returns that directory.

    Everything that can be wrong is found before the directory is made. Raises CutlayerError.
    """
    config = with_full_paths(config)
    use_threads(config)
    job = prepare(config)
    return finish(job, new_directory(config, output), observer or Silent())


def new_directory(config: Config, output: Path) -> RunDirectory:
    """A new run directory under `output`, with its configuration. Raises RunError."""
    directory = RunDirectory.create(output, f"{_slug(config.model.name)}-{_slug(config.data.name)}")
    write_text(directory.config_path, config_yaml(config))
    return directory


def resume(
    path: Path,
    observer: Observer | None = None,
    changes: Mapping[str, str] | None = None,
) -> RunDirectory:
    """Go on with the run in `path` from its last finished round, to the same last bytes.

    `changes`: settings by dotted key, of those that may change. Raises CutlayerError, before
    anything is written, for inputs that are not those which the run began with.
    """
    directory = RunDirectory.open(path)
    config = changed_config(directory, changes or {})
    use_threads(config)
    job = prepare(config)
    return finish(job, directory, observer or Silent())


def changed_config(directory: RunDirectory, changes: Mapping[str, str]) -> Config:
    """The configuration of a run that goes on with these settings. Raises ConfigError."""
    check_changes(changes)
    return with_full_paths(read_written(directory.config_path, changes))


def settle_job(
    job: Job, directory: RunDirectory, command: Literal["train", "serve"] = "train"
) -> None:
    """Note what a run is made of, or compare it with what it began with. Raises CutlayerError."""
    names = job.prepared.data.class_names
    settle(Inputs(command, job.config, job.found.path, names, job.setup), directory)


def use_threads(config: Config) -> None:
    """Torch's threads as configured, for the whole process: of commands, not of what they call."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)


def prepare(config: Config, *, dealt: bool = True) -> Job:
    """Find and check everything a run needs, in the order in which mistakes are cheapest to find.

    `dealt` False: devices have samples of their own, those of the training split are not needed.

    Raises CutlayerError for a model, data set, cut, partition or memory limit that cannot be.
    """
    devices, channel, allocation = _network(config)
    scheme = make_scheme(config.scheme)
    micro_batches = count_micro_batches(config.training, scheme)
    warning = slow_base(config.devices.base, _processor())
    if warning is not None:
        _LOG.warning(warning)
    found = find_model(config.model.name)
    _LOG.info(f"model {config.model.name}: from {found.source}, {found.path}")
    prepared = prepare_data(config, found.path, dealt=dealt)
    adapter = make_adapter(config.adapter, prepared.task)
    classes = len(prepared.data.class_names)
    request = model_request(config, found.path, prepared.task, classes)
    model = replace(count_model(request, found.path), name=config.model.name)
    # where nothing is split, the parts make one model wherever they meet
    cut = config.model.cut if scheme.splits else min(config.model.cut, model.blocks - 1)
    part = (found.path, prepared.task, cut, adapter)
    work = _works(config, devices, prepared)
    packets = config.training.rounds * max(device.local_steps for device in work)
    setup = Setup(
        task=prepared.task,
        scheme=scheme,
        model=model,
        device_part=load_device_part(
            *part, classes=classes, dtype=BASES[config.devices.base], trained=scheme.trained
        ),
        server_part=load_server_part(*part, classes=classes, trained=scheme.trained),
        codecs=_codecs(config, scheme, packets),
        optimizer=make_optimizer(config.optimizer),
        aggregation=make_aggregation(config.aggregation),
        learning_rate=config.optimizer.learning_rate,
        decay=config.optimizer.decay,
        devices=work,
        micro_batches=micro_batches,
        in_flight=config.training.in_flight,
        activation_memory=ActivationPolicy(config.devices.activation_memory),
        channel=channel,
        allocation=allocation,
        server_flops_per_s=config.server.flops_per_s,
        rules=make_rules(config),
        train=prepared.data.train,
        test=prepared.data.test,
        batches=prepared.batches,
        classes=model.classes,
        accounting=ACCOUNTINGS[config.cost.accounting],
        group=_group(config, scheme, model.classes, prepared.task) if dealt else 1,
        seed=config.seed,
        clock=time.monotonic,
    )
    setup = replace(setup, allocation=make_allocation(config, setup))
    memory = measure_memory(setup, initial_state(setup))
    _check_memory(setup, memory)
    return Job(config, found, prepared, adapter, setup, memory)


def _works(
    config: Config, devices: Sequence[Device], prepared: PreparedData
) -> tuple[LocalWork, ...]:
    """What each device has to do: its samples in order, its local steps."""
    return tuple(
        LocalWork(
            plan=(plan := BatchPlan(samples, config.training.batch_size, config.seed, n)),
            local_steps=local_steps(config.training, plan),
            flops_per_s=devices[n].flops_per_s,
            memory_bytes=devices[n].memory_bytes,
        )
        for n, samples in enumerate(prepared.parts)
    )


def finish(job: Job, directory: RunDirectory, observer: Observer) -> RunDirectory:
    """Train what is left of the job in `directory`, then write adapter, summary and report.

    Raises CutlayerError; KeyboardInterrupt, if there was one, saying how the run goes on.
    """
    with _to_go_on(directory):
        settle_job(job, directory)
        for line in overview(job.config, job.prepared, job.setup):
            _LOG.info(line)
        _LOG.info(f"run directory: {directory.path}")
        _tell_where(directory.finished(), job.config.training.rounds)
        write_json(directory.path / "partition.json", _partition(job).written())
        state, records = run_rounds(job.setup, directory, job.config.training.rounds, observer)
        export(job, state, directory)
        write_summary(directory, records, about(job))
        write_report(directory.path)
    return directory


def _tell_where(finished: int | None, rounds: int) -> None:
    """Of a run that has begun before: where it goes on, or that there is nothing left of it."""
    if finished is not None and finished >= rounds:
        _LOG.info(
            f"already finished: all of {counted(rounds, 'round')}; more with --training.rounds"
        )
    elif finished is not None:
        _LOG.info(f"goes on with round {finished + 1} of {rounds}")


@contextmanager
def _to_go_on(directory: RunDirectory) -> Iterator[None]:
    """Whoever interrupts a run, or has no room for it, is told the command that goes on."""
    command = f"cutlayer train --resume {shlex.quote(str(directory.path))}"
    try:
        yield
    except KeyboardInterrupt as error:
        finished = directory.finished()
        after = f"after round {finished}" if finished else "before round 1 was finished"
        raise KeyboardInterrupt(f"interrupted {after}; go on with: {command}") from error
    except StorageError as error:
        raise StorageError(f"{error} (to go on: {command})") from error


def _slug(name: str) -> str:
    """The last part of a path or hub id, fit for a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).name) or "run"


def make_adapter(section: AdapterSection, task: Task) -> AdapterSpec:
    """What is trained, for a task."""
    return AdapterSpec(
        rank=section.rank,
        alpha=section.alpha,
        targets=section.targets,
        patch_embedding=section.patch_embedding,
        head=trains_head(section, task),
    )


def _network(config: Config) -> tuple[tuple[Device, ...], Channel, FixedAllocation]:
    """The devices, their channel and their shares of it; that they cannot be is found here."""
    devices = make_devices(config.devices)
    channel, shares = make_channel(config, devices), fixed_shares(config, len(devices))
    channel.rates(1, 0.0, shares.value)
    return devices, channel, shares


def _codecs(config: Config, scheme: Scheme, packets: int) -> CodecPair:
    """The codecs of a scheme that compresses; others send what they send as it is."""
    pair = make_codecs(config.codec, packets, config.threads or 1)
    return pair if scheme.compressed else none()


def slow_base(base: str, processor: str) -> str | None:
    """A warning where the base's arithmetic is not the processor's, as Linux describes it: one that
    has bfloat16 says so (avx512_bf16, amx_bf16, bf16)."""
    if base != "bfloat16" or not processor or "bf16" in processor:
        return None
    return (
        "devices.base is bfloat16, and this processor has no bfloat16 arithmetic: it saves"
        " memory and takes some 30 times as long; float32 is the fast one here"
    )


def _processor() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""


def _group(config: Config, scheme: Scheme, classes: int, task: Task) -> int:
    """Devices that share a pass: of a language model so few that their logits are bearable."""
    if scheme.trained is Trained.WEIGHTS:
        return 1
    if task != "causal-lm":
        return config.server.group
    logits = config.training.batch_size * config.data.max_tokens * classes
    return max(1, min(config.server.group, _MOST_LOGITS // logits))


def make_optimizer(section: OptimizerSection) -> Optimizer:
    """How adapters step."""
    match section:
        case SgdOptimizer():
            return Sgd(section.momentum, section.weight_decay)
        case AdamWOptimizer():
            return AdamW(weight_decay=section.weight_decay)


def make_aggregation(section: AggregationSection) -> Aggregation:
    """How adapters are merged."""
    match section:
        case FedAvgAggregation():
            return FedAvg()
        case PluginSection():
            return plugged("aggregation", section, Aggregation, {}, group=AGGREGATIONS)  # type: ignore[type-abstract]


def _check_memory(setup: Setup, memory: Memory) -> None:
    need = memory.device.total
    short = [
        (n, device.memory_bytes)
        for n, device in enumerate(setup.devices)
        if device.memory_bytes is not None and device.memory_bytes < need
    ]
    if short:
        number, limit = short[0]
        raise ConfigError(
            f"device {number} has {format_bytes(limit or 0)} (devices.memory_mib), training what"
            f" it holds needs {format_bytes(need)}: {_REMEDY[setup.scheme.splits]}"
        )


def _partition(job: Job) -> Partition:
    data = job.prepared.data
    counts = label_counts(data.train.labels, job.prepared.parts, len(data.class_names))
    return Partition(class_names=tuple(data.class_names), counts=tuple(map(tuple, counts.tolist())))


def export(job: Job, state: RunState, directory: RunDirectory) -> None:
    """Write what was trained into the run's directory: an adapter as PEFT has it, or a model."""
    device, server = job.setup.device_part.adapted.layout, job.setup.server_part.adapted.layout
    named = {**device.named(state.device.row), **server.named(state.server.row)}
    if job.setup.scheme.trained is Trained.WEIGHTS:
        write_folder_atomically(directory.path / "model", lambda to: _save_model(job, named, to))
        return

    def write(folder: Path) -> None:
        transposed = job.setup.device_part.adapted.transposed
        base, task = job.found.weights, job.prepared.task
        save_adapter(folder, named, job.adapter, base, task, transposed=transposed)

    write_folder_atomically(directory.path / "adapter", write)


def _save_model(job: Job, named: dict[str, torch.Tensor], folder: Path) -> None:
    """All weights as a folder that `from_pretrained` reads."""
    job.setup.server_part.adapted.model.config.save_pretrained(folder)
    whole = {name: value.contiguous() for name, value in named.items()}
    save_file(whole, folder / "model.safetensors", {"format": "pt"})


def about(job: Job) -> dict[str, Any]:
    """What a summary says of a run besides what it came to."""
    setup, memory = job.setup, job.memory
    limits = [device.memory_bytes for device in setup.devices if device.memory_bytes is not None]
    return {
        "clock": "virtual",
        "scheme": setup.scheme.name,
        "model": job.config.model.name,
        "model_source": job.found.source,
        "data": job.config.data.name,
        "data_source": job.prepared.data.source,
        "task": setup.task,
        "cut": setup.device_part.cut,
        "blocks": setup.model.blocks,
        "devices": len(setup.devices),
        "samples_per_device": tuple(device.samples for device in setup.devices),
        "skipped_samples": job.prepared.skipped,
        "left_out": tuple(job.prepared.data.left_out),
        "device_peak_bytes": memory.device.total,
        "device_memory_bytes": asdict(memory.device),
        "server_peak_bytes": memory.server.total,
        "server_memory_bytes": asdict(memory.server),
        "device_memory_limit_bytes": min(limits) if limits else None,
        "model_bytes": setup.model.parameters * setup.model.bytes_per_value,
        "unsplit_peak_bytes": memory.unsplit_bytes,
        "seed": setup.seed,
        "config_sha256": config_sha256(job.config),
    }
