"""Theorem 1 of the paper: what it bounds, what it does not, against SGD on quadratics.

Section III-B states it, Appendix A proves it. Analytic: nothing is trained but quadratics, on which
every constant of the theorem is known. Knows what is written; the cases, the claims and the drawing
are in files of their own.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

from cutlayer.report.drawing import plain_style
from cutlayer.report.save import save_figure, save_table
from reproduction.claims import CLAIM_COLUMNS, claim_rows
from reproduction.options import Made, Options
from reproduction.theorem1_cases import (
    DEVICES,
    FULL,
    LOCAL_STEPS,
    QUICK,
    VALUES,
    Biased,
    Drift,
    Plain,
    biased_case,
    drift_case,
    plain_case,
)
from reproduction.theorem1_claims import claims_of
from reproduction.theorem1_drawing import draw

_LOG = logging.getLogger(f"cutlayer.{__name__}")


COLUMNS = (
    "round",
    "sgd",
    "bound",
    "product",
    "top_k_sgd",
    "top_k_bound",
    "top_k_printed",
    *(f"steps_{steps}_sgd" for steps in LOCAL_STEPS),
    "steps_printed",
)


def make(options: Options, output: Path) -> Made:
    """Run the cases, judge the claims, and write theorem1.csv, theorem1-claims.csv, .png and .svg.

    Of the options only `quick` matters: fewer runs behind each mean. Raises RunError for an output
    that cannot be written.
    """
    runs = QUICK if options.quick else FULL
    _LOG.info(
        f"SGD on quadratics: means over {runs.noisy}, {runs.compressed}, {runs.drifting} runs"
    )
    plain, biased, drift = plain_case(runs), biased_case(runs), drift_case(runs)
    output.mkdir(parents=True, exist_ok=True)
    claims = claims_of(plain, biased, drift)
    tables = (
        save_table(output / "theorem1.csv", COLUMNS, _rows(plain, biased, drift)),
        save_table(output / "theorem1-claims.csv", CLAIM_COLUMNS, claim_rows(claims)),
    )
    setting = (
        f"SGD on quadratics of {VALUES} values with known constants, {DEVICES} devices"
        f"{' (quick: few runs)' if options.quick else ''}; the paper runs no test of its theorem"
    )
    with plain_style():
        pictures = save_figure(output / "theorem1", draw(plain, biased, drift, setting))
    return Made(setting, claims, (*tables, *pictures))


def _rows(plain: Plain, biased: Biased, drift: Drift) -> Iterator[tuple[str, ...]]:
    """A line of `COLUMNS` for each round; gaps are parts of the initial gap."""
    curves = (
        plain.sgd,
        plain.mended.gap,
        plain.product,
        biased.sgd,
        biased.mended.gap,
        biased.printed.gap,
        *drift.sgd.values(),
        drift.printed.gap,
    )
    for number, gaps in enumerate(zip(*curves, strict=True)):
        yield (str(number), *(f"{gap:.6g}" for gap in gaps))
