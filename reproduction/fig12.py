"""Fig. 12 of the paper: the schemes' delays with ViT-L.

Analytic, after as many epochs as the main setting's minutes imply. Knows what is written;
`fig12_claims` judges, `two_settings` draws.
"""

import logging
from pathlib import Path

from cutlayer.report.drawing import plain_style
from cutlayer.report.save import save_figure, save_table
from reproduction.claims import CLAIM_COLUMNS, claim_rows
from reproduction.evaluation import evaluate, words_of
from reproduction.fig12_claims import claims_of
from reproduction.fit import fit
from reproduction.options import Made, Options
from reproduction.setting import EVALUATION, LARGE_MODEL
from reproduction.two_settings import COLUMNS, draw, rows_of

_LOG = logging.getLogger(f"cutlayer.{__name__}")


LABELS = ("ViT-B", "ViT-L")
# FL over SFT as the paper prints it, where it does
PRINTED = (None, None)


def make(options: Options, output: Path) -> Made:
    """Compute, judge, and write fig12.csv, fig12-claims.csv, .png and .svg.

    No option matters. Raises RunError for an output that cannot be written.
    """
    fitted = fit()
    base, large = (evaluate(setting, fitted) for setting in (EVALUATION, LARGE_MODEL))
    _LOG.info(f"{LABELS[1]} after the {large.rounds:.2f} epochs of {LABELS[0]}")
    output.mkdir(parents=True, exist_ok=True)
    claims = claims_of(base, large)
    rows = [
        row
        for label, seen, printed in zip(LABELS, (base, large), PRINTED, strict=True)
        for row in rows_of(label, seen, printed)
    ]
    tables = (
        save_table(output / "fig12.csv", COLUMNS, rows),
        save_table(output / "fig12-claims.csv", CLAIM_COLUMNS, claim_rows(claims)),
    )
    setting = words_of(EVALUATION, LARGE_MODEL)
    with plain_style():
        figure = draw(base, large, LABELS, PRINTED, setting)
        pictures = save_figure(output / "fig12", figure)
    return Made(setting, claims, (*tables, *pictures))
