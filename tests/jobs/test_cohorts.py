"""Cohorts played by workers: the bits of this process, whoever plays them and whoever dies."""

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError, RunError
from cutlayer.jobs.cohorts import playing
from cutlayer.jobs.prepare import Job, prepare
from cutlayer.jobs.workers import Processes, Shared, spread
from cutlayer.logs import lines_to
from cutlayer.model.base import held
from cutlayer.model.optimizer import FedAvg, cohort_places
from cutlayer.model.split import DevicePart
from cutlayer.training.cohort import CohortStart, PlayCohorts, StepDone
from cutlayer.training.expected import initial_state
from cutlayer.training.round import Round, RoundOutcome

_DEVICES = 7


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model and images."""
    root = tmp_path_factory.mktemp("cohorts")
    return tiny.vision_model(root / "model"), tiny.images(root / "images")


def _config(
    folders: tuple[Path, Path], engine: str | dict[str, object] | None = None, **sections: object
) -> Config:
    wanted: dict[str, object] = {"cohort": 3}
    if isinstance(engine, str):
        engine = {"name": engine, "workers": 2}
    wanted |= engine or {}
    base = {"devices": {"count": _DEVICES}, "partition": "iid", "engine": wanted}
    return tiny.config(*folders, **{**base, **sections})


def _rounds(job: Job, play: PlayCohorts | None, told: StepDone | None = None) -> RoundOutcome:
    """The second of two."""
    first = Round(job.setup, initial_state(job.setup), None, play).play()
    return Round(job.setup, first.state, None, play).play(told or (lambda done, total: None))


def assert_same(one: RoundOutcome, other: RoundOutcome) -> None:
    """To the bit, in adapters, optimisers, codecs, losses, bytes and seconds."""
    for side in ("device", "server"):
        tensors, others = (getattr(each.state, side).tensors(side) for each in (one, other))
        assert tensors.keys() == others.keys()
        assert all(torch.equal(tensors[name], others[name]) for name in tensors)
    assert one.state.streams.keys() == other.state.streams.keys()
    for key, stream in one.state.streams.items():
        for mine, yours in zip(
            (stream.sender, stream.receiver),
            (other.state.streams[key].sender, other.state.streams[key].receiver),
            strict=True,
        ):
            assert mine.keys() == yours.keys()
            assert all((mine[name] == yours[name]).all() for name in mine)
    assert one.train_loss == other.train_loss
    assert one.round_costs.bytes_by_payload() == other.round_costs.bytes_by_payload()
    assert one.timeline.delay_s == other.timeline.delay_s


def test_processes_come_to_the_bits_of_one(folders: tuple[Path, Path]) -> None:
    job = prepare(_config(folders))
    here = _rounds(job, None)
    steps: list[tuple[int, int]] = []
    with playing(_config(folders, "processes"), job.setup) as play:
        assert_same(here, _rounds(job, play, lambda *step: steps.append(step)))
    assert sorted(steps) == steps and steps[-1] == (2 * _DEVICES, 2 * _DEVICES)
    assert len(steps) == 3  # one for each cohort
    assert not active_children()


@pytest.mark.slow("a run of each scheme twice")
@pytest.mark.promise
@pytest.mark.parametrize(
    "sections",
    [
        {"scheme": "fl-lora", "adapter_codec": "best"},
        {"aggregation": "none", "adapter_codec": "best"},
        {"scheme": "sft-frozen"},
        {"scheme": "fl-full"},
        {"device_part": {"name": "warm", "rounds": 1}},
        {"aggregation": "fedprox", "server": {"base": "int8"}, "optimizer": {"name": "sgd"}},
    ],
    ids=str,
)
def test_so_they_do_whatever_is_trained(
    folders: tuple[Path, Path], sections: dict[str, object]
) -> None:
    job = prepare(_config(folders, **sections))
    with playing(_config(folders, "processes", **sections), job.setup) as play:
        assert_same(_rounds(job, None), _rounds(job, play))


def test_a_worker_that_is_killed_in_a_round_changes_nothing(
    folders: tuple[Path, Path],
) -> None:
    job = prepare(_config(folders))
    here = _rounds(job, None)
    config = _config(folders, "processes")
    said: list[str] = []
    killed: list[BaseProcess] = []

    def kill_all(done: int, total: int) -> None:
        """As the first of the cohorts has come, others are being played."""
        if not killed:
            killed.extend(active_children())
            for child in killed:
                child.kill()

    with lines_to(said.append), playing(config, job.setup) as play:
        first = Round(job.setup, initial_state(job.setup), None, play).play(kill_all)
        assert_same(here, Round(job.setup, first.state, None, play).play())
    assert len(killed) == 2
    died = [line for line in said if "died: another plays its" in line]
    assert died and all(line.startswith("warning: round 1: the worker of cohort") for line in died)


def test_workers_that_die_each_time_end_the_run(folders: tuple[Path, Path]) -> None:
    """Played by nobody: a worker kills itself as it is given a cohort."""
    job = prepare(_config(folders))
    said: list[str] = []
    with (
        lines_to(said.append),
        pytest.raises(RunError, match=r"round 1: the workers .* 3 of them.*code -9"),
        playing(_config(folders, "processes"), job.setup) as play,
    ):
        assert play is not None
        state = initial_state(job.setup)
        start = _Kills(
            1, (0, 1), {0: 0, 1: 0}, state.device, state.server, {}, weights=None, summed=True
        )
        play([start], lambda done, total: None)
    assert sum("another plays its 2 devices again" in line for line in said) == 2


class _Kills(CohortStart):
    """Whoever takes it out of its bytes."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _die, ()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _mapped_parts(shared: Shared[DevicePart]) -> Callable[[int], int]:
    return partial(_mapped_bytes, shared())


