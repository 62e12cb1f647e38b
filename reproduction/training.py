"""How the figures train: points of a grid from one start (4, 7), or lines by round (5, 14).

Knows the job, how long it takes and what it says meanwhile; which points and lines there are, and
what is said of them, is the figure's.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from time import process_time
from typing import Any, Generic, TypeVar

from matplotlib.axes import Axes

from cutlayer.config.read import read_config
from cutlayer.config.schema import Config
from cutlayer.profiling.measure import (
    JobStart,
    RunResult,
    evaluate_job,
    job_start,
    play_rounds,
    traffic_of,
    train_through,
    training_text,
)
from cutlayer.report.drawing import MUTED, whole_ticks
from cutlayer.units import format_seconds
from reproduction.catalogue import Cells, Options
from reproduction.evaluation import UNCOMPRESSED, Point, codecs_of

_LOG = logging.getLogger(f"cutlayer.{__name__}")

DEVICES = 4
LEARNING_RATE = 1e-3
# the paper's point: 80 % sparsity and 3 bits, which are 7 intervals
PAPER_CODEC: dict[str, Any] = {
    "codec.name": "paper",
    "codec.keep_ratio": 0.2,
    "codec.levels": 7,
}

Key = TypeVar("Key")


@dataclass(frozen=True)
class Size:
    """How much is trained: rounds of local steps of mini-batches, and tested."""

    rounds: int
    local_steps: int
    batch: int
    test_samples: int


def configuration_of(settings: Mapping[str, Any], also_read: Collection[str] = ()) -> Config:
    """The configuration of these settings by dotted key, on one thread unless they say more:
    another number of threads adds floats in another order. `also_read`: as of `read_config`.
    Raises ConfigError for a wrong one."""
    pinned: dict[str, Any] = {"threads": 1, **settings}
    if "scheme.name" not in pinned:
        pinned.setdefault("scheme", "sft")
    texts = {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in pinned.items()
    }
    return read_config(None, texts, also_read=also_read)


def job(options: Options, size: Size, settings: Mapping[str, Any]) -> Config:
    """A figure's job, and what `settings` say of it by dotted key; each sample is seen once.

    Raises ConfigError for a wrong option.
    """
    rounds = options.rounds or size.rounds
    common: dict[str, Any] = {
        "model.name": options.model,
        "model.cut": options.cut,
        "data.name": options.data,
        "data.train_samples": DEVICES * rounds * size.local_steps * size.batch,
        "data.test_samples": size.test_samples,
        "training.rounds": rounds,
        "training.local_steps": size.local_steps,
        "training.batch_size": size.batch,
        "devices.count": DEVICES,
        "devices.memory_mib": None,
        "server.group": DEVICES,
    }
    # one figure, one job: lines that cut nothing are given the others' cut
    return configuration_of({**common, **settings}, also_read=("model.cut", "server.group"))


def seeds_text(options: Options) -> str:
    """Over how many seeds, and whether the numbers say anything."""
    seeds = f"{options.seeds} seed{'s' if options.seeds > 1 else ''}"
    return f"{seeds}{' (quick: says nothing)' if options.quick else ''}"


def job_starts(config: Config, seeds: Sequence[int], *, quiet: bool = False) -> Iterator[JobStart]:
    """A start for each seed: other draws, other initial adapters, the first seed's test samples.

    `quiet`: nothing is logged; of later seeds there is nothing new to log.

    Raises CutlayerError for a job that cannot be prepared.
    """
    test = None
    for seed in seeds:
        start = job_start(config, seed, test, quiet=quiet or test is not None)
        test = start.setup.server.test
        yield start


def standard_error(accuracy: float, samples: int) -> float:
    """Of an accuracy [%] on so many test samples [points]: 100 sqrt(p (1 - p) / n).

    The error of a difference of two on the same samples is at most sqrt(2) times that.
    """
    share = accuracy / 100
    return 100 * math.sqrt(share * (1 - share) / samples)


# points of a grid


@dataclass(frozen=True)
class Run:
    """One point of the grid trained from one seed; `before` is the accuracy before training."""

    point: Point
    seed: int
    before: float
    trained: RunResult


def config_of(options: Options, size: Size) -> Config:
    """The job that every point of the grid trains. Raises ConfigError for a wrong option."""
    settings = {"partition.name": "iid", "optimizer.learning_rate": LEARNING_RATE}
    return job(options, size, settings)


def setting_of(config: Config, options: Options) -> str:
    """What was trained, in one line: never to be taken for the paper's ViT-B on CIFAR-100."""
    return f"{training_text(config)}, {seeds_text(options)}; the paper: ViT-B on CIFAR-100"


def train_grid(
    config: Config, seeds: int, grid: Sequence[Point], output: Path
) -> tuple[list[Run], JobStart]:
    """Every point from the start of each seed; also the last start."""
    runs: list[Run] = []
    for start in job_starts(config, range(seeds)):
        # only after everything that can be wrong has been found
        output.mkdir(parents=True, exist_ok=True)
        runs += _train_points(start, grid)
    return runs, start


def accuracy_of(start: JobStart) -> float:
    """The accuracy before training: a share of the test samples."""
    return evaluate_job(start.setup, start.state).accuracy


