"""A profile measured: many codecs on one prepared job, and what is missing is trained.

The log has a JSON line for each training run that has ended: a profile is made of them, and resumed
from them.
"""

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from time import process_time
from typing import Any, final

from cutlayer.codec.codec import CodecPair, Direction
from cutlayer.config.read import config_yaml
from cutlayer.config.schema import Config, DirichletPartition, Sft, TrainedDevicePart
from cutlayer.config.training import LocalEngine
from cutlayer.data.find import find_model
from cutlayer.data.samples import Samples, digest_of
from cutlayer.errors import ConfigError, PacketError, RunError
from cutlayer.files import storage_error
from cutlayer.jobs.prepare import prepare, use_torch
from cutlayer.jobs.resume import model_digests
from cutlayer.jobs.scheme import is_auto
from cutlayer.jobs.workers import Engine, WorkerDied, spread
from cutlayer.logs import unheard
from cutlayer.planner.profile import TRAINED, CurvePoint, DevicePartPoint, Profile, ProfilePoint
from cutlayer.profiling.grid import (
    DEFAULT_CODEC,
    PUBLISHED_CODEC,
    SAME_SYMBOLS_CODEC,
    CodecGrid,
    CodecSetting,
    DevicePartSetting,
    codecs_of,
    device_parts,
    other_bytes,
)
from cutlayer.rounds.schemes import SFT, Scheme
from cutlayer.training.evaluation import Evaluation, evaluate
from cutlayer.training.exchange import RoundCosts
from cutlayer.training.expected import initial_state
from cutlayer.training.round import Round, RoundOutcome
from cutlayer.training.state import RunState, Setup
from cutlayer.units import format_seconds

_FLOAT32_BITS = 32


@dataclass(frozen=True)
class JobStart:
    """A seed's job, ready to train, and its state before the first round."""

    seed: int
    rounds: int
    setup: Setup
    state: RunState

    @property
    def packets(self) -> int:
        """Packets of the longest stream, which a codec may be told of."""
        return self.rounds * max(device.local_steps for device in self.setup.devices)


@dataclass(frozen=True)
class RunResult:
    """What a training run came to. Bits are per element of activations (up) and gradients (down).

    `accuracy` (a share) and `loss` [nat] are of the test split, nothing compressed, NaN if it
    diverged; `accuracy_finished` is what the last finished round left, diverged or not.
    `bits_up_other` and `bits_down_other` are what the other codec of a `ShadowCodec` would have
    sent. Bits are over the finished rounds, NaN where the scheme sends no activations. `curve`: the
    accuracy after each round that was evaluated on the way, by the round's number.
    """

    accuracy: float
    accuracy_finished: float
    loss: float
    rounds: int
    bits_up: float
    bits_down: float
    bits_up_other: float
    bits_down_other: float
    cpu_s: float
    curve: Mapping[int, float]


def training_text(config: Config) -> str:
    """What is trained, in a line: model and cut, data, devices, steps, optimiser, partition."""
    training, model, data = config.training, Path(config.model.name), Path(config.data.name)
    partition = config.partition
    steps = (
        f"{training.local_steps} steps"
        if training.local_steps is not None
        else f"{training.local_epochs} epochs"
    )
    return (
        f"{model.name} cut after block {config.model.cut} on {data.name},"
        f" {config.devices.count} devices, {training.rounds} x {steps} of"
        f" {training.batch_size} samples, {config.optimizer.name}"
        f" {config.optimizer.learning_rate:g}, {partition.name}"
        f"{f' {partition.alpha:g}' if isinstance(partition, DirichletPartition) else ''}"
    )


def job_start(
    config: Config, seed: int, test: Samples | None = None, *, quiet: bool = False
) -> JobStart:
    """The start of one seed, with these test samples (None: its own).

    Raises CutlayerError for a job that cannot be prepared.
    """
    use_torch(config)
    with unheard() if quiet else nullcontext():
        setup = prepare(config.model_copy(update={"seed": seed})).setup
    if test is not None:
        setup = replace(setup, server=replace(setup.server, test=test))
    return JobStart(seed, config.training.rounds, setup, initial_state(setup))


def evaluate_job(setup: Setup, state: RunState) -> Evaluation:
    """On the job's test samples."""
    return evaluate(setup.training, setup.server, state)


