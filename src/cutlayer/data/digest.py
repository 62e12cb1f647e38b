"""A fingerprint of a split: which samples it has, in which order, and what is in each."""

import hashlib

import numpy as np

from cutlayer.data.samples import Samples


def digest_of(samples: Samples) -> str:
    """SHA-256 over the labels and every sample's content, in their order.

    Costs what reading costs: images in files are taken as their bytes, not decoded. Raises
    `DataError` for a sample that cannot be read.
    """
    found = hashlib.sha256(samples.labels.astype("<i8").tobytes())
    for index in range(len(samples)):
        content = samples.raw(index)
        found.update(len(content).to_bytes(8, "little"))
        found.update(content)
    return found.hexdigest()


def digest_of_order(parts: tuple[np.ndarray, ...]) -> str:
    """SHA-256 over which samples each device has, in its order."""
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "little"))
        found.update(part.astype("<i8").tobytes())
    return found.hexdigest()
