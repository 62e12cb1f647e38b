"""Every example configuration is read, and listed in the examples' page."""

from pathlib import Path

import pytest

from cutlayer.config.read import read_config
from cutlayer.config.schema import Config

FOLDER = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_an_example_is_a_configuration(path: Path) -> None:
    assert read_config(path) != Config()
    assert f"[{path.name}]({path.name})" in (FOLDER / "README.md").read_text(encoding="utf-8")
