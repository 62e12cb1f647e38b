"""A job made into a run over a network: the terms for its devices, the server's tools and files.

Knows the configuration; sessions and drivers are `net`'s, connections `serve`'s.
"""

import json
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final
from uuid import uuid4

import numpy as np
import torch

from cutlayer.channel.shannon import ProportionalRates, RateCurves
from cutlayer.config.codec import NoCodec
from cutlayer.config.schema import Config, NetSection
from cutlayer.config.section import CODECS, PluginSection
from cutlayer.errors import ConfigError
from cutlayer.jobs.plugins import check_registered, portable
from cutlayer.jobs.train import Job, settle_job
from cutlayer.model.describe import BASES
from cutlayer.model.load import device_tensors
from cutlayer.net.identity.run_keys import DeviceRegistry
from cutlayer.net.server.admission import ConnectionLimits
from cutlayer.net.server.devices import NameOf
from cutlayer.net.server.driver import ServerDriver, recover
from cutlayer.net.server.journal import Journal
from cutlayer.net.server.memory import MemoryBound, memory_bound
from cutlayer.net.server.session import RoundEnd, RunPlan, ServerSession
from cutlayer.net.server.timing import ServerWatch, Shape
from cutlayer.net.server.worker import Controller, Recorder, ServerTools, ServerWorker
from cutlayer.net.wire.frames import largest_frame
from cutlayer.net.wire.limits import (
    TERMS_BYTES,
    Bounds,
    Outline,
    bounds_of,
    device_limits,
    journal_limits,
    server_limits,
)
from cutlayer.net.wire.link import Compute
from cutlayer.net.wire.messages import Terms
from cutlayer.net.wire.part_files import PartFile, write_part
from cutlayer.planner.allocation import Shares
from cutlayer.rounds.schemes import DeviceOrder, Scheme, ServerOrder
from cutlayer.spec import MiniBatch, Trained
from cutlayer.train.exchange import group_inputs
from cutlayer.train.files import write_text
from cutlayer.train.records import Observer
from cutlayer.train.run import begin
from cutlayer.train.run_directory import RunDirectory
from cutlayer.train.state import RunState, Setup

# Which schemes the network runtime can play. Knows no scheme by name.


def check_scheme(scheme: Scheme) -> None:
    """Raises ConfigError unless devices train adapters of a split model in parallel, a micro-batch
    at a time, on a server that takes what has arrived."""
    fits = (
        scheme.splits
        and scheme.devices is DeviceOrder.PARALLEL
        and scheme.server is ServerOrder.ARRIVAL
        and scheme.trained is Trained.ADAPTERS
        and not scheme.shared_server
        and not scheme.pipelined
    )
    if not fits:
        raise ConfigError(
            f"scheme {scheme.name} cannot be played over a network; set scheme.name to sft or"
            " sft-uncompressed"
        )


_LOG = logging.getLogger(__name__)
_PART = "part.safetensors"
_RUN = "run-id"
_DEVICES = "devices.json"
# what terms hold but for names of classes: sections of the configuration
_OTHER_TERMS_BYTES = 64 * 1024


@final
@dataclass(frozen=True, eq=False)
class NetJob:
    """A server's run, from where its directory stands; ready for connections."""

    job: Job
    directory: RunDirectory
    registry: DeviceRegistry
    plan: RunPlan
    session: ServerSession
    worker: ServerWorker
    driver: ServerDriver
    limits: ConnectionLimits

    @property
    def memory(self) -> MemoryBound:
        """The most that its devices can make the server hold."""
        return memory_bound(self.plan.bounds, len(self.plan.terms), self.limits)


