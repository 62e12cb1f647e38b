"""Training runs in other processes: all come back, and what goes wrong there is told here."""

import os
import signal
from multiprocessing import active_children

import pytest
import tiny

from cutlayer.config.schema import Config
from cutlayer.errors import CutlayerError, RunError
from cutlayer.jobs.workers import Processes
from cutlayer.profiling.grid import CodecSetting
from cutlayer.profiling.measure import WantedRun, train_elsewhere

# each process loads torch anew
pytestmark = pytest.mark.slow("worker processes that import torch")

WANTED = [WantedRun(CodecSetting("fast"), seed) for seed in range(3)]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A job of a second."""
    root = tmp_path_factory.mktemp("job")
    return tiny.config(tiny.vision_model(root / "model"), tiny.images(root / "images"))


def test_all_come_back_and_nobody_stays(config: Config) -> None:
    lines = list(train_elsewhere(config, WANTED, Processes(2)))
    assert sorted(line.seed for line in lines) == [0, 1, 2]
    assert not active_children()
    assert list(train_elsewhere(config, [], Processes(2))) == []


def test_a_process_that_is_killed(config: Config) -> None:
    lines = train_elsewhere(config, WANTED, Processes(1))
    next(lines)
    (child,) = active_children()
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(RunError, match=r"ended with code -9.*fewer workers"):
        list(lines)
    assert not active_children()


def test_an_error_there_is_raised_here(config: Config) -> None:
    model = config.model.model_copy(update={"cut": 99})
    wrong = config.model_copy(update={"model": model})
    with pytest.raises(CutlayerError, match=r"1\.\.3"):
        list(train_elsewhere(wrong, WANTED, Processes(2)))
    assert not active_children()
