"""What the documents point to is there: files of the clone, headings, modules by their path."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "benchmarks" / "README.md"])
# where a path in backticks may begin
BESIDE = ("", "src/cutlayer", "src/cutlayer/codec")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def _prose(page: Path) -> str:
    """The page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def _anchors(page: Path) -> set[str]:
    """The headings as links name them."""
    headings = re.findall(r"^#+ (.*)$", _prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        found = page if not name else (page.parent / name).resolve()
        assert found.exists(), target
        assert not anchor or anchor in _anchors(found), target


@each_page
def test_modules_that_are_named_exist(page: Path) -> None:
    for path in re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|c))`", _prose(page)):
        assert any((ROOT / folder / path).exists() for folder in BESIDE), path
