"""Fig. 13 of the paper: the schemes' delays with 20 devices.

Analytic, after as many epochs as the main setting's minutes imply. Knows what is written;
`fig13_claims` judges, `two_settings` draws.
"""

import logging
from pathlib import Path

from cutlayer.report.drawing import plain_style
from cutlayer.report.save import save_figure, save_table
from reproduction.claims import CLAIM_COLUMNS, claim_rows
from reproduction.evaluation import evaluate, words_of
from reproduction.fig11_claims import FL_TIMES_SFT
from reproduction.fig13_claims import FL_TIMES_SFT_OF_TWENTY, claims_of
from reproduction.fit import fit
from reproduction.options import Made, Options
from reproduction.setting import EVALUATION, TWENTY_DEVICES
from reproduction.two_settings import COLUMNS, draw, rows_of

_LOG = logging.getLogger(f"cutlayer.{__name__}")


LABELS = ("8 devices", "20 devices")
# FL over SFT as the paper prints it, where it does
PRINTED = (float(FL_TIMES_SFT), float(FL_TIMES_SFT_OF_TWENTY))


def make(options: Options, output: Path) -> Made:
    """Compute, judge, and write fig13.csv, fig13-claims.csv, .png and .svg.

    No option matters. Raises RunError for an output that cannot be written.
    """
    fitted = fit()
    eight, twenty = (evaluate(setting, fitted) for setting in (EVALUATION, TWENTY_DEVICES))
    _LOG.info(f"{LABELS[1]} after the {twenty.rounds:.2f} epochs of {LABELS[0]}")
    output.mkdir(parents=True, exist_ok=True)
    claims = claims_of(eight, twenty)
    rows = [
        row
        for label, seen, printed in zip(LABELS, (eight, twenty), PRINTED, strict=True)
        for row in rows_of(label, seen, printed)
    ]
    tables = (
        save_table(output / "fig13.csv", COLUMNS, rows),
        save_table(output / "fig13-claims.csv", CLAIM_COLUMNS, claim_rows(claims)),
    )
    setting = words_of(EVALUATION, TWENTY_DEVICES)
    with plain_style():
        figure = draw(eight, twenty, LABELS, PRINTED, setting)
        pictures = save_figure(output / "fig13", figure)
    return Made(setting, claims, (*tables, *pictures))
