"""Fig. 4 of the paper: the accuracy as a cubic in keep ratio and bits, fitted to real trainings.

Section VI-A fits (35) to simulation data and tells a mean squared error below 0.26 %. Trained here
on the points of Fig. 7's two curves and on a grid between them, shorter than Fig. 7 trains. Knows
what is trained and written; the fit, the claims and the drawing are in files of their own.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from cutlayer.config.schema import Config
from cutlayer.paper.claims import CLAIM_COLUMNS, claim_rows
from cutlayer.paper.fig4_claims import BOX, Seen, Surface, claims_of, places, surface
from cutlayer.paper.fig4_drawing import draw
from cutlayer.paper.fig4_fit import COEFFICIENTS
from cutlayer.paper.fig7_grid import BY_BITS, BY_SPARSITY, Point, codecs_of
from cutlayer.paper.options import Made, Options
from cutlayer.paper.save import save_figure, save_table
from cutlayer.paper.training import Start, Trained, accuracy_of, configure, starts, train
from cutlayer.report.drawing import plain_style
from cutlayer.units import format_seconds

Say = Callable[[str], None]

DEVICES = 4
ROUNDS, LOCAL_STEPS, BATCH, TEST_SAMPLES = 3, 4, 12, 300
QUICK_ROUNDS, QUICK_LOCAL_STEPS, QUICK_BATCH, QUICK_TEST_SAMPLES = 1, 1, 4, 40
LEARNING_RATE = 1e-3
GRID = tuple(dict.fromkeys(BY_SPARSITY + BY_BITS + BOX))
COLUMNS = (
    "keep_ratio",
    "bits",
    "seed",
    "accuracy",
    "accuracy_before",
    "bits_up",
    "bits_down",
    "fitted_all",
    "fitted_box",
)
FIT_COLUMNS = (
    "fit",
    *(f"P{number}" for number in range(1, COEFFICIENTS + 1)),
    "mean_square",
    "left_out_root",
    "falls_by_keep_ratio",
    "falls_by_bits",
    "falls_by_either",
)


@dataclass(frozen=True)
class Run:
    """One point of the grid trained from one seed; `before` is the accuracy before training."""

    point: Point
    seed: int
    before: float
    trained: Trained


def make(options: Options, output: Path, say: Say) -> Made:
    """Train the grid, fit, judge; write fig4.csv, fig4-fit.csv, fig4-claims.csv, .png and .svg.

    Raises CutlayerError for a model, data set or setting that cannot be, before any training.
    """
    config = config_of(options)
    grid = BOX if options.quick else GRID
    runs: list[Run] = []
    for start in starts(config, range(options.seeds), say):
        # only after everything that can be wrong has been found
        output.mkdir(parents=True, exist_ok=True)
        runs += _train_all(start, grid, say)
    accuracy = {
        point: mean(100 * run.trained.accuracy for run in runs if run.point == point)
        for point in grid
    }
    whole, box = surface("all points", grid, accuracy), surface("the box", BOX, accuracy)
    seen = Seen(whole, box, len(start.setup.test))
    setting = setting_of(config, options)
    claims = claims_of(seen)
    tables = (
        save_table(output / "fig4.csv", COLUMNS, _rows(runs, whole, box)),
        save_table(output / "fig4-fit.csv", FIT_COLUMNS, [_fit_row(whole), _fit_row(box)]),
        save_table(output / "fig4-claims.csv", CLAIM_COLUMNS, claim_rows(claims)),
    )
    with plain_style():
        pictures = save_figure(output / "fig4", draw(seen, setting))
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
        say(
            f"seed {start.seed}, {number} of {len(grid)}: {point}: {100 * trained.accuracy:.1f} %"
            f"  ({format_seconds(time.monotonic() - begun_s)})"
        )
    return runs


def _rows(runs: Sequence[Run], whole: Surface, box: Surface) -> Iterator[tuple[object, ...]]:
    """Lines of `COLUMNS`; the fits are through the means over the seeds."""
    fitted_whole, fitted_box = _fitted(whole), _fitted(box)
    for run in runs:
        point, trained = run.point, run.trained
        yield (
            point.keep_ratio,
            point.bits,
            run.seed,
            f"{trained.accuracy:.4f}",
            f"{run.before:.4f}",
            f"{trained.bits_up:.4f}",
            f"{trained.bits_down:.4f}",
            f"{fitted_whole[point]:.4f}",
            f"{fitted_box[point]:.4f}" if point in fitted_box else "",
        )


def _fitted(given: Surface) -> Mapping[Point, float]:
    """The fitted accuracy of each point, as a share."""
    values = given.fit.at(*places(given.points)) / 100
    return dict(zip(given.points, np.asarray(values).tolist(), strict=True))


def _fit_row(given: Surface) -> tuple[str, ...]:
    """A line of `FIT_COLUMNS`; accuracies are shares."""
    shares = given.falling
    return (
        given.name,
        *(f"{coefficient:.6g}" for coefficient in given.fit.coefficients / 100),
        f"{given.fit.mean_square / 1e4:.6f}",
        f"{given.fit.left_out_root / 100:.4f}",
        f"{shares.by_keep_ratio:.4f}",
        f"{shares.by_bits:.4f}",
        f"{shares.either:.4f}",
    )
