"""The paper's headline numbers beside ours, all from one fitted constant.

Analytic, in seconds: minutes by the timeline at full size, volumes, memory, compression. Knows what
is written; claims and drawing are in files of their own.
"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from cutlayer.report.drawing import plain_style
from cutlayer.report.save import save_figure, save_table
from reproduction.claims import CLAIM_COLUMNS, claim_rows
from reproduction.evaluation import evaluate, fitted_words, words_of
from reproduction.fig10_rounds import delays_by_reading
from reproduction.fit import PRINTED_MINUTES, Fit, fit
from reproduction.headline_claims import claims_of
from reproduction.headline_drawing import draw
from reproduction.options import Made, Options
from reproduction.setting import (
    EVALUATION,
    LARGE_MODEL,
    READINGS,
    TINY_IMAGENET,
    TWENTY_DEVICES,
)

_LOG = logging.getLogger(f"cutlayer.{__name__}")


COLUMNS = (
    "reading",
    "local_steps",
    "epochs",
    "scheme",
    "minutes",
    "paper_minutes",
    "deviation_percent",
)


def make(options: Options, output: Path) -> Made:
    """Fit each reading, judge the claims, and write headline.csv, headline-claims.csv, .png, .svg.

    No option matters. Raises RunError for an output that cannot be written.
    """
    fits = {name: fit(setting) for name, setting in READINGS.items()}
    fitted = next(iter(fits.values()))
    cifar, tiny, large, twenty = (
        evaluate(setting, fitted)
        for setting in (EVALUATION, TINY_IMAGENET, LARGE_MODEL, TWENTY_DEVICES)
    )
    for name, found in fits.items():
        _LOG.info(
            f"{name}: {found.local_steps:.1f} local steps a device ({found.rounds:.2f} epochs), "
            f"minutes of the four split schemes within {100 * found.worst:.1f} %"
        )
    output.mkdir(parents=True, exist_ok=True)
    claims = claims_of(cifar, tiny, large, twenty, delays_by_reading(EVALUATION.bandwidth_hz))
    tables = (
        save_table(output / "headline.csv", COLUMNS, _rows(fits)),
        save_table(output / "headline-claims.csv", CLAIM_COLUMNS, claim_rows(claims)),
    )
    setting = f"{words_of(EVALUATION)}; fitted: {fitted_words(cifar)}"
    with plain_style():
        pictures = save_figure(output / "headline", draw(cifar, fits, words_of(EVALUATION)))
    return Made(setting, claims, (*tables, *pictures))


def _rows(fits: Mapping[str, Fit]) -> Iterator[tuple[str, ...]]:
    """A line of `COLUMNS` for each reading and scheme."""
    for reading, found in fits.items():
        for scheme, printed in PRINTED_MINUTES.items():
            yield (
                reading,
                f"{found.local_steps:.6f}",
                f"{found.rounds:.6f}",
                scheme,
                f"{found.minutes[scheme]:.6f}",
                str(printed),
                f"{100 * found.deviations[scheme]:.6f}",
            )
