"""The page of the device part and the experiment's tables are what the measured rows give."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"


def test_the_page_is_made_of_the_rows() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_device_part.py"))["page"]()
    page = (ROOT / "docs" / "device-part.md").read_text(encoding="utf-8")
    assert made == page, "run: python docs/make_device_part.py"


def test_the_tables_are_made_of_the_rows() -> None:
    made = runpy.run_path(str(EXPERIMENTS / "device_part.py"))
    rows = made["read_results"](EXPERIMENTS / "device_part.jsonl")
    table = (EXPERIMENTS / "device_part.md").read_text(encoding="utf-8")
    assert made["tables"](rows) == table, "run: python experiments/device_part.py --table"
