"""Assets, packages and hubs that need no network."""

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from cutlayer.data.assets.catalogue import Asset, Convert, Kind
from cutlayer.data.assets.packages import Package, RunTool
from cutlayer.data.find import Hub
from cutlayer.errors import AssetError


@final
@dataclass(frozen=True)
class FakePackage(Package):
    """A package with one file; `fetched` counts."""

    fetched: list[Path]
    content: str = "content"

    @property
    def title(self) -> str:
        return "fake package"

    def fetch(self, folder: Path, run: RunTool) -> None:
        self.fetched.append(folder)
        (folder / "file.txt").write_text(self.content)


def copy_file(unpacked: Path, target: Path) -> None:
    """The simplest converter."""
    (target / "file.txt").write_text((unpacked / "file.txt").read_text())


def fake_asset(
    fetched: list[Path],
    convert: Convert = copy_file,
    kind: Kind = "data",
    layout: int = 1,
    needs: tuple[str, ...] = (),
    disk_bytes: int = 10,
) -> Asset:
    """An asset named `fake`."""
    return Asset(
        name="fake",
        kind=kind,
        what="a fake",
        package=FakePackage(fetched),
        convert=convert,
        licence="none",
        download_bytes=10,
        disk_bytes=disk_bytes,
        needs=needs,
        layout=layout,
    )


@final
class FakeHub(Hub):
    """A hub that has some models and says why it has not the others."""

    def __init__(self, models: dict[str, Path], sets: Mapping[str, Any] | None = None) -> None:
        self.models = models
        self.sets = sets or {}
        self.asked: list[str] = []

    def model(self, hub_id: str) -> Path:
        self.asked.append(hub_id)
        if hub_id not in self.models:
            raise AssetError("the hub is away")
        return self.models[hub_id]

    def config(self, hub_id: str) -> Path:
        return self.model(hub_id)

    def data(self, hub_id: str) -> Mapping[str, Any]:
        self.asked.append(hub_id)
        if hub_id not in self.sets:
            raise AssetError("the hub is away")
        splits: Mapping[str, Any] = self.sets[hub_id]
        return splits


def wheel(files: dict[str, bytes]) -> bytes:
    """A wheel's bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def tarball(files: dict[str, bytes], link: str | None = None) -> bytes:
    """A .tgz's bytes, with a symbolic link to /etc/passwd of that name if asked for."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        if link is not None:
            member = tarfile.TarInfo(link)
            member.type = tarfile.SYMTYPE
            member.linkname = "/etc/passwd"
            archive.addfile(member)
    return content.getvalue()


def sha256(content: bytes) -> str:
    """In hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def delivering(name: str, content: bytes, commands: list[list[str]]) -> RunTool:
    """A client that leaves one file, and whose commands are listed."""

    def run(command: list[str], folder: Path) -> None:
        commands.append(command)
        if "download" in command or "pack" in command:
            (folder / name).write_bytes(content)

    return run


def failing(when: Callable[[list[str]], bool], message: str) -> RunTool:
    """A client that fails on some commands."""

    def run(command: list[str], folder: Path) -> None:
        if when(command):
            raise AssetError(message)

    return run
