"""Fig. 10: rounds by allocation, the claims and which way they turn, files and picture."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from analytic import made_twice
from report.drawn import assert_labels_apart

from cutlayer.report.drawing import plain_style
from reproduction import fig10
from reproduction.claims import Verdict
from reproduction.fig10 import (
    LINKS,
    Delays,
    algorithm_3_agrees,
    claims_of,
    delays_by_links,
    delays_of,
    draw,
    reduction,
)

DRAWS = 10
NARROW_HZ, WIDE_HZ = 5e6, 30e6
AGREEING = {NARROW_HZ: [100.0, 100.0, 100.0], WIDE_HZ: [100.0, 60.0, 70.0]}


@pytest.fixture(scope="module")
def rounds() -> dict[float, tuple[Delays, ...]]:
    return {hz: delays_by_links(hz, DRAWS) for hz in (NARROW_HZ, WIDE_HZ)}


def test_optimal_shares_are_fastest_where_links_bind(
    rounds: dict[float, tuple[Delays, ...]],
) -> None:
    for delays in rounds[NARROW_HZ]:
        assert delays.draws == DRAWS
        for baseline in ("even", "random"):
            assert (delays.saved_percent(baseline) > 0).all()
    means = [delays.saved_percent("even").mean() for delays in rounds[NARROW_HZ]]
    # the more links differ, the more is gained
    assert means == sorted(means) and 5 < means[0] < 12 and means[2] > 35


def test_a_wider_band_is_never_slower(rounds: dict[float, tuple[Delays, ...]]) -> None:
    for narrow, wide in zip(rounds[NARROW_HZ], rounds[WIDE_HZ], strict=True):
        for name, delay_s in narrow.delay_s.items():
            assert (wide.delay_s[name] < delay_s).all()


def test_the_published_algorithm_agrees_or_fails() -> None:
    assert algorithm_3_agrees(LINKS[0], NARROW_HZ, 4) == 100
    assert algorithm_3_agrees(LINKS[1], WIDE_HZ, 8) < 100


def test_draws_are_the_same_whatever_their_number() -> None:
    few, more = (delays_of(LINKS[2], NARROW_HZ, draws) for draws in (2, 3))
    for name, delay_s in few.delay_s.items():
        assert delay_s.tolist() == more.delay_s[name][:2].tolist()


def test_verdicts(rounds: dict[float, tuple[Delays, ...]]) -> None:
    most, everywhere, narrow = claims_of(rounds, AGREEING)
    assert most.verdict is Verdict.NOT_REPRODUCED and most.ours < 20
    assert everywhere.verdict is Verdict.ORDERING and "100, 60, 70 %" in everywhere.reason
    assert narrow.verdict is Verdict.ORDERING
    # half the delay of even shares, by a little more, is what is published
    own = rounds[NARROW_HZ][0]
    even_s = own.delay_s["even"]
    halved = replace(own, delay_s={**own.delay_s, "optimal": 0.469 * even_s})
    assert reduction([halved, *rounds[NARROW_HZ][1:]]).verdict is Verdict.EXACT
    worse = replace(own, delay_s={**own.delay_s, "optimal": 1.1 * even_s})
    turned = claims_of({**rounds, NARROW_HZ: (worse, *rounds[NARROW_HZ][1:])}, AGREEING)
    assert [claim.verdict for claim in turned] == [Verdict.NOT_REPRODUCED] * 3


def test_files(tmp_path: Path) -> None:
    made, rows = made_twice(fig10.make, tmp_path, "fig10")
    assert len(rows) == len(LINKS) * len(fig10.BANDWIDTHS_HZ) * 3
    assert {row["allocation"] for row in rows} == {"optimal", "even", "random"}
    for row in rows:
        assert (row["algorithm_3_agrees_percent"] != "") == (row["allocation"] == "optimal")
        assert np.isfinite(float(row["longest_s"]))
    assert len(made.claims) == 3


def test_labels_stay_apart(rounds: dict[float, tuple[Delays, ...]]) -> None:
    with plain_style():
        assert_labels_apart(draw(rounds, "a setting"))
