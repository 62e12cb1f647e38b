"""Rounds are found in a log, and cut off it, without reading all of it."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer import files
from cutlayer.files import json_text
from cutlayer.training.records import cut_after, lines_of_round

Log = list[tuple[int, str]]
# a round and what else its line holds: long lines and short ones, many of a round or none
logs = st.lists(st.tuples(st.integers(0, 5), st.text("xé", max_size=9)), max_size=30).map(sorted)


def write(path: Path, log: Log, torn: str = "") -> None:
    lines = [json.dumps({"round": number, "text": text}) + "\n" for number, text in log]
    path.write_text("".join(lines) + torn, encoding="utf-8")


@given(log=logs, number=st.integers(0, 6), torn=st.sampled_from(["", '{"round": 5, "te']))
def test_a_round_has_its_own_lines(
    log: Log, number: int, torn: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    write(path, log, torn)
    own = [json.loads(line)["text"] for line in lines_of_round(path, number) if line[-1] == "\n"]
    assert own == [text for found, text in log if found == number]
    cut_after(path, number)
    kept = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(line["round"], line["text"]) for line in kept] == [
        one for one in log if one[0] <= number
    ]


def test_a_round_of_a_long_log_costs_a_few_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "log", [(number, "x") for number in range(20_000) for _ in range(2)])
    parsed: list[Any] = []
    loads = json.loads
    monkeypatch.setattr(files.json, "loads", lambda line: parsed.append(line) or loads(line))
    assert len(list(lines_of_round(tmp_path / "log", 12_345))) == 2
    assert len(parsed) < 30
    cut_after(tmp_path / "log", 19_998)
    assert len(parsed) < 60
    assert (tmp_path / "log").read_bytes().count(b"\n") == 39_998


def test_no_file_is_nothing_to_cut(tmp_path: Path) -> None:
    cut_after(tmp_path / "log", 3)
    assert not (tmp_path / "log").exists()


def test_json_has_null_where_a_number_is_not_finite() -> None:
    value = {"a": math.nan, "b": [1.5, math.inf, (-math.inf, "NaN")], "c": {"d": True, "e": 10**30}}
    assert json_text(value) == (
        '{"a": null, "b": [1.5, null, [null, "NaN"]], "c": {"d": true, "e": 1' + 30 * "0" + "}}"
    )
