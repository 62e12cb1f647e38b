"""A plan and a run of one configuration count the same model."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from data.assets.kit import FakeHub

from cutlayer.jobs.model_spec import planned_model
from cutlayer.jobs.prepare import prepare


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """A tiny model and data for it, by task; the configurations know how many classes there are."""
    root = tmp_path_factory.mktemp("jobs")
    vision = tiny.vision_model(root / "vision")
    path = vision / "config.json"
    labels = {"id2label": {str(n): f"kind {n}" for n in range(tiny.CLASSES)}}
    settings = json.loads(path.read_text(encoding="utf-8")) | labels
    path.write_text(json.dumps(settings), encoding="utf-8")
    return {
        "images": (vision, tiny.images(root / "images")),
        "texts": (tiny.text_model(root / "bert", "bert"), tiny.reviews(root / "reviews")),
        "language": (tiny.text_model(root / "llama", "llama"), tiny.corpus(root / "corpus")),
    }


@pytest.mark.parametrize(
    ("kind", "sections"),
    [
        ("images", {}),
        ("images", {"devices": {"base": "bfloat16"}, "adapter": {"patch_embedding": True}}),
        ("texts", {"devices": {"base": "bfloat16"}, "adapter": {"targets": ["query", "value"]}}),
        ("language", {"devices": {"base": "bfloat16"}, "adapter": {"head": False, "rank": 3}}),
    ],
)
def test_a_plan_and_a_run_count_the_same(
    kind: str,
    sections: dict[str, Any],
    folders: dict[str, tuple[Path, Path]],
    tmp_path: Path,
) -> None:
    config = tiny.config(*folders[kind], **sections)
    planned = planned_model(config, cache=tmp_path, hub=FakeHub({}))
    job = prepare(config)
    assert (job.setup.simulation.model, job.setup.training.task) == (planned.model, planned.task)
    assert planned.model.bytes_per_value == (2 if sections else 4)
