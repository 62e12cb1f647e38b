"""Units: conversions by hand, and printing."""

import pytest

from cutlayer.units import GIB, MIB, format_bytes, format_seconds, linear_from_db, roughly


@pytest.mark.parametrize(("ratio_db", "linear"), [(0.0, 1.0), (10.0, 10.0), (-20.0, 0.01)])
def test_decibels(ratio_db: float, linear: float) -> None:
    # exact powers of ten: one rounding of the power function
    assert linear_from_db(ratio_db) == pytest.approx(linear, rel=1e-15)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1536, "1.50 KiB"),
        (36.75 * MIB, "36.8 MiB"),
        (2 * GIB, "2.00 GiB"),
    ],
)
def test_bytes_have_three_digits(count: float, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (0.85, "850 ms"),
        (12.34, "12.3 s"),
        (245.0, "4 min 05 s"),
        (7380.0, "2 h 03 min"),
        (4e6, "46 days"),
        (1e20, "3,168,808,781,403 years"),
    ],
)
def test_seconds_choose_their_unit(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_a_rough_duration_has_no_parts_of_a_second() -> None:
    assert [roughly(s) for s in (0.2, 6.97, 99.4, 245.0)] == ["1 s", "7 s", "99 s", "4 min 05 s"]
