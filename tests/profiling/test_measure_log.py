"""The log: what is added is read back, whatever moment the process was killed at."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cutlayer.errors import RunError
from cutlayer.profiling.measure import ProfiledRun, append_profiled_run, read_profiled_runs

LINE = ProfiledRun(
    job="a",
    seed=1,
    codec="paper",
    settings={"keep_ratio": 0.1, "levels": 7},
    accuracy=0.1 + 0.2,
    rounds=2,
    diverged=False,
    bits_up=1 / 3,
    bits_down=None,
    same_symbols_bits_up=0.25,
    same_symbols_bits_down=None,
    cpu_s=1.5,
)


def test_lines_of_a_job_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert read_profiled_runs(path, "a") == []
    lines = [LINE, replace(LINE, job="b"), replace(LINE, seed=2)]
    for line in lines:
        append_profiled_run(path, line)
    assert read_profiled_runs(path, "a") == [lines[0], lines[2]]
    assert read_profiled_runs(path, "b") == [lines[1]]


def test_killed_in_the_middle_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append_profiled_run(path, LINE)
    one = path.read_bytes()
    second = replace(LINE, seed=2)
    append_profiled_run(path, second)
    both = path.read_bytes()
    for length in range(len(both)):
        path.write_bytes(both[:length])
        kept = [LINE] if length >= len(one) else []
        assert read_profiled_runs(path, "a") == kept
        append_profiled_run(path, second)
        assert read_profiled_runs(path, "a") == [*kept, second]


def test_settings_in_any_order_are_the_same_training() -> None:
    turned = replace(LINE, settings={"levels": 7, "keep_ratio": 0.1})
    assert turned.key == LINE.key != replace(LINE, seed=2).key


def test_lines_written_before_there_were_device_parts(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append_profiled_run(path, LINE)
    fields = json.loads(path.read_text(encoding="utf-8"))
    for name in ("cut", "device_part", "device_part_rounds"):
        del fields[name]
    path.write_text(json.dumps(fields) + "\n", encoding="utf-8")
    assert read_profiled_runs(path, "a") == [LINE]
    frozen = replace(LINE, cut=4, device_part="frozen")
    assert len({LINE.key, frozen.key, replace(frozen, cut=5).key}) == 3


@pytest.mark.parametrize("text", ["x\n", "{}\n", "[]\n", '{"job": "a"}\n'])
def test_a_line_that_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "log"
    append_profiled_run(path, LINE)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
    with pytest.raises(RunError, match="line 2, is no record of a training run"):
        read_profiled_runs(path, "a")


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot write"):
        append_profiled_run(tmp_path, LINE)
