"""Many codecs on one prepared job: the same data, model, order of samples and initial adapters.

Knows the trainer and any pair of codecs; which ones are compared, and what for, is the figure's.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import process_time
from typing import Any

from cutlayer.codec.presets import CodecPair
from cutlayer.config.job import prepare
from cutlayer.config.read import read_config
from cutlayer.config.schema import Config
from cutlayer.errors import PacketError
from cutlayer.paper.beside import other_bytes
from cutlayer.train.evaluate import evaluate
from cutlayer.train.exchange import Direction
from cutlayer.train.ledger import Ledger
from cutlayer.train.round import Round, initial_state
from cutlayer.train.setup import Setup
from cutlayer.train.state import RunState

Say = Callable[[str], None]
_FLOAT32_BITS = 32


@dataclass(frozen=True)
class Start:
    """A seed's job, ready to train, and its state before the first round."""

    seed: int
    rounds: int
    setup: Setup
    state: RunState


@dataclass(frozen=True)
class Trained:
    """What a training came to. Bits are per element of activations (up) and gradients (down).

    `accuracy` (a share) and `loss` [nat] are of the test split, nothing compressed, NaN if the
    training diverged; `bits_up_other` is what the other codec of a `Beside` would have sent.
    """

    accuracy: float
    loss: float
    bits_up: float
    bits_down: float
    bits_up_other: float
    cpu_s: float


def configure(settings: Mapping[str, Any]) -> Config:
    """The configuration of these settings by dotted key. Raises ConfigError for a wrong one."""
    # JSON is YAML, and a name that looks like a number stays a name
    return read_config(None, {key: json.dumps(value) for key, value in settings.items()})


def starts(config: Config, seeds: Sequence[int], say: Say) -> Iterator[Start]:
    """A start for each seed: other draws, other initial adapters, the first seed's test samples.

    Raises CutlayerError for a job that cannot be prepared.
    """
    test = None
    for seed in seeds:
        own = config.model_copy(update={"seed": seed})
        job = prepare(own, say) if test is None else prepare(own)
        test = test or job.setup.test
        setup = replace(job.setup, test=test)
        yield Start(seed, config.training.rounds, setup, initial_state(setup))


def accuracy_of(start: Start) -> float:
    """The accuracy before training: a share of the test samples."""
    return evaluate(start.setup, start.state).accuracy


def train(start: Start, codecs: CodecPair) -> Trained:
    """Train from `start` through `codecs`, then evaluate."""
    begun_s = process_time()
    setup = replace(start.setup, codecs=codecs)
    state, ledgers = start.state, []
    try:
        for _ in range(start.rounds):
            outcome = Round(setup, state).play()
            state = outcome.state
            ledgers.append(outcome.ledger)
    except PacketError:  # no codec takes values that are not finite: the training has diverged
        nan = math.nan
        return Trained(nan, nan, nan, nan, nan, process_time() - begun_s)
    evaluation = evaluate(setup, state)
    other = sum(
        other_bytes(stream.sender)
        for (_, direction), stream in state.streams.items()
        if direction is Direction.UP
    )
    traffic = _traffic(ledgers)
    return Trained(
        evaluation.accuracy,
        evaluation.loss,
        traffic.bits(traffic.up),
        traffic.bits(traffic.down),
        traffic.bits(other) if other else math.nan,
        process_time() - begun_s,
    )


@dataclass(frozen=True)
class _Traffic:
    """Bytes of activations and of gradients, and of either as plain float32 (they are of one
    shape; their frames' 60 bytes count as less than an element in a thousand)."""

    up: int
    down: int
    plain: int

    def bits(self, sent: int) -> float:
        return _FLOAT32_BITS * sent / self.plain


def _traffic(ledgers: Sequence[Ledger]) -> _Traffic:
    up = down = plain = 0
    for ledger in ledgers:
        sent = ledger.bytes_by_payload()
        up += sent["activation"]
        down += sent["gradient"]
        # labels and adapters are never compressed: the rest of the uplink is activations
        plain += ledger.byte_counts()["uncompressed_uplink_bytes"]
        plain -= sent["labels"] + sent["adapter_up"]
    return _Traffic(up, down, plain)
