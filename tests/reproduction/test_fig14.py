"""Fig. 14: its amounts, its claims from given numbers, its picture, and a whole run."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
from report.drawn import assert_labels_apart

from cutlayer.errors import CutlayerError
from cutlayer.report.drawing import plain_style, save_figure
from reproduction import fig14
from reproduction.catalogue import Options
from reproduction.claims import Verdict
from reproduction.fig14 import Seen, claims_of, draw, rounds_to_stable
from reproduction.training import job_starts

ROUNDS = (0, 2, 6, 12, 18, 22)
FEW, SOME, MANY = 48, 144, 240


def seen(few_ends: float = 82.0, many_ends: float = 86.0, samples: int = 10_000) -> Seen:
    """What a run may have seen, one seed."""
    curves = {
        FEW: [[10.0, 40.0, 70.0, 80.0, few_ends, few_ends]],
        SOME: [[10.0, 60.0, 80.0, 83.0, 84.0, 84.0]],
        MANY: [[10.0, 70.0, 85.5, 86.0, 86.0, many_ends]],
    }
    return Seen(ROUNDS, curves, samples)


def verdicts(given: Seen) -> list[Verdict]:
    return [claim.verdict for claim in claims_of(given)]


def test_accuracy_is_stable_from_where_it_stays() -> None:
    rounds = (0, 1, 2, 4)
    assert rounds_to_stable(rounds, [10, 79, 81, 80], noise=2) == 1
    assert rounds_to_stable(rounds, [80, 70, 81, 80], noise=2) == 2
    assert rounds_to_stable(rounds, [10, 50, 70, 80], noise=2) == 4
    assert rounds_to_stable(rounds, [10, 50, math.nan, math.nan], noise=2) == 4


def test_verdicts_follow_from_what_was_seen() -> None:
    good = [Verdict.ORDERING] * 4
    assert verdicts(seen()) == good
    # sqrt(2 x 0.8 x 0.2 / 100) is 5.7 points: a difference of 4 at the end says nothing
    few = verdicts(seen(samples=100))
    assert few[0] is Verdict.ORDERING and few[2] is Verdict.NOT_REPRODUCED
    worse = verdicts(seen(many_ends=80.0))
    assert worse[2:] == [Verdict.NOT_REPRODUCED] * 2
    # 48 samples end above all that 240 reach
    assert verdicts(seen(few_ends=90.0))[1] is Verdict.NOT_REPRODUCED
    assert verdicts(seen(few_ends=math.nan))[2] is Verdict.NOT_REPRODUCED


def test_a_bound_beyond_the_last_round_is_not_met_by_it() -> None:
    short = seen()
    curves = {samples: [runs[0][:-1]] for samples, runs in short.curves.items()}
    *_, stable = claims_of(replace(short, rounds=ROUNDS[:-1], curves=curves))
    assert stable.verdict is Verdict.NOT_REPRODUCED and stable.ours == 18
    assert "could not have been missed" in stable.reason


def test_numbers_are_those_of_the_rounds() -> None:
    six, sooner, end, stable = claims_of(seen())
    assert six.ours == pytest.approx(15.5) and float(six.paper or 0) == 3
    assert sooner.ours == 6 and end.ours == 4 and stable.ours == 18


def test_more_rounds_are_tested_where_the_text_tells_of_them() -> None:
    assert fig14.evaluated(10) == (0, 1, 2, 3, 4, 5, 6, 8, 10)


def test_fewer_samples_are_a_part_of_more(options: Options) -> None:
    few, many = (next(job_starts(fig14.config_of(options, n), [0])).setup for n in (16, 48))
    splits = [setup.devices[0].train for setup in (few, many)]
    names = [{split.where(i) for i in range(len(split))} for split in splits]
    assert [len(each) for each in names] == [16, 48] and names[0] < names[1]
    assert [device.local_steps for device in many.devices] == [3] * 4


@pytest.mark.parametrize("given", [seen(), seen(few_ends=math.nan)], ids=["all", "one diverged"])
def test_the_picture(given: Seen) -> None:
    with plain_style():
        assert_labels_apart(draw(given, "a model on data"))


def test_the_same_picture_gives_the_same_bytes(tmp_path: Path) -> None:
    first = seen()
    seeds = {key: [*runs, [value + 1 for value in runs[0]]] for key, runs in first.curves.items()}
    made = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        with plain_style():
            figure = draw(replace(first, curves=seeds), "a model")
            made.append(save_figure(tmp_path / name / "fig14", figure))
    one, other = made
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_the_whole_figure_on_a_tiny_model(tmp_path: Path, options: Options) -> None:
    made = fig14.make(options, tmp_path / "out")
    names = ["fig14.csv", "fig14-claims.csv", "fig14.png", "fig14.svg"]
    assert [path.name for path in made.files] == names
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    with (tmp_path / "out" / "fig14.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    amounts = [times * fig14.QUICK_SHARE for times in fig14.TIMES]
    told = [(int(row["samples"]), int(row["round"])) for row in rows]
    assert told == [(n, number) for n in amounts for number in range(fig14.QUICK_SIZE.rounds + 1)]
    assert "quick" in made.setting and "ViT-B" in made.setting


def test_a_wrong_job_leaves_no_directory(tmp_path: Path, options: Options) -> None:
    with pytest.raises(CutlayerError):
        fig14.make(replace(options, cut=99), tmp_path / "out")
    assert not (tmp_path / "out").exists()
