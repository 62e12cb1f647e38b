"""All forms of the hot loops, and how a test asks them the same."""

from dataclasses import is_dataclass

import numpy as np
import pytest

from cutlayer.codec.kernels.native import Native
from cutlayer.codec.kernels.portable import Portable

FORMS = [Portable(), Native(), Native(threads=3)]
BOTH = pytest.mark.parametrize("kernels", FORMS, ids=["portable", "native", "threads"])


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
