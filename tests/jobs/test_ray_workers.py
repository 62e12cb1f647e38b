"""Workers on Ray that cannot be had: what is said."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cutlayer.config.training import RayEngine
from cutlayer.errors import ConfigError, RunError
from cutlayer.jobs.workers import opened

pytest.importorskip("ray")


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
