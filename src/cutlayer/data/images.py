"""Images as model inputs: central square, resize, scale, normalise.

Knows the arithmetic of a vision model's preprocessing, not where images come from.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float32, Int, UInt8
from PIL import Image

from cutlayer.data.batches import Batch, BatchMaker
from cutlayer.data.preprocessing import Channels
from cutlayer.data.samples import Samples
from cutlayer.errors import DataError

IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)


def square(
    image: UInt8[np.ndarray, "height width 3"],
    side: int,
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> UInt8[np.ndarray, "side side 3"]:
    """The central square of an image, resized to `side` pixels with Pillow's filter."""
    height, width, _ = image.shape
    edge = min(height, width)
    left, top = (width - edge) / 2, (height - edge) / 2
    if edge == side == height == width:
        return image
    resized = Image.fromarray(image).resize(
        (side, side), resample, box=(left, top, left + edge, top + edge)
    )
    return np.asarray(resized)


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
        if isinstance(content, str) or content.ndim != 3:
            raise DataError(f"{samples.where(index)} is not an image: this model needs images")
        return square(content, self.image_size, self.resample)

    def _normalise(
        self, pixels: UInt8[np.ndarray, "row side side 3"]
    ) -> Float32[np.ndarray, "row 3 side side"]:
        # (x / l - m) / s as one multiplication and one addition, in float32 throughout
        scale = 1.0 / (self.levels * np.array(self.std))
        shift = -np.array(self.mean) / np.array(self.std)
        scaled = pixels * scale.astype(np.float32) + shift.astype(np.float32)
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
