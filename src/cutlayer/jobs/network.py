"""A job made into a run over a network: the terms for its devices, the server's tools and files,
how much memory they may need and have, and what is written about each round.

Knows the configuration; sessions and drivers are `net`'s, connections `serve`'s.
"""

import json
import logging
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final
from uuid import uuid4

import numpy as np
import torch
from pydantic import TypeAdapter

from cutlayer.channel.rates import ProportionalRates, RateCurves
from cutlayer.config.choices import NoCodec
from cutlayer.config.schema import Config
from cutlayer.config.section import CODECS, PluginSection
from cutlayer.errors import ConfigError, RunError, reason
from cutlayer.files import write_json, write_text
from cutlayer.jobs.check import check_devices, make_round_end
from cutlayer.jobs.machines import takes_some
from cutlayer.jobs.plugins import check_registered, portable
from cutlayer.jobs.prepare import Job
from cutlayer.jobs.resume import settle
from cutlayer.jobs.trained import keep
from cutlayer.model.load import device_tensors
from cutlayer.model.part_file import PartFile
from cutlayer.model.placement import Placement
from cutlayer.net.identity.run_keys import DeviceRegistry
from cutlayer.net.server.devices import NameOf
from cutlayer.net.server.driver import ServerDriver, recover
from cutlayer.net.server.held import HeldSamples
from cutlayer.net.server.journal import Journal
from cutlayer.net.server.session import RunPlan, ServerSession
from cutlayer.net.server.timing import Controller, MeasuredRound, RoundShape, ServerWatch
from cutlayer.net.server.worker import MergeRule, ServerWorker
from cutlayer.net.wire.frames import (
    TERMS_BYTES,
    Bounds,
    bounds_of,
    device_limits,
    journal_limits,
    largest_frame,
    server_limits,
)
from cutlayer.net.wire.link import OUTBOX_FRAMES, Compute, ConnectionLimits
from cutlayer.net.wire.messages import Outline, Terms
from cutlayer.net.wire.part_files import write_part
from cutlayer.net.wire.tls_link import INBOX_FRAMES, SCRATCH_BYTES, TRANSPORT_BYTES
from cutlayer.planner.allocation import Shares
from cutlayer.rounds.schemes import FEDAVG, DeviceOrder, Phase, Scheme, ServerOrder
from cutlayer.spec import Base, MiniBatch, Trained
from cutlayer.training.activation_cache import open_cache
from cutlayer.training.evaluation import DeviceShare, evaluate, figures_of
from cutlayer.training.exchange import group_inputs
from cutlayer.training.records import UNOBSERVED, CacheRecord, Observer, TraceLine, TrainedRound
from cutlayer.training.run import begin
from cutlayer.training.run_directory import RunDirectory
from cutlayer.training.run_log import RunLog
from cutlayer.training.state import RunState, ServerSide, Training

# What a server writes about each round that closes, and puts its checkpoint in place. The keys are
# the trainer's, and seconds by phase are measured where the trainer's are simulated.


_UP = ("activation", "labels", "adapter_up")
_DOWN = ("weights", "adapter_down", "gradient")
_SAMPLES = "samples.json"
_SHARES = TypeAdapter(tuple[DeviceShare, ...])


