"""The page of the Python interface is what the docstrings say."""

import runpy
from pathlib import Path

import cutlayer

ROOT = Path(__file__).parents[2]


def test_the_page_is_made_anew_whenever_a_docstring_changes() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_api.py"))["page"]()
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert made == page, "run: python docs/make_api.py"
    assert all(f"\n### {name}\n" in page for name in cutlayer.__all__ if name != "__version__")
