"""`cutlayer profile` as a user types it: what it prints and writes, killed and gone on with."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cutlayer.cli.main import main
from cutlayer.planner.profile import read_profile


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, packaged: Path, tmp_path: Path) -> None:
    """An empty current directory, no hub, and a terminal of 80 columns."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CUTLAYER_CACHE", str(packaged))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


def test_a_quick_one(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["profile", "--quick", "--workers", "1", "--devices.count", "2", "--bits", "3"]
    assert main([*words, "--output", "out/p.json"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "out/p.json"
    assert re.search(r"^paper-rans +0\.1, 7 ", out, re.M)
    assert "7 of 7" in err and "7 of 7" not in out
    profile = read_profile(Path("out/p.json"))
    assert profile.command == "cutlayer profile --devices.count 2 --bits 3 --quick"
    assert (profile.seeds, profile.test_samples) == ((0,), 64)
    kept = [point.settings["keep_ratio"] for point in profile.of("paper-rans")]
    assert kept == [0.1, 0.5]
    assert re.search(r"^ +4 +frozen ", out, re.M)
    # of one round none is left for a warm device part
    parts = [(point.cut, point.device_part) for point in profile.device_parts]
    assert parts == [(4, "trained"), (4, "frozen")]
    assert len((Path("out") / "p.runs.jsonl").read_text(encoding="utf-8").splitlines()) == 7
    # the same again trains nothing, and says so unless it is to be quiet
    written = Path("out/p.json").read_bytes()
    assert main([*words, "--output", "out/p.json", "--quiet"]) == 0
    assert capsys.readouterr() == (out, "")
    assert Path("out/p.json").read_bytes() == written


@pytest.mark.slow("a process that is killed, and one that goes on")
def test_killed_and_gone_on_with() -> None:
    """A real process, killed by the system after its second training."""
    words = ["profile", "--quick", "--workers", "1", "--devices.count", "2"]
    command = [sys.executable, "-m", "cutlayer", *words]
    log = Path("profile.runs.jsonl")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(b"2 of 9"):
                os.kill(process.pid, signal.SIGKILL)
                break
    before = log.read_bytes()
    whole = before[: before.rindex(b"\n") + 1]
    assert whole.count(b"\n") >= 2
    assert main(words) == 0
    assert log.read_bytes().startswith(whole)
    keys = re.findall(rb'"seed": 0, "codec": .*?}', log.read_bytes())
    assert len(keys) == len(set(keys)) + 1 == 9
    assert len(read_profile(Path("profile.json")).points) == 1 + 2 * 4 + 1 + 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--keep-ratios", "0.1,1.5"], "keep ratio 1.5"),
        (["--keep-ratios", "0.1;0.2"], "'0.1;0.2' is not numbers with commas between"),
        (["--bits", "2,2.5"], "'2,2.5' is not whole numbers with commas between"),
        (["--bits", "9"], "9 bits"),
        (["--seeds", "0"], "'0' is not a whole number from 1 on"),
        (["--workers", "two"], "'two' is not a whole number from 1 on"),
        (["--codec", "fast"], "--codec: a profile goes through the codecs itself"),
        (["--codec.keep-ratio", "0.1"], "--codec.keep-ratio: a profile"),
        (["--keep-ratio", "0.1"], "did you mean --keep-ratios?"),
        (["--scheme", "fl-lora"], "fl-lora compresses nothing"),
        (["--model.cut", "99"], "1..7"),
        (["--cuts", "4,8"], "cut 8"),
        (["--cuts", "4,x"], "'4,x' is not whole numbers with commas between"),
        (["--data", "no-such-data"], "no-such-data"),
        (["absent.yaml"], "cannot read the configuration absent.yaml"),
        (["--output", "."], "is a directory"),
    ],
)
def test_bad_input_gets_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["profile", "--quick", *words]) == 2
    (error,) = [e for e in capsys.readouterr().err.splitlines() if e.startswith("cutlayer: ")]
    assert message in error
    assert not list(Path().iterdir())


def test_what_a_mistake_in_the_log_is(capsys: pytest.CaptureFixture[str]) -> None:
    Path("profile.runs.jsonl").write_text("no line\n", encoding="utf-8")
    assert main(["profile", "--quick"]) == 2
    assert "profile.runs.jsonl, line 1, is no record of a training run" in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["profile", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for word in (
        "--keep-ratios",
        "--bits",
        "--cuts",
        "--seeds",
        "--workers",
        "--quick",
        "model The pretrained",
    ):
        assert word in text