@final
class Recorder:
    """Evaluates, records and checkpoints the rounds of a networked run.

    Bytes of a round in which the server was started are those since its start, and its seconds,
    where nobody saw its beginning, too.
    """

    def __init__(
        self,
        training: Training,
        server: ServerSide,
        log: RunLog,
        worker: ServerWorker,
        session: ServerSession,
        clock: Callable[[], float],
    ) -> None:
        self._training = training
        self._server = server
        self._log = log
        self._worker = worker
        self._traffic = session.traffic
        self._session = session
        self._shares = session.shares
        self._clock = clock
        self._kept: tuple[DeviceShare, ...] = ()
        self._began_s = clock()
        # the run's one clock is the state's
        self._elapsed_s = worker.state.virtual_time_s

    def save(self, state: RunState, measured: MeasuredRound | None) -> bool:
        """The trace, the record, then the checkpoint, of a round that has closed; whether the run
        ends with it, before its last round.

        Raises RunError.
        """
        if self._worker.shares != self._kept:
            self._kept = self._worker.shares
            keep_samples(self._log.directory.path, self._kept)
        passed_s = state.virtual_time_s - self._elapsed_s
        delay_s = passed_s if measured is None else measured.delay_s
        rule, evaluation = self._log.rule, None
        if rule.due(state.round):
            wanted = rule.devices or self._training.merging.personal
            shares = self._worker.shares if wanted else ()
            evaluation = evaluate(self._training, self._server, state, shares=shares)
        record = TrainedRound(
            round=state.round,
            **figures_of(evaluation, self._training.task, rule),
            train_loss=self._worker.train_loss,
            shares=tuple(self._shares),
            delay_s=delay_s,
            **self._seconds(measured, delay_s),
            virtual_time_s=state.virtual_time_s,
            **self._bytes(state.round),
            wall_s=self._clock() - self._began_s,
            **self._cached(),
        )
        events = () if measured is None else measured.events()
        lines = (TraceLine(round=state.round, event=event) for event in events)
        self._log.round_done(state, record, lines, evaluation, simulated=False)
        self._began_s, self._elapsed_s = self._clock(), state.virtual_time_s
        self._shares = self._session.shares
        return self._log.stopped is not None

    def _cached(self) -> dict[str, Any]:
        """What became of the activations that the server keeps."""
        figures = self._worker.cache
        return {} if figures is None else {"cache": CacheRecord(**asdict(figures))}

    def _seconds(self, measured: MeasuredRound | None, delay_s: float) -> dict[str, Any]:
        """Seconds by device and phase; of a device that did not make the round, all of it."""
        count = len(self._worker.samples)
        took_s: Mapping[int, float] = {} if measured is None else measured.took_s
        delays_s = [took_s.get(device, delay_s) for device in range(count)]
        seen = [None if measured is None else measured.phase_seconds(n) for n in range(count)]
        phases = [_named(own, total_s) for own, total_s in zip(seen, delays_s, strict=True)]
        slowest = 0 if measured is None else measured.slowest_device
        return {
            "delay_by_phase_s": phases[slowest],
            "slowest_device": slowest,
            "device_delay_s": tuple(delays_s),
            "device_delay_by_phase_s": tuple(phases),
        }

    def _bytes(self, round_number: int) -> dict[str, Any]:
        """What crossed this server's links since it was started."""
        counted = self._traffic.of(round_number)
        up, down = (sum(counted.get(name, 0) for name in names) for names in (_UP, _DOWN))
        plain = self._worker.plain_bytes
        trains = self._training.scheme_of(round_number).trains_device
        # of adapters that went as changes, what they would have been whole
        more_up, more_down = (
            self._traffic.count(round_number, name) * self._worker.adapter_bytes
            - counted.get(name, 0)
            for name in ("adapter_up", "adapter_down")
        )
        return {
            "uplink_bytes": up,
            "downlink_bytes": down,
            "uncompressed_uplink_bytes": up - counted.get("activation", 0) + plain + more_up,
            "uncompressed_downlink_bytes": (
                down - counted.get("gradient", 0) + plain * trains + more_down
            ),
            "bytes_by_payload": counted,
        }


def keep_samples(folder: Path, shares: Sequence[DeviceShare]) -> None:
    """Keep what devices say of their samples, who say it as a round ends: a server that is started
    after the last one weighs them by it. Raises RunError."""
    write_json(folder / _SAMPLES, [asdict(share) for share in shares])


def kept_samples(folder: Path, devices: int) -> tuple[DeviceShare, ...]:
    """What they have said so far; 0 samples of who has not. Raises RunError for a broken file."""
    path = folder / _SAMPLES
    if not path.exists():
        return (DeviceShare(0),) * devices
    try:
        shares = _SHARES.validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {reason(error)}") from error
    if len(shares) != devices:
        raise RunError(f"{path} is of {len(shares)} devices, not of the run's {devices}")
    return shares


