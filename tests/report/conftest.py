"""Every kind of run that a report must be able to show."""

from pathlib import Path

import pytest

from report.fake_run import FakeRun, write_fake_run


@pytest.fixture(
    params=[
        FakeRun(),
        FakeRun(devices=4, language_modelling=True, class_names=("text",)),
        FakeRun(devices=1, rounds=1, memory_limit_bytes=None),
        FakeRun(rounds=4, keep_ratio=1.0, memory_limit_bytes=64 * 1024**2),
        FakeRun(rounds=0),
    ],
    ids=["classification", "perplexity", "one round one device", "half-way", "no round yet"],
)
def run_directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A run directory of each kind."""
    return write_fake_run(tmp_path / "run", request.param)
