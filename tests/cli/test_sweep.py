"""`cutlayer sweep` as a user types it: what is run, kept, resumed, told and refused.

The runs are tiny and real.
"""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
import yaml

import cutlayer
from cutlayer.cli.main import main
from cutlayer.config.read import config_yaml


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No hub, a cache that holds nothing, and a terminal of 200 columns."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("COLUMNS", "200")


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


def _sweep(*words: str | Path) -> int:
    return main(["sweep", *map(str, words)])


def _rows(output: Path, name: str = "runs") -> list[dict[str, str]]:
    with (output / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _refused(capsys: pytest.CaptureFixture[str], message: str, *words: str | Path) -> None:
    assert _sweep(*words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("cutlayer: ") and message in error, error


def test_a_grid_over_seeds_is_one_table(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With `fl-lora` the bits of a codec are not read: one cell, not two. Again, nothing is run."""
    output = tmp_path / "out"
    words = [job, "--seeds", "2", "--output", output, "--grid", "scheme=sft,fl-lora"]
    words.append("codec={name: best, target_bits_up: 0.3},{name: best, target_bits_up: 2}")
    assert _sweep(*words) == 0
    told = capsys.readouterr()
    assert "6 runs of 3 settings" in told.out
    rows = _rows(output)
    assert [(row["scheme"], row["seed"]) for row in rows] == [
        *[("sft", "0"), ("sft", "1")] * 2,
        *[("fl-lora", "0"), ("fl-lora", "1")],
    ]
    assert len({row["cell"] for row in rows}) == 3
    assert [row["codec"] for row in rows[4:]] == ["", ""]
    assert float(rows[0]["uplink_bytes"]) < float(rows[2]["uplink_bytes"])
    curves = _rows(output, "rounds")
    assert [(row["round"], row["seed"]) for row in curves[:4]] == [
        *[("0", "0"), ("1", "0")],
        *[("0", "1"), ("1", "1")],
    ]
    page = (output / "sweep.html").read_bytes()
    assert _sweep(*words) == 0
    told = capsys.readouterr()
    assert "6 of 6 runs finished before" in told.err and "run 1 of" not in told.err
    assert _rows(output) == rows
    assert (output / "sweep.html").read_bytes() == page


@pytest.mark.slow("processes of its own")
@pytest.mark.promise
def test_processes_come_to_the_runs_of_one(job: Path, tmp_path: Path) -> None:
    words = [job, "--grid", "training.local_steps=1,2", "--seeds", "2", "--threads", "1"]
    assert _sweep(*words, "--output", tmp_path / "one") == 0
    assert _sweep(*words, "--output", tmp_path / "two", "--workers", "2") == 0
    assert _rows(tmp_path / "two") == _rows(tmp_path / "one")
    for path in (tmp_path / "one" / "runs").glob("*/*/checkpoint.safetensors"):
        other = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert other.read_bytes() == path.read_bytes()


@pytest.mark.slow("processes of its own")
@pytest.mark.promise
def test_a_sweep_that_is_killed_twice_ends_with_the_same_table(job: Path, tmp_path: Path) -> None:
    """Its workers end with it; so does a run that was in the middle, which another goes on with."""
    words = [job, "--grid", "training.batch_size=2,3,4", "--seeds", "2", "--threads", "1"]
    words += ["--training.rounds", "3"]
    assert _sweep(*words, "--output", tmp_path / "whole") == 0
    output = tmp_path / "killed"
    command = [sys.executable, "-m", "cutlayer", "sweep", *map(str, words)]
    command += ["--output", str(output), "--workers", "2", "--quiet"]
    for rounds in (2, 8):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None and _rounds(output) < rounds:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0
    wall = {"wall_s"}
    assert [_without(row, wall) for row in _rows(output)] == [
        _without(row, wall) for row in _rows(tmp_path / "whole")
    ]


def _rounds(output: Path) -> int:
    logs = (path.read_bytes() for path in output.glob("runs/*/*/rounds.jsonl"))
    return sum(log.count(b"\n") for log in logs)


def _without(row: dict[str, str], keys: set[str]) -> dict[str, str]:
    return {key: value for key, value in row.items() if key not in keys}


@pytest.mark.slow("processes of its own")
@pytest.mark.promise
def test_a_worker_that_is_killed_is_replaced(job: Path, tmp_path: Path) -> None:
    """The first process of each run is killed as soon as it is there."""
    words = [job, "--grid", "training.batch_size=2,4", "--seeds", "1", "--threads", "1"]
    words += ["--training.rounds", "2"]
    assert _sweep(*words, "--output", tmp_path / "whole") == 0
    output = tmp_path / "out"
    command = [sys.executable, "-c", _KILLS_ITSELF, "sweep", *map(str, words)]
    command += ["--output", str(output), "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("its process was killed: it goes on in another") == 2
    assert _rows(output) == _rows(tmp_path / "whole")


# what a system that is short of memory does to a worker
_KILLS_ITSELF = """
import os, signal, sys, threading, time
from pathlib import Path
def kill():
    from multiprocessing import active_children
    killed = set()
    while len(killed) < 2:
        for child in active_children():
            if child.pid not in killed and len(killed) < 2:
                killed.add(child.pid)
                os.kill(child.pid, signal.SIGKILL)
        time.sleep(0.01)
if __name__ == "__main__":
    threading.Thread(target=kill, daemon=True).start()
    from cutlayer.cli.main import main
    sys.exit(main(sys.argv[1:]))
"""


def test_a_file_has_grid_and_seeds(job: Path, tmp_path: Path) -> None:
    """Paths in it are beside it; what is given on the command line counts more."""
    file = tmp_path / "sweep.yaml"
    sweep = {
        "base": os.path.relpath(job, tmp_path),
        "grid": {"training.batch_size": [2, 4]},
        "seeds": [0, 3],
        "settings": {"training.local_steps": 2},
        "baseline": "training.batch_size 4",
    }
    file.write_text(yaml.safe_dump(sweep), encoding="utf-8")
    swept = cutlayer.sweep(file, output=tmp_path / "out")
    assert swept.sweep.baseline.settings == {"training.batch_size": "4"}
    assert {run.config.seed for run in swept.runs.values()} == {0, 3}
    assert {run.config.training.local_steps for run in swept.runs.values()} == {2}
    again = cutlayer.sweep(file, output=tmp_path / "out", seeds=[3])
    assert [row["seed"] for row in again.to_dicts()] == [3, 3]


def test_a_run_that_fails_is_told_and_the_others_go_on(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [job, "--grid", "optimizer.learning_rate=0.001,1e12", "--seeds", "1"]
    assert _sweep(*words, "--output", tmp_path / "out", "--training.rounds", "2") == 1
    told = capsys.readouterr()
    assert "failed: round" in told.err and "diverged" in told.err
    assert "1 of 1 failed" in told.out
    assert len(_rows(tmp_path / "out")) == 1
    assert "diverged" in (tmp_path / "out" / "sweep.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("give a grid, KEY=VALUE,VALUE", []),
        ("give KEY=VALUE,VALUE", ["--grid", "codec"]),
        ("seeds are given apart", ["--grid", "seed=1,2"]),
        ("has none twice", ["--grid", "codec=none,none"]),
        ("given twice", ["--grid", "codec=none", "codec=best"]),
        ("unknown configuration key nonsense", ["--grid", "nonsense=1"]),
        ("codec.keep_ratio", ["--grid", "codec.keep_ratio=0.1,0.2"]),
        ("in the grid and set beside it", ["--grid", "training.rounds=1,2", "--training.rounds=3"]),
        ("seeds [0, 0]", ["--grid", "training.rounds=1,2", "--seeds", "0,0"]),
        ("no settings are called 'x'", ["--grid", "training.rounds=1,2", "--baseline", "x"]),
        ("20000 runs", ["--grid", "training.rounds=1,2", "--seeds", "10000"]),
        ("target 78", ["--grid", "training.rounds=1,2", "--target", "78"]),
        ("training.rounds", ["--grid", "training.rounds=1,-2"]),
    ],
)
def test_what_cannot_be_is_refused(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], message: str, words: list[str]
) -> None:
    _refused(capsys, message, job, *words, "--output", tmp_path / "out")
    assert not list(tmp_path.glob("out/runs/*/*"))
