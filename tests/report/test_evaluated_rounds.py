"""Nobody who reads a run trips over a round that was not evaluated."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from cutlayer.files import write_json
from cutlayer.report.compare_page import compare_page
from cutlayer.report.comparison import ComparedRun, compare, comparison_rows
from cutlayer.report.run_page import run_page
from cutlayer.report.run_reader import RunRecord, read_record, read_run
from cutlayer.report.tables import round_table, summary_table
from cutlayer.report.wording import round_line
from report.fake_run import FakeRun, write_fake_run


@pytest.fixture(params=[False, True], ids=["classes", "language"])
def record(request: pytest.FixtureRequest, tmp_path: Path) -> RunRecord:
    fake = FakeRun(rounds=7, evaluated_every=3, language_modelling=request.param)
    return read_record(write_fake_run(tmp_path / "run", fake))


def test_pages_and_tables_show_the_rounds_that_were_evaluated(record: RunRecord) -> None:
    assert [one.round for one in record.rounds if one.score is None] == [2, 4, 5]
    page = run_page(record)
    assert "Round by round" in page and "Learning" in page
    out = StringIO()
    console = Console(file=out, width=120)
    console.print(round_table(record.rounds))
    console.print(summary_table(record.summary, record.trained))
    assert "nan" not in out.getvalue()
    assert round_line(record.rounds[2], 7).startswith("round 2 of 7: not evaluated, loss")


def test_runs_are_compared_by_the_rounds_that_were_evaluated(record: RunRecord) -> None:
    """Bytes and seconds of the others count all the same."""
    run = ComparedRun("one", record, "one")
    assert [point.round for point in run.points] == [0, 1, 3, 6, 7]
    sent = sum(one.uplink_bytes + one.downlink_bytes for one in record.trained)
    assert run.points[-1].sent_bytes == sent
    comparison = compare([run, ComparedRun("two", record, "two")])
    assert "compare" in compare_page(comparison)
    assert comparison_rows(comparison)[0]["rounds"] == 7


def test_a_table_of_a_run_has_gaps(record: RunRecord, tmp_path: Path) -> None:
    rows = read_run(tmp_path / "run").to_dicts()
    assert ["eval_loss" in row for row in rows] == [
        True, True, False, True, False, False, True, True,
    ]  # fmt: skip


def test_the_page_shows_classes_and_devices(tmp_path: Path) -> None:
    """A map of what classes were taken for, figures of each class, and a column a device."""
    fake = FakeRun(rounds=2, class_names=("cat", "dog"), devices=3)
    path = write_fake_run(tmp_path / "run", fake)
    figures = {"precision": 0.5, "recall": 0.25, "f1": 1 / 3, "support": 4}
    last = {
        "round": 2,
        "macro_f1": 1 / 3,
        "class_names": ["cat", "dog"],
        "classes": [figures, figures],
        "confusion": [[1, 3], [3, 1]],
        "device_scores": [0.25, None, 0.5],
    }
    write_json(path / "evaluation.json", {"last": last})
    page = run_page(read_record(path))
    assert "macro-F1 0.333" in page and "<td>0.250</td>" in page
    assert "Devices' scores" in page or "Devices&#39; scores" in page
    (path / "evaluation.json").write_text('{"last": {"round": 2, "class_names": ["cat"]}}')
    with pytest.raises(Exception, match="1 class_names do not fit"):
        read_record(path)
