"""A run as its user has it: numbers, steps and adapter, read when asked for."""

import json
import sys
from pathlib import Path

import pytest

from cutlayer.errors import ConfigError, RunError
from cutlayer.report.run_reader import Run, read_record, read_run
from cutlayer.rounds.result import TimelineEvent
from cutlayer.training.records import TrainedRound
from report.fake_run import FakeRun, write_fake_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return read_run(write_fake_run(tmp_path / "run", FakeRun(devices=2, rounds=3)))


def test_it_says_what_the_files_say(run: Run) -> None:
    record = read_record(run.path)
    assert run.finished
    assert run.summary == record.summary
    assert run.rounds == record.rounds
    assert run.trace[3] == record.last_round_steps
    assert run.report == run.path / "report.html"


def test_the_trace_is_read_a_round_at_a_time(run: Run) -> None:
    assert list(run.trace) == [1, 2, 3]
    assert len(run.trace) == 3
    assert all(isinstance(event, TimelineEvent) for event in run.trace[1])
    assert 4 not in run.trace
    with pytest.raises(KeyError, match="4"):
        run.trace[4]


def test_a_round_is_a_row(run: Run) -> None:
    rows = run.to_dicts()
    assert [row["round"] for row in rows] == [0, 1, 2, 3]
    last = run.rounds[-1]
    assert isinstance(last, TrainedRound)
    assert rows[-1]["delay_s"] == last.delay_s
    assert rows[-1]["delay_by_phase_s.activation_up"] == last.delay_by_phase_s["activation_up"]
    assert rows[-1]["bytes_by_payload.activation"] == last.bytes_by_payload["activation"]
    assert not {"shares", "device_delay_s"} & rows[-1].keys()


def test_rows_as_a_data_frame(run: Run) -> None:
    frame = run.to_pandas()
    assert frame["accuracy"].tolist() == [row["accuracy"] for row in run.to_dicts()]
    assert frame["train_loss"].isna().tolist() == [True, False, False, False]


def test_without_pandas_it_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match=r"needs pandas: pip install 'cutlayer\[pandas\]'"):
        run.to_pandas()


@pytest.mark.parametrize("what", ["no summary", "a later round"])
def test_a_run_that_has_not_ended_has_its_rounds_so_far(run: Run, what: str) -> None:
    summary = run.path / "summary.json"
    if what == "no summary":
        summary.unlink()
    else:  # it was gone on with, for more rounds
        lines = (run.path / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
        more = json.dumps({**json.loads(lines[-1]), "round": 4})
        (run.path / "rounds.jsonl").write_text("\n".join([*lines, more]), encoding="utf-8")
    assert not run.finished
    assert run.rounds[-1].round in (3, 4)
    for name in ("summary", "report"):
        with pytest.raises(RunError, match=r"has not ended, it stands after round [34]: .*resume"):
            getattr(run, name)


def test_the_adapter_is_a_folder_of_pefts(run: Run) -> None:
    with pytest.raises(RunError, match="adapter: missing"):
        _ = run.adapter
    (run.path / "adapter").mkdir()
    (run.path / "adapter" / "adapter_config.json").write_text("{}")
    assert run.adapter == run.path / "adapter"
    assert run.best_round is not None
    with pytest.raises(RunError, match="adapter-best: missing"):
        _ = run.best_adapter


def test_before_a_round_has_finished_there_is_no_adapter(run: Run) -> None:
    lines = (run.path / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
    (run.path / "rounds.jsonl").write_text(lines[0] + "\n", encoding="utf-8")
    assert run.best_round is None
    with pytest.raises(RunError, match="no adapter yet: no round has finished"):
        _ = run.adapter


def test_a_run_of_all_weights_has_no_adapter(run: Run) -> None:
    (run.path / "model").mkdir()
    with pytest.raises(RunError, match=r"all weights, not an adapter: .*model is a model"):
        _ = run.adapter


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such run directory"):
        read_run(tmp_path / "absent")
    with pytest.raises(RunError, match=r"has no config\.yaml"):
        read_run(str(tmp_path))
