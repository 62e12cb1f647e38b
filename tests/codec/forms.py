"""All forms of the hot loops, and how a test asks them the same."""

from dataclasses import is_dataclass

import numpy as np
import pytest
import torch

from cutlayer.codec.kernels.native import Native
from cutlayer.codec.kernels.portable import Portable
from cutlayer.training.torch_codec import DeviceKernels

# how many of a loop's first arguments are where values live
ON_DEVICE = {
    "top_k": 1,
    "largest": 1,
    "extremes": 2,
    "quantise_levels": 2,
    "dequantise_points": 1,
    "quantise_dead_zone": 1,
    "dequantise_dead_zone": 1,
    "quantise_rows": 1,
    "dequantise_rows": 1,
    "hadamard": 1,
}


class Hosted:
    """`DeviceKernels` for tests that ask with arrays on the host, and want them back there."""

    def __init__(self):
        self.kernels = DeviceKernels(torch.device("cpu"), Portable())

    def __getattr__(self, name):
        def call(*arguments, **named):
            there, arrays = ON_DEVICE.get(name, 0), self.kernels.arrays
            moved = [arrays.of(array) for array in arguments[:there]]
            result = getattr(self.kernels, name)(*moved, *arguments[there:], **named)
            if isinstance(result, tuple) and isinstance(result[0], torch.Tensor):
                return arrays.to_host(result[0]), *result[1:]
            return arrays.to_host(result) if isinstance(result, torch.Tensor) else result

        return call


FORMS = [Portable(), Native(), Native(threads=3), Hosted()]
BOTH = pytest.mark.parametrize("kernels", FORMS, ids=["portable", "native", "threads", "device"])


def check_same(method, *arguments, **named):
    """All forms' common result."""
    results = [getattr(form, method)(*arguments, **named) for form in FORMS]
    for other in results[1:]:
        alike(results[0], other)
    return results[0]


def alike(a, b):
    """The same type, shape and bytes (of the arrays in a tuple or dataclass, too)."""
    if isinstance(a, tuple):
        for one, other in zip(a, b, strict=True):
            alike(one, other)
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8), strict=True)
    elif is_dataclass(a):
        alike(tuple(vars(a).values()), tuple(vars(b).values()))
    else:
        assert a == b
