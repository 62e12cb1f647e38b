"""Every example configuration is read, listed in the examples' page, and copied by its name."""

from pathlib import Path

import pytest

import cutlayer
from cutlayer.cli.main import main
from cutlayer.config.read import read_config
from cutlayer.config.schema import Config

FOLDER = Path(cutlayer.__file__).parent / "examples"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_an_example_is_a_configuration(path: Path) -> None:
    assert read_config(path) != Config()
    assert f"[{path.name}]({path.name})" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_examples_are_listed_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["examples"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in rows] == sorted(path.stem for path in FOLDER.glob("*.yaml"))
    assert all(what for _, what in rows)


def test_an_example_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["examples", "copy", "paper"]) == 0
    assert main(["examples", "copy", "paper.yaml", "mine.yaml"]) == 0
    assert capsys.readouterr().out.split() == ["paper.yaml", "mine.yaml"]
    for copy in (tmp_path / "paper.yaml", tmp_path / "mine.yaml"):
        assert copy.read_bytes() == (FOLDER / "paper.yaml").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["copy"], "which one"),
        (["copy", "papr"], "no example 'papr'; did you mean paper?"),
        (["copy", "paper", "mine.yaml"], "mine.yaml is there already"),
        (["copy", "paper", "nowhere/mine.yaml"], "No such file"),
    ],
)
def test_what_cannot_be_copied_is_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("precious", encoding="utf-8")
    assert main(["examples", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert (tmp_path / "mine.yaml").read_text(encoding="utf-8") == "precious"