def _named(phases: Mapping[Phase, float] | None, delay_s: float) -> dict[str, float]:
    if phases is None:
        return {UNOBSERVED: delay_s}
    return {phase.value: spent for phase, spent in phases.items()}


# The run: terms, tools and files.


# The most that devices can make a server hold, whatever they send and however little they read.
#
# Knows the limits that each part keeps to, and adds them up: payloads alone, since the numbers
# beside them are few. The server's own (the model, every device's adapter and optimiser, its
# codecs' memory) is not in it: that is there from the start, and no device can add to it.


@dataclass(frozen=True)
class MemoryBound:
    """The most bytes, by where they lie.

    in_transport: within asyncio and its TLS, of what comes and what goes. in_links: frames that
    nobody received. in_sessions: of each device a frame that waits for its turn, the frames that it
    has not read, its last reply and its adapter.
    """

    in_transport: int
    in_links: int
    in_sessions: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.in_transport + self.in_links + self.in_sessions


def memory_bound(bounds: Bounds, devices: int, limits: ConnectionLimits) -> MemoryBound:
    """For so many devices, whose links keep to `limits`.

    With C connections, N devices, frames of F_up and F_down bytes at most, W bytes in a transport
    and S that may be read behind a frame:

        C (W + S + 2 F_up) + N (F_up + (outbox + 1) F_down + reply + adapter)

    Of a link's two frames, one may be put together yet.
    """
    up, down = largest_frame(server_limits(bounds)), largest_frame(device_limits(bounds))
    unread = (OUTBOX_FRAMES + 1) * down
    return MemoryBound(
        in_transport=limits.connections * TRANSPORT_BYTES,
        in_links=limits.connections * (INBOX_FRAMES * up + SCRATCH_BYTES),
        in_sessions=devices * (up + unread + bounds.gradient_bytes + bounds.adapter_bytes),
    )


# How much memory this process has. Knows Linux's `/proc` alone.


_STATM = Path("/proc/self/statm")


def resident_bytes() -> int | None:
    """The memory that is in use now [bytes]; None where the system does not say."""
    if not _STATM.exists():
        return None
    return int(_STATM.read_text(encoding="ascii").split()[1]) * resource.getpagesize()


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
            f"scheme {scheme.name} cannot run over a network; set scheme.name to sft,"
            " sft-uncompressed, sft-frozen or sft-cached"
        )


_LOG = logging.getLogger(__name__)
_PART = "part.weights"
_RUN = "run-id"
_DEVICES = "devices.json"
# what terms hold but for names of classes: sections of the configuration
_OTHER_TERMS_BYTES = 64 * 1024
# what a device computes by, the codec apart; where model and data lie here is nobody's business
_DEVICE_SETTINGS: dict[str, Any] = {
    **dict.fromkeys(("optimizer", "adapter", "seed"), True),
    "model": {"cut"},
    "data": {"image_size", "max_tokens", "loss_on", "packing", "too_long"},
    "training": {"batch_size"},
    "devices": {"base", "activation_memory"},
}


@final
@dataclass(frozen=True, eq=False)
class NetJob:
    """A server's run, from where its directory stands; ready for connections."""

    job: Job
    log: RunLog
    registry: DeviceRegistry
    plan: RunPlan
    session: ServerSession
    worker: ServerWorker
    driver: ServerDriver
    limits: ConnectionLimits

    @property
    def directory(self) -> RunDirectory:
        """The run's."""
        return self.log.directory

    @property
    def memory(self) -> MemoryBound:
        """The most that its devices can make the server hold."""
        return memory_bound(self.plan.bounds, len(self.plan.terms), self.limits)


