"""Images as model inputs: central square, bicubic resize, scale, normalise.

Knows the arithmetic of a vision model's preprocessing, not where images come from.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Float32, Int, UInt8

from cutlayer.data.batches import Batch, BatchMaker
from cutlayer.data.samples import Samples
from cutlayer.errors import AssetError, DataError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_PLAIN = (0.5, 0.5, 0.5)  # what Hugging Face's ViT takes when a folder says nothing


def normalisation(folder: Path) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation per channel that the model in `folder` was trained with.

    Read from `preprocessor_config.json`; 0.5 and 0.5 where that file or its keys are missing.
    """
    raise NotImplementedError


@final
@dataclass(frozen=True)
class ImageBatches(BatchMaker):
    """`pixel_values` float32 [row, 3, image_size, image_size]: `(image / 255 - mean) / std`."""

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def make(self, samples: Samples, indices: Int[np.ndarray, " row"]) -> Batch:
        raise NotImplementedError
