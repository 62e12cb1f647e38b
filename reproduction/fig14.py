"""Fig. 14 of the paper: SFT's accuracy by round for more and fewer training samples.

Section VIII-B.6 says of it: with 50,000 samples the accuracy exceeds 85 % within six rounds, with
10,000 it only reaches about 82 %, and it is stable within 20 rounds whatever the volume. A round is
one pass over the samples here, so more samples are more steps. Knows how each line is trained and
what is written; the claims and the drawing are in files of their own.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutlayer.config.schema import Config
from cutlayer.profiling.training import Curve, configure, follow, starts
from cutlayer.report.drawing import plain_style
from cutlayer.report.save import save_figure, save_table
from cutlayer.units import format_seconds
from reproduction.claims import CLAIM_COLUMNS, claim_rows
from reproduction.fig5_lines import SFT_PAPER
from reproduction.fig14_claims import WITHIN, Seen, claims_of
from reproduction.fig14_drawing import draw
from reproduction.options import Made, Options

_LOG = logging.getLogger(f"cutlayer.{__name__}")


DEVICES = 4
# one of these for every 10,000 samples of the paper
SHARE, QUICK_SHARE = 48, 16
TIMES = (1, 3, 5)
ROUNDS, BATCH, TEST_SAMPLES = 22, 12, 300
QUICK_ROUNDS, QUICK_BATCH, QUICK_TEST_SAMPLES = 2, 4, 40
COLUMNS = ("samples", "seed", "round", "accuracy", "loss", "bits_up", "bits_down")


@dataclass(frozen=True)
class Run:
    """A training on so many samples from one seed."""

    samples: int
    seed: int
    curve: Curve

    def rows(self) -> Iterator[tuple[object, ...]]:
        """Lines of `COLUMNS`, one an evaluated round; bits are those of the whole training."""
        curve = self.curve
        for number, accuracy, loss in zip(curve.rounds, curve.accuracy, curve.loss, strict=True):
            yield (
                self.samples,
                self.seed,
                number,
                f"{accuracy:.4f}",
                f"{loss:.4f}",
                f"{curve.bits_up:.4f}",
                f"{curve.bits_down:.4f}",
            )


def make(options: Options, output: Path) -> Made:
    """Train on each amount, judge the claims; write fig14.csv, fig14-claims.csv, .png and .svg.

    Raises CutlayerError for a model, data set or setting that cannot be, before any training.
    """
    runs: list[Run] = []
    amounts = [times * (QUICK_SHARE if options.quick else SHARE) for times in TIMES]
    for samples in amounts:
        config = config_of(options, samples)
        for start in starts(config, range(options.seeds), quiet=bool(runs)):
            # only after everything that can be wrong has been found
            output.mkdir(parents=True, exist_ok=True)
            begun_s = time.monotonic()
            run = Run(samples, start.seed, follow(start, evaluated(start.rounds)))
            runs.append(run)
            _LOG.info(_told(run, time.monotonic() - begun_s))
    curves = {
        samples: [
            [100 * accuracy for accuracy in run.curve.accuracy]
            for run in runs
            if run.samples == samples
        ]
        for samples in amounts
    }
    seen = Seen(runs[0].curve.rounds, curves, len(start.setup.test))
    setting = setting_of(config, options)
    claims = claims_of(seen)
    tables = (
        save_table(output / "fig14.csv", COLUMNS, [row for run in runs for row in run.rows()]),
        save_table(output / "fig14-claims.csv", CLAIM_COLUMNS, claim_rows(claims)),
    )
    with plain_style():
        pictures = save_figure(output / "fig14", draw(seen, setting))
    return Made(setting, claims, (*tables, *pictures))


def config_of(options: Options, samples: int) -> Config:
    """The job on so many samples. Raises ConfigError for a wrong option."""
    quick = options.quick
    settings: dict[str, Any] = {
        "model.name": options.model,
        "model.cut": options.cut,
        "data.name": options.data,
        "data.train_samples": samples,  # fewer are a part of more
        "data.test_samples": QUICK_TEST_SAMPLES if quick else TEST_SAMPLES,
        "partition.name": "iid",
        "training.rounds": options.rounds or (QUICK_ROUNDS if quick else ROUNDS),
        "training.local_steps": None,
        "training.local_epochs": 1,
        "training.batch_size": QUICK_BATCH if quick else BATCH,
        "devices.count": DEVICES,
        "devices.memory_mib": None,
        "server.group": DEVICES,
    }
    return configure(settings | SFT_PAPER.settings)


def evaluated(rounds: int) -> tuple[int, ...]:
    """Each round up to the one the paper tells of, then every second: testing takes time too."""
    return tuple(n for n in range(rounds + 1) if n <= WITHIN or n % 2 == 0)


def setting_of(config: Config, options: Options) -> str:
    """What was trained, in one line: never to be taken for the paper's ViT-B on CIFAR-100."""
    training, model, data = config.training, Path(config.model.name), Path(config.data.name)
    seeds = f"{options.seeds} seed{'s' if options.seeds > 1 else ''}"
    return (
        f"SFT, paper's codec, {model.name} cut after block {config.model.cut} on {data.name}, "
        f"{DEVICES} devices, {training.rounds} rounds of one pass in batches of "
        f"{training.batch_size}, {config.optimizer.name} {config.optimizer.learning_rate:g}, "
        f"{seeds}{' (quick: says nothing)' if options.quick else ''};"
        " the paper: ViT-B, 10,000 to 50,000"
    )


def _told(run: Run, seconds: float) -> str:
    curve = run.curve
    return (
        f"{run.samples} samples, seed {run.seed}: {100 * curve.accuracy[0]:.1f} to"
        f" {100 * curve.accuracy[-1]:.1f} %  ({format_seconds(seconds)})"
    )