def check_net(job: Job) -> None:
    """Raises ConfigError for a job that cannot run over a network."""
    config = job.config
    check_scheme(job.setup.training.scheme)
    if isinstance(config.codec, PluginSection):
        check_registered("codec", config.codec, CODECS)
    if takes_some(config.devices):
        raise ConfigError(
            "devices.per_round, availability, availability_trace and dropout are of simulated"
            " devices, and a server takes those that come: leave them out, or use `cutlayer train`"
        )
    if config.training.local_epochs is not None:
        raise ConfigError(
            "training.local_epochs: the server does not know how many samples a device has; set it"
            " to null and give training.local_steps"
        )
    if config.planner.name == "two-timescale" and _curves(config) is None:
        raise ConfigError(
            "planner two-timescale allocates the bandwidth each round, but devices are not paced:"
            " set net.uplink_bit_s and net.downlink_bit_s, or planner to static"
        )
    _check_names(job)
    check_devices(config.net.devices, config.devices.count)
    make_round_end(config.net, config.devices.count)


def _check_names(job: Job) -> None:
    """Devices are told the names of all classes, or the chat template, beside little else."""
    names = job.prepared.data.class_names
    size = len(json.dumps(list(names), ensure_ascii=False).encode())
    most = TERMS_BYTES - _OTHER_TERMS_BYTES
    template = len(json.dumps(job.prepared.chat_template).encode())
    if template > most:
        raise ConfigError(
            f"data.chat_template has {template} bytes, a device accepts {most}: shorten it"
        )
    if job.setup.training.task != "causal-lm" and size > most:
        raise ConfigError(
            f"the names of the {len(names)} classes have {size} bytes, a device accepts {most}:"
            " shorten them in the data set"
        )


def open_net(job: Job, directory: RunDirectory, observer: Observer, compute: Compute) -> NetJob:
    """The run in `directory`, with what its journal holds trained again.

    Raises ConfigError as `check_net` does and for frames beyond what links take, RunError for a
    directory that cannot be read or written.
    """
    check_net(job)
    settle(job, directory, "serve")
    # who is there and when a round closes is the session's to say here
    simulation = replace(job.setup.simulation, population=None)
    job = replace(job, setup=replace(job.setup, simulation=simulation))
    setup, net = job.setup, job.config.net
    training, server = setup.training, setup.server
    names = outline_of(job).class_names
    log = RunLog(directory, keep(job, directory), observer, server.evaluation, names)
    rounds = job.config.training.rounds
    state = begin(setup, log, rounds)
    largest = MiniBatch(training.batch_size, _tokens(job, state))
    parameters = server.device_part.adapted.layout.parameters
    steps = max(device.local_steps for device in setup.devices) * training.micro_batches
    bounds = bounds_of(largest, setup.simulation.model.width, parameters, steps)
    limits = _limits(job, bounds)
    part = _part(job, directory)
    count = len(setup.devices)
    registry = DeviceRegistry(directory.path / _DEVICES, count, net.devices)
    local_steps = tuple(device.local_steps for device in setup.devices)
    shares = kept_samples(directory.path, count)
    cache = open_cache(training, server, directory.path)
    held = None if cache is None else HeldSamples(training, local_steps, cache)
    rule = MergeRule(net.most_update, net.weights == "equal", net.most_samples)
    worker = ServerWorker(
        training, server, local_steps, bounds, state, shares, held=held, rule=rule
    )
    controller = _controller(job, state, len(worker.adapter))
    terms = _terms(job, directory, part, largest.tokens)
    plan = replace(_plan(job, controller.shares, bounds, terms, registry.name), asks=worker.asks)
    journal = Journal(directory.path, journal_limits(bounds))
    made = journal.made(state.round)
    missed = set() if made is None else set(range(count)) - set(made)
    ended = log.stopped is not None
    session = ServerSession(
        plan,
        worker.adapter,
        state.round + 1,
        missed,
        ended=ended,
        own=worker.own_adapters,
        whole=worker.whole_adapter,
    )
    recorder = Recorder(training, server, log, worker, session, time.monotonic)
    recover(session, worker, journal, controller, recorder.save)
    driver = ServerDriver(
        session,
        worker,
        journal,
        controller,
        recorder.save,
        compute,
        part.piece,
        net.patience_s,
        net.downlink_bit_s,
        setup.simulation.rules.batching,
    )
    return NetJob(job, log, registry, plan, session, worker, driver, limits)


