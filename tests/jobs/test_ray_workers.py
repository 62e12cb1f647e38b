"""Workers on Ray: two nodes of a cluster on this machine, what comes back, and what goes wrong."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cutlayer.config.training import RayEngine
from cutlayer.errors import ConfigError, RunError
from cutlayer.jobs.cohorts import playing
from cutlayer.jobs.prepare import prepare
from cutlayer.jobs.workers import Engine, WorkerDied, opened, spread
from cutlayer.logs import lines_to
from cutlayer.training.expected import initial_state
from cutlayer.training.round import Round
from jobs.nodes import nodes
from jobs.test_cohorts import _config, _rounds, assert_same, folders

ray = pytest.importorskip("ray")

__all__ = ["folders"]


def test_no_cluster_answers() -> None:
    said = r"no Ray cluster answers at engine.address 127.0.0.1:9 within 0.2 s .*ray start --head"
    with (
        pytest.raises(RunError, match=said),
        opened(RayEngine(address="127.0.0.1:9", wait_s=0.2)),
    ):
        pass
    for wrong in ("somewhere", "host:", "host:port"):
        with (
            pytest.raises(ConfigError, match=f"engine.address {wrong}: give HOST:PORT"),
            opened(RayEngine(address=wrong)),
        ):
            pass


def test_without_ray_it_says_what_to_install(tmp_path: Path) -> None:
    """In a process where there is none."""
    (tmp_path / "ray.py").write_text("raise ModuleNotFoundError('no ray', name='ray')")
    program = (
        "from cutlayer.config.training import RayEngine\n"
        "from cutlayer.jobs.workers import opened\n"
        "with opened(RayEngine()): pass"
    )
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "engine ray needs ray: pip install 'cutlayer[ray]'" in done.stderr


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster of two nodes, of a CPU each."""
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own is 15
    # workers are to find what tests send them
    before, os.environ["PYTHONPATH"] = os.environ.get("PYTHONPATH"), os.pathsep.join(sys.path)
    node = {"num_cpus": 1, "object_store_memory": 2**27, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        cluster.add_node(num_cpus=1, object_store_memory=2**27)
        cluster.wait_for_nodes()
        yield cluster.address
    finally:
        cluster.shutdown()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@pytest.fixture
def engine(address: str) -> Iterator[Engine]:
    """Two workers on it."""
    with opened(RayEngine(workers=2, address=address)) as engine:
        yield engine


@pytest.mark.slow("processes of its own")
@pytest.mark.promise
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning")
def test_workers_are_on_both_nodes_and_one_that_dies_is_replaced(engine: Engine) -> None:
    found = dict(spread(engine, nodes, range(6)))
    assert len({place[0] for place in found.values() if isinstance(place, tuple)}) == 2
    asked: list[int] = []

    def again(item: int) -> int:
        asked.append(item)
        return 1

    done = dict(spread(engine, nodes, [99, 13, 2], retries=1, again=again))
    assert asked == [99] and isinstance(done[1], tuple) and isinstance(done[2], tuple)
    assert isinstance(done[13], ConfigError) and str(done[13]) == "unlucky"
    (died,) = dict(spread(engine, nodes, [99])).values()
    assert isinstance(died, WorkerDied) and "actor died" in str(died)


@pytest.mark.slow("processes of its own")
@pytest.mark.promise
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning")
def test_two_nodes_come_to_the_bits_of_one_process(
    folders: tuple[Path, Path], address: str
) -> None:
    """Also where all workers are killed in a round."""
    here = _config(folders)
    wanted = {"name": "ray", "workers": 2, "address": address, "cohort": 3}
    job, said = prepare(here), list[str]()

    def kill_all(done: int, total: int) -> None:
        if not killed:
            killed.extend(actor["Pid"] for actor in _actors())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    killed: list[int] = []
    with (
        lines_to(said.append),
        playing(_config(folders, engine=wanted), job.setup) as play,
    ):
        first = Round(job.setup, initial_state(job.setup), None, play).play(kill_all)
        outcome = Round(job.setup, first.state, None, play).play()
    assert_same(_rounds(job, None), outcome)
    assert len(killed) == 2 and any("another plays its" in line for line in said)


def _actors() -> list[dict[str, int]]:
    """Those that live."""
    from ray._private.state import actors

    return [one for one in actors().values() if one["State"] == "ALIVE"]


@pytest.mark.slow("processes of its own")
@pytest.mark.promise
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning")
def test_more_workers_than_there_are_cpus(address: str) -> None:
    with (
        pytest.raises(ConfigError, match=r"engine.workers 3.* the cluster has 2: lower it"),
        opened(RayEngine(workers=3, address=address)),
    ):
        pass
    assert not ray.is_initialized()
