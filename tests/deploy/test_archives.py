"""The wheel and the source archive: built, and what their users are told to run is in them."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from functools import cached_property
from pathlib import Path

import pytest

import cutlayer

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "cutlayer"
PAGE = ROOT / "docs" / "package.md"
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", ".*_cache", "__pycache__", ".hypothesis", "build", "dist", "runs", "*.so",
    "*.egg-info", ".coverage*",
)  # fmt: skip
# what setuptools does without any network
BUILD = """
import sys
from setuptools import build_meta
folder = sys.argv[1]
build_meta.build_sdist(folder)
build_meta.build_wheel(folder)
"""

# modules of extras, as Python marks those that cannot be imported
EXTRAS = dict.fromkeys(
    ("torch", "transformers", "safetensors", "PIL", "matplotlib", "datasets", "onnx", "gguf",
     "cryptography", "prometheus_client")
)  # fmt: skip


def plain_files(folder: Path) -> set[str]:
    """The files below a folder that somebody wrote."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and path.suffix not in (".pyc", ".so", ".pyd")
    }


@dataclass(frozen=True)
class Archives:
    """The two of them, built from this tree."""

    sdist: Path
    wheel: Path

    @cached_property
    def sources(self) -> set[str]:
        """What the source archive has, below its one folder."""
        with tarfile.open(self.sdist) as archive:
            return {name.partition("/")[2] for name in archive.getnames()}

    @cached_property
    def installed(self) -> set[str]:
        """What the wheel installs."""
        with zipfile.ZipFile(self.wheel) as archive:
            return set(archive.namelist())

    @cached_property
    def metadata(self) -> Message:
        """What a package's page is made of."""
        with zipfile.ZipFile(self.wheel) as archive:
            (name,) = (name for name in self.installed if name.endswith(".dist-info/METADATA"))
            return Parser().parsestr(archive.read(name).decode())


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Archives:
    folder = tmp_path_factory.mktemp("archives")
    shutil.copytree(ROOT, folder / "tree", ignore=LEFT_OUT, symlinks=True)
    subprocess.run(
        [sys.executable, "-c", BUILD, folder],
        cwd=folder / "tree",
        check=True,
        capture_output=True,
        # only what is packed counts here: without a compiler the C part is left out
        env={**os.environ, "CC": "no-such-compiler"},
    )
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return Archives(sdist, wheel)


@pytest.mark.slow("builds both archives")
@pytest.mark.promise
def test_the_wheel_has_every_file_of_the_package(archives: Archives) -> None:
    for name in plain_files(PACKAGE):
        if not name.endswith(".c"):
            assert f"cutlayer/{name}" in archives.installed, name
    beside = ("tests", "docs", "reproduction")
    assert not [name for name in archives.installed if name.startswith(beside)]


@pytest.mark.slow("builds both archives")
@pytest.mark.promise
def test_the_source_archive_has_what_a_clone_has(archives: Archives) -> None:
    folders = (".ci", "benchmarks", "deploy", "docs", "experiments", "reproduction", "tests")
    for folder in (*folders, "src/cutlayer"):
        for name in plain_files(ROOT / folder):
            assert f"{folder}/{name}" in archives.sources, name
    assert {"CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "README.md"} <= archives.sources
    assert not [name for name in archives.sources if name.endswith((".so", ".pyc"))]


@pytest.mark.slow("builds both archives")
@pytest.mark.promise
def test_the_wheel_does_what_needs_no_extra(archives: Archives, tmp_path: Path) -> None:
    """From the wheel alone: neither this tree nor an extra's module is there to what runs."""
    with zipfile.ZipFile(archives.wheel) as archive:
        archive.extractall(tmp_path / "installed")
    words = (
        "examples copy plan-llama-7b",
        "plan plan-llama-7b.yaml",
        "assets list",
        "train --help",
    )
    for line in words:
        code = f"from cutlayer.cli.main import main; raise SystemExit(main({line.split()!r}))"
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.modules |= {EXTRAS!r}; {code}"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path / "installed"), "CUTLAYER_PORTABLE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "plan" / "plan.yaml").exists()


@pytest.mark.slow("builds both archives")
@pytest.mark.promise
def test_a_packages_page_says_who_and_for_what(archives: Archives) -> None:
    assert archives.metadata["Author"] == "cutlayer authors"
    assert archives.metadata["Requires-Python"] == ">=3.11"
    assert "Operating System :: POSIX :: Linux" in archives.metadata.get_all("Classifier", [])
    assert archives.metadata.get_payload() == PAGE.read_text(encoding="utf-8")


def test_a_packages_page_has_no_link_into_a_clone() -> None:
    """There is no clone beside it: no relative link, no picture of ours."""
    text = PAGE.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)]*)\)|(?:src|href)=\"([^\"]*)\"", text)
    assert [one for one in map("".join, targets) if not one.startswith("https://")] == []
    assert f"'cutlayer-{cutlayer.__version__}.tar.gz[all]'" in text
