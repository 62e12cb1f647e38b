"""Which run a server goes on with."""

import os
from pathlib import Path

import pytest

from cutlayer.cli.main import main
from cutlayer.config.schema import Config
from cutlayer.config.training import TrainingSection
from cutlayer.jobs.check import as_run, newest_run
from cutlayer.jobs.train import new_directory


def begun(config: Config, output: Path, second: int) -> Path:
    """A run that was begun at a time."""
    directory = new_directory(as_run(config), output)
    os.utime(directory.config_path, (second, second))
    return directory.path


def test_the_one_of_this_configuration_that_was_begun_last(tmp_path: Path) -> None:
    config, other = Config(), Config(training=TrainingSection(rounds=3))
    assert newest_run(config, tmp_path / "none") is None
    later = begun(config, tmp_path, 200)
    begun(config, tmp_path, 100)
    begun(other, tmp_path, 300)
    assert newest_run(config, tmp_path) == later
    assert newest_run(Config(training=TrainingSection(rounds=4)), tmp_path) is None


def test_what_cannot_be_read_is_none_of_ours(tmp_path: Path) -> None:
    path = begun(Config(), tmp_path, 100)
    broken = begun(Config(), tmp_path, 200)
    (broken / "config.yaml").write_text("model: [")
    assert newest_run(Config(), tmp_path) == path


def test_one_run_is_named_in_one_way(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--resume", "runs/x", "--go-on"]) == 2
    assert "leave out --go-on" in capsys.readouterr().err