def train_through(start: JobStart, codecs: CodecPair, *, every: int | None = None) -> RunResult:
    """Train from `start` through `codecs`, then evaluate; after `every` so many rounds, too."""
    begun_s = process_time()
    setup = replace(start.setup, training=replace(start.setup.training, codecs=codecs))
    state, costs = start.state, []
    curve: dict[int, float] = {}
    for number, outcome in enumerate(play_rounds(setup, start.state, start.rounds), start=1):
        state = outcome.state
        costs.append(outcome.round_costs)
        if every is not None and number % every == 0 and number < start.rounds:
            curve[number] = evaluate_job(setup, state).accuracy
    evaluation = evaluate_job(setup, state)
    if every is not None and costs:
        curve[len(costs)] = evaluation.accuracy
    diverged = len(costs) < start.rounds
    traffic = traffic_of(costs)
    return RunResult(
        accuracy=math.nan if diverged else evaluation.accuracy,
        accuracy_finished=evaluation.accuracy,
        loss=math.nan if diverged else evaluation.loss,
        rounds=len(costs),
        bits_up=traffic.bits(traffic.up),
        bits_down=traffic.bits(traffic.down),
        bits_up_other=_other_bits(state, Direction.UP, traffic),
        bits_down_other=_other_bits(state, Direction.DOWN, traffic),
        cpu_s=process_time() - begun_s,
        curve=curve,
    )


def play_rounds(setup: Setup, state: RunState, rounds: int) -> Iterator[RoundOutcome]:
    """Round after round; fewer of them if the training diverges."""
    for _ in range(rounds):
        try:
            outcome = Round(setup, state).play()
        except PacketError:  # no codec takes values that are not finite
            return
        yield outcome
        state = outcome.state


@dataclass(frozen=True)
class Traffic:
    """Bytes of activations and of gradients, and of either as plain float32 (they are of one
    shape; their frames' 60 bytes count as less than an element in a thousand)."""

    up: int
    down: int
    plain: int

    def bits(self, sent: int) -> float:
        """So many bytes, in bits per element; NaN where there are no elements."""
        return _FLOAT32_BITS * sent / self.plain if self.plain else math.nan


def traffic_of(costs: Sequence[RoundCosts]) -> Traffic:
    """Over these rounds."""
    up = down = plain = 0
    for each in costs:
        sent = each.bytes_by_payload()
        up += sent.get("activation", 0)
        down += sent.get("gradient", 0)
        # labels and adapters are not compressed by it: the rest of the uplink is activations
        plain += each.byte_counts()["uncompressed_uplink_bytes"]
        plain -= sent.get("labels", 0) + sent.get("adapter_up", 0)
    return Traffic(up, down, plain)


def _other_bits(state: RunState, direction: Direction, traffic: Traffic) -> float:
    """What the other codec of a `ShadowCodec` would have sent in one direction; NaN without one."""
    streams = [stream for (_, way), stream in state.streams.items() if way is direction]
    total = sum(other_bytes(stream.sender) for stream in streams)
    return traffic.bits(total) if total else math.nan


# The log, and a profile of it. Knows the order of things, not how a training run goes or is spread.


_LOG = logging.getLogger(__name__)

# codec, settings, seed; cut, device part and its rounds where they are not the job's
Key = tuple[str, tuple[tuple[str, float], ...], int, DevicePartSetting | None]


@dataclass(frozen=True)
class ProfiledRun:
    """One training run of the job that `job` is the fingerprint of.

    `accuracy` (a share of the test split) is what the last finished round left: of fewer `rounds`
    than the job has if it `diverged`, of none the accuracy before training. Bits are per
    value of activations (up) and gradients (down) over those rounds, None if there is none; the
    `same_symbols` ones are of the codec that would have sent the same in other bytes, if any.
    Where `cut` and `device_part` are None, they are the job's cut, and trained. `curve`: the round,
    the local steps until then and the accuracy, of rounds on the way of a run without a codec.
    """

    job: str
    seed: int
    codec: str
    settings: Mapping[str, float]
    accuracy: float
    rounds: int
    diverged: bool
    bits_up: float | None
    bits_down: float | None
    same_symbols_bits_up: float | None
    same_symbols_bits_down: float | None
    cpu_s: float
    cut: int | None = None
    device_part: str | None = None
    device_part_rounds: int | None = None
    curve: tuple[tuple[int, int, float], ...] = ()

    @property
    def wanted(self) -> "WantedRun":
        """What was trained."""
        part = None
        if self.cut is not None and self.device_part is not None:
            part = DevicePartSetting(self.cut, self.device_part, self.device_part_rounds)
        return WantedRun(CodecSetting(self.codec, self.settings), self.seed, part)

    @property
    def key(self) -> Key:
        """As `WantedRun.key` has it."""
        return self.wanted.key


