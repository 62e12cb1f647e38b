"""Images as model inputs: central square, bicubic resize, scale, normalise.

Knows the arithmetic of a vision model's preprocessing, not where images come from.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, final

import numpy as np
from jaxtyping import Float32, Int, UInt8
from PIL import Image

from cutlayer.data.batches import Batch, BatchMaker
from cutlayer.data.samples import Samples
from cutlayer.errors import AssetError, DataError

Channels: TypeAlias = tuple[float, float, float]
IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)
_PLAIN: Channels = (0.5, 0.5, 0.5)  # what Hugging Face's ViT takes when a folder says nothing
_PREPROCESSOR = "preprocessor_config.json"


def normalisation(folder: Path) -> tuple[Channels, Channels]:
    """Mean and standard deviation per channel that the model in `folder` was trained with.

    Read from `preprocessor_config.json`; 0.5 and 0.5 where that file or its keys are missing.
    Raises `AssetError` when the file is not what it should be.
    """
    path = folder / _PREPROCESSOR
    if not path.is_file():
        return _PLAIN, _PLAIN
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        mean = tuple(float(value) for value in settings.get("image_mean", _PLAIN))
        std = tuple(float(value) for value in settings.get("image_std", _PLAIN))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise AssetError(f"{path} cannot be read: {error}") from error
    if len(mean) != 3 or len(std) != 3:
        raise AssetError(f"{path} is for {len(mean)} channels; cutlayer's images have three")
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def square(
    image: UInt8[np.ndarray, "height width 3"], side: int
) -> UInt8[np.ndarray, "side side 3"]:
    """The central square of an image, resized to `side` pixels with Pillow's bicubic filter."""
    height, width, _ = image.shape
    edge = min(height, width)
    left, top = (width - edge) / 2, (height - edge) / 2
    if edge == side == height == width:
        return image
    resized = Image.fromarray(image).resize(
        (side, side), Image.Resampling.BICUBIC, box=(left, top, left + edge, top + edge)
    )
    return np.asarray(resized)


@final
@dataclass(frozen=True)
class ImageBatches(BatchMaker):
    """`pixel_values` float32 [row, 3, image_size, image_size]: `(image / 255 - mean) / std`."""

    image_size: int
    mean: Channels
    std: Channels

    def make(self, samples: Samples, indices: Int[np.ndarray, " row"]) -> Batch:
        pixels = np.stack([self._pixels(samples, int(index)) for index in indices])
        return Batch({"pixel_values": self._normalise(pixels)}, None, samples.labels[indices])

    def _pixels(self, samples: Samples, index: int) -> UInt8[np.ndarray, "side side 3"]:
        content = samples.read(index)
        if isinstance(content, str) or content.ndim != 3:
            raise DataError(f"{samples.where(index)} is not an image: this model needs images")
        return square(content, self.image_size)

    def _normalise(
        self, pixels: UInt8[np.ndarray, "row side side 3"]
    ) -> Float32[np.ndarray, "row 3 side side"]:
        # (x / 255 - m) / s as one multiplication and one addition, in float32 throughout
        scale = 1.0 / (255.0 * np.array(self.std))
        shift = -np.array(self.mean) / np.array(self.std)
        scaled = pixels * scale.astype(np.float32) + shift.astype(np.float32)
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
