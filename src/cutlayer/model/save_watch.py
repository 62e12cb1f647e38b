"""Where in a model's forward autograd saves what: before its blocks, in each of three, after them.

For real and for fake tensors. Knows neither adapters nor what the sizes mean.
"""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, final

from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

PLACES = ("before", "first", "second", "served", "after")
BEFORE, FIRST, SECOND, SERVED, AFTER = PLACES


@final
class _Kept:
    """What autograd keeps in place of a saved tensor; it dies with the graph."""

    def __init__(self, tensor: Tensor, place: str) -> None:
        self.tensor = tensor
        self.place = place

    @property
    def storage(self) -> int:
        return _storage(self.tensor)


@final
class SaveWatch:
    """Where a forward is, and what it has saved where.

    At the third block the hidden states become a leaf, as on a server: what is before and after is
    then kept by two sides, so each counts what they share.
    """

    def __init__(self) -> None:
        self._place = BEFORE
        self._inputs: dict[str, int] = {}
        self._saved: list[weakref.ref[_Kept]] = []
        self._cut: Tensor | None = None

    def pack(self, tensor: Tensor) -> _Kept:
        """The hook that autograd calls for each tensor it saves."""
        kept = _Kept(tensor.detach(), self._place)
        self._saved.append(weakref.ref(kept))
        return kept

    def enter(
        self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The hook before each block; gives its arguments."""
        self._place = PLACES[PLACES.index(self._place) + 1]
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        if self._place == SERVED:
            self._cut = hidden  # or the graph of the blocks before would die
            hidden = hidden.detach().requires_grad_()
        self._inputs[self._place] = _storage(hidden)
        if args:
            return (hidden, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": hidden}

    def end_blocks(self, block: nn.Module, args: object, output: object) -> None:
        """The hook after the last block."""
        self._place = AFTER

    def storages(self, excluded: Iterable[Tensor]) -> Iterator[tuple[str, bool, int]]:
        """Place, whether it is the block's own input, and bytes of each storage still held; once
        on either side, where it was saved first."""
        alone = {_storage(tensor) for tensor in excluded}
        seen: set[tuple[bool, int]] = set()
        for kept in filter(None, (ref() for ref in self._saved)):
            side = kept.place in (SERVED, AFTER), kept.storage
            if kept.storage not in alone and side not in seen:
                seen.add(side)
                is_input = kept.storage == self._inputs.get(kept.place)
                yield kept.place, is_input, kept.tensor.untyped_storage().nbytes()


@final
class AttentionWatch(TorchFunctionMode):
    """Whether the first fused attention has trained inputs; None if there was none."""

    def __init__(self) -> None:
        super().__init__()
        self.trained: bool | None = None

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is functional.scaled_dot_product_attention and self.trained is None:
            self.trained = any(tensor.requires_grad for tensor in args[:3])
        return func(*args, **(kwargs or {}))


@contextmanager
def watching(blocks: nn.Module, watch: SaveWatch) -> Iterator[None]:
    """Tell `watch` of these blocks for the length of a forward."""
    found = list(blocks.children())
    handles = [block.register_forward_pre_hook(watch.enter, with_kwargs=True) for block in found]
    handles.append(found[-1].register_forward_hook(watch.end_blocks))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _storage(tensor: Tensor) -> int:
    # a fake tensor has no address, but a storage of its own
    return int(tensor.untyped_storage()._cdata)
