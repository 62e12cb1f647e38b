"""Profiles measured on a tiny job: resumed, in two processes, refused, diverged."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from cutlayer.config.schema import Config, SplitLora
from cutlayer.config.training import SgdOptimizer
from cutlayer.errors import ConfigError, CutlayerError
from cutlayer.logs import lines_to
from cutlayer.profiling.grid import CodecGrid
from cutlayer.profiling.measure import (
    ProfiledRun,
    ProfilePlan,
    ProfileTrainer,
    measure_profile,
    read_profiled_runs,
)

GRID = CodecGrid((0.1, 0.5), (3,), ((1.0, 0.6),))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A job of a second."""
    root = tmp_path_factory.mktemp("job")
    return tiny.config(tiny.vision_model(root / "model"), tiny.images(root / "images"))


@pytest.fixture
def plan(config: Config) -> ProfilePlan:
    """One seed in this process, the device part at the job's own cut."""
    cuts = (config.model.cut,)
    return ProfilePlan(config, GRID, seeds=1, command="cutlayer profile", cuts=cuts)


class _StopError(Exception):
    """Somebody pulled the plug."""


def _without_time(lines: list[ProfiledRun]) -> list[ProfiledRun]:
    return sorted((replace(line, cpu_s=0.0) for line in lines), key=lambda line: str(line.key))


@pytest.mark.slow("trains at many settings of a codec")
def test_stopped_and_gone_on_with(plan: ProfilePlan, tmp_path: Path) -> None:
    """Only what was in progress is lost, and the profile is that of an uninterrupted run."""
    whole, stopped = tmp_path / "whole.jsonl", tmp_path / "new" / "stopped.jsonl"
    expected = measure_profile(plan, whole)

    def pull(line: str) -> None:
        if line.startswith("2 of 8"):
            raise _StopError

    with pytest.raises(_StopError), lines_to(pull):
        measure_profile(plan, stopped)
    job = ProfileTrainer(plan.config).job
    assert len(read_profiled_runs(stopped, job)) == 2
    with stopped.open("a", encoding="utf-8") as file:
        file.write('{"job": "')
    said: list[str] = []
    with lines_to(said.append):
        assert measure_profile(plan, stopped) == expected
    assert "6 training runs to do, 2 done before" in said
    both = [_without_time(read_profiled_runs(log, job)) for log in (whole, stopped)]
    assert both[0] == both[1]
    # more is wanted: the old results stay
    more = replace(plan, grid=replace(GRID, bits=(3, 4)))
    said.clear()
    with lines_to(said.append):
        points = measure_profile(more, whole).points
    assert len(points) > len(expected.points)
    assert expected.points
    assert all(point in points for point in expected.points)
    assert "2 training runs to do, 8 done before" in said


@pytest.mark.slow("trains at many settings of a codec")
def test_two_processes_give_the_points_of_one(plan: ProfilePlan, tmp_path: Path) -> None:
    small = replace(plan, grid=CodecGrid((0.1,), (3,), ()), seeds=2)
    alone = measure_profile(small, tmp_path / "one.jsonl")
    assert measure_profile(replace(small, workers=2), tmp_path / "two.jsonl") == alone
    assert [point.codec for point in alone.points] == ["none", "paper", "paper-rans", "fast"]
    assert alone.seeds == (0, 1)
    parts = [(point.device_part, point.rounds) for point in alone.device_parts]
    assert parts == [("trained", None), ("frozen", None), ("warm", 1)]
    assert {point.cut for point in alone.device_parts} == {plan.config.model.cut}
    rounds, steps = plan.config.training.rounds, plan.config.training.local_steps or 0
    assert [(one.rounds, one.steps) for one in alone.curve] == [
        (number, number * steps) for number in range(1, rounds + 1)
    ]
    assert alone.curve[-1].accuracies == alone.uncompressed.accuracies


def test_a_training_that_diverges_is_a_result(plan: ProfilePlan, tmp_path: Path) -> None:
    hot = SgdOptimizer(learning_rate=1e12)
    config = plan.config.model_copy(update={"optimizer": hot})
    said: list[str] = []
    expected = pytest.raises(ConfigError, match="diverges in its first round even without a codec")
    with expected, lines_to(said.append):
        measure_profile(replace(plan, config=config), tmp_path / "log")
    assert "none, seed 0: diverged; it counts as round 0 left it" in said
    lines = read_profiled_runs(tmp_path / "log", ProfileTrainer(config).job)
    # alone, the server's part may come through
    lines = [line for line in lines if line.device_part != "frozen"]
    assert {(line.diverged, line.rounds, line.bits_up) for line in lines} == {(True, 0, None)}
    # nothing was learned: all are as accurate as before training
    assert len({line.accuracy for line in lines}) == 1


@pytest.mark.parametrize(
    ("section", "changed", "message"),
    [
        ("scheme", SplitLora(), "splitlora compresses nothing; take sft"),
        ("model", {"cut": 4}, r"1\.\.3"),
        ("data", {"name": "no-such-data"}, "no-such-data"),
    ],
)
def test_a_wrong_job_leaves_no_log(
    plan: ProfilePlan,
    tmp_path: Path,
    section: str,
    changed: SplitLora | dict[str, object],
    message: str,
) -> None:
    wrong = (
        getattr(plan.config, section).model_copy(update=changed)
        if isinstance(changed, dict)
        else changed
    )
    config = plan.config.model_copy(update={section: wrong})
    with pytest.raises(CutlayerError, match=message):
        measure_profile(replace(plan, config=config), tmp_path / "log")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(plan: ProfilePlan, tmp_path: Path) -> None:
    """Found before the first training."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    said: list[str] = []
    with pytest.raises(CutlayerError, match="cannot write"), lines_to(said.append):
        measure_profile(plan, tmp_path / "file" / "log")
    assert not any("of 8" in line for line in said)
