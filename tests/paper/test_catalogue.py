"""Which figures there are, and which of them can be made."""

from cutlayer.paper.catalogue import FIGURES, Figure, figures_there, made_by

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
    assert "planner" in Figure("x", needs_planner=True).takes


def test_all_but_the_planner_s_can_be_made() -> None:
    there = figures_there()
    assert set(there) <= set(FIGURES) and made_by("fig8") == "cutlayer.paper.fig8"
    assert [name for name in FIGURES if name not in there] == []
    analytic = figures_there(analytic=True)
    assert [name for name in there if name not in analytic] == ["fig4", "fig5", "fig7", "fig14"]
