"""The descriptions that come with cutlayer are what describing gives today.

`PYTHONPATH=tests python tests/jobs/test_shipped_models.py` writes them anew.
"""

from pathlib import Path

import pytest

from cutlayer.config.read import read_config
from cutlayer.config.schema import Config
from cutlayer.data.find import find_config, known_config
from cutlayer.jobs.model_spec import SHIPPED, describe_request, model_request
from cutlayer.model.described import described_text, read_described

EXAMPLES = Path(__file__).parents[2] / "src" / "cutlayer" / "examples"
CONFIGS = {
    "built-in": Config(),
    **{path.stem: read_config(path) for path in sorted(EXAMPLES.glob("plan-*.yaml"))},
    "llama-8b": read_config(EXAMPLES / "llama-8b.yaml"),
}


def folder_of(config: Config) -> Path:
    """Of the configuration that comes with cutlayer, whatever the cache holds."""
    folder = known_config(config.model.name)
    assert folder is not None
    return folder


def test_none_is_there_for_nothing() -> None:
    keys = {model_request(config, folder_of(config)).key for config in CONFIGS.values()}
    assert {path.stem for path in SHIPPED.glob("*.json")} == keys


@pytest.mark.parametrize("name", CONFIGS)
def test_a_description_is_what_describing_gives(name: str) -> None:
    folder = folder_of(CONFIGS[name])
    request = model_request(CONFIGS[name], folder)
    assert read_described(SHIPPED / f"{request.key}.json") == describe_request(request, folder)


def test_the_built_in_model_is_found_without_a_hub(tmp_path: Path) -> None:
    assert find_config(Config().model.name, cache=tmp_path).path == folder_of(Config())


if __name__ == "__main__":
    for old in SHIPPED.glob("*.json"):
        old.unlink()
    for config in CONFIGS.values():
        request = model_request(config, folder_of(config))
        described = describe_request(request, folder_of(config))
        text = described_text(described)
        (SHIPPED / f"{request.key}.json").write_text(text, encoding="utf-8")
