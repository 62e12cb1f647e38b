"""Where a model or data set lies: a local path, the cache, the Hugging Face hub (what is already
on this machine first, then the network, soon given up), a package.

Left to themselves the hub's libraries try for 20 seconds and more on a machine without network;
here a short call to the hub decides first. Also what a folder must hold to be a model that can be
trained: its files and their headers are looked at before any tensor is read.
"""

import json
import logging
import os
import re
import threading
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

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
from cutlayer.data.left_out import bars_on_terminals_only
from cutlayer.data.samples import Source
from cutlayer.errors import AssetError, nearest, reason

# The Hugging Face hub, and what a folder must hold.


_WEIGHTS = "model.safetensors"
_LISTING = f"{_WEIGHTS}.index.json"
_POINTER = b"version https://git-lfs"  # what Git LFS leaves in a file's place
_FLOATS = frozenset({"F16", "BF16", "F32", "F64"})
_ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_NAMED = 3

_PUBLIC = "https://huggingface.co"
_CONFIG_FILE = "config.json"
_MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")  # last: tokenizers'
_ON = frozenset({"1", "ON", "YES", "TRUE"})


class Hub(ABC):
    """A place that knows models and data sets by an id such as `owner/name`."""

    @abstractmethod
    def model(self, hub_id: str) -> Path:
        """The model's folder on this machine. Raises `AssetError` with the reason if not had."""

    @abstractmethod
    def config(self, hub_id: str) -> Path:
        """A folder with the model's `config.json`, its weights not fetched. Raises likewise."""

    @abstractmethod
    def data(self, hub_id: str) -> Mapping[str, Any]:
        """A data set's splits, as `datasets` opens them. Raises `AssetError` likewise."""


