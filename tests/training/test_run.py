"""A run and its directory: what it holds, that nothing is overwritten, that it resumes."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml

from cutlayer.config.read import config_sha256, config_yaml, read_config
from cutlayer.errors import ConfigError, DataError, RunError
from cutlayer.jobs.check import as_run
from cutlayer.jobs.prepare import prepare
from cutlayer.jobs.train import resume, start
from cutlayer.report.run_reader import read_record, read_run
from cutlayer.training.evaluation import evaluate
from cutlayer.training.records import Observer, RoundRecord
from cutlayer.training.run_directory import RunDirectory

Folders = tuple[Path, Path]
SAME_BYTES = (
    "checkpoint.safetensors",
    "adapter-best/adapter_model.safetensors",
    "adapter/adapter_model.safetensors",
    "adapter/adapter_config.json",
    "evaluation.json",
    "trace.jsonl",
    "partition.json",
    "config.yaml",
)


def _same_run(first: Path, second: Path) -> None:
    """Every byte that is not a wall-clock time is equal."""
    for name in SAME_BYTES:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    for name in ("rounds.jsonl", "summary.json"):
        texts = [(path / name).read_text(encoding="utf-8") for path in (first, second)]
        lines = [[json.loads(line) for line in _json_texts(name, text)] for text in texts]
        for line in lines[0] + lines[1]:
            assert line.pop("wall_s") > 0
        assert lines[0] == lines[1], name


def _json_texts(name: str, text: str) -> list[str]:
    return text.splitlines() if name.endswith("l") else [text]


def test_a_run_directory_holds_the_run(vision: Folders, tmp_path: Path) -> None:
    config = as_run(tiny.config(*vision))
    directory = start(config, tmp_path / "runs").path
    names = {path.name for path in directory.iterdir()}
    assert names == {
        "adapter",
        "adapter-best",
        "checkpoint.safetensors",
        "config.yaml",
        "evaluation.json",
        "fingerprint.json",
        "partition.json",
        "report.html",
        "rounds.jsonl",
        "summary.json",
        "trace.jsonl",
    }
    assert read_config(directory / "config.yaml") == config
    summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    rounds = tiny.read_lines(directory / "rounds.jsonl")
    assert [record["round"] for record in rounds] == [0, 1, 2]
    assert summary["config_sha256"] == config_sha256(config)
    assert summary["samples_per_device"] and sum(summary["samples_per_device"]) == 80
    for key in ("uplink_bytes", "downlink_bytes", "uncompressed_uplink_bytes"):
        assert summary[key] == sum(record.get(key, 0) for record in rounds)
    assert summary["accuracy_first"] == rounds[0]["accuracy"]
    assert summary["accuracy_final"] == rounds[-1]["accuracy"]
    # the phases of the slowest device of each round sum to the delay, in another order
    assert sum(summary["delay_by_phase_s"].values()) == pytest.approx(summary["delay_s"], rel=1e-12)
    assert summary["device_peak_bytes"] == sum(summary["device_memory_bytes"].values())
    trace = tiny.read_lines(directory / "trace.jsonl")
    keys = "round device local_step micro_batch phase start_s end_s bytes"
    assert trace
    assert all(list(line) == keys.split() for line in trace)
    up = sum(line["bytes"] for line in trace if line["phase"] in ("activation_up", "adapter_up"))  # type: ignore[misc]
    assert up == summary["uplink_bytes"]
    partition = json.loads((directory / "partition.json").read_text(encoding="utf-8"))
    assert [sum(row) for row in partition["counts"]] == summary["samples_per_device"]
    assert read_record(directory).summary is not None


def test_it_learns(vision: Folders, tmp_path: Path) -> None:
    """Four colours, five rounds: from chance to nearly all right, compressed both ways."""
    config = tiny.config(
        *vision,
        training={"rounds": 6, "local_steps": 6, "batch_size": 8},
        partition="iid",
        codec={"name": "paper", "keep_ratio": 0.5, "levels": 31},
    )
    summary = json.loads((start(config, tmp_path).path / "summary.json").read_text())
    assert summary["accuracy_first"] < 0.6
    assert summary["accuracy_final"] > 0.9


@pytest.mark.parametrize("folders", ["bert", "llama"])
def test_text_tasks_run(folders: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    config = tiny.config(
        *request.getfixturevalue(folders),
        training={"rounds": 4, "local_steps": 6, "batch_size": 8},
        codec={"name": "paper", "keep_ratio": 0.5, "levels": 31},
    )
    directory = start(config, tmp_path).path
    summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    if folders == "llama":
        # ten words of which each decides the next: far below the 14 of a model that knows nothing
        assert summary["perplexity_final"] < 0.8 * summary["perplexity_first"]
    else:
        assert summary["task"] == "text-classification"
        assert summary["accuracy_final"] >= summary["accuracy_first"]
    assert (directory / "report.html").stat().st_size > 10_000


def test_a_second_run_never_overwrites_a_first(vision: Folders, tmp_path: Path) -> None:
    config = tiny.config(*vision, training={"rounds": 1})
    first, second = (start(config, tmp_path).path for _ in range(2))
    assert first != second
    _same_run(first, second)


@pytest.mark.slow("a process that is killed, for each codec")
@pytest.mark.promise
@pytest.mark.parametrize(
    ("moment", "sections"),
    [
        ((1, 3), {}),
        ((2, 2), {"planner": "random"}),
        ((3, 5), {"planner": "two-timescale"}),
        ((3, 3), {"scheme": "sft-cached"}),
        ((3, 2), {"devices": {"count": 6, "per_round": 2, "availability": 0.8}}),
    ],
)
def test_killed_in_a_round_it_resumes_to_the_same_bits(
    vision: Folders, tmp_path: Path, moment: tuple[int, int], sections: dict[str, Any]
) -> None:
    """Shares that follow the rounds before are among them, and devices of a population."""
    common = {"training": {"rounds": 4}, "server": {"group": 1}, "channel": {"fading": "rayleigh"}}
    config = tiny.config(*vision, **common, **sections)
    whole = start(config, tmp_path / "whole").path
    file = tmp_path / "config.yaml"
    file.write_text(config_yaml(config), encoding="utf-8")
    script = Path(__file__).with_name("killed_run.py")
    words = [script, file, tmp_path / "killed", *moment]
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    (killed,) = (tmp_path / "killed").iterdir()
    assert len(tiny.read_lines(killed / "rounds.jsonl")) == moment[0]
    kept = {path.name for path in killed.glob("adapter*")}
    assert kept == ({"adapter", "adapter-best"} if moment[0] > 1 else set())
    assert not (killed / "summary.json").exists()
    resume(killed)
    _same_run(whole, killed)


@pytest.mark.parametrize("base", ["float32", "nf4"])
def test_lines_of_a_round_that_did_not_finish_are_cut(
    vision: Folders, tmp_path: Path, base: str
) -> None:
    """Killed between the record and the checkpoint, and in the middle of a line."""
    held = {"devices": {"base": base}, "server": {"base": base}}
    config = tiny.config(*vision, **held)
    whole = start(config, tmp_path).path
    other = start(tiny.config(*vision, training={"rounds": 1}, **held), tmp_path).path
    (other / "config.yaml").write_bytes((whole / "config.yaml").read_bytes())
    for log in ("rounds.jsonl", "trace.jsonl"):
        later = [line for line in tiny.read_lines(whole / log) if line["round"] == 2]
        with (other / log).open("a", encoding="utf-8") as file:
            file.write(json.dumps(later[0]) + "\n" + json.dumps(later[-1])[:20])
    resume(other)
    _same_run(whole, other)


class _Interrupted(Observer):
    """Stops as a person does, in the middle of a round."""

    def __init__(self, round_number: int) -> None:
        self._round = round_number

    def round_begins(self, number: int, rounds: int) -> None:
        """Nothing."""

    def step_done(self, round_number: int, done: int, total: int) -> None:
        """Stop in its round."""
        if round_number == self._round:
            raise KeyboardInterrupt

    def round_done(self, record: RoundRecord) -> None:
        """Nothing."""


def test_an_interrupted_run_has_the_last_and_the_best_adapter(
    vision: Folders, tmp_path: Path
) -> None:
    """As if it had ended there; what a kill kept from being written comes as it goes on."""
    training = {"local_steps": 2}
    two, three = (
        tiny.config(*vision, training={**training, "rounds": rounds}, codec="none")
        for rounds in (2, 3)
    )
    ended = start(two, tmp_path).path
    with pytest.raises(KeyboardInterrupt):
        start(three, tmp_path, _Interrupted(3))
    (stopped,) = (path for path in tmp_path.iterdir() if path != ended)
    folders = ("adapter", "adapter-best")
    weights = "adapter_model.safetensors"
    for name in folders:
        assert (stopped / name / weights).read_bytes() == (ended / name / weights).read_bytes()
    scores = [line["accuracy"] for line in tiny.read_lines(stopped / "rounds.jsonl")]
    assert read_run(stopped).best_round == 1 + scores[1:].index(max(scores[1:]))  # type: ignore[type-var]
    shutil.rmtree(stopped / "adapter")  # killed before it
    resume(stopped, changes={"training.rounds": "2"})
    assert (stopped / "adapter" / weights).read_bytes() == (
        ended / "adapter" / weights
    ).read_bytes()


def test_the_best_rounds_adapter_is_kept(vision: Folders, tmp_path: Path) -> None:
    """That of the round with the best score, the first of equals, not of the last."""
    found: dict[int, bytes] = {}
    for rounds in (1, 2, 3):
        config = tiny.config(
            *vision,
            training={"rounds": rounds, "local_steps": 2},
            optimizer={"learning_rate": 0.1},
            codec="none",
        )
        run = read_run(start(config, tmp_path).path)
        found[rounds] = (run.adapter / "adapter_model.safetensors").read_bytes()
    best = run.best_round
    assert best is not None
    assert (run.best_adapter / "adapter_model.safetensors").read_bytes() == found[best]


EVALUATION = {"every": 2, "samples": 15, "validation_fraction": 0.25, "patience": 2}


def test_a_run_that_is_evaluated_now_and_then_stops_early(vision: Folders, tmp_path: Path) -> None:
    """On a validation split; a learning rate of next to nothing makes nothing better. Its pages
    are drawn, and the test split is seen at the end alone."""
    config = tiny.config(
        *vision,
        training={"rounds": 9, "local_steps": 1},
        optimizer={"learning_rate": 1e-9},
        evaluation=EVALUATION,
        codec="none",
    )
    path = start(config, tmp_path).path
    rounds = tiny.read_lines(path / "rounds.jsonl")
    assert [line["round"] for line in rounds if "accuracy" in line] == [0, 1, 2, 4]
    assert [line["round"] for line in rounds if "eval_loss" in line] == [0, 1, 2, 4]
    assert len(rounds) == 5
    summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
    assert summary["rounds"] == 4
    assert summary["stopped_early"] == (
        "stopped early after round 4: no better accuracy since round 1"
    )
    assert (summary["evaluated_on"], summary["evaluated_samples"]) == ("validation", 15)
    assert sum(summary["samples_per_device"]) == 60
    assert summary["accuracy_final"] == rounds[-1]["accuracy"]
    assert summary["best_round"] == 1 and summary["accuracy_best"] == rounds[1]["accuracy"]
    job = prepare(config)
    assert summary["test_samples"] == len(job.setup.server.test) == len(job.prepared.data.test)
    state = RunDirectory(path).load()
    assert state is not None
    whole = evaluate(job.setup.training, job.setup.server, state, job.setup.server.test)
    assert summary["accuracy_test_final"] == whole.accuracy
    page = (path / "report.html").read_text(encoding="utf-8")
    assert "stopped early after round 4" in page and "validation" in page
    # going on decides the same, and more patience goes on
    before = {name: (path / name).read_bytes() for name in (*SAME_BYTES, "rounds.jsonl")}
    resume(path, changes={"training.rounds": "12"})
    assert before.keys() - {"config.yaml"} == {
        name for name in before if (path / name).read_bytes() == before[name]
    } - {"config.yaml"}
    # what ends with its last round has not ended early
    resume(path, changes={"training.rounds": "4"})
    assert "stopped_early" not in (path / "summary.json").read_text(encoding="utf-8")
    resume(path, changes={"training.rounds": "5", "evaluation.patience": "50"})
    assert len(tiny.read_lines(path / "rounds.jsonl")) == 6
    summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
    assert "stopped_early" not in summary


def test_the_best_rounds_adapter_is_read_back_for_the_test_split(
    vision: Folders, tmp_path: Path
) -> None:
    """What the summary says of it is what a run that ended there says of its last round."""
    found = {}
    for rounds in (1, 2):
        config = tiny.config(
            *vision,
            training={"rounds": rounds, "local_steps": 2},
            optimizer={"learning_rate": 0.1},
            evaluation={"samples": 20},
            codec="none",
        )
        summary = read_run(start(config, tmp_path).path).summary
        found[rounds] = summary
    best = found[2].best_round
    assert best is not None and found[2].test_scores is not None
    assert found[best].test_scores is not None
    assert found[2].test_scores[1] == found[best].test_scores[0]
    assert found[2].evaluated_on == "test" and found[2].evaluated_samples == 20


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_a_validation_split_that_cannot_be(
    vision: Folders, tmp_path: Path, fraction: float
) -> None:
    config = tiny.config(*vision, evaluation={"validation_fraction": fraction})
    with pytest.raises(
        DataError, match=r"evaluation\.validation_fraction .* holds out (0|80) of 80"
    ):
        start(config, tmp_path)


def test_an_adapter_says_what_it_was_trained_over(vision: Folders, tmp_path: Path) -> None:
    config = tiny.config(
        *vision, training={"rounds": 1}, devices={"base": "nf4"}, server={"base": "int8"}
    )
    directory = start(config, tmp_path).path
    card = (directory / "adapter" / "README.md").read_text(encoding="utf-8")
    assert f"* base: `{vision[0]}` (from path: {vision[0]})" in card
    assert "blocks 1 to 2 in nf4, the others and the head in int8" in card
    summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    assert (summary["devices_on"], summary["server_on"]) == ("cpu, nf4", "cpu, int8")


def test_resuming_a_finished_run_changes_nothing(vision: Folders, tmp_path: Path) -> None:
    directory = start(tiny.config(*vision), tmp_path).path
    before = {name: (directory / name).read_bytes() for name in SAME_BYTES}
    resume(directory)
    assert before == {name: (directory / name).read_bytes() for name in SAME_BYTES}


def test_what_cannot_be_resumed(vision: Folders, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run directory"):
        resume(tmp_path)
    directory = start(tiny.config(*vision, training={"rounds": 1}), tmp_path).path
    values = yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))
    values["adapter"]["rank"] = 3
    (directory / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(RunError, match=r"adapter\.rank was 2, config\.yaml says 3"):
        resume(directory)
    values["adapter"]["rank"] = 2
    (directory / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    (directory / "checkpoint.safetensors").write_bytes(b"broken")
    with pytest.raises(RunError, match="cannot be read"):
        resume(directory)


def test_a_run_that_diverges_says_when_and_keeps_the_round_before(
    vision: Folders, tmp_path: Path
) -> None:
    """The learning rate grows: the first round ends well."""
    config = tiny.config(
        *vision,
        training={"rounds": 3, "local_steps": 1},
        optimizer={"name": "sgd", "learning_rate": 1e12},
        codec="none",
    )
    with pytest.raises(RunError, match=r"round (\d) diverged: .*a lower optimizer\.learning_rate"):
        start(config, tmp_path)
    (path,) = tmp_path.iterdir()
    rounds = tiny.read_lines(path / "rounds.jsonl")
    state = RunDirectory(path).load()
    assert state is not None and state.round == len(rounds) - 1
    assert state.device.row.isfinite().all() and state.server.row.isfinite().all()
    assert "NaN" not in (path / "rounds.jsonl").read_text(encoding="utf-8")
    with pytest.raises(RunError, match="diverged"):
        resume(path)
    if state.round:
        resume(path, changes={"training.rounds": str(state.round)})
        assert (path / "adapter" / "adapter_model.safetensors").exists()


def test_runs_are_numbered_on(tmp_path: Path) -> None:
    (tmp_path / "a-007").mkdir()
    assert RunDirectory.create(tmp_path, "a").path.name == "a-008"
    assert RunDirectory.create(tmp_path, "a").path.name == "a-009"
    assert RunDirectory.create(tmp_path, "b").path.name == "b-001"


def test_a_device_too_small_for_its_part(vision: Folders, tmp_path: Path) -> None:
    limits = {"memory_mib": [50, 0.01, 50]}
    for scheme, remedy in (("sft", r"micro_batches.*lower model\.cut"), ("fl-lora", "splits it")):
        message = f"device 1 has .* training needs .*{remedy}"
        with pytest.raises(ConfigError, match=message):
            start(tiny.config(*vision, scheme=scheme, devices=limits), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_more_devices_than_samples(vision: Folders, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="devices"):
        start(tiny.config(*vision, devices={"count": 200}), tmp_path / "runs")
