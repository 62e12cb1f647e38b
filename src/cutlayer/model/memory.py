"""What autograd really holds for the backward pass. Knows no model."""

import weakref
from collections.abc import Iterable
from types import TracebackType
from typing import final

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


@final
class SavedBytes:
    """Counts the bytes that a forward leaves behind for backward.

    `with SavedBytes(part.adapted.tensors) as saved: activation = part.forward(...)`, then
    `saved.bytes`: distinct storages still held when the block ends, in full, without those of
    `exclude` (frozen weights and adapter rows, which are there anyway). Storages, not tensors:
    a saved view keeps all of what it views.
    """

    def __init__(self, exclude: Iterable[Tensor] = ()) -> None:
        self._excluded = {_address(tensor) for tensor in exclude}
        self._held: weakref.WeakSet[_Held] = weakref.WeakSet()
        self._hooks = saved_tensors_hooks(self._pack, _unpack)
        self._bytes: int | None = None

    @property
    def bytes(self) -> int:
        """Bytes held; inside the block, at this moment."""
        if self._bytes is not None:
            return self._bytes
        storages = {_address(held.tensor): held.tensor.untyped_storage() for held in self._held}
        return sum(
            storage.nbytes()
            for address, storage in storages.items()
            if address not in self._excluded
        )

    def __enter__(self) -> "SavedBytes":
        self._hooks.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hooks.__exit__(kind, value, trace)
        self._bytes = self.bytes

    def _pack(self, tensor: Tensor) -> "_Held":
        held = _Held(tensor.detach())
        self._held.add(held)
        return held


@final
class _Held:
    """What autograd keeps in place of a saved tensor; it dies with the graph."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def _unpack(held: _Held) -> Tensor:
    return held.tensor


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
