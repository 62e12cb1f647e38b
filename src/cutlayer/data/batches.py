"""Samples as model inputs, a batch at a time: images cut square, resized, scaled, normalised;
texts tokenised, truncated, padded on the right.

Knows the arithmetic of a vision model's preprocessing and the file that sets it, not where samples
come from. The tokenizer is any callable from texts to lists of ids, special tokens included, for
instance `lambda texts: tokenizer(texts, truncation=True, max_length=n)["input_ids"]`; a tokenizer
that closes a text with a special token should truncate itself as here, so that the token survives.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, final

import numpy as np
from jaxtyping import Float32, Int, UInt8
from PIL import Image

from cutlayer.data.image_sets import central_square
from cutlayer.data.rows import pad_rows
from cutlayer.data.samples import Batch, BatchMaker, Samples, Tokenize
from cutlayer.data.templates import tokenised
from cutlayer.errors import AssetError, DataError, quoted, reason

# Images.


Channels: TypeAlias = tuple[float, float, float]
_HALF: Channels = (0.5, 0.5, 0.5)  # what Hugging Face's ViT takes when a folder says nothing
_LEVELS = 255.0
_FILE = "preprocessor_config.json"
_FILE_OF_ALL = "processor_config.json"  # where transformers 5 may keep it, among others
_PART = "image_processor"
_GUESS = (
    "images are taken to be normalised with a mean and a standard deviation of 0.5; save the image"
    " processor that the model was trained with there (save_pretrained)"
)
# switches that are done, or that cutlayer's own framing (the central square) stands for
_KNOWN = frozenset(
    {
        *("do_normalize", "do_rescale", "do_resize", "do_center_crop", "do_convert_rgb"),
        *("do_normalise", "do_reduce_labels"),
    }
)
_OFFSETS = ("rescale_offset", "offset")
_CLASS_DEFAULTS = ("image_mean", "image_std", "resample")


@final
@dataclass(frozen=True)
class ImageBatches(BatchMaker):
    """`pixel_values` float32 [row, 3, image_size, image_size]: `(image / levels - mean) / std`."""

    image_size: int
    mean: Channels
    std: Channels
    levels: float = 255.0
    resample: Image.Resampling = Image.Resampling.BICUBIC

    def make(self, samples: Samples, indices: Int[np.ndarray, " row"]) -> Batch:
        pixels = np.stack([self._pixels(samples, int(index)) for index in indices])
        return Batch({"pixel_values": self._normalise(pixels)}, None, samples.labels[indices])

    def _pixels(self, samples: Samples, index: int) -> UInt8[np.ndarray, "side side 3"]:
        content = samples.read(index)
        if not isinstance(content, np.ndarray):
            raise DataError(f"{samples.where(index)} is not an image: this model needs images")
        return central_square(content, self.image_size, self.resample)

    def _normalise(
        self, pixels: UInt8[np.ndarray, "row side side 3"]
    ) -> Float32[np.ndarray, "row 3 side side"]:
        # (x / l - m) / s as one multiplication and one addition, in float32 throughout
        scale = 1.0 / (self.levels * np.array(self.std))
        shift = -np.array(self.mean) / np.array(self.std)
        scaled = pixels * scale.astype(np.float32) + shift.astype(np.float32)
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


@dataclass(frozen=True)
class Preprocessing:
    """Pixels become `(value / levels - mean) / std`, after a resize with the filter `resample`.

    `framing`: what the file says of size and cut-out, in words; empty where it says nothing.
    `note`: what had to be guessed, or None.
    """

    mean: Channels = _HALF
    std: Channels = _HALF
    levels: float = _LEVELS
    resample: Image.Resampling = Image.Resampling.BICUBIC
    framing: str = ""
    note: str | None = None


def read_preprocessing(folder: Path) -> Preprocessing:
    """What the model in `folder` was trained with: its preprocessor_config.json, read with the
    meaning that transformers gives its keys. What cutlayer does not do is refused by name; what it
    does in its own way (central square, its own size) is told.

    Without a file: mean and standard deviation of 0.5, bicubic. A key that is missing is what
    transformers takes for this kind of model; a switch that is null is off. Raises `AssetError`
    when the file is not what it should be, or asks for what cutlayer does not do.
    """
    path = _file(folder)
    if path is None:
        return Preprocessing(note=f"no {_FILE} is in the model folder: {_GUESS}")
    settings = _settings(path)
    try:
        _refuse_undone(settings)
        rescale, normalise = _switch(settings, "do_rescale"), _switch(settings, "do_normalize")
        return Preprocessing(
            mean=_channels(settings, "image_mean", _HALF) if normalise else (0.0, 0.0, 0.0),
            std=_spread(settings) if normalise else (1.0, 1.0, 1.0),
            levels=_levels(settings) if rescale else 1.0,
            resample=_filter(settings),
            framing=_framing(settings),
        )
    except (ValueError, TypeError) as error:
        raise AssetError(f"{path}: {error}") from error


def _file(folder: Path) -> Path | None:
    """Where the settings are; of a file of all processors alone that which has one for images."""
    if (folder / _FILE).is_file():
        return folder / _FILE
    whole = folder / _FILE_OF_ALL
    return (
        whole if whole.is_file() and f'"{_PART}"' in whole.read_text("utf-8", "replace") else None
    )


def _settings(path: Path) -> Mapping[str, Any]:
    """The file's keys, with transformers' own values for those that it leaves open."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AssetError(f"{path} cannot be read: {reason(error)}") from error
    if path.name == _FILE_OF_ALL and isinstance(settings, dict):
        settings = settings[_PART]
    if not isinstance(settings, dict):
        raise AssetError(f"{path} cannot be read: it is not one object of settings")
    if "image_processor_type" in settings and not set(_CLASS_DEFAULTS) <= set(settings):
        return {**_class_defaults(path.parent), **settings}
    return settings