def is_hub_id(name: str) -> bool:
    """Whether a name could be a hub id, `name` or `owner/name`."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", name) is not None


@final
@dataclass(frozen=True)
class HuggingFaceHub(Hub):
    """The public hub, or the one at `endpoint` (default `$HF_ENDPOINT`).

    `HF_HUB_OFFLINE=1` keeps it to what lies on this machine. A hub that does not answer within
    `patience_s` seconds counts as unreachable, and nobody asks one that is `offline`. `models`,
    `prepared`: Hugging Face's two caches, of repositories and of data sets made ready; None for
    their usual places.
    """

    endpoint: str | None = None
    models: Path | None = None
    prepared: Path | None = None
    patience_s: float = 3.0
    offline: bool = False

    def model(self, hub_id: str) -> Path:
        why = None
        try:
            here = self._snapshot(hub_id, _MODEL_FILES, local=True)
            why = model_fault(here)
            if why is None:
                return here
        except AssetError:  # not on this machine
            pass
        try:
            self._require_network()
        except AssetError as error:
            raise AssetError(f"{error}; the copy here: {why}" if why else str(error)) from error
        there = self._snapshot(hub_id, _MODEL_FILES, local=False)
        why = model_fault(there)
        if not any(there.glob("*.safetensors")):
            raise AssetError("what it has under this id is no model with safetensors")
        if why is not None:
            raise AssetError(f"what it has under this id cannot be trained: {why}")
        return there

    def config(self, hub_id: str) -> Path:
        try:
            here = self._snapshot(hub_id, (_CONFIG_FILE,), local=True)
            if (here / _CONFIG_FILE).is_file():
                return here
        except AssetError:  # not on this machine
            pass
        self._require_network()
        there = self._snapshot(hub_id, (_CONFIG_FILE,), local=False)
        if not (there / _CONFIG_FILE).is_file():
            raise AssetError(f"what it has under this id has no {_CONFIG_FILE}")
        return there

    def data(self, hub_id: str) -> Mapping[str, Any]:
        ready = _prepared_folder(self.prepared or _usual_prepared(), hub_id)
        if ready is not None:
            return _open_prepared(ready)
        self._require_network()
        try:
            import datasets
        except ImportError as error:
            raise AssetError("needs the `datasets` library: pip install 'cutlayer[hub]'") from error
        folder = str(self.prepared) if self.prepared else None
        try:
            with bars_on_terminals_only():
                splits = datasets.load_dataset(hub_id, cache_dir=folder)
        except Exception as error:  # whatever the library and its transports raise
            raise AssetError(reason(error)) from error
        return splits if isinstance(splits, Mapping) else {"train": splits}

    def _snapshot(self, hub_id: str, files: tuple[str, ...], local: bool) -> Path:
        try:
            from huggingface_hub import snapshot_download
        except ImportError as error:
            raise AssetError(
                "needs the huggingface_hub library: pip install 'cutlayer[train]'"
            ) from error
        try:
            with bars_on_terminals_only():
                folder = snapshot_download(
                    hub_id,
                    allow_patterns=list(files),
                    local_files_only=local,
                    cache_dir=self.models,
                    endpoint=self.endpoint,
                )
        except Exception as error:  # whatever the library and its transports raise
            raise AssetError(reason(error)) from error
        return Path(folder)

    def _require_network(self) -> None:
        if self.offline:
            raise AssetError("not on this machine")
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in _ON:
            raise AssetError("not on this machine, and HF_HUB_OFFLINE keeps from asking")
        endpoint = self.endpoint or os.environ.get("HF_ENDPOINT") or _PUBLIC
        if not answers(endpoint, self.patience_s):
            raise AssetError(f"no answer from {endpoint}")


def answers(url: str, patience_s: float) -> bool:
    """Whether a server answers there within `patience_s` seconds, with anything at all."""
    heard = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(
                urllib.request.Request(url, method="HEAD"), timeout=patience_s
            ).close()
        except urllib.error.HTTPError as error:
            error.close()  # a refusal is an answer
        except (OSError, ValueError):
            return
        heard.set()

    # a thread, because looking up a name has no time limit of its own
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(patience_s)
    return heard.is_set()


def _usual_prepared() -> Path | None:
    if os.environ.get("HF_DATASETS_CACHE"):
        return Path(os.environ["HF_DATASETS_CACHE"])
    try:
        from huggingface_hub.constants import HF_HOME
    except ImportError:
        return None
    return Path(HF_HOME) / "datasets"


def _prepared_folder(prepared: Path | None, hub_id: str) -> Path | None:
    """Where `datasets` once made this set ready: `OWNER___NAME/CONFIG/VERSION/HASH`, the newest."""
    if prepared is None:
        return None
    *owner, name = hub_id.split("/")
    infos = (prepared / "___".join([*owner, _snake_case(name)])).glob("*/*/*/dataset_info.json")
    newest = max(infos, key=lambda path: path.stat().st_mtime, default=None)
    return newest.parent if newest else None


def _snake_case(name: str) -> str:
    """`MyDataSet` -> `my_data_set`, as `datasets` names its folders."""
    split = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name)
    return re.sub(r"([a-z\d])([A-Z])", r"\1_\2", split).lower()


def _open_prepared(folder: Path) -> Mapping[str, Any]:
    try:
        import datasets

        info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
        return {
            split: datasets.concatenate_datasets(
                [
                    datasets.Dataset.from_file(str(path))
                    for path in sorted(folder.glob(f"*-{split}*.arrow"))
                ]
            )
            for split in info["splits"]
        }
    except Exception as error:  # damaged, or of another version of the library
        raise AssetError(f"{folder} cannot be opened: {reason(error)}") from error


def holds_model(folder: Path) -> bool:
    """Whether a folder is a whole Hugging Face model: configuration and all its safetensors."""
    return model_fault(folder) is None


def model_fault(folder: Path) -> str | None:
    """Why this folder is no model that can be trained, and what to do; None if it may be one."""
    if not (folder / "config.json").is_file():
        return _without_config(folder)
    adapter = next((name for name in _ADAPTERS if (folder / name).is_file()), None)
    if adapter is not None:
        return (
            f"{adapter} is in the folder of the model's weights, and may or may not be"
            " merged into them: move it away, or merge it (merge_and_unload in PEFT) and save the"
            " result"
        )
    return _quantised(folder) or _weights_fault(folder)


def _without_config(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        base = _json(folder / "adapter_config.json").get("base_model_name_or_path")
        return (
            f"it holds an adapter alone (of {str(base)[:80]}): name that model, or merge the"
            " adapter into it (merge_and_unload in PEFT) and save the result"
        )
    snapshots = sorted(path.parent for path in folder.glob("snapshots/*/config.json"))
    if snapshots:
        return f"it is the root of a Hugging Face cache: name {snapshots[-1]}"
    inner = sorted(path.parent for path in folder.glob("*/config.json"))
    if inner:
        return f"it has no config.json, {inner[0]} does: name that"
    if any(folder.glob("*.gguf")):
        return "it holds GGUF files: save it with transformers (save_pretrained) as safetensors"
    return "it has no config.json: name the folder that save_pretrained wrote"


def _quantised(folder: Path) -> str | None:
    settings = _json(folder / "config.json").get("quantization_config")
    if settings is None:
        return None
    method = settings.get("quant_method", "?") if isinstance(settings, dict) else "?"
    return (
        f"its weights are quantised ({method}, by quantization_config in config.json), and training"
        " takes float ones: take the original, or save it dequantised"
    )


def _weights_fault(folder: Path) -> str | None:
    if (folder / _WEIGHTS).is_file():
        return _file_fault(folder / _WEIGHTS)
    if not (folder / _LISTING).is_file():
        return _without_weights(folder)
    listing = (folder / _LISTING).read_text(encoding="utf-8", errors="replace")
    shards = sorted(set(re.findall(r'"([^"]+\.safetensors)"', listing)))
    if not shards:
        return f"{_LISTING} names no file: fetch it again"
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        return (
            f"{len(missing)} of {len(shards)} files of weights are missing,"
            f" {', '.join(missing[:_NAMED])}: fetch them again"
        )
    return next((why for shard in shards if (why := _file_fault(folder / shard))), None)


def _without_weights(folder: Path) -> str:
    others = sorted(
        path.name
        for kind in ("*.safetensors", "*.bin", "*.gguf", "*.h5")
        for path in folder.glob(kind)
    )
    if not others:
        return f"it has no weights: {_WEIGHTS} is missing; fetch it"
    return (
        f"it has no {_WEIGHTS}, only {', '.join(others[:_NAMED])}: load it with transformers and"
        " save it again (save_pretrained writes safetensors)"
    )


def _file_fault(path: Path) -> str | None:
    """What is wrong with one file of weights, by its header."""
    from safetensors import SafetensorError, safe_open  # those who only plan do without

    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            return f"{path.name} is a pointer of Git LFS, not the weights: run git lfs pull"
    try:
        with safe_open(path, "np") as weights:
            names = weights.keys()
            kinds = {name: weights.get_slice(name).get_dtype() for name in names}
    except SafetensorError as error:
        return (
            f"{path.name} is damaged or cut off, at {path.stat().st_size} bytes"
            f" ({str(error)[:80]}): fetch it again"
        )
    odd = [name for name, kind in kinds.items() if name.endswith(".weight") and kind not in _FLOATS]
    if not odd:
        return None
    return (
        f"{path.name} has {odd[0]} as {kinds[odd[0]]}, and training takes float weights: it is"
        " quantised; take the original, or save it dequantised"
    )


def _json(path: Path) -> dict[str, Any]:
    """What a file of settings says; nothing of one that cannot be read, which others report."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


