"""A codec for torch tensors, where their device says.

Knows which codecs can work on a device; nothing of streams or rounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from cutlayer.codec.codec import Codec, Encoded, State
from cutlayer.codec.staged import StagedCodec
from cutlayer.train.device_codec.arrays import DeviceArrays
from cutlayer.train.device_codec.kernels import DeviceKernels


@dataclass(frozen=True, eq=False)
class Arrived:
    """See `Decoded`; the tensor is on the receiver's device."""

    tensor: Float32[Tensor, "..."]
    lengths: tuple[int, ...]
    state: State


@final
@dataclass(frozen=True)
class TensorCodec:
    """`codec` between tensors on `device`: its arrays are there where `stays`, else they cross."""

    codec: Codec
    device: torch.device
    stays: bool

    def encode(
        self,
        tensor: Float32[Tensor, "..."],
        state: State,
        rng: np.random.Generator,
        *,
        lengths: Sequence[int] | None = None,
        samples: Sequence[int] | None = None,
    ) -> Encoded:
        """See `Codec.encode`."""
        own = tensor.detach()
        array = own if self.stays else DeviceArrays(self.device).to_host(own)
        return self.codec.encode(array, state, rng, lengths=lengths, samples=samples)

    def decode(self, packet: bytes, shape: tuple[int, ...], state: State) -> Arrived:
        """See `Codec.decode`."""
        decoded = self.codec.decode(packet, shape, state)
        tensor = decoded.tensor if self.stays else torch.from_numpy(decoded.tensor).to(self.device)
        return Arrived(tensor, decoded.lengths, decoded.state)


def for_device(codec: Codec, device: torch.device) -> TensorCodec:
    """`codec` for tensors on `device`: on the host for the processor's own and for codecs that send
    or remember float32 as it is, on the device otherwise."""
    if device.type == "cpu" or not isinstance(codec, StagedCodec):
        return TensorCodec(codec, device, stays=False)
    return on_device(codec, device)


def on_device(codec: StagedCodec, device: torch.device) -> TensorCodec:
    """`codec` with all its values on `device`, whichever that is: symbols and small statistics
    cross to the host, where the entropy coder is."""
    kernels = DeviceKernels(device, codec.kernels)
    return TensorCodec(replace(codec, kernels=kernels), device, stays=True)
