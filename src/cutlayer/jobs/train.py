"""A configuration made into a run in its directory: prepared, trained, reported."""

import logging
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

from cutlayer.channel.fading import SnrChannel
from cutlayer.config.choices import (
    AdapterCodecSection,
    BestAdapterCodec,
    BestCodec,
    CodecSection,
    FastCodec,
    NoCodec,
    PaperCodec,
    PaperRansCodec,
    StagesCodec,
    StagesSection,
    TracesSection,
)
from cutlayer.config.keys import unread, without
from cutlayer.config.read import config_sha256, config_yaml
from cutlayer.config.schema import Config, NetSection, TrainedDevicePart
from cutlayer.config.section import PluginSection
from cutlayer.data.partition import PreparedData, label_counts
from cutlayer.errors import CutlayerError, StorageError
from cutlayer.files import write_json, write_text
from cutlayer.jobs.check import as_run, changed_config
from cutlayer.jobs.cohorts import playing
from cutlayer.jobs.prepare import Job, prepare, use_torch
from cutlayer.jobs.resume import settle
from cutlayer.jobs.scheme import gain_of
from cutlayer.jobs.trained import keep, kept_state
from cutlayer.jobs.workload import forecast_as_configured
from cutlayer.model.placement import ON_HOST
from cutlayer.report.run_page import write_report
from cutlayer.report.wording import counted, round_line, shortened
from cutlayer.rounds.schemes import SFT, SFT_CACHED, SFT_FROZEN
from cutlayer.spec import Trained
from cutlayer.training.cohort import PlayCohorts
from cutlayer.training.device_store import DeviceStore
from cutlayer.training.evaluation import DeviceShare, evaluate, share_of
from cutlayer.training.population import last_round
from cutlayer.training.records import (
    DevicePartBeside,
    Observer,
    Partition,
    RoundRecord,
    Silent,
)
from cutlayer.training.run import run_rounds
from cutlayer.training.run_directory import RunDirectory
from cutlayer.training.run_log import RunLog, write_summary
from cutlayer.training.state import Setup

# What a run says of itself as it starts: what it trains, on what, over which link, how long.
#
# Knows a run that is ready; who shows the lines is the caller's.


_NAMED = 6
_NAME = 20


def overview(
    config: Config, prepared: PreparedData, setup: Setup, *, real: bool = False
) -> list[str]:
    """One line each: the model, the data, codec and link, devices and rounds; `real`: between
    machines, not on a simulated link."""
    link = _network(config.net) if real else _link(config, setup)
    lines = [
        _model(config, setup),
        _data(config, prepared, real),
        f"{_codec(config.codec, setup)}{_adapters(config.adapter_codec, setup)}; {link}",
        _work(config, setup),
        *_device_part(config, setup),
    ]
    below, above = setup.ran_on
    if {below, above} != {ON_HOST.title}:
        devices = "" if real else f"devices' part on {below}; "
        lines.append(f"{devices}server's part on {above}")
    return lines


def _model(config: Config, setup: Setup) -> str:
    spec = setup.simulation.model
    trained = sum(part.adapted.layout.parameters for part in setup.parts)
    size = f"{_count(spec.parameters)} parameters, {counted(spec.blocks, 'block')}"
    cut = f"cut after {setup.server.device_part.cut}" if setup.training.scheme.splits else "not cut"
    if setup.training.scheme.trained is Trained.WEIGHTS:
        return f"{_name(config.model.name)}: {size}, {cut}; all of them trainable"
    return f"{_name(config.model.name)}: {size}, {cut}; {_count(trained)} trainable"


def _data(config: Config, prepared: PreparedData, real: bool) -> str:
    data = prepared.data
    counts = f"{len(data.test)} test" if real else f"{len(data.train)} train, {len(data.test)} test"
    if prepared.task == "causal-lm":
        blocks = config.data.packing == "blocks" or (
            config.data.packing is None and data.reading is None
        )
        noun = "block" if blocks else "row"
        what = f"{noun}s of {'' if blocks else 'up to '}{config.data.max_tokens} tokens"
    else:
        what = f"{len(data.class_names)} classes: {_names(data.class_names)}"
        noun = "sample"
    sizes = [len(part) for part in prepared.parts]
    dealt = f"devices have their own {noun}s" if real else f"{_span(sizes, noun)} per device"
    left_out = f"; {prepared.skipped} left out" if prepared.skipped else ""
    return f"{_name(config.data.name)}: {what}; {counts}; {dealt}{left_out}"


