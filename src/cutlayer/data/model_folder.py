"""What a folder must hold to be a model that can be trained, and what one that is not lacks.

Knows files and their headers, no tensors: a folder is looked at before anything is read from it.
"""

import json
import re
from pathlib import Path
from typing import Any

_WEIGHTS = "model.safetensors"
_LISTING = f"{_WEIGHTS}.index.json"
_POINTER = b"version https://git-lfs"  # what Git LFS leaves in a file's place
_FLOATS = frozenset({"F16", "BF16", "F32", "F64"})
_ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_NAMED = 3


def holds_model(folder: Path) -> bool:
    """Whether a folder is a whole Hugging Face model: configuration and all its safetensors."""
    return fault(folder) is None


def fault(folder: Path) -> str | None:
    """Why this folder is no model that can be trained, and what to do; None if it may be one."""
    if not (folder / "config.json").is_file():
        return _without_config(folder)
    adapter = next((name for name in _ADAPTERS if (folder / name).is_file()), None)
    if adapter is not None:
        return (
            f"{adapter} lies beside the model's weights, and nobody can tell whether that adapter"
            " is a part of it: move it away, or merge it (merge_and_unload in PEFT) and save the"
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
