"""Samples by number, for codecs that remember what they sent of each."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from cutlayer.errors import PacketError


def check_samples(
    samples: Sequence[int] | None, tensor: Float32[np.ndarray, "..."], who: str
) -> list[str]:
    """The samples' numbers as names in a state.

    Raises PacketError: none given, not [batch, token, width], not one for each sample, repeated, or
    outside 0..2^32-1.
    """
    if samples is None or tensor.ndim != 3:
        raise PacketError(
            f"{who} remembers samples: give a tensor [batch, token, width] and the samples' numbers"
        )
    numbers = [int(sample) for sample in samples]
    if len(numbers) != len(tensor) or len(set(numbers)) != len(numbers):
        raise PacketError(f"{who}: {len(numbers)} sample numbers, expected {len(tensor)} different")
    for number in numbers:
        if not 0 <= number < 2**32:
            raise PacketError(f"{who}: sample number {number} is not within 0..{2**32 - 1}")
    return [str(number) for number in numbers]