@dataclass(frozen=True)
class WantedRun:
    """A setting to train, the seed to train it from, and the cut and device part where they are not
    the job's."""

    setting: CodecSetting
    seed: int
    part: DevicePartSetting | None = None

    @property
    def key(self) -> Key:
        """What is trained: the same key, the same run."""
        values = tuple(sorted(self.setting.values.items()))
        return self.setting.codec, values, self.seed, self.part

    def __str__(self) -> str:
        where = "" if self.part is None else f"{self.part}, "
        return f"{where}{self.setting}, seed {self.seed}"


@dataclass(frozen=True)
class ProfilePlan:
    """What a profile is measured with: `seeds` of them from the configuration's own on.
    `command` says how it was asked for; `cuts` are those of the device part (None: the
    configuration's and four others)."""

    config: Config
    grid: CodecGrid
    seeds: int
    command: str
    cuts: tuple[int, ...] | None = None

    def wanted(self, parts: Sequence[DevicePartSetting]) -> Iterator[WantedRun]:
        """Every training run, all of one seed before the next."""
        for seed in self.seed_numbers():
            runs = [WantedRun(setting, seed) for setting in self.grid.settings()]
            runs += [self.run_of(part, seed) for part in parts]
            yield from {run.key: run for run in runs}.values()

    def run_of(self, part: DevicePartSetting, seed: int) -> WantedRun:
        """How the device part is trained so; at the job's own cut a run of its grid may be it."""
        own = part == DevicePartSetting(self.config.model.cut, TRAINED)
        return WantedRun(DEFAULT_CODEC, seed, None if own else part)

    def seed_numbers(self) -> tuple[int, ...]:
        """The seeds."""
        return tuple(range(self.config.seed, self.config.seed + self.seeds))


def job_of(config: Config) -> Config:
    """The job whatever the codec, the device part and the planner, on one thread: what all its
    training runs share. What `auto` is for it is what a profile tells: it is `sft` here."""
    default, engine = Config(), LocalEngine(cohort=config.engine.cohort)
    own: dict[str, Any] = {"codec": default.codec, "planner": default.planner, "threads": 1}
    own |= {"engine": engine, "scheme": Sft() if is_auto(config) else config.scheme}
    return config.model_copy(update={**own, "device_part": TrainedDevicePart()})


def fingerprint(config: Config) -> str:
    """Changes with any setting of the job: results of one are not mistaken for another's."""
    return hashlib.sha256(config_yaml(job_of(config)).encode()).hexdigest()[:16]


def _with_inputs(settings: str, model: Path, start: JobStart) -> str:
    """What was trained on other samples, or from other weights, is another job's, too."""
    setup = start.setup
    train, test = (digest_of(split) for split in (setup.devices[0].train, setup.server.test))
    text = f"{settings} {train} {test} {sorted(model_digests(model).items())}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@final
class ProfileTrainer:
    """The job of a configuration, kept ready for the seed, cut and device part trained last.

    The test samples are those of the configuration's own seed, for all. Raises CutlayerError for a
    job that cannot be prepared. `job`: the fingerprint of its settings, data and model.
    """

    def __init__(self, config: Config, *, quiet: bool = False) -> None:
        self._config = job_of(config)
        self._start = job_start(self._config, config.seed, quiet=quiet)
        self._part: DevicePartSetting | None = None
        self._test = self._start.setup.server.test
        with unheard():  # it was found just now
            model = find_model(config.model.name).path
        self.job = _with_inputs(fingerprint(config), model, self._start)

    @property
    def test_samples(self) -> int:
        """How many samples accuracies are of."""
        return len(self._test)

    @property
    def scheme(self) -> Scheme:
        """The job's."""
        return self._start.setup.training.scheme

    @property
    def blocks(self) -> int:
        """Of the job's model."""
        return self._start.setup.simulation.model.blocks

    def train(self, wanted: WantedRun) -> ProfiledRun:
        """Train, both ways through real packets."""
        part = wanted.part
        if (self._start.seed, self._part) != (wanted.seed, part):
            config = self._config if part is None else part.of(self._config)
            self._start = job_start(config, wanted.seed, self._test, quiet=True)
            self._part = part
        # what the others lose is lost against it, on the way as in the end
        plain = wanted.setting.codec == "none" and part is None
        codecs = codecs_of(wanted.setting, self._start.packets)
        every = self._config.evaluation.every if plain else None
        trained = train_through(self._start, codecs, every=every)
        steps = self._start.packets // self._start.rounds
        return ProfiledRun(
            job=self.job,
            seed=wanted.seed,
            codec=wanted.setting.codec,
            settings=wanted.setting.values,
            accuracy=trained.accuracy_finished,
            rounds=trained.rounds,
            diverged=math.isnan(trained.accuracy),
            bits_up=_known(trained.bits_up),
            bits_down=_known(trained.bits_down),
            same_symbols_bits_up=_known(trained.bits_up_other),
            same_symbols_bits_down=_known(trained.bits_down_other),
            cpu_s=round(trained.cpu_s, 1),
            cut=None if part is None else part.cut,
            device_part=None if part is None else part.name,
            device_part_rounds=None if part is None else part.rounds,
            curve=tuple((number, number * steps, share) for number, share in trained.curve.items()),
        )


