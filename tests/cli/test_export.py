"""`cutlayer export --format`: runs and folders of runs as files, and what is refused."""

import csv
import os
import shutil
import sys
from pathlib import Path

import pytest
from report.fake_run import FakeRun, write_fake_run

import cutlayer
from cutlayer.cli.main import main
from cutlayer.config.read import config_yaml
from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError, RunError

FAKE = FakeRun(devices=3, rounds=2)


def fake_run(folder: Path, seed: int, *, fake: FakeRun = FAKE, **settings: object) -> Path:
    """A finished run with a configuration of its own."""
    run = write_fake_run(folder, FakeRun(**{**vars(fake), "seed": seed}))
    config = Config.model_validate({"seed": seed, **settings})
    (run / "config.yaml").write_text(config_yaml(config), encoding="utf-8")
    return run


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a sweep leaves it: two settings of two seeds, and a run that has not ended. What
    `fl-lora` does not read differs from run to run."""
    folder = tmp_path_factory.mktemp("swept")
    for seed in (0, 1):
        fake_run(folder / "runs" / f"a-{seed}" / "m-001", seed, scheme={"name": "sft"})
        codec = {"name": "best", "target_bits_up": 0.3 + seed / 10}
        fake_run(
            folder / "runs" / f"b-{seed}" / "m-001", seed, scheme={"name": "fl-lora"}, codec=codec
        )
    unfinished = fake_run(folder / "runs" / "c" / "m-001", 0, scheme={"name": "sl"})
    (unfinished / "summary.json").unlink()
    return folder


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_sweeps_folder_is_one_table(
    swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(swept), "--format", "csv", "--output", str(tmp_path / "out")]) == 0
    told = capsys.readouterr()
    assert told.out.split() == [
        str(tmp_path / "out" / f"{name}.csv") for name in ("runs", "rounds")
    ]
    assert "runs/c/m-001 has not ended: it is left out" in told.err
    rows = _rows(tmp_path / "out" / "runs.csv")
    assert [(row["cell"], row["scheme.name"], row["seed"]) for row in rows] == [
        *(("sft", "sft", "0"), ("sft", "sft", "1")),
        *(("fl-lora", "fl-lora", "0"), ("fl-lora", "fl-lora", "1")),
    ]
    assert not [name for name in rows[0] if name.startswith("codec.")]


def test_runs_are_named_one_by_one_and_each_counts_once(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = [str(swept / "runs" / name / "m-001") for name in ("b-0", "a-0")]
    words = ["export", *named, str(swept), "--format", "latex", "--baseline", "sft"]
    assert main(words) == 0
    text = (tmp_path / "results" / "results.tex").read_text(encoding="utf-8")
    assert text.index("\nfl-lora & $2$") < text.index("\nsft & $2$")
    differences = (tmp_path / "results" / "differences.tex").read_text(encoding="utf-8")
    assert "\nfl-lora & $2$" in differences and "\nsft &" not in differences


def test_a_program_exports_as_the_command_does(swept: Path, tmp_path: Path) -> None:
    runs = [cutlayer.read_run(path) for path in sorted(swept.glob("runs/[ab]-*/*"))]
    assert cutlayer.export(runs, tmp_path / "a", format="csv") == tmp_path / "a"
    cutlayer.export(swept, str(tmp_path / "b"), format="csv")
    for name in ("runs.csv", "rounds.csv"):
        assert (tmp_path / "a" / name).read_text() == (tmp_path / "b" / name).read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--format", "csv"], "which runs? give their directories"),
        (["{swept}", "--format", "cvs"], "unknown format 'cvs'; did you mean csv? (--format)"),
        (["{swept}/runs/c/m-001", "--format", "csv"], "summary.json: missing"),
        (["{swept}/nowhere", "--format", "csv"], "nowhere: no such run directory"),
        (["{empty}", "--format", "csv"], "neither a run directory nor a folder of finished runs"),
        (["{swept}", "--format", "pdf", "--round", "best"], "--round is of adapters"),
        (["{swept}", "--format", "csv", "--baseline", "sl"], "give one of sft; fl-lora"),
        (["{swept}", "--format", "csv", "--target", "75"], "accuracy is a fraction"),
        (["{swept}", "{text}", "--format", "csv"], "cannot compare runs of different tasks"),
        (["{swept}", "{again}", "--format", "csv"], "have the same settings and the same seed"),
        (["{swept}", "{empty}"], "an adapter is of one run"),
        (["{swept}", "--target", "0.5"], "an adapter is of one run, without target or baseline"),
        ([], "which run? give its directory"),
    ],
)
def test_what_cannot_be_is_told(
    words: list[str],
    told: str,
    swept: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    texts = FakeRun(devices=3, rounds=2, language_modelling=True, class_names=("text",))
    places = {
        "swept": swept,
        "empty": tmp_path / "empty",
        "text": fake_run(tmp_path / "text", 7, fake=texts),
        "again": tmp_path / "again",
    }
    shutil.copytree(swept / "runs" / "a-0" / "m-001", places["again"])
    assert main(["export", *(word.format(**places) for word in words)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("cutlayer: ") and told in line, line
    assert not (tmp_path / "results").exists()


def test_a_missing_package_is_named_with_its_extra(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"Parquet needs pyarrow: .*cutlayer\[pandas\]"):
        cutlayer.export(swept, tmp_path / "out", format="parquet")


@pytest.mark.skipif(
    os.environ.get("CUTLAYER_TESTS") in ("typed", "all"), reason="types are checked at the call"
)
def test_a_program_is_told_what_it_gives_wrong(swept: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a run, or a list of runs, not 3"):
        cutlayer.export(3, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="an adapter is of one run, not 2"):
        cutlayer.export([swept, swept], tmp_path)
    with pytest.raises(ConfigError, match="which is of adapters"):
        cutlayer.export(swept, tmp_path, format="csv", which="best")
    with pytest.raises(ConfigError, match="target and baseline are of tables"):
        cutlayer.export(swept, tmp_path, target=0.5)
    with pytest.raises(RunError, match="no such run directory"):
        cutlayer.export(tmp_path / "nothing", tmp_path, format="csv")
