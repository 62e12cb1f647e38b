"""Every example configuration is read, listed in the examples' page, and copied by its name."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import yaml

import cutlayer
from cutlayer.cli.main import main
from cutlayer.config.read import read_config
from cutlayer.config.schema import Config
from cutlayer.jobs.prepare import prepare
from cutlayer.jobs.sweep import read_sweep
from cutlayer.spec import IGNORED_LABEL
from cutlayer.training.expected import initial_state
from cutlayer.training.round import Round

FOLDER = Path(cutlayer.__file__).parent / "examples"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_an_example_is_a_configuration(path: Path) -> None:
    if path.stem == "sweep":
        assert read_sweep(path) is not None
    else:
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


def in_small(name: str, folder: Path, **sections: dict[str, Any]) -> Config:
    """The example on tiny stand-ins for its model and its conversations, for one step."""
    settings = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    chats = tiny.chats(folder / "chats.jsonl")
    chats.write_text(chats.read_text().replace('"sender"', '"sender_id"'))
    small: dict[str, dict[str, Any]] = {
        "model": {"name": str(tiny.text_model(folder / "llama", "llama", blocks=6))},
        "data": {"name": str(chats), "train_samples": None, "test_samples": None},
        "adapter": {"rank": 2},
        "training": {"rounds": 1, "local_steps": 1},
    }
    for of in (small, sections):
        for section, values in of.items():
            settings[section] = {**settings[section], **values}
    return Config.model_validate(settings | {"threads": 1})


def test_the_example_of_word_problems_trains(tmp_path: Path) -> None:
    setup = prepare(in_small("arithmetic", tmp_path)).setup
    device = setup.devices[0]
    batch = device.batch(device.indices(1, 0))
    counting = batch.labels != IGNORED_LABEL
    assert counting.any(axis=1).all()
    assert not counting[:, 0].any()  # the question is not trained on
    assert math.isfinite(Round(setup, initial_state(setup)).play().train_loss)


def test_the_example_of_chats_deals_by_person_and_trains(tmp_path: Path) -> None:
    data = {"chat_template": tiny.CHAT_TEMPLATE}
    setup = prepare(in_small("chitchat", tmp_path, data=data)).setup
    people = setup.devices[0].train.groups
    assert people is not None
    dealt = [set(people[np.asarray(device.plan.samples)].tolist()) for device in setup.devices]
    assert all(dealt)
    assert len(set.union(*dealt)) == sum(map(len, dealt))  # nobody is on two devices
    assert math.isfinite(Round(setup, initial_state(setup)).play().train_loss)
