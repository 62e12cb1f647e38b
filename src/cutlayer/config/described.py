"""Objects as texts that are equal for equal objects in another process: a fingerprint of code.

Knows dataclasses and plain values; of anything else its class and what it keeps.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cutlayer.codec.kernels.kernels import Kernels

# longer lists are taken as their hash
_SHOWN = 16
# enough for what is decided by solving, which another machine does a little otherwise
_DIGITS = 9
# objects may know each other
_DEPTH = 8


def described(value: Any, depth: int = _DEPTH) -> str:
    """The value's class and fields, whatever its address; fields that do not count in comparing two
    of its kind are left out. Of what lies deeper than `depth`, the class alone."""
    if depth == 0:
        return type(value).__qualname__
    match value:
        case None | bool() | int() | str() | bytes():
            return value.name if isinstance(value, Enum) else repr(value)
        case float():
            return f"{value:.{_DIGITS}g}"
        case Enum():
            return value.name
        case np.ndarray() | np.generic():
            return _sequence("array", [described(one) for one in np.ravel(value).tolist()])
        case Tensor():
            return f"tensor {described(value.detach().to('cpu', torch.float64).numpy())}"
        case tuple() | list():
            return _sequence("", [described(one, depth - 1) for one in value])
        case set() | frozenset():
            return _sequence("set", sorted(described(one, depth - 1) for one in value))
        case Mapping():
            return _fields("", value, depth)
        case Kernels():  # how fast, not what; and a library's address is no two processes'
            return "Kernels"
        case type() | FunctionType() | BuiltinFunctionType() | MethodType():
            return value.__qualname__
    if is_dataclass(value):
        counted = {one.name: getattr(value, one.name) for one in fields(value) if one.compare}
        return _fields(type(value).__qualname__, counted, depth)
    return _fields(type(value).__qualname__, getattr(value, "__dict__", {}), depth)


def _fields(name: str, values: Mapping[Any, Any], depth: int) -> str:
    inner = ", ".join(f"{key}={described(value, depth - 1)}" for key, value in values.items())
    return f"{name}({inner})"


def _sequence(name: str, texts: list[str]) -> str:
    inner = ", ".join(texts)
    if len(texts) > _SHOWN:
        inner = f"{len(texts)} values, {hashlib.sha256(inner.encode()).hexdigest()[:16]}"
    return f"{name}({inner})"