# All places, in turn.


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
    """A folder or file on this machine, and who served it. `asset`: what it is, if a known one;
    `hub_id`: as what the hub served it."""

    path: Path
    source: Source
    asset: Asset | None = None
    hub_id: str | None = None

    @property
    def weights(self) -> str:
        """What names these very weights to other libraries: a hub id, where the hub's are the
        same, else the folder."""
        asset = self.asset
        if self.hub_id is not None:
            return self.hub_id
        # a folder of the user's may be called as a known model, and hold anything
        if asset is None or asset.hub_id is None or self.source == "path":
            return str(self.path)
        return str(self.path) if asset.other_weights and self.source != "hub" else asset.hub_id

    @property
    def revision(self) -> str | None:
        """The hub's commit that it is of, where the hub served it."""
        commit = re.fullmatch(r"[0-9a-f]{40}", self.path.name)
        return self.path.name if self.source == "hub" and commit else None


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
    fetched: bool = True,
) -> FoundAsset:
    """The folder of a model named by path, by a known short name (`dinov2-small`) or by hub id.

    Looked for in this order: path, cache, hub (first what lies in Hugging Face's own cache, then
    the network, given up within seconds), package. `cache`: cutlayer's cache directory (default:
    `$CUTLAYER_CACHE`, `$XDG_CACHE_HOME/cutlayer`, `~/.cache/cutlayer`). Each slow
    step is logged. Without `fetched` it must lie on this machine. Raises `AssetError` when nobody
    has it, naming the nearest known names.
    """
    asset = known_asset(name, "model")
    path = Path(name).expanduser()
    if path.is_dir() and holds_model(path):
        return FoundAsset(path, "path", asset)
    if path.is_dir() and asset is None:
        raise AssetError(f"{path} is no model that can be trained: {model_fault(path)}")
    if path.exists() and asset is None:
        raise AssetError(f"{path} is a file: name the folder that save_pretrained wrote")
    request = _Request(name, "model", asset, cache or cache_root(), run, fetched)
    where = hub or HuggingFaceHub(offline=not fetched)
    return _search(request, lambda hub_id: FoundAsset(where.model(hub_id), "hub", asset, hub_id))


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


def check_name(name: str, kind: Kind) -> None:
    """Raises AssetError for a name under which nobody can have a model or data set, as far as can
    be told at once: no path here, no known name, and no hub id."""
    there = Path(name).expanduser().exists() or known_asset(name, kind) is not None
    if not there and _is_path(name):
        raise _nobody(name, kind, cache_root(), "")


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
    fetched: bool = True


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
    if asset is None or not request.fetched:
        raise _nobody(name, request.kind, request.cache, missed)
    try:
        folder = get_asset(asset, request.cache, run=request.run)
    except AssetError as error:
        raise AssetError(f"{error} (Hugging Face hub: {missed})") from error
    return FoundAsset(folder, "package", asset)


def _is_path(name: str) -> bool:
    """Whether nothing but a path is meant: no hub id is so."""
    return not is_hub_id(name) or Path(name).is_absolute() or name.startswith(("./", "../", "~"))


def _nobody(name: str, kind: Kind, cache: Path, missed: str) -> AssetError:
    if _is_path(name):
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
