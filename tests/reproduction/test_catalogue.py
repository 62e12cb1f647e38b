"""Which figures there are, and what they take."""

from reproduction.catalogue import FIGURES, Figure, figures

NAMES = [
    *("table1", "table2", "table3"),
    *(f"fig{number}" for number in range(4, 15)),
    *("theorem1", "headline"),
]


def test_every_table_and_figure_has_a_name() -> None:
    assert list(FIGURES) == NAMES
    assert all(figure.what and len(figure.what) < 70 for figure in FIGURES.values())


def test_what_a_figure_takes() -> None:
    assert Figure("x").takes == "computed in seconds"
    assert Figure("x", 10).takes == "trains, about 10 minutes"


def test_which_are_trained() -> None:
    assert list(figures()) == NAMES
    trained = set(figures()) - set(figures(analytic=True))
    assert trained == {"fig4", "fig5", "fig7", "fig14"}
