"""Every kind of run that a report must be able to show."""

from pathlib import Path

import pytest

from cutlayer.report.run_page import write_report
from report.fake_run import FakeRun, write_fake_run

KINDS = {
    "classification": FakeRun(),
    "perplexity": FakeRun(devices=4, language_modelling=True, class_names=("text",)),
    "one round one device": FakeRun(devices=1, rounds=1, memory_limit_bytes=None),
    "half-way": FakeRun(rounds=4, keep_ratio=1.0, memory_limit_bytes=64 * 1024**2),
    "no round yet": FakeRun(rounds=0),
}


@pytest.fixture(scope="session", params=KINDS.values(), ids=KINDS.keys())
def run_directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory of each kind, with its page; not to be changed."""
    directory = write_fake_run(tmp_path_factory.mktemp("kind") / "run", request.param)
    write_report(directory)
    return directory
