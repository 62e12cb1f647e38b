"""Which figures there are, and what they take."""

from multiprocessing import active_children
from pathlib import Path

import pytest
import tiny

from cutlayer.errors import ModelError
from cutlayer.jobs.workers import Local, Processes
from cutlayer.logs import lines_to
from cutlayer.units import GIB, KIB
from reproduction.catalogue import (
    FIGURES,
    Figure,
    Made,
    NotMade,
    Options,
    figures,
    make,
    make_all,
    room_for,
)

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


@pytest.mark.parametrize(("left_gib", "found"), [(9.0, 4), (3.5, 3), (3.0, 3), (0.5, 1)])
def test_no_more_than_memory_allows(left_gib: float, found: int, tmp_path: Path) -> None:
    left_kib = round(left_gib * GIB / KIB)
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(
        f"MemTotal:       99999999 kB\nMemAvailable:   {left_kib} kB\n", encoding="utf-8"
    )
    assert room_for(4, GIB, meminfo) == found


def test_all_of_them_where_nobody_tells(tmp_path: Path) -> None:
    assert room_for(4, GIB, tmp_path / "none") == 4
    (tmp_path / "old").write_text("MemTotal: 1 kB\n", encoding="utf-8")
    assert room_for(4, GIB, tmp_path / "old") == 4


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    """A tiny model and data, a few steps."""
    root = tmp_path_factory.mktemp("job")
    model, data = tiny.vision_model(root / "model"), tiny.images(root / "images")
    return Options(data=str(data), model=str(model), cut=2, rounds=1, seeds=1, quick=True)


def test_trained_ones_in_processes_after_the_others(options: Options, tmp_path: Path) -> None:
    (tmp_path / "fig14").write_text("in the way", encoding="utf-8")
    said: list[str] = []
    names = ("fig4", "table2", "fig14")
    with lines_to(said.append):
        done = make_all(names, options, tmp_path, Processes(2))
    assert tuple(done) == names
    assert isinstance(done["table2"], Made) and isinstance(done["fig14"], NotMade)
    assert "File exists" in done["fig14"].reason
    alone = make("fig4", options, tmp_path / "alone")
    made = done["fig4"]
    assert isinstance(made, Made) and (made.setting, made.claims) == (alone.setting, alone.claims)
    for path in made.files:
        assert path.parent == tmp_path / "fig4"
        assert path.read_bytes() == (tmp_path / "alone" / path.name).read_bytes()
    begun = [line.partition(":")[0] for line in said]
    assert set(begun) == set(names)
    assert max(n for n, name in enumerate(begun) if name == "table2") < begun.index("fig4")
    assert "fig14: not made: " in "\n".join(said) and any("fig4: seed 0, " in s for s in said)
    assert not active_children()


def test_one_that_fails_here(options: Options, tmp_path: Path) -> None:
    (tmp_path / "table1").write_text("in the way", encoding="utf-8")
    done = make_all(("table1", "table2"), options, tmp_path, Local())
    assert [type(figure) for figure in done.values()] == [NotMade, Made]


def test_one_alone_raises(options: Options, tmp_path: Path) -> None:
    wrong = Options(options.data, options.model, cut=99, rounds=1, seeds=1, quick=True)
    with pytest.raises(ModelError, match=r"cut is 99"):
        make("fig4", wrong, tmp_path)
