"""Every code block in the README and the documents runs, word for word, on tiny stand-ins.

The stand-ins lie in the cache under the names of the default model and data, so that no command
needs another word and none needs the network. `make` lines are run dry: they would run this test.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("src/cutlayer/examples/*.md")]
)
LANGUAGES = {"sh", "python", "yaml", "toml", ""}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    code: str


def _blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Our commands first on the path, and a cache that holds tiny models and data."""
    cache = tiny.cache(tmp_path_factory.mktemp("cache"))
    return {
        **os.environ,
        "CUTLAYER_CACHE": str(cache),
        "HF_HUB_OFFLINE": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def _runnable(block: Block) -> str:
    """The block as a shell script (or Python); `make` commands are only planned."""
    if block.language == "sh":
        dry = re.sub(r"^make ", f"make --dry-run --directory {ROOT} ", block.code, flags=re.M)
        return f"set -eu\n{dry}"
    return block.code


@pytest.mark.slow("every command of the documents in a process of its own")
@pytest.mark.promise
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_runs(page: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """The blocks of a page in order, in one directory that has nothing."""
    for block in _blocks(page):
        assert block.language in LANGUAGES, f"a block in {block.language!r} is not run by any test"
        if block.language == "yaml":
            (tmp_path / "block.yaml").write_text(block.code, encoding="utf-8")
            words = ["cutlayer", "train", "block.yaml", "--print-config"]
        elif block.language == "python":
            words = [sys.executable, "-c", block.code]
        elif block.language == "sh":
            words = ["bash", "-c", _runnable(block)]
        else:
            continue
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{block.code}\n{done.stdout}\n{done.stderr}"


def test_the_readme_has_what_it_promises() -> None:
    """Both kinds of block are found at all, and every link to a file leads to one."""
    readme = ROOT / "README.md"
    assert {"sh", "python"} <= {block.language for block in _blocks(readme)}
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