def _known(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value


def measure_profile(plan: ProfilePlan, log: Path, engine: Engine | None = None) -> Profile:
    """Train what is not in `log` yet, adding a line as each run ends, and make the profile.

    `engine`: where it is trained (None: here).

    What can be wrong with the job is found before the first run. Raises CutlayerError.
    """
    trainer = ProfileTrainer(plan.config)
    scheme = trainer.scheme
    if not (scheme.compressed and scheme.trains_device):
        nothing = "sends no gradients" if scheme.compressed else "compresses nothing"
        raise ConfigError(f"profile: scheme {plan.config.scheme.name} {nothing}; take sft")
    # another scheme's device part is trained as it says
    parts = device_parts(plan.config, plan.cuts, trainer.blocks) if scheme.name == SFT.name else ()
    wanted_runs = list(plan.wanted(parts))
    done = {line.key: line for line in read_profiled_runs(log, trainer.job)}
    missing = [wanted for wanted in wanted_runs if wanted.key not in done]
    _LOG.info(f"{len(missing)} training runs to do, {len(wanted_runs) - len(missing)} done before")
    _make_room(log)
    lines: Iterator[ProfiledRun] = map(trainer.train, missing)
    if engine is not None and engine.workers > 1:
        lines = train_elsewhere(plan.config, missing, engine)
    for line in _said(lines, len(missing)):
        append_profiled_run(log, line)
        done[line.key] = line
    for wanted in wanted_runs:
        if done[wanted.key].diverged:
            _LOG.info(f"{wanted}: diverged; it counts as round {done[wanted.key].rounds} left it")
    about = ProfileHeader(plan.config, plan.command, plan.seed_numbers(), trainer.test_samples)
    made = profile_of(about, list(plan.grid.settings()), done)
    curve = tuple(_curve_points([done[one.key] for one in wanted_runs]))
    return replace(made, device_parts=tuple(_device_part_points(plan, parts, done)), curve=curve)


def _curve_points(lines: Sequence[ProfiledRun]) -> Iterator[CurvePoint]:
    """Of the rounds that were evaluated with every seed, without a codec."""
    plain = [line for line in lines if line.codec == "none" and line.device_part is None]
    seeds = [{number: (steps, share) for number, steps, share in line.curve} for line in plain]
    for number in sorted(set.intersection(*(set(one) for one in seeds)) if seeds else ()):
        steps = seeds[0][number][0]
        yield CurvePoint(number, steps, tuple(one[number][1] for one in seeds))


def _device_part_points(
    plan: ProfilePlan, parts: Sequence[DevicePartSetting], lines: Mapping[Key, ProfiledRun]
) -> Iterator[DevicePartPoint]:
    """Of each cut and device part, with the accuracies of all seeds."""
    for part in parts:
        own = [lines[plan.run_of(part, seed).key] for seed in plan.seed_numbers()]
        accuracies = tuple(line.accuracy for line in own)
        yield DevicePartPoint(part.cut, part.name, part.rounds, accuracies)


def _said(lines: Iterator[ProfiledRun], count: int) -> Iterator[ProfiledRun]:
    """The same lines, each told of with the time that the rest will take at this pace."""
    begun_s = time.monotonic()
    for number, line in enumerate(lines, start=1):
        yield line
        bits = "" if line.bits_up is None else f", {line.bits_up:.3f} bits up"
        bits += "" if line.bits_down is None else f", {line.bits_down:.3f} down"
        left_s = (time.monotonic() - begun_s) / number * (count - number)
        _LOG.info(
            f"{number} of {count}: {line.wanted}:"
            f" {100 * line.accuracy:.1f} %{bits}"
            f"{f'  ({format_seconds(left_s)} left)' if count > number else ''}"
        )


def _make_room(log: Path) -> None:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
    except OSError as error:
        raise storage_error(log, error) from error


def read_profiled_runs(path: Path, job: str) -> list[ProfiledRun]:
    """The lines of a job; those of other jobs are left out, and an end that was cut short.

    Raises RunError for a line that is none.
    """
    if not path.exists():
        return []
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    lines = [_line(path, number, text) for number, text in enumerate(whole.splitlines(), start=1)]
    return [line for line in lines if line.job == job]


def append_profiled_run(path: Path, line: ProfiledRun) -> None:
    """Add a line, flushed to disk; an end that was cut short is dropped first.

    Raises RunError if it cannot be written.
    """
    try:
        with path.open("a+b") as file:
            file.seek(0)
            # after the last newline; 0 in a file without one
            file.truncate(file.read().rfind(b"\n") + 1)
            file.write(json.dumps(asdict(line)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise storage_error(path, error) from error


def _line(path: Path, number: int, text: str) -> ProfiledRun:
    try:
        fields = json.loads(text)
        curve = tuple(tuple(point) for point in fields.pop("curve", ()))
        return ProfiledRun(**fields, curve=curve)
    except (ValueError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path}, line {number}, is no record of a training run ({error}); delete the line,"
            " or the file to train everything again"
        ) from error


@dataclass(frozen=True)
class ProfileHeader:
    """What a profile says of itself: the job, how it was asked for, what accuracies are of."""

    config: Config
    command: str
    seeds: tuple[int, ...]
    test_samples: int


def profile_of(
    about: ProfileHeader, settings: Sequence[CodecSetting], lines: Mapping[Key, ProfiledRun]
) -> Profile:
    """The points of the settings, each with the accuracies of all seeds.

    A run that diverged counts with what its last finished round left. Bits are means over the
    seeds that finished any round; a setting that never did is left out. Raises ConfigError where
    even training without a codec did not.
    """
    config = about.config
    points = [
        point
        for setting in settings
        for point in _points(setting, [lines[WantedRun(setting, seed).key] for seed in about.seeds])
    ]
    if not points or points[0].codec != "none":
        raise ConfigError(
            "profile: training diverges in its first round even without a codec; lower"
            f" optimizer.learning_rate {config.optimizer.learning_rate:g}"
        )
    return Profile(
        model=config.model.name,
        data=config.data.name,
        cut=config.model.cut,
        training=training_text(config),
        command=about.command,
        test_samples=about.test_samples,
        seeds=about.seeds,
        points=tuple(points),
        bases=(config.devices.base, config.server.base),
        adapter_codec=config.adapter_codec.name,
    )


def _points(setting: CodecSetting, lines: Sequence[ProfiledRun]) -> Iterator[ProfilePoint]:
    """The point of a setting, and that of the codec which sends the same symbols, if any."""
    accuracies = tuple(line.accuracy for line in lines)
    ways = [(setting, [(line.bits_up, line.bits_down) for line in lines])]
    if setting.codec == PUBLISHED_CODEC:
        other = [(line.same_symbols_bits_up, line.same_symbols_bits_down) for line in lines]
        ways.append((replace(setting, codec=SAME_SYMBOLS_CODEC), other))
    for one, bits in ways:
        up = [value for value, _ in bits if value is not None]
        down = [value for _, value in bits if value is not None]
        if up and down:
            yield ProfilePoint(one.codec, one.values, mean(up), mean(down), accuracies)


def train_elsewhere(
    config: Config, wanted: Sequence[WantedRun], engine: Engine
) -> Iterator[ProfiledRun]:
    """Train everything `wanted`, in that order but for who ends first.

    Raises what a run raised, and RunError if a worker died.
    """
    begin = partial(_trainer, config)
    with closing(spread(engine, begin, wanted)) as trained:
        for _, line in trained:
            if isinstance(line, WorkerDied):
                raise RunError(
                    f"a training run {line}; what has finished is kept: the same command resumes,"
                    " with fewer workers if memory is short",
                    thing="workers",
                )
            if isinstance(line, Exception):
                raise line
            yield line


def _trainer(config: Config) -> Callable[[WantedRun], ProfiledRun]:
    return ProfileTrainer(config, quiet=True).train
