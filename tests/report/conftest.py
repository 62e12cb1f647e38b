"""Every kind of run that a report must be able to show, and a sweep."""

from pathlib import Path

import pytest

from cutlayer.report.comparison import compare
from cutlayer.report.run_page import write_report
from cutlayer.report.sweep import Cell, Sweep
from report.compared import compared, refused, with_scores
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


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Two cells of three seeds: `few` is cheaper and worse; `dear` costs more than `many` and is
    no better; `big` does not fit."""
    folder = tmp_path_factory.mktemp("runs")

    def cell(label: str, ends: list[float], larger: float) -> Cell:
        runs = {}
        for seed, end in enumerate(ends):
            run = compared(folder, f"{label}, seed {seed}", larger=larger, slower=larger)
            count = len(run.record.rounds)
            scores = [0.1, *[end - 0.01 * (count - 1 - n) for n in range(1, count)]]
            runs[seed] = with_scores(run, scores)
        return Cell(label, {"codec.target_bits_up": label}, runs)

    cells = (
        cell("few", [0.70, 0.72, 0.71], 0.5),
        cell("many", [0.80, 0.83, 0.81], 1.0),
        cell("dear", [0.80, 0.81, 0.79], 2.0),
        Cell("big", {"codec.target_bits_up": "big"}, {}, refused("big")),
    )
    entries = [run for one in cells for run in one.runs.values()]
    return Sweep(cells, compare([*entries, refused("big")], 0.8), cells[0])
