"""`cutlayer bench-device` as a user types it."""

from pathlib import Path

import pytest

from cutlayer.cli.main import main
from cutlayer.planner.profile import read_machine

TINY = ["--families", "vision", "--bases", "float32", "--width", "64", "--tokens", "5"]


def test_it_prints_what_it_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "here.yaml"
    words = [*TINY, "--samples", "1", "--quick", "--device", "cpu", "--name", "here"]
    assert main(["bench-device", *words, "--output", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("vision blocks in float32, 64 wide, 1 x 5 tokens: ")
    assert lines[-1] == str(path)
    profile = read_machine(path, "devices.profile")
    assert (profile.name, profile.device, profile.quick) == ("here", "cpu", True)
    assert profile.command.startswith("cutlayer bench-device --device cpu --families vision")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--families", "visions"], "--families 'visions': did you mean vision?"),
        (["--bases", "float16"], "--bases 'float16': did you mean bfloat16?"),
        (["--width", "100"], "width 100: give a multiple of 64, a head's (--width)"),
        (["--device", "gpu"], "--device is 'gpu': give auto, cpu, cuda"),
        (["--samples", "0"], "is not a whole number from 1 on"),
        (["--name", ""], "--name '': say in one line of at most 100 letters"),
        (["--name", "a\nb"], "--name 'a\\nb': say in one line of at most 100 letters"),
        (["--output", "."], ". is a directory: name a file in it as output (--output)"),
    ],
)
def test_what_cannot_be(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench-device", "--quick", *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []
