"""What autograd really holds for the backward pass."""

from collections.abc import Iterable
from types import TracebackType
from typing import final

from torch import Tensor


@final
class SavedBytes:
    """`with SavedBytes(exclude=part.base_tensors() + [rows]) as saved: part.forward(...)`, then
    `saved.bytes`: unique storages held, those of `exclude` not counted."""

    def __init__(self, exclude: Iterable[Tensor] = ()) -> None:
        raise NotImplementedError

    @property
    def bytes(self) -> int:
        raise NotImplementedError

    def __enter__(self) -> "SavedBytes":
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        raise NotImplementedError