def _mapped_bytes(part: DevicePart, _: int) -> int:
    """Of the part's frozen weights, those in the file that is shared."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    areas = [line[0].split("-") for line in lines if "cutlayer-" in line[-1]]
    areas_in = [range(int(first, 16), int(last, 16)) for first, last in areas]
    weights = [own for weight in part.adapted.model.parameters() for own in held(weight)]
    return sum(own.nbytes for own in weights if any(own.data_ptr() in area for area in areas_in))


def test_a_server_merges_by_the_same_cohorts() -> None:
    """As over a network, where all rows are there at once."""
    rows = torch.randn(_DEVICES, 1000, generator=torch.Generator().manual_seed(0))
    weights, fedavg = [3.0 + device for device in range(_DEVICES)], FedAvg(3)
    parts = cohort_places(_DEVICES, 3)
    sums = [fedavg.sum_of(rows[own], weights[own]) for own in parts]
    assert torch.equal(fedavg.merge(rows, weights), fedavg.of_sums(sums, weights))
    assert cohort_places(_DEVICES, 3) == [slice(0, 3), slice(3, 5), slice(5, 7)]
    assert cohort_places(64, 50) == [slice(0, 32), slice(32, 64)]
    assert cohort_places(50, 50) == [slice(0, 50)]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_weights_of_all_workers_are_one_file(folders: tuple[Path, Path]) -> None:
    setup = prepare(_config(folders)).setup
    engine = Processes(2, ["cutlayer.jobs.cohorts"])
    try:
        shared = engine.share(setup.server.device_part)
        found = dict(spread(engine, partial(_mapped_parts, shared), range(2)))
    finally:
        engine.close()
    weights = setup.server.device_part.adapted.bytes
    assert found == {0: weights, 1: weights}


@pytest.mark.parametrize(
    ("scheme", "why"),
    [("sl", "follow one another"), ("splitlora", "follow one another"), ("sft-cached", "cache")],
)
def test_devices_that_cannot_be_played_apart_are_refused(
    folders: tuple[Path, Path], scheme: str, why: str
) -> None:
    config = _config(folders, "processes", scheme=scheme)
    job = prepare(config)
    refused = pytest.raises(ConfigError, match=f"engine processes: the devices of {scheme}.*{why}")
    with refused, playing(config, job.setup):
        pass
