"""Fig. 7 of the paper: accuracy against sparsity and against bit width, by real trainings.

Section VI-B.3 says of it: the accuracy starts to drop sharply when the sparsity reaches 90 %; the
loss stays within 2 points at 80 % sparsity and 3 bits, which compress 12x, and 20x with lossless
encoding. Knows how each point is trained and what is written; the grid, the claims and the drawing
are in files of their own.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean

from cutlayer.profiling.training import RunResult, Start, starts
from cutlayer.report.drawing import plain_style
from cutlayer.report.save import save_figure, save_table
from reproduction.claims import CLAIM_COLUMNS, claim_rows
from reproduction.codec_grid import Run, Size, config_of, setting_of, train_grid
from reproduction.fig7_claims import Seen, claims_of
from reproduction.fig7_drawing import Spread, draw
from reproduction.fig7_grid import GRID, QUICK_GRID, Point
from reproduction.options import Made, Options

SIZE = Size(rounds=4, local_steps=5, batch=16, test_samples=800)
QUICK_SIZE = Size(rounds=1, local_steps=2, batch=8, test_samples=64)
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
    "bits_up_paper_rans",
)


def make(options: Options, output: Path) -> Made:
    """Train the grid, judge the claims, and write fig7.csv, fig7-claims.csv, .png and .svg.

    Raises CutlayerError for a model, data set or setting that cannot be, before any training.
    """
    config = config_of(options, QUICK_SIZE if options.quick else SIZE)
    grid = QUICK_GRID if options.quick else GRID
    runs: list[Run] = []
    for start in starts(config, range(options.seeds)):
        # only after everything that can be wrong has been found
        output.mkdir(parents=True, exist_ok=True)
        runs += train_grid(start, grid)
    seen = _seen(runs, grid, start)
    setting = setting_of(config, options)
    claims = claims_of(seen)
    tables = (
        save_table(output / "fig7.csv", COLUMNS, [_row(run) for run in runs]),
        save_table(output / "fig7-claims.csv", CLAIM_COLUMNS, claim_rows(claims)),
    )
    with plain_style():
        pictures = save_figure(output / "fig7", draw(seen, _spreads(runs, grid), setting))
    return Made(setting, claims, (*tables, *pictures))


def _seen(runs: Sequence[Run], grid: Sequence[Point], start: Start) -> Seen:
    def means(value: Callable[[RunResult], float]) -> dict[Point, float]:
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


def _row(run: Run) -> tuple[object, ...]:
    """A line of `COLUMNS`."""
    point, trained = run.point, run.trained
    return (
        f"{point.sparsity:g}",
        point.keep_ratio,
        point.bits,
        run.seed,
        f"{trained.accuracy:.4f}",
        f"{run.before:.4f}",
        f"{trained.loss:.4f}",
        f"{trained.bits_up:.4f}",
        f"{trained.bits_down:.4f}",
        f"{trained.bits_up_other:.4f}",
    )
