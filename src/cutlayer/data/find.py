"""Where a model or data set lies: a local path, the cache, the Hugging Face hub, a package."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cutlayer.data.assets.catalogue import (
    CATALOGUE,
    Asset,
    Kind,
    cache_root,
    get_asset,
    installed,
    known_asset,
    nearest_known,
)
from cutlayer.data.assets.packages import RunTool, run_tool
from cutlayer.data.hub import Hub, HuggingFaceHub, holds_model, is_hub_id, model_fault
from cutlayer.data.samples import Source
from cutlayer.errors import AssetError, nearest

_LOG = logging.getLogger(__name__)

_TITLES = {"model": "model", "data": "data set"}
# what shapes these models' architecture, as published with the weights: so that one can be planned
# with, or described, on a machine without network
_CONFIGS = Path(__file__).parent / "model_configs"

# short names of models, and what the hub calls them; those of assets stand in the catalogue
KNOWN_MODELS: dict[str, str] = {
    **{
        asset.name: asset.hub_id
        for asset in CATALOGUE.values()
        if asset.kind == "model" and asset.hub_id is not None
    },
    "vit-b16": "google/vit-base-patch16-224",
    "vit-l16": "google/vit-large-patch16-224",
    "dinov2-base": "facebook/dinov2-base",
    "dinov2-large": "facebook/dinov2-large",
    "bert-base": "google-bert/bert-base-uncased",
    "bert-large": "google-bert/bert-large-uncased",
    "gpt2": "openai-community/gpt2",
    "opt-1.3b": "facebook/opt-1.3b",
    "llama-2-7b": "meta-llama/Llama-2-7b-hf",
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B",
    "llama-3.2-1b": "meta-llama/Llama-3.2-1B",
    "mistral-7b": "mistralai/Mistral-7B-v0.1",
    "qwen2.5-0.5b": "Qwen/Qwen2.5-0.5B",
    "qwen3-0.6b": "Qwen/Qwen3-0.6B",
}


@dataclass(frozen=True)
class FoundAsset:
    """A folder or file on this machine, and who served it. `asset`: what it is, if a known one."""

    path: Path
    source: Source
    asset: Asset | None = None

    @property
    def weights(self) -> str:
        """What names these very weights to other libraries: a hub id, where the hub's are the
        same, else the folder."""
        asset = self.asset
        if asset is None or asset.hub_id is None:
            return str(self.path)
        return str(self.path) if asset.other_weights and self.source != "hub" else asset.hub_id


@dataclass(frozen=True)
class HubSplits:
    """A data set that the hub served, as `datasets` opens it."""

    splits: Mapping[str, Any]
    hub_id: str


def find_model(
    name: str,
    *,
    cache: Path | None = None,
    hub: Hub | None = None,
    run: RunTool = run_tool,
) -> FoundAsset:
    """The folder of a model named by path, by a known short name (`dinov2-small`) or by hub id.

    Looked for in this order: path, cache, hub (first what lies in Hugging Face's own cache, then
    the network, given up within seconds), package. `cache`: cutlayer's cache directory (default:
    `$CUTLAYER_CACHE`, `$XDG_CACHE_HOME/cutlayer`, `~/.cache/cutlayer`). Each slow
    step is logged. Raises `AssetError` when nobody has it, naming the nearest known names.
    """
    asset = known_asset(name, "model")
    path = Path(name).expanduser()
    if path.is_dir() and holds_model(path):
        return FoundAsset(path, "path", asset)
    if path.is_dir() and asset is None:
        raise AssetError(f"{path} is no model that can be trained: {model_fault(path)}")
    if path.exists() and asset is None:
        raise AssetError(f"{path} is a file: name the folder that save_pretrained wrote")
    request = _Request(name, "model", asset, cache or cache_root(), run)
    where = hub or HuggingFaceHub()
    return _search(request, lambda hub_id: FoundAsset(where.model(hub_id), "hub", asset))


def find_config(name: str, *, cache: Path | None = None, hub: Hub | None = None) -> FoundAsset:
    """A folder with the `config.json` of a model named as in `find_model`; no weight is fetched.

    Looked for in this order: path, cache, what comes with cutlayer, hub. Raises `AssetError` when
    nobody has it, naming the nearest known names.
    """
    asset = known_asset(name, "model")
    path = Path(name).expanduser()
    if (path / "config.json").is_file():
        return FoundAsset(path, "path", asset)
    where = cache or cache_root()
    cached = asset and installed(asset, where)
    if cached and (cached / "config.json").is_file():
        return FoundAsset(cached, "cache", asset)
    shipped = known_config(name)
    if shipped is not None:
        return FoundAsset(shipped, "package", asset)
    if path.exists():
        raise AssetError(f"{path} is not a model folder: it has no config.json")
    missed = "not asked, it has no such thing"
    if is_hub_id(name):
        _LOG.info(f"{name}: looking on the Hugging Face hub")
        try:
            return FoundAsset((hub or HuggingFaceHub()).config(name), "hub")
        except AssetError as error:
            missed = str(error)
    raise _nobody(name, "model", where, missed)


def known_config(name: str) -> Path | None:
    """The folder with the `config.json` of the model of this short name or hub id."""
    for short, hub_id in KNOWN_MODELS.items():
        if name in (short, hub_id):
            return _CONFIGS / short
    return None


def find_data(
    name: str,
    *,
    cache: Path | None = None,
    hub: Hub | None = None,
    run: RunTool = run_tool,
) -> FoundAsset | HubSplits:
    """A data set by path, known short name or hub id, in the same order as `find_model`."""
    path = Path(name).expanduser()
    if path.exists():
        return FoundAsset(path, "path")
    asset = known_asset(name, "data")
    request = _Request(name, "data", asset, cache or cache_root(), run)
    where = hub or HuggingFaceHub()
    return _search(request, lambda hub_id: HubSplits(where.data(hub_id), hub_id))


@dataclass(frozen=True)
class _Request:
    name: str
    kind: Kind
    asset: Asset | None
    cache: Path
    run: RunTool


_Answer = TypeVar("_Answer")


def _search(request: _Request, ask_hub: Callable[[str], _Answer]) -> FoundAsset | _Answer:
    """Cache, hub, package."""
    asset = request.asset
    cached = asset and installed(asset, request.cache)
    if cached:
        return FoundAsset(cached, "cache", asset)
    known = KNOWN_MODELS if request.kind == "model" else {}
    hub_id = asset.hub_id if asset else known.get(request.name, request.name)
    missed = "not asked, it has no such thing"
    if hub_id is not None and is_hub_id(hub_id):
        _LOG.info(f"{request.name}: looking on the Hugging Face hub")
        try:
            return ask_hub(hub_id)
        except AssetError as error:
            missed = str(error)
    return _from_package(request, missed)


def _from_package(request: _Request, missed: str) -> FoundAsset:
    """The package's copy; without one, `missed` tells what the hub said."""
    name, asset = request.name, request.asset
    if asset is None:
        raise _nobody(name, request.kind, request.cache, missed)
    try:
        folder = get_asset(asset, request.cache, run=request.run)
    except AssetError as error:
        raise AssetError(f"{error} (Hugging Face hub: {missed})") from error
    return FoundAsset(folder, "package", asset)


def _nobody(name: str, kind: Kind, cache: Path, missed: str) -> AssetError:
    # no hub id has these: nothing but a path is meant
    if not is_hub_id(name) or Path(name).is_absolute() or name.startswith(("./", "../", "~")):
        return AssetError(
            f"no {_TITLES[kind]} {name!r}: no such path from {Path.cwd()}: give the full path"
        )
    if kind == "model":
        # by the whole name: one with an owner may be a path, and no short name is meant
        known = nearest(name, list(KNOWN_MODELS.values() if "/" in name else KNOWN_MODELS))
    else:
        known = nearest_known(name, kind)
    return AssetError(
        f"no {_TITLES[kind]} {name!r}: not a path here, not in {cache}; Hugging Face hub: {missed}."
        f" Without network give the path of a copy; or {known}"
    )
