"""The finished rounds, read as they are written."""

import json
from pathlib import Path
from typing import Any

import pytest

from cutlayer.net.history import History

FIRST: dict[str, Any] = {"round": 0, "accuracy": 0.1, "eval_loss": 2.3, "wall_s": 1.0}
SECOND: dict[str, Any] = {
    "round": 1,
    "accuracy": 0.4,
    "eval_loss": 1.5,
    "train_loss": 1.9,
    "delay_s": 12.0,
    "delay_by_phase_s": {"device_forward": 7.0, "barrier": 5.0},
    "device_delay_by_phase_s": [{"device_forward": 7.0}, {"device_forward": 2.0}],
    "slowest_device": 0,
    "uplink_bytes": 100,
    "downlink_bytes": 50,
    "bytes_by_payload": {"activation": 90, "labels": 10, "gradient": 50},
}


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
    assert newest.score == 0.4 and newest.delay_by_phase_s == SECOND["delay_by_phase_s"]
    assert history.by_device == ({"device_forward": 7.0}, {"device_forward": 2.0})


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


def test_what_a_record_lacks_is_absent_and_not_zero(path: Path) -> None:
    """A round in which the server was started anew: nobody knows its phases."""
    append(path, SECOND, {**FIRST, "round": 2, "delay_s": 3.0})
    history = History(path)
    assert history.last is not None
    assert history.last.delay_s == 3.0
    assert history.last.delay_by_phase_s is None and history.last.train_loss is None
    # nor are the phases of the round before taken for those of this one
    assert history.by_device == ()


def test_a_device_that_missed_the_round_has_no_phases(path: Path) -> None:
    record = {**SECOND, "device_delay_by_phase_s": [None, {"device_forward": 2.0}]}
    append(path, record, {**SECOND, "round": 2, "delay_by_phase_s": None, "slowest_device": None})
    history = History(path)
    first, second = history.after(-1)
    assert first.delay_by_phase_s is not None and second.delay_by_phase_s is None
    append(path, {**record, "round": 3})
    assert history.by_device == (None, {"device_forward": 2.0})


def test_what_is_not_finite_is_absent(path: Path) -> None:
    wild = {"eval_loss": float("inf"), "train_loss": float("nan"), "perplexity": float("inf")}
    append(path, {"round": 1, **wild, "delay_by_phase_s": {"barrier": float("nan"), "turn": 1.0}})
    (one,) = History(path).after(-1)
    assert one.measure == "perplexity"
    assert (one.score, one.eval_loss, one.train_loss) == (None, None, None)
    assert one.delay_by_phase_s == {"turn": 1.0}


def test_many_rounds_come_in_parts(path: Path) -> None:
    append(path, *({"round": number} for number in range(1201)))
    history, found = History(path), list[int]()
    while more := history.after(found[-1] if found else -1):
        assert len(more) <= 500
        found += [one.round for one in more]
    assert found == list(range(1201))
