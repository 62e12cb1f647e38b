"""An accelerator without hardware: tensors on `fakegpu` have values, and what the host waits for is
noted.

Operations run in the processor's own kernels, so results are the processor's to the bit. What any
accelerator refuses is refused: tensors of two devices in one operation, numpy and lists of values
without a copy, indices from the host. So is what some do not have: float64. And what makes the host
wait is noted with its place: values that cross to the host, copies to the device that are not told
to go on meanwhile, results whose shape depends on values.

The backend's name is set once per process: import this in a process of its own.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("fakegpu")

DEVICE = torch.device("fakegpu", 0)
HOST = torch.device("cpu")
_ATEN = torch.ops.aten
_COPIES = {_ATEN._to_copy, _ATEN.copy_}
# the host must know values before it knows what comes of them
_WAITED_FOR = {
    _ATEN._local_scalar_dense,
    _ATEN._unique2,
    _ATEN.equal,
    _ATEN.is_nonzero,
    _ATEN.masked_select,
    _ATEN.nonzero,
    _ATEN.unique_consecutive,
    _ATEN.unique_dim,
}
_INDEXING = {_ATEN.index, _ATEN.index_put, _ATEN.index_put_}


class WrongDeviceError(RuntimeError):
    """What no accelerator takes."""


@dataclass(frozen=True)
class Wait:
    """What the host waited for. `where`: functions of cutlayer, of transformers and of tests that
    were running, as `file:function`, innermost first."""

    what: str
    bytes: int
    where: tuple[str, ...]


@final
class OnAccelerator(Tensor):
    """A tensor on `fakegpu`; `value` is where it really is."""

    value: Tensor

    @staticmethod
    def __new__(cls, value: Tensor) -> "OnAccelerator":
        made: OnAccelerator = Tensor._make_wrapper_subclass(
            cls,
            value.size(),
            strides=value.stride(),
            storage_offset=value.storage_offset(),
            dtype=value.dtype,
            device=DEVICE,
        )
        made.value = value
        return made

    def __repr__(self, **_: object) -> str:
        return f"OnAccelerator({self.value})"

    def untyped_storage(self) -> Any:
        return self.value.untyped_storage()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise WrongDeviceError(f"{function} of a tensor on {DEVICE}, whose accelerator was left")


@final
class Accelerator(TorchDispatchMode):
    """`with Accelerator() as accelerator:` there is one; `waits`: all that the host waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[Wait] = []

    def __torch_dispatch__(
        self,
        function: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        given = [each for each in tree_leaves((args, named)) if isinstance(each, Tensor)]
        if any(map(is_traceable_wrapper_subclass, given)):
            return NotImplemented  # it is made of tensors, with which it comes back
        there = [each for each in given if isinstance(each, OnAccelerator)]
        asked = None if named.get("device") is None else torch.device(named["device"])
        if not there and (asked is None or asked.type != DEVICE.type):
            return function(*args, **named)
        self._watch(function, args, given, asked, waits=not named.get("non_blocking"))
        if asked is not None and asked.type == DEVICE.type:
            named["device"] = HOST
        found = function(*tree_map(_value, args), **tree_map(_value, named))
        if function.overloadpacket is _ATEN.copy_:
            return args[0]
        if asked is not None and asked.type == "cpu":
            return found
        return tree_map(lambda each: _on_accelerator(each, there), found)

    def _watch(
        self,
        function: Any,
        args: Sequence[Any],
        given: Sequence[Tensor],
        asked: torch.device | None,
        *,
        waits: bool,
    ) -> None:
        operation = function.overloadpacket
        if operation in _COPIES:
            source = args[1] if operation is _ATEN.copy_ else args[0]
            target = args[0].device if operation is _ATEN.copy_ else asked or source.device
            if target.type == "cpu" != source.device.type:
                self._wait("a copy to the host", source)
            elif target.type != source.device.type and waits and source.dim():
                self._wait("a copy to the device", source)
            return
        if len({each.device for each in given if each.dim()}) > 1:
            raise WrongDeviceError(
                f"{function} takes {[f'{list(each.shape)} on {each.device}' for each in given]}"
            )
        by_mask = operation in _INDEXING and any(
            index is not None and index.dtype is torch.bool for index in args[1]
        )
        if operation in _WAITED_FOR or by_mask:
            self._wait(str(function), *given)

    def _wait(self, what: str, *tensors: Tensor) -> None:
        size = sum(tensor.nbytes for tensor in tensors)
        self.waits.append(Wait(what, size, _running()))


def _value(each: Any) -> Any:
    return each.value if isinstance(each, OnAccelerator) else each


def _on_accelerator(found: Any, there: Sequence[OnAccelerator]) -> Any:
    if not isinstance(found, Tensor):
        return found
    if found.dtype is torch.float64:
        raise WrongDeviceError("float64 on an accelerator, which mps does not have")
    for each in there:
        if each.value is found:  # it was changed in place
            return each
    return OnAccelerator(found)


def _running() -> tuple[str, ...]:
    frame, found = sys._getframe(2), []
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.name != "accelerator.py" and {"cutlayer", "transformers", "tests"} & {*path.parts}:
            found.append(f"{path.name}:{frame.f_code.co_name}")
        frame = frame.f_back
    return tuple(found)
