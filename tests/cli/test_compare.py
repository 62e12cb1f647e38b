"""`cutlayer compare` as a user types it: what is run, what is read, what is kept, what is refused.

The runs are tiny and real; where only finished ones are needed, they are made up.
"""

import csv
import re
from pathlib import Path

import pytest
import tiny
import yaml
from report.fake_run import FakeRun, write_fake_run

from cutlayer.cli.main import main
from cutlayer.cli.progress import RunProgress
from cutlayer.config.read import config_yaml


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No hub, a cache that holds nothing, and a terminal of 100 columns."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration file of a tiny run."""
    root = tmp_path_factory.mktemp("job")
    config = tiny.config(
        tiny.vision_model(root / "model"),
        tiny.images(root / "images"),
        training={"rounds": 1, "local_steps": 1, "batch_size": 4},
    )
    (root / "run.yaml").write_text(config_yaml(config), encoding="utf-8")
    return root / "run.yaml"


def _rows(output: Path) -> list[dict[str, str]]:
    with (output / "compare.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _compare(*words: str | Path) -> int:
    return main(["compare", *map(str, words)])


def _refused(capsys: pytest.CaptureFixture[str], message: str, *words: str | Path) -> None:
    assert _compare(*words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("cutlayer: ") and message in error, error


def test_schemes_of_one_file_are_run_and_kept(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What has finished is read, not run, when the comparison is asked for again."""
    words = [job, "--seed", "3", "--output", tmp_path / "out"]
    assert _compare(*words, "--schemes", "sft,fl-lora") == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-1] == f"report: {tmp_path / 'out' / 'compare.html'}"
    assert "2 runs compared" in shown.out
    assert [row["run"] for row in _rows(tmp_path / "out")] == ["sft", "fl-lora"]
    folders = {path.parent.name: path for path in (tmp_path / "out" / "runs").glob("*/*")}
    assert set(folders) == {"sft", "fl-lora"}
    for name, folder in folders.items():
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        assert (config["scheme"]["name"], config["seed"]) == (name, 3)
    page = (tmp_path / "out" / "compare.html").read_bytes()
    assert _compare(*words, "--schemes", "sft,fl-lora") == 0
    assert not re.findall(": run . of", capsys.readouterr().err)
    assert set((tmp_path / "out" / "runs").glob("*/*")) == set(folders.values())
    assert (tmp_path / "out" / "compare.html").read_bytes() == page


def test_a_run_that_was_stopped_is_resumed(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    fake = write_fake_run(tmp_path / "fake", FakeRun(devices=1, rounds=1, local_steps=1))
    words = [job, fake, "--output", output, "--training.rounds", "2"]
    assert _compare(*words) == 0
    (run,) = (output / "runs" / "run").iterdir()
    before = (run / "checkpoint.safetensors").read_bytes()
    # killed after the last round and before the summary was written
    (run / "summary.json").unlink()
    capsys.readouterr()
    assert _compare(*words) == 0
    assert [path.name for path in (output / "runs" / "run").iterdir()] == [run.name]
    assert (run / "summary.json").is_file()
    assert (run / "checkpoint.safetensors").read_bytes() == before
    assert f"run directory: {run}" in capsys.readouterr().err


def test_who_interrupts_is_told_that_the_same_command_goes_on(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RunProgress, "round_begins", interrupt)
    fake = write_fake_run(tmp_path / "fake", FakeRun(devices=1, rounds=1, local_steps=1))
    assert main(["compare", str(job), str(fake), "--quiet", "--output", str(tmp_path / "o")]) == 130
    (run,) = (tmp_path / "o" / "runs" / "run").iterdir()
    said = capsys.readouterr().err
    assert f"resume with: cutlayer train --resume {run}; run the same command again" in said


def test_what_does_not_fit_is_said_and_the_others_go_on(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    words = [job, "--schemes", "sft,fl-full", "--output", output]
    assert _compare(*words, "--devices.memory-mib", "0.5", "--quiet") == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    told = re.search(r"^fl-full does not fit: needs (\S+ \S+) of 512 KiB$", shown.out, re.M)
    assert told is not None
    fits, refused = _rows(output)
    assert (fits["fits"], refused["fits"]) == ("yes", "no")
    limit = 2**19
    assert int(fits["device_peak_bytes"]) <= limit < int(refused["device_peak_bytes"])
    assert told[0].rstrip() in (output / "compare.html").read_text(encoding="utf-8")
    assert [path.name for path in (output / "runs").iterdir()] == ["sft"]
    _refused(capsys, "nothing to compare: sft does not fit", *words, "--devices.memory-mib", "0.01")


def test_files_and_finished_runs_together(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.yaml"
    values = yaml.safe_load(job.read_text(encoding="utf-8"))
    other.write_text(yaml.safe_dump(values | {"codec": "none"}), encoding="utf-8")
    fake = write_fake_run(tmp_path / "before", FakeRun(devices=2, rounds=2, local_steps=1))
    files = {path: path.read_bytes() for path in fake.iterdir()}
    output = tmp_path / "out"
    assert _compare(fake, job, other, "--output", output, "--target", "0.01") == 0
    rows = _rows(output)
    assert [row["run"] for row in rows] == ["before", "run", "other"]
    assert {row["target_round"] for row in rows} == {"1"}
    assert int(rows[1]["uplink_bytes"]) < int(rows[2]["uplink_bytes"])
    assert {path: path.read_bytes() for path in fake.iterdir()} == files
    page = (output / "compare.html").read_text(encoding="utf-8")
    assert "codec.name" in page and "until accuracy 1.0 %" in capsys.readouterr().out


def test_names_are_as_long_as_it_takes(tmp_path: Path) -> None:
    fake = FakeRun(devices=1, rounds=1, local_steps=1)
    folders = [write_fake_run(tmp_path / name / "run-001", fake) for name in ("a", "b")]
    assert _compare(*folders, "--output", tmp_path / "out") == 0
    assert [row["run"] for row in _rows(tmp_path / "out")] == ["a/run-001", "b/run-001"]


def test_runs_of_other_tasks_are_refused_before_any_is_trained(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeRun(devices=1, rounds=1, language_modelling=True, class_names=("text",))
    words = write_fake_run(tmp_path / "text", fake)
    output = tmp_path / "out"
    _refused(capsys, "cannot compare runs of different tasks", job, words, "--output", output)
    assert not output.exists()


def test_a_mistake_in_the_last_run_is_found_before_the_first_is_trained(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    words = [job, "--schemes", "sft-overlap,splitlora", "--training.micro-batches", "2"]
    _refused(capsys, "splitlora: training.micro_batches 2", *words, "--output", output)
    _refused(capsys, "give 0.83", *words[:2], "sft,sl", "--target", "83", "--output", output)
    assert not output.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "two runs or more"),
        (["JOB"], "two runs or more"),
        (["--schemes", "sft"], "two runs or more"),
        (["JOB", "JOB"], "are the same run"),
        (["--schemes", "sft,sft"], "are the same run"),
        (["--schemes", "sft,splitlra"], "did you mean splitlora"),
        (["JOB", "JOB", "--schemes", "sft,sl"], "give one configuration file"),
        (["FOLDER", "--schemes", "sft,sl"], "give one configuration file"),
        (["--schemes", "sft,sl", "--scheme", "sl"], "give one of them"),
        (["FOLDER", "FOLDER", "--seed", "1"], "finished runs are read"),
        (["JOB", "FOLDER"], "is this the directory of a finished run?"),
        (["JOB", "absent.yaml"], "cannot read the configuration absent.yaml"),
        (["JOB", "--schemes", "sft,sl", "--sed", "1"], "did you mean --seed?"),
        (["JOB", "--schemes", "sft,sl", "--target", "high"], "invalid float"),
    ],
)
def test_bad_input_gets_one_line(
    job: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    (tmp_path / "folder").mkdir()
    places = {"JOB": str(job), "FOLDER": str(tmp_path / "folder")}
    output = tmp_path / "out"
    _refused(capsys, message, *(places.get(w, w) for w in words), "--output", output)
    assert not output.exists()


def test_an_output_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeRun(devices=1, rounds=1, local_steps=1)
    folders = [write_fake_run(tmp_path / name, fake) for name in ("a", "b")]
    (tmp_path / "file").write_text("", encoding="utf-8")
    _refused(capsys, "cannot write", *folders, "--output", tmp_path / "file")


def test_help_names_every_scheme(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        _compare("--help")
    text = " ".join(capsys.readouterr().out.split())
    for word in ("--schemes", "splitlora-paper", "--target", "--help SECTION"):
        assert word in text
