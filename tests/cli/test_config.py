"""`cutlayer config` and `cutlayer completion`: what they print, and what they refuse."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cutlayer.cli.main import COMMANDS, main


def test_a_right_configuration_gets_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("codec: paper\n", encoding="utf-8")
    assert main(["config", "check", str(path), "--codec.levels", "7"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(
        f"{path} is valid: sft-frozen of dinov2-small on fashion-mnist, configuration"
    )
    assert main(["config", "check", str(path)]) == 0
    assert capsys.readouterr().out.splitlines() != [line]  # another hash


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("codec: {name: best, levels: 7}", "codec.levels 7 is not read with codec.name best"),
        ("codek: best", "did you mean codec"),
        ("model: {cut: 99}", "can be cut after block|model.cut"),
        ("planner: {name: fixed, shares: [1]}", "lists 1 shares for devices.count 8"),
        ("codec: [", "is not YAML"),
        ("planner: {least_cut: 12}", "of 12 blocks, can be cut after block 1..11: lower it"),
        ("planner: {fix: [cut], cuts: per-device}", "planner.fix keeps the cut, and planner.cuts"),
        ("planner: {profile: nope.json}", "no profile nope.json"),
        ("data: {name: ./nope}", "no data set './nope': no such path"),
    ],
)
def test_a_wrong_one_says_what_is_wrong(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    assert main(["config", "check", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert any(words in err for words in message.split("|"))


@pytest.mark.parametrize(
    "words", [["check"], ["schema", "run.yaml"], ["schema", "--seed", "1"], ["chek"]]
)
def test_what_is_asked_wrongly(words: list[str]) -> None:
    assert main(["config", *words]) == 2


def test_the_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "cutlayer configuration"


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_learns_commands_options_and_names(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(command in script for command in COMMANDS)
    for word in ("--codec.up.quantise.bits", "paper-rans", "two-timescale", "--resume"):
        assert word in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_checking_and_completing_import_no_torch(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("codec: paper\n", encoding="utf-8")
    code = (
        "import sys\n"
        "from cutlayer.cli.main import main\n"
        "assert main(['config', 'check', 'run.yaml']) == 0\n"
        "assert main(['completion', 'bash']) == 0\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)


@pytest.mark.parametrize("command", ["train", "plan", "compare", "profile", "serve", "lab"])
def test_help_is_an_overview_and_knows_sections(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    whole = capsys.readouterr().out
    assert "  codec       Compression of activations" in whole and "--codec.keep-ratio" not in whole
    assert len(whole.splitlines()) < 80
    with pytest.raises(SystemExit) as ended:
        main([command, "--help", "codec"])
    assert ended.value.code == 0
    assert "--codec.keep-ratio: number" in capsys.readouterr().out
    assert main([command, "--help", "codek"]) == 2
    assert "did you mean codec" in capsys.readouterr().err
