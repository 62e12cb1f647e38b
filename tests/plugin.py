"""`examples/plugin` as if it were installed: on the path, with its entry points."""

import tomllib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples" / "plugin"


def install(monkeypatch: pytest.MonkeyPatch, site: Path) -> None:
    """Into the folder `site`, for this test."""
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = site / "cutlayer_example-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    (info / "top_level.txt").write_text("cutlayer_example\n")
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {path}" for name, path in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.syspath_prepend(str(FOLDER / "src"))
