"""The 32 random bits of an index and a seed, in torch; `Kernels` defines them.

torch has no arithmetic of unsigned 32-bit numbers, so they are held in int64: its products wrap
modulo 2^64, which leaves the lower 32 bits as they should be.
"""

import torch
from jaxtyping import Int64
from torch import Tensor

from cutlayer.codec.kernels.portable import mix_keys

_LOW_32 = 0xFFFFFFFF


def mix(count: int, seed: int, device: torch.device) -> Int64[Tensor, " i"]:
    """The mix of 0, 1, ... count - 1 and the seed, each within 0..2^32-1."""
    a, b = mix_keys(seed)
    x = (torch.arange(count, device=device) * 0x9E3779B9 + a) & _LOW_32
    x = (x ^ x >> 16) * 0x7FEB352D & _LOW_32
    x = ((x ^ x >> 15) + b) * 0x846CA68B & _LOW_32
    return x ^ x >> 16
