"""Many figures: here or in processes, in order, and one that fails loses only itself."""

from multiprocessing import active_children
from pathlib import Path

import pytest
import tiny

from cutlayer.errors import ModelError
from cutlayer.logs import lines_to
from reproduction.making import NotMade, make, make_all
from reproduction.options import Made, Options


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
        done = make_all(names, options, tmp_path, 2)
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
    done = make_all(("table1", "table2"), options, tmp_path, 1)
    assert [type(figure) for figure in done.values()] == [NotMade, Made]


def test_one_alone_raises(options: Options, tmp_path: Path) -> None:
    wrong = Options(options.data, options.model, cut=99, rounds=1, seeds=1, quick=True)
    with pytest.raises(ModelError, match=r"cut is 99"):
        make("fig4", wrong, tmp_path)
