"""What a codec does to a sequence of tensors: bytes, error, angle, seconds.

Knows any codec by its interface; where the tensors come from is the caller's.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from cutlayer.codec.codec import EMPTY, Codec, segments_of
from cutlayer.units import BITS_PER_BYTE

FLOAT32_BITS = 32


@dataclass(frozen=True)
class Fidelity:
    """How close a decoded tensor y is to x: `||x - y|| / ||x||` and `<x, y> / (||x|| ||y||)`."""

    error: float
    cosine: float


@dataclass(frozen=True, eq=False)
class Measurement:
    """Of the last tensor of a sequence.

    Seconds are wall time [s] of one call each.
    """

    elements: int
    packet: bytes
    decoded: Float32[np.ndarray, "..."]
    fidelity: Fidelity
    encode_s: float
    decode_s: float

    @property
    def bits(self) -> float:
        """Bits per element [bit]."""
        return bits_per_element(len(self.packet), self.elements)

    @property
    def ratio(self) -> float:
        """How many times fewer bytes than float32."""
        return FLOAT32_BITS / self.bits


def measure(
    codec: Codec,
    tensors: Sequence[Float32[np.ndarray, "..."]],
    seed: int,
    clock: Callable[[], float],
    *,
    lengths: Sequence[Sequence[int] | None] | None = None,
    repeats: int = 1,
) -> Measurement:
    """Send `tensors` in turn, each end with its own state; measure the last one.

    `lengths`: of each tensor's samples, None where nothing is padded. `repeats`: how often the last
    is timed; the least counts. Raises what the codec raises.
    """
    sender, receiver = EMPTY, EMPTY
    seconds = [math.inf, math.inf]
    for place, tensor in enumerate(tensors):
        known = None if lengths is None else lengths[place]
        # a codec changes neither itself nor the state that it is given: calls can be repeated
        for _ in range(repeats if place == len(tensors) - 1 else 1):
            start = clock()
            encoded = codec.encode(
                tensor, sender, np.random.default_rng([seed, place]), lengths=known
            )
            middle = clock()
            decoded = codec.decode(encoded.packet, tensor.shape, receiver)
            taken = (middle - start, clock() - middle)
            if place == len(tensors) - 1:
                seconds = [min(old, new) for old, new in zip(seconds, taken, strict=True)]
        sender, receiver = encoded.state, decoded.state
    sent = tensor if known is None else segments_of(tensor, known).zero_padding(tensor)
    return Measurement(
        elements=tensor.size,
        packet=encoded.packet,
        decoded=decoded.tensor,
        fidelity=fidelity(sent, decoded.tensor),
        encode_s=seconds[0],
        decode_s=seconds[1],
    )


def fidelity(x: Float32[np.ndarray, "..."], y: Float32[np.ndarray, "..."]) -> Fidelity:
    """Error and cosine of `y` to `x`, in double precision; of zeros: 0 and 1 if both are."""
    true, made = x.reshape(-1).astype(np.float64), y.reshape(-1).astype(np.float64)
    length, length_made = float(np.linalg.norm(true)), float(np.linalg.norm(made))
    if not length:
        return Fidelity(math.inf if length_made else 0.0, 0.0 if length_made else 1.0)
    cosine = float(true @ made) / (length * length_made) if length_made else 0.0
    return Fidelity(float(np.linalg.norm(true - made)) / length, cosine)


def bits_per_element(count_bytes: int, elements: int) -> float:
    """Bits per element [bit] of a packet."""
    return BITS_PER_BYTE * count_bytes / elements
