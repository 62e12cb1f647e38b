"""Reading a run directory strictly."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from cutlayer.errors import RunError
from cutlayer.files import json_text
from cutlayer.report.run_reader import read_record
from cutlayer.training.records import Partition, Summary, TraceLine, TrainedRound, parse
from examples import at_most
from report.fake_run import FakeRun, write_fake_run

FILES = ["config.yaml", "rounds.jsonl", "partition.json", "trace.jsonl", "summary.json"]


@pytest.fixture
def small_run(tmp_path: Path) -> Path:
    """Two devices, two rounds."""
    return write_fake_run(tmp_path / "run", FakeRun(devices=2, rounds=2, local_steps=2))


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def change(path: Path, line: int, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit one line's object in place."""
    rows = json_lines(path) if path.suffix == ".jsonl" else [json.loads(path.read_text())]
    edit(rows[line])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_every_number_is_that_of_the_files(run_directory: Path) -> None:
    run = read_record(run_directory)
    rows = json_lines(run_directory / "rounds.jsonl")
    assert [record.round for record in run.rounds] == [row["round"] for row in rows]
    for record, row in zip(run.rounds, rows, strict=True):
        assert record.score.value == row[record.score.measure]
        assert record.eval_loss == row["eval_loss"]
        if isinstance(record, TrainedRound):
            assert record.delay_by_phase_s == row["delay_by_phase_s"]
            assert list(record.device_delay_by_phase_s) == row["device_delay_by_phase_s"]
            assert record.uplink_bytes == row["uplink_bytes"]
            assert record.bytes_by_payload == row["bytes_by_payload"]
    summary = json.loads((run_directory / "summary.json").read_text())
    assert run.summary.device_memory_bytes == summary["device_memory_bytes"]
    assert run.summary.device_memory_limit_bytes == summary["device_memory_limit_bytes"]
    assert run.summary.score_final.value == summary[f"{run.summary.score_final.measure}_final"]
    partition = json.loads((run_directory / "partition.json").read_text())
    assert [list(row) for row in run.partition.counts] == partition["counts"]
    trace = json_lines(run_directory / "trace.jsonl")
    expected = [row["start_s"] for row in trace if row["round"] == rows[-1]["round"]]
    assert [step.start_s for step in run.last_round_steps] == expected


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(small_run: Path, name: str) -> None:
    (small_run / name).unlink()
    with pytest.raises(RunError, match=f"{name}: missing"):
        read_record(small_run)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_text_is_named(small_run: Path, name: str) -> None:
    (small_run / name).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RunError, match=f"{name}: cannot be read"):
        read_record(small_run)


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such run directory"):
        read_record(tmp_path / "absent")


@pytest.mark.parametrize(
    ("name", "place"), [("rounds.jsonl", "line 3"), ("trace.jsonl", "round 2 line 28")]
)
def test_a_line_cut_off_by_a_crash_is_named(small_run: Path, name: str, place: str) -> None:
    path = small_run / name
    path.write_text(path.read_text()[:-20])
    with pytest.raises(RunError, match=f"{name} {place}: not valid JSON"):
        read_record(small_run)


