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
    a saved view keeps all of what it views. `saved.peak`: the most that was held at any time in
    the block, which may hold backward too.
    """

    def __init__(self, exclude: Iterable[Tensor] = ()) -> None:
        self._excluded = {_address(tensor) for tensor in exclude}
        self._count: dict[int, int] = {}  # saved tensors of each storage
        self._now = 0
        self._peak = 0
        self._hooks = saved_tensors_hooks(self._pack, _unpack)
        self._bytes: int | None = None

    @property
    def bytes(self) -> int:
        """Bytes held; inside the block, at this moment."""
        return self._now if self._bytes is None else self._bytes

    @property
    def peak(self) -> int:
        """The most bytes held at any time inside the block so far."""
        return self._peak

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
        self._bytes = self._now

    def _pack(self, tensor: Tensor) -> "_Held":
        held = _Held(tensor.detach())
        address, size = _address(tensor), tensor.untyped_storage().nbytes()
        if address not in self._excluded:
            weakref.finalize(held, self._drop, address, size)
            self._count[address] = self._count.get(address, 0) + 1
            if self._count[address] == 1:
                self._now += size
                self._peak = max(self._peak, self._now)
        return held

    def _drop(self, address: int, size: int) -> None:
        self._count[address] -= 1
        if not self._count[address]:
            del self._count[address]
            self._now -= size


@final
class _Held:
    """What autograd keeps in place of a saved tensor; it dies with the graph."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def _unpack(held: _Held) -> Tensor:
    return held.tensor


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
