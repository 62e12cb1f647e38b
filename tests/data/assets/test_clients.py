"""The real clients of this machine, with empty caches, on registries of our own."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cutlayer.data.assets.packages import DebianPackages, NpmTarball, Wheel, run_tool
from cutlayer.errors import AssetError
from data.assets.kit import sha256
from data.assets.registries import (
    TARBALL,
    WHEEL,
    Registry,
    alone_with,
    debian_archive,
    npm_registry,
    python_index,
    serving,
)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    with serving() as registry:
        alone_with(registry, tmp_path, monkeypatch)
        yield registry


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target = tmp_path / "target"
    target.mkdir()
    return target


def client(name: str) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"no {name} on this machine")


def test_pip_fetches_a_wheel(registry: Registry, folder: Path) -> None:
    registry.files = python_index()
    Wheel("some-wheel", "1.0", sha256(WHEEL)).fetch(folder, run_tool)
    assert (folder / "package/data/a.txt").read_bytes() == b"text a"


def test_npm_fetches_a_tarball(registry: Registry, folder: Path) -> None:
    client("npm")
    registry.files = npm_registry(registry.address)
    NpmTarball("@some/tar", "2.0.0", sha256(TARBALL)).fetch(folder, run_tool)
    assert (folder / "package/data/a.txt").read_bytes() == b"text a"
    assert "/tar.tgz" in registry.asked


def test_apt_fetches_a_package_without_lists_of_its_own(
    registry: Registry, folder: Path, tmp_path: Path
) -> None:
    client("apt-get")
    registry.files = debian_archive(tmp_path)
    DebianPackages(("some-data",), (("usr/share/some/file", sha256(b"right")),)).fetch(
        folder, run_tool
    )
    assert (folder / "usr/share/some/file").read_text() == "right"
    assert [path.name for path in folder.iterdir()] == ["usr"]


@pytest.mark.parametrize(
    ("package", "name", "reason"),
    [
        (Wheel("gone", "1.0", ""), "pip", "Could not find a version .* gone==1.0"),
        (NpmTarball("gone", "1.0.0", ""), "npm", "404"),
        (DebianPackages(("gone",)), "apt-get", "Failed to fetch .*Packages"),
    ],
    ids=("pip", "npm", "apt"),
)
@pytest.mark.usefixtures("registry")
def test_a_package_that_is_not_there_is_told_by_its_client(
    folder: Path, package: Wheel | NpmTarball | DebianPackages, name: str, reason: str
) -> None:
    if name != "pip":
        client(name)
    with pytest.raises(AssetError, match=reason):
        package.fetch(folder, run_tool)
