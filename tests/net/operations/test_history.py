"""The finished rounds, read as they are written."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from cutlayer.files import json_text
from cutlayer.net.operations.status import History
from cutlayer.training.records import TrainedRound

FIRST: dict[str, Any] = {
    "round": 0,
    "accuracy": 0.1,
    "eval_loss": 2.3,
    "virtual_time_s": 0.0,
    "wall_s": 1.0,
}
SECOND: dict[str, Any] = {
    "round": 1,
    "accuracy": 0.4,
    "eval_loss": 1.5,
    "train_loss": 1.9,
    "shares": [0.5, 0.5],
    "delay_s": 12.0,
    "delay_by_phase_s": {"device_forward": 7.0, "barrier": 5.0},
    "slowest_device": 0,
    "device_delay_s": [12.0, 2.0],
    "device_delay_by_phase_s": [{"device_forward": 7.0, "barrier": 5.0}, {"device_forward": 2.0}],
    "virtual_time_s": 12.0,
    "uplink_bytes": 100,
    "downlink_bytes": 50,
    "uncompressed_uplink_bytes": 400,
    "uncompressed_downlink_bytes": 400,
    "bytes_by_payload": {"activation": 90, "labels": 10, "gradient": 50},
    "wall_s": 2.0,
}
PER_DEVICE = {"shares", "device_delay_s", "device_delay_by_phase_s"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rounds.jsonl"


def append(path: Path, *records: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def test_before_anything_is_written(path: Path) -> None:
    history = History(path)
    assert history.last is None and history.after(-1) == ()
    assert history.by_device == ()


def test_it_grows_with_the_file(path: Path) -> None:
    history = History(path)
    append(path, FIRST)
    assert [one.round for one in history.after(-1)] == [0]
    append(path, SECOND)
    (newest,) = history.after(0)
    assert newest == history.last
    assert isinstance(newest, TrainedRound)
    assert newest.accuracy == 0.4 and newest.delay_by_phase_s == SECOND["delay_by_phase_s"]
    assert list(history.by_device) == SECOND["device_delay_by_phase_s"]


def test_a_line_that_is_being_written_waits(path: Path) -> None:
    append(path, FIRST)
    history, line = History(path), json.dumps(SECOND) + "\n"
    with path.open("a") as file:
        file.write(line[:40])
        file.flush()
        assert [one.round for one in history.after(-1)] == [0]
        file.write(line[40:])
    assert [one.round for one in history.after(-1)] == [0, 1]


def test_a_line_that_a_full_disk_cut_short_is_no_round(path: Path) -> None:
    append(path, FIRST)
    with path.open("a") as file:
        file.write(json.dumps(SECOND)[:40] + "\n")
    append(path, SECOND)
    assert [one.round for one in History(path).after(-1)] == [0, 1]


def test_what_each_device_did_is_kept_of_the_last_round_alone(path: Path) -> None:
    later = {**SECOND, "round": 2, "device_delay_by_phase_s": [{"turn": 12.0}, {"turn": 2.0}]}
    append(path, FIRST, SECOND, later)
    history = History(path)
    for served in history.after(0):
        assert served.written().keys() == SECOND.keys() - PER_DEVICE
    assert history.by_device == ({"turn": 12.0}, {"turn": 2.0})


def test_what_is_no_number_is_null_to_those_who_ask(path: Path) -> None:
    append(path, FIRST, {**SECOND, "eval_loss": None, "train_loss": None})
    last = History(path).last
    assert isinstance(last, TrainedRound) and math.isnan(last.eval_loss)
    assert json.loads(json_text(last.written()))["train_loss"] is None


def test_many_rounds_come_in_parts(path: Path) -> None:
    append(path, FIRST, *({**SECOND, "round": number} for number in range(1, 1201)))
    history, found = History(path), list[int]()
    while more := history.after(found[-1] if found else -1):
        assert len(more) <= 500
        found += [one.round for one in more]
    assert found == list(range(1201))