def check_net(job: Job) -> None:
    """Raises ConfigError for a job that cannot be played over a network."""
    config = job.config
    check_scheme(job.setup.scheme)
    if isinstance(config.codec, PluginSection):
        check_registered("codec", config.codec, CODECS)
    if config.training.local_epochs is not None:
        raise ConfigError(
            "training.local_epochs: the server does not know how many samples a device has; set it"
            " to null and give training.local_steps"
        )
    names, count = config.net.devices, config.devices.count
    if names and (len(names) != count or len(set(names)) != count):
        raise ConfigError(
            f"net.devices lists {len(names)} names for devices.count {count}: give each device one"
            " of its own, or leave it empty"
        )
    if config.planner.name == "two-timescale" and _band(config) is None:
        raise ConfigError(
            "planner two-timescale allocates the bandwidth by what devices make of theirs, but"
            " nothing holds devices to it: set net.uplink_bit_s and net.downlink_bit_s, or planner"
            " to static"
        )
    _check_names(job)
    _round_end(config.net, count)


def _round_end(net: NetSection, count: int) -> RoundEnd:
    """Raises ConfigError for a quorum or times that cannot be."""
    return RoundEnd(count, net.quorum or count, net.deadline_s, net.give_up_s)


def _check_names(job: Job) -> None:
    """Devices are told the names of all classes at once, beside little else."""
    names = job.prepared.data.class_names
    size = len(json.dumps(list(names), ensure_ascii=False).encode())
    most = TERMS_BYTES - _OTHER_TERMS_BYTES
    if job.setup.task != "causal-lm" and size > most:
        raise ConfigError(
            f"the names of the {len(names)} classes have {size} bytes, a device takes {most}:"
            " shorten them in the data set"
        )


def open_net(job: Job, directory: RunDirectory, observer: Observer, compute: Compute) -> NetJob:
    """The run in `directory`, with what its journal holds trained again.

    Raises ConfigError as `check_net` does and for frames beyond what links take, RunError for a
    directory that cannot be read or written.
    """
    check_net(job)
    settle_job(job, directory, "serve")
    setup, net = job.setup, job.config.net
    state = begin(setup, directory, job.config.training.rounds, observer)
    largest = MiniBatch(job.config.training.batch_size, _tokens(job, state))
    parameters = setup.device_part.adapted.layout.parameters
    steps = max(device.local_steps for device in setup.devices)
    bounds = bounds_of(largest, setup.model.width, parameters, steps * setup.micro_batches)
    limits = _limits(job, bounds)
    part = _part(job, directory)
    count = len(setup.devices)
    registry = DeviceRegistry(directory.path / _DEVICES, count, net.devices)
    worker = ServerWorker(_tools(setup, largest), state)
    controller = _controller(job, state, len(worker.adapter))
    terms = _terms(job, directory, part, largest.tokens)
    plan = _plan(job, controller.shares, bounds, terms, registry.name)
    journal = Journal(directory.path, journal_limits(bounds))
    made = journal.made(state.round)
    missed = set() if made is None else set(range(count)) - set(made)
    session = ServerSession(plan, worker.adapter, state.round + 1, missed)
    recorder = Recorder(setup, directory, worker, session, observer, time.monotonic)
    recover(session, worker, journal, controller, recorder.save)
    driver = ServerDriver(session, worker, journal, controller, recorder.save, compute, part.piece)
    return NetJob(job, directory, registry, plan, session, worker, driver, limits)


def _tokens(job: Job, state: RunState) -> int:
    """The most tokens of a sample at the cut."""
    setup = job.setup
    if setup.task != "image-classification":
        return job.config.data.max_tokens
    group = group_inputs([setup.batches.make(setup.test, np.arange(1))])
    with torch.no_grad():
        row = state.device.row[None]
        return setup.device_part.forward(row, group.sizes, group.inputs).shape[1]


def _limits(job: Job, bounds: Bounds) -> ConnectionLimits:
    """No frame from a device is longer than the run's longest one."""
    limits = ConnectionLimits(connections=job.config.net.connections)
    up, down = largest_frame(server_limits(bounds)), largest_frame(device_limits(bounds))
    if max(up, down) > limits.frame_bytes:
        raise ConfigError(
            f"a frame of this run may have {max(up, down)} bytes, a link takes"
            f" {limits.frame_bytes}: lower training.batch_size or adapter.rank"
        )
    return replace(limits, frame_bytes=up)