def _train_points(start: JobStart, grid: Sequence[Point]) -> Iterator[Run]:
    before = accuracy_of(start)
    _LOG.info(f"seed {start.seed}: {100 * before:.1f} % accuracy before training")
    for number, point in enumerate(grid, start=1):
        begun_s = time.monotonic()
        trained = train_through(start, codecs_of(point))
        name = "uncompressed" if point == UNCOMPRESSED else str(point)
        _LOG.info(
            f"seed {start.seed}, {number} of {len(grid)}: {name}: {100 * trained.accuracy:.1f} %,"
            f" {trained.bits_up:.2f} bits up, {trained.bits_down:.2f} down"
            f"  ({format_seconds(time.monotonic() - begun_s)})"
        )
        yield Run(point, start.seed, before, trained)


# lines by round


@dataclass(frozen=True)
class TrainingCurve:
    """A training run by round: `accuracy` (a share) and `loss` [nat] after each of `rounds` (0:
    before training), NaN from where it diverged; the rest as in `RunResult`."""

    rounds: tuple[int, ...]
    accuracy: tuple[float, ...]
    loss: tuple[float, ...]
    bits_up: float
    bits_down: float
    cpu_s: float


def training_curve(start: JobStart, evaluated: Collection[int]) -> TrainingCurve:
    """Train from `start` by its own scheme and codecs; evaluate before, after the rounds in
    `evaluated`, and after the last."""
    begun_s = process_time()
    rounds = tuple(n for n in range(start.rounds + 1) if n in {0, *evaluated, start.rounds})
    seen = {0: evaluate_job(start.setup, start.state)}
    costs = []
    for outcome in play_rounds(start.setup, start.state, start.rounds):
        costs.append(outcome.round_costs)
        if outcome.state.round in rounds:
            seen[outcome.state.round] = evaluate_job(start.setup, outcome.state)
    traffic = traffic_of(costs)
    return TrainingCurve(
        rounds,
        tuple(seen[n].accuracy if n in seen else math.nan for n in rounds),
        tuple(seen[n].loss if n in seen else math.nan for n in rounds),
        traffic.bits(traffic.up),
        traffic.bits(traffic.down),
        process_time() - begun_s,
    )


@dataclass(frozen=True)
class Job(Generic[Key]):
    """A line of a figure and how it is trained: `title` is said of it, `cells` begin its rows."""

    key: Key
    title: str
    cells: Cells
    config: Config


@dataclass(frozen=True)
class Curves(Generic[Key]):
    """Accuracy [%] of each line, by seed, then by round of `rounds`."""

    rounds: tuple[int, ...]
    curves: Mapping[Key, Sequence[Sequence[float]]]
    test_samples: int

    def means(self, key: Key) -> list[float]:
        """The mean over the seeds, by round."""
        return [mean(values) for values in zip(*self.curves[key], strict=True)]

    def last(self, key: Key) -> float:
        """The mean after the last round."""
        return self.means(key)[-1]


def train_lines(
    jobs: Sequence[Job[Key]],
    seeds: int,
    evaluated: Callable[[int], Collection[int]],
    output: Path,
) -> tuple[Curves[Key], list[Cells]]:
    """Every line from each seed, tested after the rounds `evaluated` of so many.

    Also its rows, one a round, which begin with the line's cells; bits are those of the whole
    training.
    """
    curves: dict[Key, list[list[float]]] = {each.key: [] for each in jobs}
    rows: list[Cells] = []
    for each in jobs:
        # the model and data of the first line are those of all
        for start in job_starts(each.config, range(seeds), quiet=bool(rows)):
            # only after everything that can be wrong has been found
            output.mkdir(parents=True, exist_ok=True)
            begun_s = time.monotonic()
            curve = training_curve(start, evaluated(start.rounds))
            percent = [100 * accuracy for accuracy in curve.accuracy]
            curves[each.key].append(percent)
            rows += [{**each.cells, "seed": start.seed, **row} for row in _curve_rows(curve)]
            _LOG.info(
                f"{each.title}, seed {start.seed}: {percent[0]:.1f} to {percent[-1]:.1f} %"
                f"  ({format_seconds(time.monotonic() - begun_s)})"
            )
    return Curves(curve.rounds, curves, len(start.setup.server.test)), rows


def _curve_rows(curve: TrainingCurve) -> Iterator[Cells]:
    bits = {"bits_up": f"{curve.bits_up:.4f}", "bits_down": f"{curve.bits_down:.4f}"}
    for number, accuracy, loss in zip(curve.rounds, curve.accuracy, curve.loss, strict=True):
        yield {"round": number, "accuracy": f"{accuracy:.4f}", "loss": f"{loss:.4f}", **bits}


def draw_range(axes: Axes, seen: Curves[Key], key: Key, colour: str, alpha: float) -> None:
    """From the lowest to the highest seed of a line, if there are several."""
    runs = seen.curves[key]
    if len(runs) > 1:
        by_round = list(zip(*runs, strict=True))
        low, high = [min(values) for values in by_round], [max(values) for values in by_round]
        axes.fill_between(seen.rounds, low, high, color=colour, alpha=alpha, linewidth=0)


def accuracy_axes(axes: Axes, rounds: tuple[int, ...], accuracy: float, samples: int) -> None:
    """Rounds along, per cent up, and what one accuracy's chance error is [points]."""
    last = rounds[-1]
    axes.errorbar(
        [1.05 * last],
        [accuracy],
        yerr=[standard_error(accuracy, samples)],
        color=MUTED,
        linestyle="none",
        capsize=4,
        label=f"± 1 standard error on {samples} test samples",
    )
    axes.set_xlabel("round")
    axes.set_xlim(-0.02 * last, 1.1 * last)
    whole_ticks(axes, 0, last + 1)
    axes.yaxis.set_major_formatter("{x:g} %")
