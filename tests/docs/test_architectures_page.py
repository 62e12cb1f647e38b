"""The page of architectures is what trying each of its types gives: equal, or why not."""

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
MADE = runpy.run_path(str(DOCS / "make_architectures.py"))
LINES = [
    line
    for line in (DOCS / "architectures.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| task ")
]
# one of each way that something is split, or refused
QUICK = {
    *(("image-classification", name) for name in ("dinov3_vit", "siglip2", "resnet", "vit_mae")),
    *(("text-classification", name) for name in ("deberta-v2", "modernbert", "t5")),
    *(("causal-lm", name) for name in ("gemma3", "gpt_oss", "gemma4", "mixtral", "qwen3_vl")),
}
SLOW = pytest.mark.slow("ninety types take half a minute; a dozen of them stand for the ways")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("task", "name"),
    [pytest.param(*row, marks=() if row in QUICK else SLOW) for row in MADE["ROWS"]],
)
def test_the_page_has_what_a_type_gives(task: str, name: str) -> None:
    assert MADE["row"](task, name) in LINES, "run: python docs/make_architectures.py"


def test_the_page_has_every_type_and_no_other() -> None:
    named = [tuple(line.split(" | ")[:2]) for line in LINES]
    assert [(task.removeprefix("| "), kind.split(" ")[0]) for task, kind in named] == list(
        MADE["ROWS"]
    )
    assert set(MADE["ROWS"]) >= QUICK


def test_most_types_are_accepted_and_the_others_have_a_reason() -> None:
    refused = [line for line in LINES if "| no: " in line]
    assert len(LINES) >= 60
    assert len(LINES) - len(refused) >= 50
    assert all(len(line.split("| no: ")[1]) > 20 for line in refused)
