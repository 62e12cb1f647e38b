"""`cutlayer train` as a user types it: exit codes, one clear line, and a few real processes."""

import os
import resource
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import yaml

from cutlayer.cli.main import main
from cutlayer.cli.progress import RunProgress
from cutlayer.config.read import config_yaml


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No hub, and a cache that holds nothing."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration file of a tiny run."""
    root = tmp_path_factory.mktemp("job")
    config = tiny.config(tiny.vision_model(root / "model"), tiny.images(root / "images"))
    (root / "run.yaml").write_text(config_yaml(config), encoding="utf-8")
    return root / "run.yaml"


def _cutlayer(
    *words: str | Path, cwd: Path, limit: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command in `cwd`; `limit`: the largest file that it may write [bytes]."""

    def small_files() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    environment = {**os.environ, "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-m", "cutlayer", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        preexec_fn=small_files,
        check=False,
    )


def _check_one_line(code: int, stderr: str, message: str) -> None:
    """Exit code 2, one line with that message, no traceback."""
    assert code == 2, stderr
    errors = [line for line in stderr.splitlines() if line.startswith("cutlayer: ")]
    assert len(errors) == 1 and "Traceback" not in stderr
    assert message in errors[0]


@pytest.mark.slow("three processes that import torch")
@pytest.mark.promise
def test_train_prints_the_tables_last(job: Path, tmp_path: Path) -> None:
    done = _cutlayer("train", job, "--codec", "none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert done.stdout.splitlines()[-1] == f"report: runs/{run.name}/report.html"
    assert "accuracy" in done.stdout
    said = [line.split(":")[0] for line in done.stderr.splitlines()]
    assert [one for one in said if one.startswith(("before training", "round"))] == [
        "before training",
        "round 1 of 2",
        "round 2 of 2",
    ]
    assert "\x1b" not in done.stdout + done.stderr
    resumed = _cutlayer("train", "--resume", run, "--quiet", cwd=tmp_path)
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert resumed.stdout == done.stdout.replace(f"runs/{run.name}", str(run))


def test_print_config_reads_back(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--codec", "paper", "--codec.keep-ratio", "0.1"]
    assert main(["train", str(job), *words, "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["codec"]["keep_ratio"] == 0.1
    (tmp_path / "again.yaml").write_text(printed, encoding="utf-8")
    assert main(["train", str(tmp_path / "again.yaml"), "--print-config"]) == 0
    assert capsys.readouterr().out == printed


def test_help_has_options_and_sections(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for option in (
        "--help SECTION",
        "channel     The channel, which gives each device's rates in every round: snr, traces",
        "--seed",
        "--resume",
    ):
        assert option in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.cut", "0"], "model.cut: should be at least 1, not 0"),
        (["--model.cut", "4"], "1..3"),
        (["--codec.keep-ratio", "0"], "codec.keep_ratio"),
        (["--codec.keep-ratio", "1.1"], "codec.keep_ratio"),
        (["--codec.keep-rato", "0.1"], "did you mean --codec.keep-ratio?"),
        (["--codec.keep-ratio"], "expected one argument"),
        (["--devices.count", "500"], "500"),
        (["--model.name", "nowhere/nothing"], "nowhere/nothing"),
        (["--data.name", "no-such-data"], "no-such-data"),
        (["--data.image-size", "30"], "30"),
        (["--adapter.targets", "[nothing]"], "nothing"),
        (["--planner", "fixed", "--planner.shares", "[0.5, 0.4, 0.3]"], "more than the bandwidth"),
        (
            ["--resume", "nowhere"],
            "its run directory: leave out",
        ),
    ],
)
def test_bad_input_gets_one_line(
    job: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    output = tmp_path / "runs"
    code = main(["train", str(job), "--output", str(output), *words])
    _check_one_line(code, capsys.readouterr().err, message)
    assert not output.exists()


def test_a_command_that_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    _check_one_line(main(["trian"]), capsys.readouterr().err, "did you mean train?")


def test_a_mistake_ends_a_real_process_with_code_2(job: Path, tmp_path: Path) -> None:
    done = _cutlayer("train", job, "--model.cut", "0", cwd=tmp_path)
    _check_one_line(done.returncode, done.stderr, "model.cut: should be at least 1")


@pytest.mark.parametrize(
    ("number", "begun", "after"),
    [
        (signal.SIGINT, 2, "after round 1"),
        (signal.SIGTERM, 1, "before round 1 was finished"),
    ],
)
def test_who_interrupts_is_told_how_to_go_on(
    number: int,
    begun: int,
    after: str,
    job: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def begins(progress: RunProgress, round_number: int, rounds: int) -> None:
        if round_number == begun:
            signal.raise_signal(number)

    handler = signal.getsignal(signal.SIGTERM)
    # the tests may be run where SIGINT is ignored: in a shell's background
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(RunProgress, "round_begins", begins)
            words = ["train", str(job), "--quiet", "--output", str(tmp_path / "my runs")]
            assert main(words) == 130
    finally:
        signal.signal(signal.SIGINT, ignored)
    assert signal.getsignal(signal.SIGTERM) is handler
    (run,) = (tmp_path / "my runs").iterdir()
    said = capsys.readouterr().err
    assert f"cutlayer: interrupted {after}; resume with: cutlayer train --resume '{run}'\n" in said
    words = shlex.split(said.rpartition("resume with: cutlayer ")[2])
    assert main([*words, "--quiet", "--codec", "fast"]) == 2
    assert "leave out codec" in capsys.readouterr().err


@pytest.mark.slow("a process whose files may not grow, and one that goes on")
def test_a_full_disk_is_named(job: Path, tmp_path: Path) -> None:
    """No file may grow past 4 KiB: the checkpoint cannot be written."""
    done = _cutlayer("train", job, "--output", "small", cwd=tmp_path, limit=4096)
    _check_one_line(done.returncode, done.stderr, "cannot write small/")
    (run,) = (tmp_path / "small").iterdir()
    assert f"(resume with: cutlayer train --resume small/{run.name})" in done.stderr
    assert not list(run.glob(".*")), "a temporary file was left"
    again = _cutlayer("train", "--resume", run, "--quiet", cwd=tmp_path)
    assert again.returncode == 0, again.stderr


def test_an_output_that_cannot_be_written(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    code = main(["train", str(job), "--output", str(tmp_path / "file")])
    _check_one_line(code, capsys.readouterr().err, f"cannot write {tmp_path / 'file'}")
