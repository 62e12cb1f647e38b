"""Modules that keep their place in a model but hold no weights.

The model's own forward still runs over them, so its masks, positions, pooling and head stay its
own code. Knows neither tasks nor adapters.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, final

import torch
from torch import Tensor, nn


@final
class CutReachedError(Exception):
    """Ends a device's forward: carries the activation out of the model."""

    def __init__(self, activation: Tensor) -> None:
        super().__init__("the forward pass has reached the cut layer")
        self.activation = activation


@final
class Injection:
    """The activation that a server's first block answers with, during one pass."""

    def __init__(self) -> None:
        self._activation: Tensor | None = None

    @contextmanager
    def of(self, activation: Tensor) -> Iterator[None]:
        """Inject this activation for the length of a forward."""
        self._activation = activation
        try:
            yield
        finally:
            self._activation = None

    @property
    def activation(self) -> Tensor:
        """The activation of the present pass."""
        if self._activation is None:
            raise RuntimeError("a hollow block ran outside a forward pass of its part")
        return self._activation

    def zeros(self) -> Tensor:
        """Of the activation's shape: what a hollow embedding answers; nobody reads its values."""
        return torch.zeros_like(self.activation, requires_grad=False)


def stop_at(block: nn.Module) -> None:
    """Make this block end the forward with CutReachedError."""

    def stop(hidden: Tensor) -> NoReturn:
        raise CutReachedError(hidden)

    _hollow_block(block, stop, output_length=0)


def inject_at(block: nn.Module, injection: Injection, output_length: int) -> None:
    """Make this block answer with the injected activation."""
    _hollow_block(block, lambda hidden: injection.activation, output_length)


def pass_through(block: nn.Module, output_length: int) -> None:
    """Make this block answer with what it is given."""
    _hollow_block(block, lambda hidden: hidden, output_length)


@contextmanager
def passing_through(blocks: Iterable[nn.Module], output_length: int) -> Iterator[None]:
    """Make these blocks, weights and all, answer with what they are given, for a while."""
    blocks = list(blocks)
    for block in blocks:
        _answer_block(block, lambda hidden: hidden, output_length)
    try:
        yield
    finally:
        for block in blocks:
            del block.__dict__["forward"]


@contextmanager
def answering(unit: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Make a module of one argument run this instead, for a while."""
    unit.__dict__["forward"] = forward
    try:
        yield
    finally:
        del unit.__dict__["forward"]


def answer_always(unit: nn.Module, value: Callable[[], Tensor]) -> None:
    """Make a module outside the blocks answer `value()`, whatever it is given."""

    def forward(*args: Any, **kwargs: Any) -> Tensor:
        return value()

    unit.__dict__["forward"] = forward


def strip(unit: nn.Module) -> None:
    """Drop a module's weights and keep its structure.

    Models look at such things as `embeddings.patch_embeddings.projection.weight.dtype`, so each
    weight leaves an empty tensor of its type, marked so that transformers does not initialise it.
    """
    for module in unit.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            empty = torch.empty(0, dtype=parameter.dtype, device="cpu")
            empty.__dict__["_is_hf_initialized"] = True
            setattr(module, name, empty)


def _hollow_block(block: nn.Module, value: Callable[[Tensor], Tensor], output_length: int) -> None:
    """Empty the block, which keeps its class and plain attributes: some models read them."""
    for name, _ in list(block.named_children()):
        delattr(block, name)
    strip(block)
    _answer_block(block, value, output_length)


def _answer_block(block: nn.Module, value: Callable[[Tensor], Tensor], output_length: int) -> None:
    def forward(*args: Any, **kwargs: Any) -> Tensor | tuple[Tensor | None, ...]:
        hidden = value(args[0] if args else kwargs["hidden_states"])
        return (hidden, *[None] * (output_length - 1)) if output_length else hidden

    block.__dict__["forward"] = forward
