"""The published codec at many points, each trained from one start: what figures 4 and 7 share.

Knows the job and how long it takes; which points, and what is said of them, is the figure's.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cutlayer.config.schema import Config
from cutlayer.profiling.training import (
    RunResult,
    Start,
    accuracy_of,
    configure,
    train,
    training_text,
)
from cutlayer.units import format_seconds
from reproduction.fig7_grid import UNCOMPRESSED, Point, codecs_of
from reproduction.options import Options

_LOG = logging.getLogger(f"cutlayer.{__name__}")


DEVICES = 4
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Size:
    """How much is trained: rounds of local steps of mini-batches, and tested."""

    rounds: int
    local_steps: int
    batch: int
    test_samples: int


@dataclass(frozen=True)
class Run:
    """One point of the grid trained from one seed; `before` is the accuracy before training."""

    point: Point
    seed: int
    before: float
    trained: RunResult


def config_of(options: Options, size: Size) -> Config:
    """The job that every point of the grid trains. Raises ConfigError for a wrong option."""
    rounds = options.rounds or size.rounds
    settings: dict[str, Any] = {
        "model.name": options.model,
        "model.cut": options.cut,
        "data.name": options.data,
        # each is seen once
        "data.train_samples": DEVICES * rounds * size.local_steps * size.batch,
        "data.test_samples": size.test_samples,
        "partition.name": "iid",
        "training.rounds": rounds,
        "training.local_steps": size.local_steps,
        "training.batch_size": size.batch,
        "optimizer.learning_rate": LEARNING_RATE,
        "devices.count": DEVICES,
        "devices.memory_mib": None,
        "server.group": DEVICES,
    }
    return configure(settings)


def setting_of(config: Config, options: Options) -> str:
    """What was trained, in one line: never to be taken for the paper's ViT-B on CIFAR-100."""
    seeds = f"{options.seeds} seed{'s' if options.seeds > 1 else ''}"
    return (
        f"{training_text(config)}, {seeds}"
        f"{' (quick: says nothing)' if options.quick else ''}; the paper: ViT-B on CIFAR-100"
    )


def train_grid(start: Start, grid: Sequence[Point]) -> list[Run]:
    """Every point from the same start."""
    before = accuracy_of(start)
    _LOG.info(f"seed {start.seed}: {100 * before:.1f} % accuracy before training")
    runs = []
    for number, point in enumerate(grid, start=1):
        begun_s = time.monotonic()
        trained = train(start, codecs_of(point))
        runs.append(Run(point, start.seed, before, trained))
        name = "uncompressed" if point == UNCOMPRESSED else str(point)
        _LOG.info(
            f"seed {start.seed}, {number} of {len(grid)}: {name}: {100 * trained.accuracy:.1f} %,"
            f" {trained.bits_up:.2f} bits up, {trained.bits_down:.2f} down"
            f"  ({format_seconds(time.monotonic() - begun_s)})"
        )
    return runs
