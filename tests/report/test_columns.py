"""Columns of numbers: compared runs, and what the codec saves."""

import csv
import io
from pathlib import Path

import pytest

from cutlayer.report.columns import (
    NOT_REACHED,
    Saving,
    csv_text,
    memory_bytes,
    payload_bytes,
    phase_seconds,
    result_columns,
    savings,
    shown_names,
    target_columns,
)
from cutlayer.report.comparison import Comparison, compare
from cutlayer.report.run_reader import read_run
from cutlayer.report.vocabulary import MEMORY_KINDS
from cutlayer.train.records import TrainedRound
from report.compared import compared, refused, with_scores
from report.fake_run import FakeRun, write_fake_run


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """A run, one twice as slow and thrice as large that learns less, and one that does not fit."""
    folder, fake = tmp_path_factory.mktemp("runs"), FakeRun(devices=2, rounds=3)
    first = with_scores(compared(folder, "first", fake), [0.1, 0.5, 0.75, 0.7])
    second = compared(folder, "second", fake, slower=2.0, larger=3.0)
    return compare([first, refused("whole"), with_scores(second, [0.1, 0.5, 0.5, 0.6])], 0.7)


def test_results_are_the_summaries_numbers(comparison: Comparison) -> None:
    columns = {column.key: column for column in result_columns(comparison)}
    first, second = comparison.runs
    assert columns["accuracy_final"].values == (0.7, None, 0.6)
    assert columns["accuracy_best"].texts == ("75.0 %", "-", "60.0 %")
    delays = [run.record.summary.delay_s for run in (first, second)]
    assert columns["delay_s"].values == (delays[0], None, delays[1])
    assert columns["rounds"].texts == ("3", "-", "3")
    whole = comparison.refused[0]
    peak = first.record.summary.device_peak_bytes
    assert columns["device_peak_bytes"].values == (peak, whole.need_bytes, peak)
    assert columns["device_memory_limit_bytes"].texts == ("256 MiB", "72.0 MiB", "256 MiB")


def test_the_target_is_held_against_the_first_that_reached_it(comparison: Comparison) -> None:
    columns = {column.key: column for column in target_columns(comparison)}
    assert columns["target_round"].values == (2, None, None)
    assert columns["target_round"].texts == ("2", "-", NOT_REACHED)
    assert columns["target_s_ratio"].texts == ("1.00x", "-", "-")
    lower = {column.key: column for column in target_columns(compare(comparison.entries, 0.5))}
    assert lower["target_round"].values == (1, None, 1)
    # both runs are scaled copies of one, so the ratios are the factors; bytes are whole
    assert lower["target_s_ratio"].values[2] == pytest.approx(2.0, rel=1e-12)
    assert lower["target_bytes_ratio"].values[2] == pytest.approx(3.0, rel=1e-6)


def test_ratios_when_the_first_run_does_not_reach_it(comparison: Comparison) -> None:
    first, second = comparison.runs
    columns = target_columns(compare([second, first], 0.7))
    assert columns[0].texts == (NOT_REACHED, "2")
    assert columns[2].values == (None, 1.0)


def test_the_csv_file_holds_every_number(comparison: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(comparison))))
    assert [row["run"] for row in rows] == ["first", "whole", "second"]
    assert [row["fits"] for row in rows] == ["yes", "no", "yes"]
    for row, entry in zip(rows, comparison.entries, strict=True):
        held = memory_bytes(entry)
        assert {k: float(row[f"{k}_memory_bytes"]) for k in held} == held
        assert float(row["target_accuracy"]) == 0.7
    for row, run in zip([rows[0], rows[2]], comparison.runs, strict=True):
        summary = run.record.summary
        assert float(row["delay_s"]) == summary.delay_s
        assert int(row["uncompressed_uplink_bytes"]) == summary.uncompressed_uplink_bytes
        by_phase = [float(v) for k, v in row.items() if k.endswith("_s_per_round") and v]
        # a few doubles added in another order
        assert sum(by_phase) == pytest.approx(summary.delay_s / 3, rel=1e-9)
    assert rows[1]["delay_s"] == rows[2]["target_round"] == ""


def test_means_of_rounds_add_up(comparison: Comparison) -> None:
    run = comparison.runs[0]
    assert sum(phase_seconds(run).values()) == pytest.approx(run.delay_per_round_s, rel=1e-9)
    summary = run.record.summary
    sent = summary.uplink_bytes + summary.downlink_bytes
    assert sum(payload_bytes(run).values()) == pytest.approx(sent / 3, rel=1e-9)
    assert phase_seconds(refused("whole")) == payload_bytes(refused("whole")) == {}


def test_a_run_without_rounds_has_no_means(tmp_path: Path) -> None:
    run = compared(tmp_path, "none", FakeRun(devices=1, rounds=0))
    columns = {column.key: column.texts for column in result_columns(compare([run]))}
    assert columns["delay_per_round_s"] == ("-",)
    assert payload_bytes(run) == {}


def test_names_come_in_their_usual_order() -> None:
    rows = [{"input": 1.0, "extra": 2.0, "weights": 0.0}, {"activations": 1.0}]
    assert shown_names(MEMORY_KINDS, rows) == ["activations", "input", "extra"]


@pytest.fixture
def work(tmp_path: Path) -> TrainedRound:
    run = read_run(write_fake_run(tmp_path / "run", FakeRun(devices=2, rounds=1)))
    return run.trained[-1]


def test_adapters_and_the_model_are_not_in_it(work: TrainedRound) -> None:
    sizes = {"activation": 10, "labels": 2, "adapter_up": 500, "gradient": 20, "model": 9000}
    one = work.model_copy(
        update={
            "bytes_by_payload": sizes,
            "uplink_bytes": 512,
            "downlink_bytes": 9020,
            "uncompressed_uplink_bytes": 512 + 390,
            "uncompressed_downlink_bytes": 9020 + 380,
        }
    )
    assert savings([one, one]) == [Saving("activations", 20, 800), Saving("gradients", 40, 800)]


def test_a_scheme_that_sends_neither_saves_nothing(work: TrainedRound) -> None:
    one = work.model_copy(update={"bytes_by_payload": {"adapter_up": 5}})
    assert savings([one]) == []
