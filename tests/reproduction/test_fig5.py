"""Fig. 5: its lines, trainings by round, claims from given numbers, its picture, a whole run."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
from report.drawn import assert_labels_apart

from cutlayer.codec.presets import paper
from cutlayer.errors import CutlayerError
from cutlayer.logs import lines_to
from cutlayer.profiling.measure import JobStart, train_through
from cutlayer.report.drawing import plain_style, save_figure
from cutlayer.rounds.schemes import SCHEMES
from reproduction import fig5
from reproduction.catalogue import Options
from reproduction.claims import Verdict
from reproduction.fig5 import (
    DIRICHLET,
    FL_FULL,
    IID,
    LINES,
    PARTITIONS,
    PLAIN,
    SAME_ADAPTERS,
    SFT_BEST,
    SFT_PAPER,
    SL,
    SPLITLORA,
    Line,
    Seen,
    claims_of,
    draw,
)
from reproduction.training import job_starts, standard_error, training_curve

FINAL = {SFT_PAPER: 74.0, SFT_BEST: 76.0, PLAIN: 76.5, SL: 77.0, SPLITLORA: 76.8, FL_FULL: 40.0}


def seen(samples: int = 10_000, **final: float) -> Seen:
    """What a run may have seen; `sl=80.0` is that line's last accuracy on both partitions."""
    ends = {line: final.get(line.name.replace("-", "_"), FINAL[line]) for line in LINES}
    curves = {
        (partition, line): [[10.0, 60.0, 70.0, end]]
        for partition in PARTITIONS
        for line, end in ends.items()
    }
    return Seen((0, 1, 2, 3), curves, samples)


def verdicts(given: Seen) -> list[Verdict]:
    """Those of one partition."""
    both = [claim.verdict for claim in claims_of(given)]
    assert both[:4] == both[4:]
    return both[:4]


def start_of(options: Options, line: Line) -> JobStart:
    """The line's first seed, dealt unevenly."""
    config = fig5.config_of(options, DIRICHLET, line)
    return next(job_starts(config, [0]))


def test_a_line_drawn_under_three_names_is_the_same_training(options: Options) -> None:
    assert PLAIN.scheme == SAME_ADAPTERS[0]
    curves = [
        training_curve(start_of(options, replace(PLAIN, scheme=name)), range(9))
        for name in SAME_ADAPTERS
    ]
    assert len({(curve.accuracy, curve.loss) for curve in curves}) == 1
    assert curves[0].loss[-1] != curves[0].loss[0]


def test_each_line_has_its_scheme_and_codec(options: Options) -> None:
    for line in LINES:
        setup = start_of(options, line).setup
        assert setup.training.scheme is SCHEMES[line.scheme]
        assert setup.training.learning_rate == line.learning_rate
    assert start_of(options, SFT_PAPER).setup.training.codecs == paper(0.2, 7)
    assert len({line.name for line in LINES}) == len(LINES)


def test_a_curve_ends_where_the_training_does(options: Options) -> None:
    start = start_of(options, SFT_PAPER)
    long = replace(start, rounds=3)
    every, some = training_curve(long, range(4)), training_curve(long, [2])
    assert (every.rounds, some.rounds) == ((0, 1, 2, 3), (0, 2, 3))
    assert some.loss == (every.loss[0], *every.loss[2:])
    trained = train_through(long, start.setup.training.codecs)
    assert (every.accuracy[-1], every.loss[-1]) == (trained.accuracy, trained.loss)
    assert (every.bits_up, every.bits_down) == (trained.bits_up, trained.bits_down)


def test_whole_models_send_no_activations(options: Options) -> None:
    assert math.isnan(training_curve(start_of(options, FL_FULL), []).bits_up)


def test_a_curve_that_diverges_ends_in_nan(options: Options) -> None:
    start = start_of(options, SFT_PAPER)
    training = replace(start.setup.training, learning_rate=1e30)
    hot = replace(start, rounds=4, setup=replace(start.setup, training=training))
    curve = training_curve(hot, range(5))
    assert math.isfinite(curve.accuracy[0]) and math.isnan(curve.accuracy[-1])


def test_the_error_of_an_accuracy() -> None:
    assert standard_error(50.0, 100) == 5.0
    # sqrt(0.1 x 0.9 / 900) = 0.01
    assert standard_error(90.0, 900) == pytest.approx(1.0, rel=1e-12)


def test_verdicts_follow_from_what_was_seen() -> None:
    good, bad = Verdict.ORDERING, Verdict.NOT_REPRODUCED
    assert verdicts(seen()) == [good, good, good, bad]
    assert verdicts(seen(sft_paper=78.0)) == [good] * 4
    assert verdicts(seen(sft_paper=60.0)) == [good, bad, good, bad]
    assert verdicts(seen(sl=85.0)) == [good, bad, bad, bad]
    # 50 samples tell 8 points apart: 74 is not shown to be above 0.95 x 77
    assert verdicts(seen(50)) == [good, bad, bad, bad]
    assert verdicts(seen(sft_paper=math.nan))[:2] == [bad, bad]
    # full weights are none of the paper's benchmarks
    assert verdicts(seen(fl_full=99.0)) == [good, good, good, bad]


def test_reasons_tell_the_numbers() -> None:
    converges, comparable, best, improves = claims_of(seen())[:4]
    assert converges.ours == 64.0 and "From 10.0 to 74.0 %" in converges.reason
    assert comparable.ours == pytest.approx(-3.0) and "sl 77.0 %" in comparable.reason
    assert best.ours == pytest.approx(-1.0)
    assert improves.ours == pytest.approx(-2.5) and improves.paper is None


@pytest.mark.parametrize("given", [seen(), seen(sl=math.nan)], ids=["all", "one diverged"])
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
            made.append(save_figure(tmp_path / name / "fig5", figure))
    one, other = made
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    assert one[1].stat().st_size < 300_000


def test_the_whole_figure_on_a_tiny_model(tmp_path: Path, options: Options) -> None:
    said: list[str] = []
    with lines_to(said.append):
        made = fig5.make(options, tmp_path / "out")
    names = ["fig5.csv", "fig5-claims.csv", "fig5.png", "fig5.svg"]
    assert [path.name for path in made.files] == names
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    with (tmp_path / "out" / "fig5.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    told = [(row["partition"], row["line"], row["round"]) for row in rows]
    assert told == [
        (partition.name, line.name, str(number))
        for partition in (IID, DIRICHLET)
        for line in LINES
        for number in range(fig5.QUICK_SIZE.rounds + 1)
    ]
    # nothing is trained before round 1, and full weights begin as adapters of zero do
    assert len({row["accuracy"] for row in rows if row["round"] == "0"}) == 1
    assert "quick" in made.setting and "ViT" in made.setting
    assert sum("seed 0" in line for line in said) == len(LINES) * len(PARTITIONS)


def test_a_wrong_job_leaves_no_directory(tmp_path: Path, options: Options) -> None:
    with pytest.raises(CutlayerError):
        fig5.make(replace(options, cut=99), tmp_path / "out")
    assert not (tmp_path / "out").exists()