def _class_defaults(folder: Path) -> Mapping[str, Any]:
    """What transformers' class for this file takes; nothing where it knows none."""
    try:
        from transformers import AutoImageProcessor

        load = AutoImageProcessor.from_pretrained
        known = load(str(folder), local_files_only=True).to_dict()  # type: ignore[no-untyped-call]
    except Exception:  # an unknown class, or one that needs another library
        return {}
    return {key: known[key] for key in _CLASS_DEFAULTS if known.get(key) is not None}


def _refuse_undone(settings: Mapping[str, Any]) -> None:
    if not _switch(settings, "do_resize"):
        raise ValueError("do_resize is false, but cutlayer resizes every image: set it to true")
    undone = [key for key in settings if key.startswith("do_") and key not in _KNOWN]
    for key in (*undone, *_OFFSETS):
        if settings.get(key):
            raise ValueError(
                f"{key} is {quoted(settings[key])}, which cutlayer does not support: choose "
                "another model, or set it to false if the model does not need it"
            )


def _switch(settings: Mapping[str, Any], key: str) -> bool:
    value = settings.get(key, True)
    if not isinstance(value, bool | None):
        raise ValueError(f"{key} is {quoted(value)}: write true or false")
    return bool(value)


def _channels(settings: Mapping[str, Any], key: str, usual: Channels) -> Channels:
    """Three numbers, or one for all three channels."""
    value = settings.get(key, usual)
    values = list(value) if isinstance(value, list | tuple) else [value] * 3
    if len(values) != 3:
        raise ValueError(f"{key} is for {len(values)} channels; cutlayer's images have three")
    red, green, blue = (_number(key, value) for value in values)
    return red, green, blue


def _spread(settings: Mapping[str, Any]) -> Channels:
    std = _channels(settings, "image_std", _HALF)
    if not all(value > 0.0 for value in std):
        raise ValueError(f"image_std is {quoted(std)}: each must be above 0")
    return std


def _levels(settings: Mapping[str, Any]) -> float:
    """The value that becomes 1: the rescale factor upside down, exactly 255 for 1 / 255."""
    factor = _number("rescale_factor", settings.get("rescale_factor", 1.0 / _LEVELS))
    if not factor > 0.0:
        raise ValueError(f"rescale_factor is {factor}: it must be above 0")
    return 1.0 / factor


def _number(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key} is {quoted(value)}: write a number")
    if not abs(value) < float("inf"):
        raise ValueError(f"{key} is {value}: write a finite number")
    return float(value)


def _filter(settings: Mapping[str, Any]) -> Image.Resampling:
    value = settings.get("resample")
    if value is None:
        return Image.Resampling.BICUBIC
    try:
        return Image.Resampling(value)
    except ValueError as error:
        known = ", ".join(f"{kind.value} {kind.name.lower()}" for kind in Image.Resampling)
        raise ValueError(f"resample is {quoted(value)}; known are {known}") from error


def _framing(settings: Mapping[str, Any]) -> str:
    """Size and cut-out as the file has them: `resize to shortest_edge 256, central 224 x 224`."""
    parts = []
    if settings.get("size") is not None:
        parts.append(f"resize to {_size(settings['size'])}")
    if settings.get("do_center_crop") and settings.get("crop_size") is not None:
        parts.append(f"central {_size(settings['crop_size'])}")
    if settings.get("crop_pct") is not None:
        parts.append(f"crop_pct {quoted(settings['crop_pct'])}")
    return ", ".join(parts)


def _size(value: object) -> str:
    if isinstance(value, dict) and {"height", "width"} <= set(value):
        return f"{quoted(value['height'])} x {quoted(value['width'])}"
    if isinstance(value, dict):
        return " ".join(f"{key} {quoted(size)}" for key, size in value.items())
    return quoted(value)


# Texts.


@final
@dataclass(frozen=True, eq=False)
class TextBatches(BatchMaker):
    """Text classification: `input_ids`, `attention_mask` int64 [row, token] padded with `pad_id`
    to the longest row, at most `max_tokens`; labels [row].

    `unread`: an id that the model passes over at the end of a text (a decoder's padding, often the
    end-of-text mark too): left out there, so that the last token is the one that the model reads.
    """

    tokenize: Tokenize
    max_tokens: int
    pad_id: int
    unread: int | None = None

    def make(self, samples: Samples, indices: Int[np.ndarray, " row"]) -> Batch:
        found = tokenised(samples, indices.tolist(), self.tokenize)
        rows = [_read_part(ids[: self.max_tokens], self.unread) for ids in found]
        for index, ids in zip(indices, rows, strict=True):
            if not ids:
                raise DataError(f"{samples.where(int(index))}: the tokenizer makes no token of it")
        padded, mask = pad_rows(rows, self.pad_id)
        lengths = tuple(len(row) for row in rows)
        return Batch(
            {"input_ids": padded, "attention_mask": mask}, lengths, samples.labels[indices]
        )


def _read_part(ids: list[int], unread: int | None) -> list[int]:
    """Without trailing `unread`; where there is nothing else the model reads the first."""
    end = len(ids)
    while end > 1 and ids[end - 1] == unread:
        end -= 1
    return ids[:end]
