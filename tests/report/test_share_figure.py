"""The map of shares: when there is one, which rounds it shows, labels that stay apart."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import AxesImage

from cutlayer.errors import RunError
from cutlayer.report.drawing import plain_style
from cutlayer.report.run_figures import share_figure, shares_vary, shown_rounds
from cutlayer.report.run_page import write_report
from cutlayer.report.run_reader import read_run
from cutlayer.train.records import TrainedRound
from report.fake_run import FakeRun, write_fake_run
from report.test_figures import assert_labels_apart, drawn_texts


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> TrainedRound:
    run = read_run(write_fake_run(tmp_path_factory.mktemp("shares") / "run", FakeRun(rounds=1)))
    return run.trained[0]


def _works(work: TrainedRound, devices: int, rounds: int) -> list[TrainedRound]:
    drawn = np.random.default_rng(0).dirichlet(np.ones(devices), rounds)
    return [work.model_copy(update={"shares": tuple(row)}) for row in drawn.tolist()]


def test_shares_vary_or_do_not(work: TrainedRound) -> None:
    assert not shares_vary([]) and not shares_vary([work, work])
    uneven = work.model_copy(update={"shares": (0.1, 0.9)})
    assert not shares_vary([uneven, uneven])
    assert shares_vary([uneven, work.model_copy(update={"shares": (0.2, 0.8)})])


@pytest.mark.parametrize(("devices", "rounds"), [(1, 2), (3, 5), (8, 26), (8, 200), (60, 30)])
def test_percent_by_device_and_round(work: TrainedRound, devices: int, rounds: int) -> None:
    works = _works(work, devices, rounds)
    with plain_style():
        figure = share_figure(works)
        assert_labels_apart(figure)
        texts = {text.get_text() for text in drawn_texts(figure)}
    shown = shown_rounds(works)
    assert shown == min(rounds, 50)
    (image,) = figure.axes[0].findobj(AxesImage)
    expected = 100 * np.array([one.shares for one in works[-shown:]]).T
    np.testing.assert_array_equal(np.asarray(image.get_array()), expected)
    assert {str(rounds), "round", "device"} <= texts


def test_shares_of_another_number_of_devices(tmp_path: Path) -> None:
    directory = write_fake_run(tmp_path / "run", FakeRun(devices=2, rounds=1))
    lines = (directory / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2
    (directory / "rounds.jsonl").write_text(
        lines[0] + "\n" + lines[1].replace('"shares": [0.5, 0.5]', '"shares": [1.0]') + "\n",
        encoding="utf-8",
    )
    with pytest.raises(RunError, match="1 shares for 2 devices"):
        write_report(directory)
