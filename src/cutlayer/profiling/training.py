"""Many codecs on one prepared job: the same data, model, order of samples and initial adapters.

Knows the trainer and any pair of codecs; which ones are compared, and what for, is the caller's.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time

from cutlayer.codec.codec import CodecPair, Direction
from cutlayer.config.schema import Config, DirichletPartition
from cutlayer.data.samples import Samples
from cutlayer.errors import PacketError
from cutlayer.jobs.prepare import prepare, use_torch
from cutlayer.logs import unheard
from cutlayer.profiling.grid import other_bytes
from cutlayer.training.exchange import RoundCosts
from cutlayer.training.round import Round, RoundOutcome, initial_state
from cutlayer.training.run import Evaluation, evaluate
from cutlayer.training.state import RunState, Setup

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
    sent. Bits are over the finished rounds, NaN where the scheme sends no activations.
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


def train_through(start: JobStart, codecs: CodecPair) -> RunResult:
    """Train from `start` through `codecs`, then evaluate."""
    begun_s = process_time()
    setup = replace(start.setup, training=replace(start.setup.training, codecs=codecs))
    state, costs = start.state, []
    for outcome in play_rounds(setup, start.state, start.rounds):
        state = outcome.state
        costs.append(outcome.round_costs)
    evaluation = evaluate_job(setup, state)
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
        # labels and adapters are never compressed: the rest of the uplink is activations
        plain += each.byte_counts()["uncompressed_uplink_bytes"]
        plain -= sent.get("labels", 0) + sent["adapter_up"]
    return Traffic(up, down, plain)


def _other_bits(state: RunState, direction: Direction, traffic: Traffic) -> float:
    """What the other codec of a `ShadowCodec` would have sent in one direction; NaN without one."""
    streams = [stream for (_, way), stream in state.streams.items() if way is direction]
    total = sum(other_bytes(stream.sender) for stream in streams)
    return traffic.bits(total) if total else math.nan