def _work(config: Config, setup: Setup) -> str:
    steps = [device.local_steps for device in setup.devices]
    rounds = counted(config.training.rounds, "round")
    batch = counted(config.training.batch_size, "sample")
    few = sum(device.samples < config.training.batch_size for device in setup.devices)
    fewer = f"; {counted(few, 'device')} with fewer samples: all in one" if few else ""
    return (
        f"scheme {setup.training.scheme.name}; {counted(len(setup.devices), 'device')}, {rounds} of"
        f" {_span(steps, 'local step')} per device, mini-batches of {batch}{fewer}"
    )


def _device_part(config: Config, setup: Setup) -> list[str]:
    """Whether the devices' part is trained, where it is not always, or where a profile has what
    that brings at this cut."""
    training, cut = setup.training, setup.server.device_part.cut
    if not training.scheme.splits:
        return []
    how = "trained" if training.scheme.trains_device else "frozen"
    if training.warm_rounds is not None:
        how = f"trained in {counted(training.warm_rounds, 'round')}, then frozen"
    brings = _brings(config, cut)
    if how == "trained" and not brings:
        return []
    return [f"device part {how}{brings}"]


def _brings(config: Config, cut: int) -> str:
    """What training the devices' part brings at this cut, by the profile of model and data."""
    gain = gain_of(config, cut)
    return (
        "" if gain is None else f": training it brings {gain} points at cut {cut}, by its profile"
    )


def _codec(section: CodecSection, setup: Setup) -> str:
    scheme = setup.training.scheme
    if not scheme.compressed:
        sends = "sends" if scheme.splits else "sends neither activations nor gradients"
        return f"no codec: {scheme.name} {sends}{' float32' if scheme.splits else ''}"
    if isinstance(section, BestCodec) and not scheme.trains_device:  # nothing comes back
        up = _goal(section.target_bits_up, section.target_cosine_up)
        unit = " bits per value" if section.target_cosine_up is None else " uplink"
        return f"codec {section.name} ({up}{unit})"
    return f"codec {section.name}{_setting(section)}"


def _adapters(section: AdapterCodecSection, setup: Setup) -> str:
    if setup.training.adapter_codec is None:
        return ""
    bits = "8"
    if isinstance(section, BestAdapterCodec):
        bits = f"{section.target_bits_up:g} + {section.target_bits_down:g}"
    return f"; adapters {section.name} ({bits} bits per value)"


def _setting(section: CodecSection) -> str:
    match section:
        case BestCodec():
            up = _goal(section.target_bits_up, section.target_cosine_up)
            down = _goal(section.target_bits_down, section.target_cosine_down)
            both = section.target_cosine_up is None and section.target_cosine_down is None
            return (
                f" ({up} + {down} bits per value)" if both else f" ({up} uplink, {down} downlink)"
            )
        case PaperCodec() | PaperRansCodec():
            kept = f"{100 * section.keep_ratio:g} % of the values"
            return f" ({kept}, {section.levels} levels)"
        case FastCodec():
            return " (4 bits per value)"
        case NoCodec():
            return " (float32)"
        case StagesCodec():
            back = section.down or section.up
            return f" ({_stages(section.up)} uplink, {_stages(back)} downlink)"
        case PluginSection():
            options = (f"{name} {value}" for name, value in section.options.items())
            return f" ({', '.join(options)})" if section.options else ""


def _goal(bits: float, cosine: float | None) -> str:
    return f"{bits:g}" if cosine is None else f"cosine {cosine:g}"


def _stages(section: StagesSection) -> str:
    stages = (section.transform.name, section.sparsify.name, section.quantise.name, section.entropy)
    return ", ".join(stage for stage in stages if stage != "none")


def _link(config: Config, setup: Setup) -> str:
    section, channel = config.channel, setup.simulation.channel
    if isinstance(section, TracesSection):
        return f"link of measured rates ({counted(len(section.uplink), 'trace')})"
    if isinstance(section, PluginSection):
        return f"channel {section.name}"
    assert isinstance(channel, SnrChannel)
    up, down = _snr(channel.uplink_snr_db.tolist()), _snr(channel.downlink_snr_db.tolist())
    fading = "" if section.fading.name == "none" else f", {section.fading.name} fading"
    cell = "" if section.cell.name == "none" else f", {section.cell.name} cell"
    bandwidth = _with_unit(section.bandwidth_hz, "Hz")
    return f"link {bandwidth}, SNR {up} uplink, {down} downlink{cell}{fading}"


def _network(net: NetSection) -> str:
    rates = {"uplink": net.uplink_bit_s, "downlink": net.downlink_bit_s}
    paced = [
        f"{_with_unit(rate, 'bit/s')} {way}" for way, rate in rates.items() if rate is not None
    ]
    return f"link: the network, {', '.join(paced) or 'not paced'}"


def _snr(values_db: Sequence[float]) -> str:
    least, most = f"{min(values_db):.3g}", f"{max(values_db):.3g}"
    return f"{least} dB" if least == most else f"{least} to {most} dB"


