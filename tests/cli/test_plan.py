"""`cutlayer plan` as a user types it: what it prints and writes, its exit codes, what it needs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from planner.profiles import profile

from cutlayer.cli.main import main
from cutlayer.config.read import read_config
from cutlayer.planner.profile import profile_text

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "src" / "cutlayer" / "examples"
FEW = ["--devices.count", "2", "--training.local-steps", "2", "--training.batch-size", "4"]
FILES = ["plan.html", "plan.json", "plan.yaml"]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty current directory and cache, no hub, and a terminal of 80 columns."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def measured(tmp_path: Path) -> str:
    """A profile's file."""
    path = tmp_path / "profile.json"
    path.write_text(profile_text(profile()), encoding="utf-8")
    return str(path)


def written(folder: Path = Path("plan")) -> list[str]:
    """The names of the files in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_what_is_printed_and_written(measured: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *FEW, "--planner.profile", measured]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == "Plan: dinov2-small on 2 devices"
    assert lines[-3:] == ["plan/plan.json", "plan/plan.html", "plan/plan.yaml"]
    assert all(len(line.rstrip()) <= 80 for line in lines)
    assert "no profile" not in out
    assert written() == FILES
    record = json.loads(Path("plan/plan.json").read_text(encoding="utf-8"))
    config = read_config(Path("plan/plan.yaml"))
    assert [config.model.cut] * 2 == record["decision"]["cuts"]
    assert Path("plan/plan.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    # planned again it is the same to the byte
    before = [(Path("plan") / name).read_bytes() for name in FILES]
    assert main(["plan", *FEW, "--planner.profile", measured]) == 0
    assert capsys.readouterr().out == out
    assert [(Path("plan") / name).read_bytes() for name in FILES] == before


def test_where_nothing_fits(measured: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--planner.profile", measured, "--output", "out"]
    assert main(["plan", *FEW, *words, "--devices.memory-mib", "1"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "nothing fits" in out
    assert written(Path("out")) == ["plan.html", "plan.json"]
    # the least change that is named is enough
    more = out.partition("set devices.memory_mib to at least ")[2].split()[0].rstrip(",")
    assert main(["plan", *FEW, *words, "--devices.memory-mib", more]) == 0


def test_a_cut_for_each_device_is_no_configuration(measured: str) -> None:
    words = ["--planner.profile", measured, "--planner.cuts", "per-device"]
    slow = ["--devices.flops-per-s", "[1e10, 1e13]", "--server.flops-per-s", "2e10"]
    words += ["--channel.bandwidth-hz", "1e9", "--devices.memory-mib", "null"]
    assert main(["plan", *FEW, *words, *slow]) == 0
    record = json.loads(Path("plan/plan.json").read_text(encoding="utf-8"))
    cuts = record["decision"]["cuts"]
    assert cuts[0] < cuts[1]
    assert written() == ["plan.html", "plan.json"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--devices.count", "0"], "devices.count"),
        (["--devices.flops-per-s", "-1"], "devices.flops_per_s"),
        (["--devices.flops-per-s", "nan"], "devices.flops_per_s"),
        (["--server.flops-per-s", "inf"], "server.flops_per_s"),
        (["--channel.bandwidth-hz", "0"], "channel.bandwidth_hz"),
        (["--devices.uplink-snr-db", "nan"], "devices.uplink_snr_db"),
        (["--planner.most-share", "0.05"], "0.4 of the bandwidth"),
        (["--planner.most-share", "[0.5,0.5]"], "planner.most_share lists 2 values"),
        (["--planner.server-busy", "nan"], "planner.server_busy"),
        (["--planner.accuracy-loss", "-0.1"], "planner.accuracy_loss"),
        (["--planner.least-cut", "0"], "planner.least_cut"),
        (["--planner.profile", "absent.json"], "no profile absent.json; `cutlayer profile`"),
        (["--devices.preset", "abacus"], "no device preset 'abacus'"),
        (["--model", "no-such-model"], "no-such-model"),
        (["absent.yaml"], "cannot read the configuration absent.yaml"),
        (["--modle.cut", "2"], "did you mean --model.cut?"),
    ],
)
def test_bad_input_gets_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["plan", *words]) == 2
    out, err = capsys.readouterr()
    (error,) = [line for line in err.splitlines() if line.startswith("cutlayer: ")]
    assert message in error
    assert out == ""
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    "words",
    [
        FEW,
        [str(EXAMPLES / "plan-vit-l.yaml"), "--training.local-steps", "1"],
        [str(EXAMPLES / "plan-llama-7b.yaml"), "--training.local-steps", "1"],
    ],
)
def test_models_that_come_with_it_need_no_torch(words: list[str]) -> None:
    script = (
        "import sys\n"
        "from cutlayer.cli.main import main\n"
        "code = main(['plan', *sys.argv[1:]])\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
        "raise SystemExit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert written() == FILES


def test_without_a_profile_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    example = yaml.safe_load((EXAMPLES / "plan-vit-l.yaml").read_text(encoding="utf-8"))
    example["training"] |= {"local_steps": 1}
    Path("job.yaml").write_text(yaml.safe_dump(example), encoding="utf-8")
    assert main(["plan", "job.yaml"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "no profile of vit-l16 on icons-200: the codec stays as configured" in out


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["plan", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for word in ("--output", "--fixed", "--help SECTION", "planner The bandwidth allocation"):
        assert word in text


def test_what_was_given_and_replaced_is_named(
    measured: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*FEW, "--planner.profile", measured, "--devices.memory-mib", "null"]
    assert main(["plan", *words, "--model.cut", "6", "--codec", "paper"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "model.cut 6 was replaced by 1" in out
    assert "codec.name paper was replaced by " in out
    assert "devices.activation_memory" not in out  # nobody asked for it
    assert "cutlayer plan --fixed" in out
    # how sure accuracies are, and where they were measured
    assert "points: 500 test samples" in out and "measured at cut 4, not 1" in out
    # the page and the record say it too
    notes = json.loads(Path("plan/plan.json").read_text(encoding="utf-8"))["notes"]
    page = Path("plan/plan.html").read_text(encoding="utf-8")
    assert any("measured at cut 4, not 1" in line for line in notes)
    assert "measured at cut 4, not 1" in page and "model.cut 6 was replaced by 1" in page


def test_fixed_takes_the_configuration_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", *FEW, "--fixed", "--model.cut", "6", "--codec", "paper"]
    assert main([*words, "--planner", "fixed", "--planner.shares", "[0.3, 0.6]"]) == 0
    out = capsys.readouterr().out
    assert "nothing was chosen" in out and "replaced" not in out
    decision = json.loads(Path("plan/plan.json").read_text(encoding="utf-8"))["decision"]
    assert (decision["cuts"], decision["shares"]) == ([6, 6], [0.3, 0.6])
    assert (decision["codec"]["name"], decision["scheme"]) == ("paper", "sft")
    config = read_config(Path("plan/plan.yaml"))
    assert (config.model.cut, config.codec.name, config.planner.name) == (6, "paper", "fixed")
    assert main([*words, "--devices.memory-mib", "9"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "nothing fits" in out and "cut 6 (keep) needs" in out


@pytest.mark.parametrize(
    ("words", "planned"),
    [
        (["--model", "vit-b16", "--data.image-size", "224"], "vit-b16 on fashion-mnist"),
        (["--data", "cifar-100"], "dinov2-small on cifar-100"),
    ],
)
def test_a_profile_of_another_model_or_data_set_is_refused(
    words: list[str], planned: str, measured: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *FEW, "--planner.profile", measured, *words]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "was measured with dinov2-small on fashion-mnist, and the plan is for " in err
    assert f"{planned}: " in err


def test_a_run_to_learn_from_must_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *FEW, "--from-run", "absent"]) == 2
    assert "absent: no such run directory" in capsys.readouterr().err


def test_what_is_fixed_is_named(measured: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*FEW, "--planner.profile", measured, "--planner.fix", "cut"]
    assert main(["plan", *words, "--model.cut", "6"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "kept as configured (planner.fix): cut" in out
    assert "measured at cut 4, not 6" in out and "model.cut 6 was replaced" not in out


def test_an_older_plan_does_not_stay_beside_a_new_one(measured: str) -> None:
    assert main(["plan", *FEW, "--planner.profile", measured]) == 0
    assert written() == FILES
    assert main(["plan", *FEW, "--devices.memory-mib", "1"]) == 1
    assert written() == ["plan.html", "plan.json"]


def test_a_plan_that_is_trained_by_has_nothing_that_is_not_read(measured: str) -> None:
    words = [*FEW, "--planner.profile", measured, "--planner.most-share", "0.9"]
    assert main(["plan", *words, "--link.uplink", "shared", "--codec.target-bits-up", "0.6"]) == 0
    config = read_config(Path("plan/plan.yaml"))
    assert config.planner.name == "even"


def test_the_ways_to_a_target_accuracy(measured: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", *FEW, "--planner.profile", measured, "--target-accuracy"]
    assert main([*words, "70%"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "ways to 70 % accuracy, simulated" in out
    assert "sft (the plan)" in out and "(not measured)" in out
    assert "nobody measured it on the way" in " ".join(out.split())
    target = json.loads(Path("plan/plan.json").read_text(encoding="utf-8"))["target"]
    assert [way["seconds"] for way in target["ways"]] == sorted(
        way["seconds"] for way in target["ways"]
    )
    assert main([*words, "0.95"]) == 2
    assert "nothing that was measured gets there" in capsys.readouterr().err
    assert main([*words, "much"]) == 2
    assert "no share of the test samples" in capsys.readouterr().err
