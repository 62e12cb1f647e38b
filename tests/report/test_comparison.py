"""What a comparison says of its runs: the target, who reaches it first, and what cannot be."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import ConfigError, RunError
from cutlayer.report.comparison import (
    ComparedRun,
    Difference,
    Entry,
    RefusedRun,
    check_target,
    compare,
    differences,
    ratio,
)
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
    assert comparison.yardstick is runs[0]
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
    assert none.yardstick is None


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
    with pytest.raises(ConfigError, match="--target"):
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


def _configured(text: str) -> RefusedRun:
    return replace(refused("run"), config_text=text)


def test_only_keys_that_differ_are_named() -> None:
    first = _configured("scheme: {name: sft}\ntraining: {rounds: 2, batch_size: 4}\nseed: 0\n")
    second = _configured("scheme: {name: sl}\ntraining: {rounds: 3, batch_size: 4}\nseed: 0\n")
    assert differences([first, second]) == (
        Difference("scheme.name", ("sft", "sl")),
        Difference("training.rounds", ("2", "3")),
    )
    assert differences([first, first]) == ()


def test_values_are_shown_as_yaml_and_missing_keys_as_a_dash() -> None:
    first = _configured("shares: [0.5, 0.25]\nlimit: null\nquiet: true\nname: '1'\n")
    second = _configured("limit: 72.0\nquiet: false\nname: 1\n")
    found = {row.key: row.values for row in differences([first, second])}
    assert found == {
        "shares": ("[0.5, 0.25]", "-"),
        "limit": ("null", "72.0"),
        "quiet": ("true", "false"),
        "name": ("'1'", "1"),
    }


def test_finished_and_refused_runs_are_read_alike(tmp_path: Path) -> None:
    run = compared(tmp_path, "sft", FakeRun(devices=1, rounds=1, local_steps=1))
    assert differences([run, refused("fl-lora")]) == (
        Difference("scheme.name", ("sft", "fl-lora")),
    )


@pytest.mark.parametrize("text", ["a: [", "a: !!python/object:os.system {}", "[" * 5000])
def test_a_configuration_that_is_not_yaml(text: str) -> None:
    with pytest.raises(RunError, match="configuration of run is not YAML"):
        differences([_configured(text)])


def test_an_empty_configuration_has_no_keys() -> None:
    assert differences([_configured(""), _configured("a: 1")]) == (Difference("a", ("-", "1")),)