def _span(counts: Sequence[int], noun: str) -> str:
    """`4 to 11 samples`, `1 sample`."""
    least, most = min(counts), max(counts)
    return counted(most, noun) if least == most else f"{least} to {counted(most, noun)}"


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(shortened(name, _NAME) for name in names[:_NAMED])
    rest = len(names) - _NAMED
    return f"{shown} and {rest} more" if rest > 0 else shown


def _name(name: str) -> str:
    """Of a path its last part."""
    return shortened(Path(name).name or name, 2 * _NAME)


def _count(value: float, giga: str = "B") -> str:
    """`22.1 M`, `7.24 B`, `850`."""
    for size, unit in ((1e9, giga), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def _with_unit(value: float, unit: str) -> str:
    """`5 MHz`, `500 Hz`."""
    count = _count(value, "G")
    return f"{count}{unit}" if count[-1].isalpha() else f"{count} {unit}"


_LOG = logging.getLogger(__name__)


def start(config: Config, output: Path, observer: Observer | None = None) -> RunDirectory:
    """Train as `config` says, in a new directory under `output`; returns that directory.

    Everything that can be wrong is found before the directory is made. Raises CutlayerError.
    """
    config = as_run(config)
    use_torch(config)
    job = prepare(config)
    with playing(config, job.setup) as play:
        return finish(job, new_directory(config, output), observer, play)


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
    use_torch(config)
    job = prepare(config)
    with playing(config, job.setup) as play:
        return finish(job, directory, observer, play)


def finish(
    job: Job,
    directory: RunDirectory,
    observer: Observer | None = None,
    play: PlayCohorts | None = None,
) -> RunDirectory:
    """Train what is left of the job in `directory`, then write summary and report.

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
        rule = job.setup.server.evaluation
        names = () if job.prepared.task == "causal-lm" else job.prepared.data.class_names
        observed = _RoundLinesInLog(observer, rounds)
        log = RunLog(directory, keep(job, directory), observed, rule, names)
        run_rounds(job.setup, log, rounds, play)
        if log.stopped is not None:
            _LOG.info(str(log.stopped))
        write_summary(log, {**about(job), "beside": _beside(job), **held_out(job, directory)})
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
        _LOG.info(f"already finished: all of {counted(rounds, 'round')}; more with training.rounds")
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


def held_out(
    job: Job, directory: RunDirectory, shares: Sequence[DeviceShare] | None = None
) -> dict[str, Any]:
    """What a summary says of the samples that rounds were evaluated on, if not on the whole test
    split; that is evaluated here, of the last and the best round. `shares`: of the devices (None:
    they are simulated)."""
    training, server = job.setup.training, job.setup.server
    if server.watched is None:
        return {}
    state = directory.load()
    assert state is not None, "a run that has ended has a checkpoint"
    state = last_round(job.setup, state, DeviceStore(directory.path))
    scores: dict[str, Any] = {}
    for name, trained in (("final", state), ("best", kept_state(job, directory, state))):
        known = shares
        if known is None:
            numbers = range(len(job.setup.devices)) if trained.devices is None else trained.devices
            known = [share_of(job.setup.devices[n]) for n in numbers]
        score = evaluate(training, server, trained, server.test, known).score(training.task)
        scores[f"{score.measure}_test_{name}"] = score.value
    return {
        "evaluated_on": "validation" if job.config.evaluation.validation_fraction else "test",
        "evaluated_samples": len(server.watched),
        "test_samples": len(server.test),
        **scores,
    }


def _beside(job: Job) -> DevicePartBeside | None:
    """The run with its device part frozen where it is trained, and trained where it is frozen; None
    where nobody has measured what that brings at this cut, or shares are not those of the run."""
    scheme, cut = job.setup.training.scheme, job.setup.server.device_part.cut
    gain = gain_of(job.config, cut) if scheme in (SFT, SFT_FROZEN, SFT_CACHED) else None
    if gain is None or job.config.planner.name not in ("even", "fixed"):
        return None
    other = SFT_FROZEN if scheme.trains_device else SFT
    own = {"scheme": {"name": other.name}, "device_part": TrainedDevicePart()}
    config = Config.model_validate({**dict(job.config), **own})
    with suppress(CutlayerError):  # what cannot be planned is not said
        then = forecast_as_configured(without(config, {each.key for each in unread(config)}))
        return DevicePartBeside(
            scheme=other.name,
            delay_s=then.delay_s,
            first_delay_s=then.first.delay_s,
            uplink_bytes=round(then.later.uplink_bytes),
            downlink_bytes=round(then.later.downlink_bytes),
            gain=gain.loss.loss,
            gain_error=gain.loss.error,
            accuracy_trained=gain.accuracy,
        )
    return None


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
        "devices_on": setup.ran_on[0],
        "server_on": setup.ran_on[1],
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
