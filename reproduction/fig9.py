"""Fig. 9 of the paper: convergence of the two-timescale algorithm for several numbers of devices.

Algorithm 2 as printed and as it should be, beside the exact configuration; then Algorithm 3.
Analytic: the accuracy is what the text says of Fig. 7, nothing is trained. Knows what is written;
the cases, the claims and the drawing are in files of their own.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

from cutlayer.planner.configuration import ConfigurationSolution
from cutlayer.report.drawing import plain_style
from cutlayer.report.save import save_figure, save_table
from reproduction.claims import CLAIM_COLUMNS, claim_rows
from reproduction.fig9_accuracy import LEAST_ACCURACY
from reproduction.fig9_case import USER_NUMBERS, Case, case_of
from reproduction.fig9_claims import claims_of
from reproduction.fig9_drawing import draw
from reproduction.options import Made, Options
from reproduction.setting import EVALUATION

_LOG = logging.getLogger(f"cutlayer.{__name__}")


COLUMNS = (
    "devices",
    "algorithm",
    "iteration",
    "lagrangian_s",
    "delay_s",
    "shortest_s",
    "cut",
    "keep_ratio",
    "bits",
    "accuracy",
    "feasible",
)


def make(options: Options, output: Path) -> Made:
    """Run the algorithms, judge, and write fig9.csv, fig9-claims.csv, .png and .svg.

    No option matters. Raises RunError for an output that cannot be written.
    """
    _LOG.info(f"both time scales for {', '.join(map(str, USER_NUMBERS))} devices")
    cases = [case_of(devices) for devices in USER_NUMBERS]
    output.mkdir(parents=True, exist_ok=True)
    claims = claims_of(cases)
    rows = [row for case in cases for row in _rows(case)]
    tables = (
        save_table(output / "fig9.csv", COLUMNS, rows),
        save_table(output / "fig9-claims.csv", CLAIM_COLUMNS, claim_rows(claims)),
    )
    one = EVALUATION
    setting = (
        f"{one.dimensions.name}, {one.samples:,} samples, {one.bandwidth_hz / 1e6:g} MHz at"
        f" {one.snr_db:g} dB, devices from 0.5 to 1.5 GHz, accuracy of {100 * LEAST_ACCURACY:g} %"
        " by what the text says of Fig. 7; nothing trained"
    )
    with plain_style():
        pictures = save_figure(output / "fig9", draw(cases, setting))
    return Made(setting, claims, (*tables, *pictures))


def _rows(case: Case) -> Iterator[tuple[str, ...]]:
    """Lines of `COLUMNS`; Algorithm 3 has shares alone, and a delay from iteration 0 on."""
    yield from _configurations(case, "2 as printed", case.published)
    yield from _configurations(case, "2 mended", case.mended)
    for number, delay_s in enumerate(case.deadlines_s):
        seconds = ("", f"{delay_s:.4f}", f"{case.best_deadline_s:.4f}")
        yield (str(case.devices), "3 as printed", str(number), *seconds, *[""] * 5)


def _configurations(
    case: Case, name: str, found: ConfigurationSolution
) -> Iterator[tuple[str, ...]]:
    for number, step in enumerate(found.history, start=1):
        choice = step.choice
        yield (
            str(case.devices),
            name,
            str(number),
            f"{step.lagrangian_s:.4f}",
            f"{choice.delay_s:.4f}",
            f"{case.best.delay_s:.4f}",
            str(choice.cut),
            f"{choice.keep_ratio:.6f}",
            f"{choice.bits:g}",
            f"{choice.accuracy:.6f}",
            str(step.feasible).lower(),
        )
