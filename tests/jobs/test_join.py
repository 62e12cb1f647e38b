"""How a device dials a server that is away."""

import pytest

from cutlayer.jobs.join import longest_pause_s


def test_a_server_that_is_started_again_is_found_within_a_second() -> None:
    """However often it was dialled in the eight seconds that it may take."""
    assert [longest_pause_s(tries, 0.0) for tries in (1, 2, 3, 4, 2000)] == [0.25, 0.5, 1, 1, 1]
    assert longest_pause_s(20, 8.0) == 1.0


@pytest.mark.parametrize(("away_s", "pause_s"), [(80.0, 10.0), (240.0, 30.0), (1e6, 30.0)])
def test_one_that_stays_away_is_dialled_ever_less(away_s: float, pause_s: float) -> None:
    assert longest_pause_s(50, away_s) == pause_s
