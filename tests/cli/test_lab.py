"""`cutlayer lab`: mistakes are one line each."""

from pathlib import Path

import pytest

from cutlayer.cli.main import main


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command that fails says last, on one line."""
    assert main(["lab", *words]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_a_setting_that_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert "devices.count" in said(capsys, "--devices.cuont", "4")


def test_a_file_that_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot read the configuration gone.yaml" in said(capsys, "gone.yaml")


def test_nothing_to_compare(
    capsys: pytest.CaptureFixture[str],
    packaged: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUTLAYER_CACHE", str(packaged))
    words = ("--training.rounds", "1", "--output", str(tmp_path / "runs"))
    assert "training.rounds is 1" in said(capsys, *words)
    assert not (tmp_path / "runs").exists()