def _part(job: Job, directory: RunDirectory) -> PartFile:
    config = job.config
    tensors = device_tensors(
        job.found.path,
        job.prepared.task,
        config.model.cut,
        job.adapter,
        classes=len(job.prepared.data.class_names),
        dtype=BASES[config.devices.base],
    )
    return write_part(directory.path / _PART, job.found.path, tensors)


def _run_name(directory: RunDirectory) -> str:
    """The run's own name, made once."""
    path = directory.path / _RUN
    if not path.exists():
        write_text(path, uuid4().hex)
    return path.read_text(encoding="utf-8")


def outline_of(job: Job) -> Outline:
    """What the invited are told of the run before they have an identity."""
    text = job.setup.task == "causal-lm"
    return Outline(job.setup.task, () if text else tuple(job.prepared.data.class_names))


def _terms(job: Job, directory: RunDirectory, part: PartFile, tokens: int) -> tuple[Terms, ...]:
    config, setup, run = job.config, job.setup, _run_name(directory)
    codec = config.codec if setup.scheme.compressed else NoCodec()
    if isinstance(codec, PluginSection):
        codec = portable(codec, CODECS)
    outline = outline_of(job)
    return tuple(
        Terms(
            run=run,
            device=number,
            task=setup.task,
            # the name alone: where it lies here is nobody's business
            model=Path(config.model.name).name,
            cut=config.model.cut,
            classes=setup.classes,
            class_names=list(outline.class_names),
            width=setup.model.width,
            tokens=tokens,
            image_size=config.data.image_size,
            max_tokens=config.data.max_tokens,
            base=config.devices.base,
            part_sha256=part.sha256,
            part_bytes=part.size_bytes,
            uplink_bit_s=config.net.uplink_bit_s,
            activation_memory=setup.activation_memory.value,
            rounds=config.training.rounds,
            local_steps=device.local_steps,
            micro_batches=setup.micro_batches,
            batch_size=config.training.batch_size,
            seed=setup.seed,
            codec=codec.model_dump(mode="json"),
            optimizer=config.optimizer.model_dump(mode="json"),
            adapter=config.adapter.model_dump(mode="json"),
        )
        for number, device in enumerate(setup.devices)
    )


def _band(config: Config) -> RateCurves | None:
    """The rates that devices are held to, by their shares; None: they are not held to any."""
    ways = config.net.uplink_bit_s, config.net.downlink_bit_s
    if None in ways:
        return None
    return RateCurves(*(ProportionalRates(np.full(config.devices.count, rate)) for rate in ways))


def _controller(job: Job, state: RunState, adapter_bytes: int) -> Controller:
    setup, band = job.setup, _band(job.config)
    shape = Shape(
        scheme=setup.scheme,
        rules=setup.rules,
        steps=tuple(device.local_steps for device in setup.devices),
        micro_batches=setup.micro_batches,
        adapter_bytes=adapter_bytes,
    )
    curves = setup.channel.curves if band is None else lambda number, time_s: band
    return Controller(ServerWatch(time.monotonic), shape, setup.allocation, curves, state)


def _plan(
    job: Job, shares: Shares, bounds: Bounds, terms: tuple[Terms, ...], name_of: NameOf
) -> RunPlan:
    setup, net = job.setup, job.config.net
    return RunPlan(
        terms=terms,
        rate_of=setup.rate_of,
        shares=shares,
        end=_round_end(net, len(setup.devices)),
        bounds=bounds,
        name_of=name_of,
    )


def _tools(setup: Setup, largest: MiniBatch) -> ServerTools:
    return ServerTools(
        part=setup.server_part,
        codecs=setup.codecs,
        optimizer=setup.optimizer,
        aggregation=setup.aggregation,
        rate_of=setup.rate_of,
        devices=len(setup.devices),
        largest=largest,
        width=setup.model.width,
        classes=setup.classes,
        seed=setup.seed,
    )
