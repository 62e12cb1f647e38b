"""Tensors out of .npy and .safetensors files, as float32. Nothing is ever unpickled."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from cutlayer.errors import ConfigError, DataError

_LOG = logging.getLogger(__name__)

Named = tuple[str, Float32[np.ndarray, "..."]]
# what safetensors calls the types that become float32; BF16 is the upper half of a float32
_FLOATS = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "BF16": "<u2"}


def read_tensors(path: Path) -> list[Named]:
    """Every tensor of the file by name; what was converted or left out is logged.

    Raises DataError: neither kind of file, unreadable, empty, or without floating-point numbers.
    OSError: not there.
    """
    match path.suffix:
        case ".npy":
            return [_npy(path)]
        case ".safetensors":
            return _safetensors(path)
        case suffix:
            raise DataError(f"{path}: a file {suffix or 'without suffix'}; give .npy, .safetensors")


def _npy(path: Path) -> Named:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        if "pickle" in str(error).lower():
            raise DataError(
                f"{path}: holds Python objects, or is no .npy file; objects are never unpickled"
            ) from error
        raise DataError(f"{path}: not a .npy file: {error}") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: an archive of arrays; give one of its .npy files")
    return path.stem, _float32(array, path.name, str(path))


def _safetensors(path: Path) -> list[Named]:
    try:
        import safetensors
    except ModuleNotFoundError as error:
        raise ConfigError(f"{path} needs safetensors: pip install 'cutlayer[train]'") from error
    library: Any = safetensors  # untyped
    try:
        entries = library.deserialize(path.read_bytes())
    except library.SafetensorError as error:
        raise DataError(f"{path}: not a .safetensors file: {error}") from error
    tensors = [named for name, entry in entries for named in _floats(path, name, entry)]
    if not tensors:
        raise DataError(f"{path}: no tensor of floating-point numbers")
    return tensors


def _floats(path: Path, name: str, entry: Mapping[str, Any]) -> Iterator[Named]:
    """The tensor, unless it is empty or of another kind of numbers."""
    kind, shape = str(entry["dtype"]), entry["shape"]
    if kind not in _FLOATS or 0 in shape:
        _LOG.info(f"{path.name}: {name}: {kind} of shape {list(shape)} left out")
        return
    array = np.frombuffer(bytes(entry["data"]), dtype=_FLOATS[kind]).reshape(shape)
    if kind == "BF16":
        _LOG.info(f"{path.name}: {name}: converted from bfloat16 to float32")
        array = (array.astype(np.uint32) << 16).view(np.float32)
    yield name, _float32(array, f"{path.name}: {name}", f"{path}, {name}")


def _float32(array: np.ndarray, name: str, where: str) -> Float32[np.ndarray, "..."]:
    """Converted with a word. Raises DataError: not floating-point, or empty."""
    if array.dtype.kind != "f":
        raise DataError(f"{where}: {array.dtype} values; convert them to float32 first")
    if array.size == 0:
        raise DataError(f"{where}: an empty array of shape {array.shape}")
    if array.dtype != np.float32:
        _LOG.info(f"{name}: converted from {array.dtype} to float32")
    # beyond float32's range becomes infinity, which every codec refuses by name
    with np.errstate(over="ignore"):
        return np.asarray(array, dtype=np.float32, order="C")
