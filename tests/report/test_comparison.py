"""What a comparison says of its runs: the target, who reaches it first, and what cannot be."""

import csv
import io
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import ConfigError
from cutlayer.report.comparison import (
    NOT_REACHED,
    ComparedRun,
    Comparison,
    Entry,
    check_target,
    compare,
    comparison_rows,
    memory_bytes,
    payload_bytes,
    phase_seconds,
    ratio,
    result_columns,
    shown_names,
    target_columns,
)
from cutlayer.report.export import rows_csv
from cutlayer.report.wording import MEMORY_KINDS
from report.compared import compared, refused, with_scores
from report.fake_run import FakeRun

SCORES = st.floats(0, 1)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[ComparedRun]:
    """A run of three rounds, and one that is three times slower and sends twice as much."""
    folder, fake = tmp_path_factory.mktemp("two"), FakeRun(devices=2, rounds=3)
    return [compared(folder, "a", fake), compared(folder, "b", fake, slower=3.0, larger=2.0)]


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> ComparedRun:
    """A language model's run of three rounds."""
    fake = FakeRun(devices=2, rounds=3, language_modelling=True, class_names=("text",))
    return compared(tmp_path_factory.mktemp("text"), "text", fake)


def test_points_add_up_to_the_summary(two: list[ComparedRun]) -> None:
    for run in two:
        points, summary = run.points, run.record.summary
        assert (points[0].round, points[0].time_s, points[0].sent_bytes) == (0, 0.0, 0)
        assert points[-1].time_s == pytest.approx(summary.delay_s, rel=1e-12)
        assert run.delay_per_round_s == pytest.approx(summary.delay_s / 3, rel=1e-12)
        total = summary.uplink_bytes + summary.downlink_bytes
        # scaled bytes are cut to whole ones, twice a round and twice in the summary
        assert abs(points[-1].sent_bytes - total) <= 8


def test_the_target_is_the_worst_of_the_best(two: list[ComparedRun]) -> None:
    runs = [with_scores(two[0], [0.1, 0.8, 0.6, 0.7]), with_scores(two[1], [0.1, 0.5, 0.75, 0.2])]
    comparison = compare(runs)
    assert comparison.target is not None and comparison.target.value == 0.75
    assert comparison.baseline is runs[0]
    assert [_round(comparison.reached(run)) for run in runs] == [1, 2]


def test_no_target_is_reached_before_training(two: list[ComparedRun]) -> None:
    runs = [with_scores(two[0], [0.9, 0.8, 0.6, 0.7]), with_scores(two[1], [0.9, 0.5, 0.75, 0.2])]
    comparison = compare(runs)
    assert comparison.target is not None and comparison.target.value == 0.75
    assert [_round(comparison.reached(run)) for run in runs] == [1, 2]
    assert [_round(compare(runs, 0.1).reached(run)) for run in runs] == [1, 1]
    assert [run.best.value if run.best else None for run in runs] == [0.8, 0.75]


def test_a_lower_perplexity_is_better(text_run: ComparedRun) -> None:
    runs = [
        with_scores(text_run, s)
        for s in ([60.0, 50.0, 30.0, 35.0], [60.0, math.nan, 40.0, math.inf])
    ]
    comparison = compare(runs)
    assert comparison.target is not None and comparison.target.value == 40
    assert [_round(comparison.reached(run)) for run in runs] == [2, 2]
    assert [run.best.value if run.best else None for run in runs] == [30, 40]


def test_nothing_is_interpolated_and_what_is_not_reached_is_none(two: list[ComparedRun]) -> None:
    runs = [with_scores(two[0], [0.1, 0.4, 0.6, 0.5]), with_scores(two[1], [0.1, 0.2, 0.3, 0.4])]
    comparison = compare(runs, target=0.5)
    first = comparison.reached(runs[0])
    # between rounds 1 and 2 the line crosses 0.5; the evaluation that reached it counts
    assert first is not None and first == runs[0].points[2]
    assert comparison.reached(runs[1]) is None
    none = compare(runs, target=0.9)
    assert none.baseline is None


@given(st.lists(st.tuples(SCORES, SCORES, SCORES, SCORES), min_size=2, max_size=2))
def test_every_run_reaches_the_default_target(
    two: list[ComparedRun], scores: list[tuple[float, ...]]
) -> None:
    runs = [with_scores(run, list(values)) for run, values in zip(two, scores, strict=True)]
    comparison = compare(runs)
    points = [comparison.reached(run) for run in runs]
    assert comparison.target is not None
    for run, point in zip(runs, points, strict=True):
        assert point is not None and point.score.value >= comparison.target.value
        assert all(p.score.value < comparison.target.value for p in run.points[1 : point.round])
    # and a target any higher is one that some run does not reach
    higher = math.nextafter(comparison.target.value, 2.0)
    if higher <= 1:
        stricter = compare(runs, higher)
        assert None in [stricter.reached(run) for run in runs]


def test_runs_without_any_number_have_no_target(text_run: ComparedRun) -> None:
    comparison = compare([with_scores(text_run, [math.nan, math.inf, math.nan, math.nan])])
    assert comparison.target is None
    assert comparison.reached(comparison.runs[0]) is None


def test_what_cannot_be_compared(two: list[ComparedRun], text_run: ComparedRun) -> None:
    with pytest.raises(ConfigError, match=r"a has image-classification, text causal-lm"):
        compare([two[0], text_run])
    with pytest.raises(ConfigError, match=r"fl-lora does not fit: needs 155 MiB of 72\.0 MiB"):
        compare([refused("fl-lora")])
    with pytest.raises(ConfigError, match=r"give 0\.83"):
        compare(two, target=83)


def test_refused_runs_keep_their_place(two: list[ComparedRun]) -> None:
    entries: list[Entry] = [refused("whole"), *two]
    comparison = compare(entries)
    assert comparison.entries == tuple(entries)
    assert comparison.runs == tuple(two)
    assert [one.label for one in comparison.refused] == ["whole"]


@pytest.mark.parametrize("target", [0.0, -1.0, math.nan, math.inf])
def test_targets_that_nothing_can_be(target: float) -> None:
    with pytest.raises(ConfigError, match="target "):
        check_target("causal-lm", target)


def test_a_perplexity_may_be_above_one() -> None:
    check_target("causal-lm", 40.0)


def test_ratios() -> None:
    assert ratio(6.0, 3.0) == 2.0
    assert ratio(None, 3.0) is None
    assert ratio(6.0, None) is None
    assert ratio(6.0, 0.0) is None


def _round(point: object) -> object:
    return getattr(point, "round", None)


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
    rows = list(csv.DictReader(io.StringIO(rows_csv(comparison_rows(comparison)))))
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
