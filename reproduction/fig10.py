"""Fig. 10 of the paper: a round's delay by how the band is shared out, over bandwidths.

Analytic, by the timeline at full size, for three readings of what the paper leaves open about the
links. Knows what is written; `fig10_rounds` computes, `fig10_claims` judges, `fig10_drawing` draws.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from cutlayer.report.drawing import plain_style
from cutlayer.report.save import save_figure, save_table
from reproduction.claims import CLAIM_COLUMNS, claim_rows
from reproduction.fig10_claims import claims_of
from reproduction.fig10_drawing import draw
from reproduction.fig10_rounds import (
    DRAWS,
    READINGS,
    Delays,
    algorithm_3_agrees,
    delays_by_reading,
)
from reproduction.options import Made, Options
from reproduction.setting import EVALUATION

_LOG = logging.getLogger(f"cutlayer.{__name__}")


BANDWIDTHS_HZ = (5e6, 10e6, 20e6, 30e6)
COLUMNS = (
    "reading",
    "bandwidth_mhz",
    "allocation",
    "mean_s",
    "median_s",
    "longest_s",
    "optimal_saves_mean_percent",
    "optimal_saves_most_percent",
    "algorithm_3_agrees_percent",
)
_QUICK_DRAWS = 4


def make(options: Options, output: Path) -> Made:
    """Compute, judge, and write fig10.csv, fig10-claims.csv, .png and .svg.

    Of the options `quick` alone matters: a few draws. Raises RunError for an output that cannot be
    written.
    """
    draws = _QUICK_DRAWS if options.quick else DRAWS
    rounds = {}
    for bandwidth_hz in BANDWIDTHS_HZ:
        _LOG.info(f"{bandwidth_hz / 1e6:g} MHz: {draws} rounds of each reading")
        rounds[bandwidth_hz] = delays_by_reading(bandwidth_hz, draws)
    agreeing = {
        bandwidth_hz: [algorithm_3_agrees(reading, bandwidth_hz, draws) for reading in READINGS]
        for bandwidth_hz in BANDWIDTHS_HZ
    }
    output.mkdir(parents=True, exist_ok=True)
    claims = claims_of(rounds, agreeing)
    tables = (
        save_table(output / "fig10.csv", COLUMNS, _rows(rounds, agreeing)),
        save_table(output / "fig10-claims.csv", CLAIM_COLUMNS, claim_rows(claims)),
    )
    setting = (
        f"{EVALUATION.dimensions.name} cut after block {EVALUATION.cut}, {EVALUATION.devices} "
        f"devices of 0.5 to 1.5 GHz, mean ratio {EVALUATION.snr_db:g} dB; an epoch by the timeline,"
        f" nothing trained; median and middle 80 % of {draws} rounds"
    )
    with plain_style():
        pictures = save_figure(output / "fig10", draw(rounds, setting))
    return Made(setting, claims, (*tables, *pictures))


def _rows(
    rounds: Mapping[float, Sequence[Delays]], agreeing: Mapping[float, Sequence[float]]
) -> Iterator[tuple[str, ...]]:
    """A line of `COLUMNS` for each reading, bandwidth and allocation."""
    for bandwidth_hz, some in rounds.items():
        for delays, percent in zip(some, agreeing[bandwidth_hz], strict=True):
            for name, delay_s in delays.delay_s.items():
                saved = delays.saved_percent(name)
                values = (delay_s.mean(), np.median(delay_s), delay_s.max())
                yield (
                    delays.reading.name,
                    f"{bandwidth_hz / 1e6:g}",
                    name,
                    *(f"{float(value):.6f}" for value in values),
                    *(f"{float(value):.6f}" for value in (saved.mean(), saved.max())),
                    f"{percent:.6f}" if name == "optimal" else "",
                )
