"""Fig. 11 of the paper: how long each scheme takes to its highest accuracy, on two data sets.

Analytic: seconds by the timeline and the paper's cost formulas at full size, one number of local
steps fitted. Knows what is written; `fig11_claims` judges, `fig11_drawing` draws.
"""

import logging
from pathlib import Path

from cutlayer.report.drawing import plain_style
from cutlayer.report.save import save_figure, save_table
from reproduction.claims import CLAIM_COLUMNS, claim_rows
from reproduction.evaluation import NAMES, Evaluation, evaluate, fitted_words, words_of
from reproduction.fig11_claims import claims_of
from reproduction.fig11_drawing import PRINTED, draw
from reproduction.fit import fit
from reproduction.options import Made, Options
from reproduction.setting import EVALUATION, TINY_IMAGENET

_LOG = logging.getLogger(f"cutlayer.{__name__}")


COLUMNS = ("data", "scheme", "rounds", "local_steps", "minutes", "paper_minutes")


def make(options: Options, output: Path) -> Made:
    """Compute, judge, and write fig11.csv, fig11-claims.csv, .png and .svg.

    No option matters. Raises RunError for an output that cannot be written.
    """
    fitted = fit()
    cifar, tiny = (evaluate(setting, fitted) for setting in (EVALUATION, TINY_IMAGENET))
    _LOG.info(
        f"{fitted_words(cifar)} fit the minutes of the four split schemes within "
        f"{100 * fitted.worst:.1f} %"
    )
    output.mkdir(parents=True, exist_ok=True)
    claims = claims_of(cifar, tiny)
    rows = [*_rows("CIFAR-100", cifar), *_rows("Tiny-ImageNet", tiny)]
    tables = (
        save_table(output / "fig11.csv", COLUMNS, rows),
        save_table(output / "fig11-claims.csv", CLAIM_COLUMNS, claim_rows(claims)),
    )
    setting = words_of(EVALUATION, TINY_IMAGENET)
    with plain_style():
        pictures = save_figure(output / "fig11", draw(cifar, tiny, setting))
    return Made(setting, claims, (*tables, *pictures))


def _rows(data: str, seen: Evaluation) -> list[tuple[str, ...]]:
    return [
        (
            data,
            name,
            f"{seen.rounds:.6f}",
            f"{seen.local_steps:.6f}",
            f"{seen.minutes[name]:.6f}",
            str(PRINTED[name]) if data == "CIFAR-100" else "",
        )
        for name in NAMES
    ]
