"""Arrays on a torch device, and the only two ways across: `of` and `to_host`."""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int16, Shaped
from torch import Tensor

from cutlayer.codec.kernels.arrays import Arrays

_BYTE = torch.iinfo(torch.int8)


@final
@dataclass(frozen=True)
class DeviceArrays(Arrays):
    """See `Arrays`. Whatever is int16 crosses in one byte each where all of it fits."""

    device: torch.device

    def of(self, array: Shaped[np.ndarray | Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        """See `Arrays.of`."""
        if isinstance(array, Tensor):
            return array.contiguous()
        # a copy: torch takes no array that may not be written to
        host = np.array(array)
        if host.dtype != np.int16:
            return torch.from_numpy(host).to(self.device)
        small = host.astype(np.int8)
        narrow = small if np.array_equal(small, host) else host
        return torch.from_numpy(narrow).to(self.device).short()

    def to_host(self, array: Shaped[Tensor, "*shape"]) -> Shaped[np.ndarray, "*shape"]:
        """See `Arrays.to_host`."""
        if array.dtype is not torch.int16:
            return np.asarray(array.cpu().numpy())
        narrow = array.char() if self._fits_a_byte(array) else array
        return np.asarray(narrow.cpu().numpy().astype(np.int16))

    def _fits_a_byte(self, array: Int16[Tensor, "..."]) -> bool:
        if array.numel() == 0:
            return True
        low, high = torch.stack(torch.aminmax(array)).cpu().tolist()
        return bool(low >= _BYTE.min and high <= _BYTE.max)

    def full(
        self, shape: tuple[int, ...], value: float, dtype: type[np.generic]
    ) -> Shaped[Tensor, "..."]:
        """See `Arrays.full`."""
        same = torch.from_numpy(np.zeros(0, dtype=dtype)).dtype
        return torch.full(shape, value, dtype=same, device=self.device)

    def wide(self, array: Float32[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
        """See `Arrays.wide`."""
        return array.double()

    def energies(self, values: Float32[Tensor, "row column"]) -> Float32[np.ndarray, " column"]:
        """See `Arrays.energies`."""
        return self.to_host((values * values).sum(0))

    def places(
        self, edges: Float32[np.ndarray, " edge"], values: Float32[Tensor, "row column"]
    ) -> Int16[Tensor, "row column"]:
        """See `Arrays.places`."""
        return torch.searchsorted(self.of(edges), values, right=True).short()
