"""Fig. 8 of the paper: what the schemes send, and what each stage of the compression saves.

Analytic: bytes of the paper's formulas at full size for as many steps as its minutes imply, and the
expected bytes of our codecs. Knows what is written; claims and drawing are in files of their own.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from cutlayer.report.drawing import plain_style
from cutlayer.report.save import save_figure, save_table
from reproduction.claims import CLAIM_COLUMNS, claim_rows
from reproduction.evaluation import (
    NAMES,
    Evaluation,
    evaluate,
    fitted_words,
    step_gigabytes,
    words_of,
)
from reproduction.fig8_claims import claims_of
from reproduction.fig8_drawing import PRINTED, draw
from reproduction.fig8_methods import Method, methods
from reproduction.options import Made, Options
from reproduction.setting import EVALUATION

_LOG = logging.getLogger(f"cutlayer.{__name__}")


COLUMNS = ("panel", "name", "payload", "gigabytes", "percent", "paper_gigabytes")


def make(options: Options, output: Path) -> Made:
    """Compute, judge, and write fig8.csv, fig8-claims.csv, .png and .svg.

    No option matters. Raises RunError for an output that cannot be written.
    """
    cifar = evaluate(EVALUATION)
    _LOG.info(f"volumes of {fitted_words(cifar)}, FL's of {cifar.fl_rounds:.1f} epochs")
    ways, round_gb = methods(), EVALUATION.epoch_steps * step_gigabytes()
    output.mkdir(parents=True, exist_ok=True)
    claims = claims_of(cifar)
    tables = (
        save_table(output / "fig8.csv", COLUMNS, _rows(cifar, ways, round_gb)),
        save_table(output / "fig8-claims.csv", CLAIM_COLUMNS, claim_rows(claims)),
    )
    setting = words_of(EVALUATION)
    with plain_style():
        pictures = save_figure(output / "fig8", draw(cifar, ways, round_gb, setting))
    return Made(setting, claims, (*tables, *pictures))


def _rows(cifar: Evaluation, ways: Sequence[Method], round_gb: float) -> Iterator[tuple[str, ...]]:
    """Lines of `COLUMNS`: panel a by scheme and payload, panel b by way of compressing."""
    for name in NAMES:
        printed = f"{PRINTED[name]:.6f}" if name in PRINTED else ""
        sent = cifar.gigabytes(name)
        for phase, volume in sent.items():
            yield ("a", name, phase.value, f"{volume:.6f}", "", "")
        yield ("a", name, "all", f"{sum(sent.values()):.6f}", "", printed)
    for way in ways:
        volume = round_gb * way.percent / 100
        yield ("b", way.name, "activation and gradient", f"{volume:.6f}", f"{way.percent:.6f}", "")
