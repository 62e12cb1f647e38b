"""Fig. 4 of the paper: the accuracy as a cubic in keep ratio and bits, fitted to real trainings.

Section VI-A fits (35) to simulation data and tells a mean squared error below 0.26 %. Trained here
on the points of Fig. 7's two curves and on a grid between them, shorter than Fig. 7 trains. Knows
what is trained and written; the fit, the claims and the drawing are in files of their own.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean

import numpy as np

from cutlayer.planner.accuracy import COEFFICIENTS
from cutlayer.profiling.training import starts
from cutlayer.report.drawing import plain_style
from cutlayer.report.save import save_figure, save_table
from reproduction.claims import CLAIM_COLUMNS, claim_rows
from reproduction.codec_grid import Run, Size, config_of, setting_of, train_grid
from reproduction.fig4_claims import BOX, Seen, Surface, claims_of, places, surface
from reproduction.fig4_drawing import draw
from reproduction.fig7_grid import BY_BITS, BY_SPARSITY, Point
from reproduction.options import Made, Options

SIZE = Size(rounds=3, local_steps=4, batch=12, test_samples=300)
QUICK_SIZE = Size(rounds=1, local_steps=1, batch=4, test_samples=40)
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


def make(options: Options, output: Path) -> Made:
    """Train the grid, fit, judge; write fig4.csv, fig4-fit.csv, fig4-claims.csv, .png and .svg.

    Raises CutlayerError for a model, data set or setting that cannot be, before any training.
    """
    config = config_of(options, QUICK_SIZE if options.quick else SIZE)
    grid = BOX if options.quick else GRID
    runs: list[Run] = []
    for start in starts(config, range(options.seeds)):
        # only after everything that can be wrong has been found
        output.mkdir(parents=True, exist_ok=True)
        runs += train_grid(start, grid)
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