def _tokens(job: Job, state: RunState) -> int:
    """The most tokens of a sample at the cut."""
    if job.setup.training.task != "image-classification":
        return job.config.data.max_tokens
    server = job.setup.server
    group = group_inputs([server.batches.make(server.test, np.arange(1))])
    with torch.no_grad():
        row = state.device.of(0)[None]
        return server.device_part.forward(row, group.sizes, group.inputs).shape[1]


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
        image_size=config.data.image_size,
        placement=Placement(base=Base(config.devices.base)),
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
    task = job.setup.training.task
    names = () if task == "causal-lm" else tuple(job.prepared.data.class_names)
    return Outline(task, names)


def _terms(job: Job, directory: RunDirectory, part: PartFile, tokens: int) -> tuple[Terms, ...]:
    config, training, run = job.config, job.setup.training, _run_name(directory)
    outline = outline_of(job)
    codec = config.codec if training.scheme.compressed else NoCodec()
    if isinstance(codec, PluginSection):
        codec = portable(codec, CODECS)
    settings = config.model_dump(mode="json", include=_DEVICE_SETTINGS)
    # they begin with what the server broadcasts, wherever that lies here
    settings["adapter"].pop("start_from")
    if not training.scheme.trains_device:  # they have none
        settings["adapter"] |= {"layers": job.adapter.layers, "patch_embedding": False}
    settings["codec"] = codec.model_dump(mode="json")
    settings["data"]["chat_template"] = job.prepared.chat_template
    if training.tells_labels:
        settings["evaluation"] = {"figures": ["devices"]}
    if training.adapter_codec is not None:
        settings["adapter_codec"] = config.adapter_codec.model_dump(mode="json")
    if training.merging != FEDAVG:
        settings["aggregation"] = config.aggregation.model_dump(mode="json")
    return tuple(
        Terms(
            run=run,
            device=device.number,
            task=training.task,
            classes=training.classes,
            class_names=list(outline.class_names),
            width=job.setup.simulation.model.width,
            tokens=tokens,
            part_sha256=part.sha256,
            manifest_bytes=len(part.manifest),
            uplink_bit_s=config.net.uplink_bit_s,
            rounds=config.training.rounds,
            local_steps=device.local_steps,
            micro_batches=training.micro_batches,
            settings=settings,
            frozen_from=_frozen_from(training),
            cached=training.scheme.cached,
        )
        for device in job.setup.devices
    )


def _frozen_from(training: Training) -> int | None:
    """The first round in which the devices' part is not trained."""
    if not training.scheme.trains_device:
        return 1
    return None if training.warm_rounds is None else training.warm_rounds + 1


def _curves(config: Config) -> RateCurves | None:
    """The rates that devices are held to, by their shares; None: they are not held to any."""
    ways = config.net.uplink_bit_s, config.net.downlink_bit_s
    if None in ways:
        return None
    return RateCurves(*(ProportionalRates(np.full(config.devices.count, rate)) for rate in ways))


def _controller(job: Job, state: RunState, adapter_bytes: int) -> Controller:
    training, simulation, fixed = job.setup.training, job.setup.simulation, _curves(job.config)
    shape = RoundShape(
        scheme=training.scheme,
        rules=simulation.rules,
        steps=tuple(device.local_steps for device in job.setup.devices),
        micro_batches=training.micro_batches,
        adapter_bytes=adapter_bytes,
    )
    curves = simulation.channel.curves if fixed is None else lambda number, time_s: fixed
    watch = ServerWatch(time.monotonic)
    return Controller(watch, shape, simulation.allocation, curves, state, training.scheme_of)


def _plan(
    job: Job, shares: Shares, bounds: Bounds, terms: tuple[Terms, ...], name_of: NameOf
) -> RunPlan:
    setup, net = job.setup, job.config.net
    return RunPlan(
        terms=terms,
        shares=shares,
        end=make_round_end(net, len(setup.devices)),
        bounds=bounds,
        name_of=name_of,
        keeps=lambda number: (
            not (setup.training.merging.device or setup.server.evaluation.due(number))
        ),
    )
