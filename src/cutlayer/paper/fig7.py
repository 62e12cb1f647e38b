"""Fig. 7 of the paper: accuracy against sparsity and against bit width, by real trainings.

Section VI-B.3 says of it: the accuracy starts to drop sharply when the sparsity reaches 90 %; the
loss stays within 2 points at 80 % sparsity and 3 bits, which compress 12x, and 20x with lossless
encoding. Knows how each point is trained and what is written; the grid, the claims and the drawing
are in files of their own.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from cutlayer.config.schema import Config
from cutlayer.paper.claims import CLAIM_COLUMNS, claim_rows
from cutlayer.paper.fig7_claims import Seen, claims_of
from cutlayer.paper.fig7_drawing import Spread, draw
from cutlayer.paper.fig7_grid import GRID, QUICK_GRID, UNCOMPRESSED, Point, codecs_of
from cutlayer.paper.options import Made, Options
from cutlayer.paper.save import save_figure, save_table
from cutlayer.paper.training import Start, Trained, accuracy_of, configure, starts, train
from cutlayer.report.drawing import plain_style
from cutlayer.units import format_seconds

Say = Callable[[str], None]

DEVICES = 4
ROUNDS, LOCAL_STEPS, BATCH, TEST_SAMPLES = 4, 5, 16, 800
QUICK_ROUNDS, QUICK_LOCAL_STEPS, QUICK_BATCH, QUICK_TEST_SAMPLES = 1, 2, 8, 64
LEARNING_RATE = 1e-3
COLUMNS = (
    "sparsity_percent",
    "keep_ratio",
    "bits",
    "seed",
    "accuracy",
    "accuracy_before",
    "loss",
    "bits_up",
    "bits_down",
    "bits_up_lossless_plus",
)


@dataclass(frozen=True)
class Run:
    """One point of the grid trained from one seed; `before` is the accuracy before training."""

    point: Point
    seed: int
    before: float
    trained: Trained

    def row(self) -> tuple[object, ...]:
        """A line of `COLUMNS`."""
        point, trained = self.point, self.trained
        return (
            f"{point.sparsity:g}",
            point.keep_ratio,
            point.bits,
            self.seed,
            f"{trained.accuracy:.4f}",
            f"{self.before:.4f}",
            f"{trained.loss:.4f}",
            f"{trained.bits_up:.4f}",
            f"{trained.bits_down:.4f}",
            f"{trained.bits_up_other:.4f}",
        )


def make(options: Options, output: Path, say: Say) -> Made:
    """Train the grid, judge the claims, and write fig7.csv, fig7-claims.csv, .png and .svg.

    Raises CutlayerError for a model, data set or setting that cannot be, before any training.
    """
    config = config_of(options)
    grid = QUICK_GRID if options.quick else GRID
    runs: list[Run] = []
    for start in starts(config, range(options.seeds), say):
        # only after everything that can be wrong has been found
        output.mkdir(parents=True, exist_ok=True)
        runs += _train_all(start, grid, say)
    seen = _seen(runs, grid, start)
    setting = setting_of(config, options)
    claims = claims_of(seen)
    tables = (
        save_table(output / "fig7.csv", COLUMNS, [run.row() for run in runs]),
        save_table(output / "fig7-claims.csv", CLAIM_COLUMNS, claim_rows(claims)),
    )
    with plain_style():
        pictures = save_figure(output / "fig7", draw(seen, _spreads(runs, grid), setting))
    return Made(setting, claims, (*tables, *pictures))


def config_of(options: Options) -> Config:
    """The job that every point of the grid trains. Raises ConfigError for a wrong option."""
    quick = options.quick
    rounds = options.rounds or (QUICK_ROUNDS if quick else ROUNDS)
    steps, batch = (QUICK_LOCAL_STEPS, QUICK_BATCH) if quick else (LOCAL_STEPS, BATCH)
    settings: dict[str, Any] = {
        "model.name": options.model,
        "model.cut": options.cut,
        "data.name": options.data,
        "data.train_samples": DEVICES * rounds * steps * batch,  # each is seen once
        "data.test_samples": QUICK_TEST_SAMPLES if quick else TEST_SAMPLES,
        "partition.name": "iid",
        "training.rounds": rounds,
        "training.local_steps": steps,
        "training.batch_size": batch,
        "optimizer.learning_rate": LEARNING_RATE,
        "devices.count": DEVICES,
        "devices.memory_mib": None,
        "server.group": DEVICES,
    }
    return configure(settings)


def setting_of(config: Config, options: Options) -> str:
    """What was trained, in one line: never to be taken for the paper's ViT-B on CIFAR-100."""
    training, model, data = config.training, Path(config.model.name), Path(config.data.name)
    seeds = f"{options.seeds} seed{'s' if options.seeds > 1 else ''}"
    return (
        f"{model.name} cut after block {config.model.cut} on {data.name}, {DEVICES} devices, "
        f"{training.rounds} x {training.local_steps} steps of {training.batch_size} samples, "
        f"{config.optimizer.name} {config.optimizer.learning_rate:g}, {seeds}"
        f"{' (quick: says nothing)' if options.quick else ''}; the paper: ViT-B on CIFAR-100"
    )


def _train_all(start: Start, grid: Sequence[Point], say: Say) -> list[Run]:
    """Every point from the same start."""
    before = accuracy_of(start)
    say(f"seed {start.seed}: {100 * before:.1f} % accuracy before training")
    runs = []
    for number, point in enumerate(grid, start=1):
        begun_s = time.monotonic()
        trained = train(start, codecs_of(point))
        runs.append(Run(point, start.seed, before, trained))
        name = "uncompressed" if point == UNCOMPRESSED else str(point)
        say(
            f"seed {start.seed}, {number} of {len(grid)}: {name}: {100 * trained.accuracy:.1f} %,"
            f" {trained.bits_up:.2f} bits up, {trained.bits_down:.2f} down"
            f"  ({format_seconds(time.monotonic() - begun_s)})"
        )
    return runs


def _seen(runs: Sequence[Run], grid: Sequence[Point], start: Start) -> Seen:
    def means(value: Callable[[Trained], float]) -> dict[Point, float]:
        return {p: mean(value(run.trained) for run in runs if run.point == p) for p in grid}

    return Seen(
        before=100 * mean(run.before for run in runs),
        accuracy=means(lambda trained: 100 * trained.accuracy),
        bits=means(lambda trained: trained.bits_up),
        bits_plus=means(lambda trained: trained.bits_up_other),
        width=start.setup.model.width,
        test_samples=len(start.setup.test),
    )


def _spreads(runs: Sequence[Run], grid: Sequence[Point]) -> dict[Point, Spread]:
    """The lowest and the highest accuracy of each point [%]."""
    found = {p: [100 * run.trained.accuracy for run in runs if run.point == p] for p in grid}
    return {point: (min(values), max(values)) for point, values in found.items()}