@pytest.mark.parametrize(
    ("name", "line", "edit", "message"),
    [
        ("rounds.jsonl", 1, lambda row: row.pop("delay_s"), "line 2: the key 'delay_s' is missing"),
        ("rounds.jsonl", 1, lambda row: row.update(delay_s=-1), "line 2: delay_s is -1"),
        ("rounds.jsonl", 2, lambda row: row.update(round=3), "line 3: is round 3, not 2"),
        ("rounds.jsonl", 2, lambda row: row.update(accuracy=83.4), "accuracy is 83.4"),
        (
            "rounds.jsonl",
            2,
            lambda row: row.update(perplexity=3.0),
            "needs one of accuracy and perplexity",
        ),
        ("rounds.jsonl", 1, lambda row: row.update(slowest_device=2), "slowest_device 2"),
        (
            "rounds.jsonl",
            1,
            lambda row: row["delay_by_phase_s"].update(server_queue=100.0),
            "delay_by_phase_s adds up to",
        ),
        (
            "rounds.jsonl",
            1,
            lambda row: row["delay_by_phase_s"].update(lunch=0.0),
            "unknown phase 'lunch'",
        ),
        (
            "rounds.jsonl",
            1,
            lambda row: row["device_delay_by_phase_s"][1].update(server_queue=100.0),
            re.escape("device_delay_by_phase_s[1] adds up to"),
        ),
        ("partition.json", 0, lambda row: row["counts"][1].append(3), r"counts\[1\] has 11 values"),
        ("partition.json", 0, lambda row: row["counts"].pop(), "has 2 devices"),
        ("trace.jsonl", 31, lambda row: row.update(phase="lunch"), "round 2 line 4: phase is"),
        ("trace.jsonl", 31, lambda row: row.update(end_s=0), "is before start_s"),
        ("summary.json", 0, lambda row: row.update(rounds=1), "counts 1 rounds, rounds.jsonl 2"),
        ("summary.json", 0, lambda row: row.update(device_peak_bytes=1), "adds up to"),
        ("summary.json", 0, lambda row: row.update(uplink_bytes=1), "the rounds add up to"),
        ("summary.json", 0, lambda row: row.update(devices=3), "has 3 devices"),
        (
            "summary.json",
            0,
            lambda row: row.pop("accuracy_final"),
            "needs one of accuracy_final and perplexity_final",
        ),
    ],
)
def test_a_wrong_value_is_named(
    small_run: Path, name: str, line: int, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    change(small_run / name, line, edit)
    with pytest.raises(RunError, match=message):
        read_record(small_run)


@pytest.mark.parametrize(
    ("name", "line"),
    [("rounds.jsonl", 1), ("summary.json", 0), ("trace.jsonl", 28), ("partition.json", 0)],
)
def test_a_key_that_nobody_knows_is_refused(small_run: Path, name: str, line: int) -> None:
    change(small_run / name, line, lambda row: row.update(delay_by_phases=[1, {"a": None}]))
    with pytest.raises(RunError, match=rf"{name}.*: unknown key 'delay_by_phases'; "):
        read_record(small_run)


@pytest.mark.parametrize(
    ("name", "line"),
    [("rounds.jsonl", 1), ("summary.json", 0), ("trace.jsonl", 0), ("partition.json", 0)],
)
def test_a_record_is_written_as_it_was_read(small_run: Path, name: str, line: int) -> None:
    kinds = {"r": TrainedRound, "s": Summary, "t": TraceLine, "p": Partition}
    text = (small_run / name).read_text(encoding="utf-8")
    rows = text.splitlines() if name.endswith("l") else [text]
    written = parse(kinds[name[0]], name, rows[line]).written()
    assert json.loads(json_text(written)) == json.loads(rows[line])


def test_a_phase_without_a_number_is_refused(small_run: Path) -> None:
    change(small_run / "summary.json", 0, lambda row: row["delay_by_phase_s"].update(turn=None))
    with pytest.raises(RunError, match="turn is None, should be a valid number"):
        read_record(small_run)


def test_a_phase_with_seconds_cannot_be_left_out(small_run: Path) -> None:
    """The others no longer add up to the delay."""
    change(small_run / "rounds.jsonl", 1, lambda row: row["delay_by_phase_s"].pop("adapter_up"))
    with pytest.raises(RunError, match="delay_by_phase_s adds up to"):
        read_record(small_run)


def test_a_diverged_run_can_be_read(small_run: Path) -> None:
    change(small_run / "rounds.jsonl", 2, lambda row: row.update(train_loss=math.nan))
    change(small_run / "rounds.jsonl", 2, lambda row: row.update(eval_loss=math.inf))
    last = read_record(small_run).rounds[-1]
    assert isinstance(last, TrainedRound)
    assert math.isnan(last.train_loss)
    assert math.isinf(last.eval_loss)
    change(small_run / "rounds.jsonl", 2, lambda row: row.update(train_loss=None, eval_loss=None))
    again = read_record(small_run).rounds[-1]
    assert isinstance(again, TrainedRound)
    assert math.isnan(again.train_loss) and math.isnan(again.eval_loss)


def test_other_rounds_of_the_trace_are_not_read(small_run: Path) -> None:
    before = read_record(small_run)
    path = small_run / "trace.jsonl"
    first, *later = path.read_text().splitlines(keepends=True)
    path.write_text(first.replace('"phase"', '"fase"') + "".join(later))
    assert read_record(small_run) == before


def test_an_empty_rounds_file_is_refused(small_run: Path) -> None:
    (small_run / "rounds.jsonl").write_text("")
    with pytest.raises(RunError, match=r"rounds\.jsonl: empty"):
        read_record(small_run)


@at_most(60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES[1:]), where=st.floats(0, 1), junk=st.binary(max_size=3))
def test_damage_anywhere_raises_run_errors_only(
    small_run: Path, name: str, where: float, junk: bytes
) -> None:
    path = small_run / name
    good = path.read_bytes()
    at = int(where * len(good))
    path.write_bytes(good[:at] + junk + good[at + 2 :])
    try:
        read_record(small_run)
    except RunError as problem:
        assert str(small_run) in str(problem)
    finally:
        path.write_bytes(good)
