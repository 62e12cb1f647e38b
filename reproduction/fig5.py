"""Fig. 5 of the paper: accuracy by round of every scheme, samples dealt evenly and unevenly.

Section VIII-B.1 says of it: SFT converges robustly under IID and non-IID conditions, is comparable
to the benchmarks, and compression even improves it slightly. No number is printed. Knows how each
line is trained and what is written; lines, claims and drawing are in files of their own.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutlayer.config.schema import Config
from cutlayer.profiling.training import Curve, configure, follow, starts
from cutlayer.report.drawing import plain_style
from cutlayer.report.save import save_figure, save_table
from cutlayer.units import format_seconds
from reproduction.claims import CLAIM_COLUMNS, claim_rows
from reproduction.fig5_claims import Seen, claims_of
from reproduction.fig5_drawing import draw
from reproduction.fig5_lines import LINES, PARTITIONS, Line, Partition
from reproduction.options import Made, Options

_LOG = logging.getLogger(f"cutlayer.{__name__}")


DEVICES = 4
ROUNDS, LOCAL_STEPS, BATCH, TEST_SAMPLES = 5, 3, 12, 300
QUICK_ROUNDS, QUICK_LOCAL_STEPS, QUICK_BATCH, QUICK_TEST_SAMPLES = 2, 1, 4, 40
COLUMNS = ("partition", "line", "seed", "round", "accuracy", "loss", "bits_up", "bits_down")


@dataclass(frozen=True)
class Run:
    """One line, trained on one partition from one seed."""

    partition: Partition
    line: Line
    seed: int
    curve: Curve

    def rows(self) -> Iterator[tuple[object, ...]]:
        """Lines of `COLUMNS`, one a round; bits are those of the whole training."""
        curve = self.curve
        for number, accuracy, loss in zip(curve.rounds, curve.accuracy, curve.loss, strict=True):
            yield (
                self.partition.name,
                self.line.name,
                self.seed,
                number,
                f"{accuracy:.4f}",
                f"{loss:.4f}",
                f"{curve.bits_up:.4f}",
                f"{curve.bits_down:.4f}",
            )


def make(options: Options, output: Path) -> Made:
    """Train every line, judge the claims, and write fig5.csv, fig5-claims.csv, .png and .svg.

    Raises CutlayerError for a model, data set or setting that cannot be, before any training.
    """
    runs: list[Run] = []
    for partition in PARTITIONS:
        for line in LINES:
            config = config_of(options, partition, line)
            for start in starts(config, range(options.seeds), quiet=bool(runs)):
                # only after everything that can be wrong has been found
                output.mkdir(parents=True, exist_ok=True)
                begun_s = time.monotonic()
                curve = follow(start, range(start.rounds))
                run = Run(partition, line, start.seed, curve)
                runs.append(run)
                _LOG.info(_told(run, time.monotonic() - begun_s))
    seen = _seen(runs, len(start.setup.test))
    setting = setting_of(config, options)
    claims = claims_of(seen)
    tables = (
        save_table(output / "fig5.csv", COLUMNS, [row for run in runs for row in run.rows()]),
        save_table(output / "fig5-claims.csv", CLAIM_COLUMNS, claim_rows(claims)),
    )
    with plain_style():
        pictures = save_figure(output / "fig5", draw(seen, setting))
    return Made(setting, claims, (*tables, *pictures))


def config_of(options: Options, partition: Partition, line: Line) -> Config:
    """The job of one line. Raises ConfigError for a wrong option."""
    quick = options.quick
    rounds = options.rounds or (QUICK_ROUNDS if quick else ROUNDS)
    steps, batch = (QUICK_LOCAL_STEPS, QUICK_BATCH) if quick else (LOCAL_STEPS, BATCH)
    settings: dict[str, Any] = {
        "model.name": options.model,
        "model.cut": options.cut,
        "data.name": options.data,
        "data.train_samples": DEVICES * rounds * steps * batch,  # dealt evenly, each is seen once
        "data.test_samples": QUICK_TEST_SAMPLES if quick else TEST_SAMPLES,
        "training.rounds": rounds,
        "training.local_steps": steps,
        "training.batch_size": batch,
        "devices.count": DEVICES,
        "devices.memory_mib": None,
        "server.group": DEVICES,
    }
    # one figure, one job: lines that cut nothing are given the others' cut
    given = settings | dict(partition.settings) | line.settings
    return configure(given, also_read=("model.cut", "server.group"))


def setting_of(config: Config, options: Options) -> str:
    """What was trained, in one line: never to be taken for the paper's ViT-B on CIFAR-100."""
    training, model, data = config.training, Path(config.model.name), Path(config.data.name)
    seeds = f"{options.seeds} seed{'s' if options.seeds > 1 else ''}"
    return (
        f"{model.name} cut after block {config.model.cut} on {data.name}, {DEVICES} devices, "
        f"{training.rounds} x {training.local_steps} steps of {training.batch_size} samples, "
        f"{config.optimizer.name}, {seeds}"
        f"{' (quick: says nothing)' if options.quick else ''};"
        " the paper: ViTs on CIFAR-100 and Tiny-ImageNet"
    )


def _told(run: Run, seconds: float) -> str:
    curve = run.curve
    return (
        f"{run.partition.title}, {run.line.name}, seed {run.seed}: {100 * curve.accuracy[0]:.1f} to"
        f" {100 * curve.accuracy[-1]:.1f} %  ({format_seconds(seconds)})"
    )


def _seen(runs: Sequence[Run], test_samples: int) -> Seen:
    curves = {
        (partition, line): [
            [100 * accuracy for accuracy in run.curve.accuracy]
            for run in runs
            if (run.partition, run.line) == (partition, line)
        ]
        for partition in PARTITIONS
        for line in LINES
    }
    return Seen(runs[0].curve.rounds, curves, test_samples)
