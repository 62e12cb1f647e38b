"""All weights of a part as values of a device's row: what full fine-tuning trains.

The modules lose their parameters and are given a row's tensors for the length of a pass. Knows no
layer by kind, and serves one device at a time.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor, nn

from cutlayer.errors import ModelError, UnsupportedModelError
from cutlayer.model.layout import Slot


@final
class OwnWeights:
    """Takes the parameters out of `model`; `using` puts a row's values in their places.

    Raises UnsupportedModelError where two modules share a parameter: a row has a value once.
    """

    def __init__(self, model: nn.Module) -> None:
        self._places: dict[str, tuple[nn.Module, str]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        shared = len(list(model.named_parameters(remove_duplicate=False)))
        if shared > len(list(model.named_parameters())):
            raise UnsupportedModelError(
                f"{type(model).__name__} shares weights between modules, so it cannot be trained"
                " in full; train adapters"
            )
        dtype = next(model.parameters()).dtype
        for prefix, module in model.named_modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                full = f"{prefix}.{name}" if prefix else name
                self._places[full] = (module, name)
                self._shapes[full] = tuple(parameter.shape)
                delattr(module, name)
                # models look at such things as `projection.weight.dtype`
                setattr(module, name, torch.empty(0, dtype=parameter.dtype))
        # transformers tells a model's type by its first parameter
        model.register_parameter("no_weights", nn.Parameter(torch.empty(0, dtype=dtype), False))

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Every parameter, in the model's order."""
        return tuple(Slot(name, shape) for name, shape in self._shapes.items())

    @contextmanager
    def using(self, slots: Mapping[str, Tensor], sizes: Sequence[int]) -> Iterator[None]:
        """Make the modules use these slots, each [1, *shape]. Raises ModelError for more rows."""
        if len(sizes) != 1:
            raise ModelError(
                f"weights of {len(sizes)} devices in one pass; all weights are each device's own:"
                " take one device at a time"
            )
        before = {name: self._swap(name, slot[0]) for name, slot in slots.items()}
        try:
            yield
        finally:
            for name, value in before.items():
                self._swap(name, value)

    def _swap(self, name: str, value: Tensor) -> Tensor:
        """Put a value in its place, in the place's own type; what was there before."""
        module, attribute = self._places[name]
        old: Tensor = getattr(module, attribute)
        setattr(module, attribute, value.to(old.dtype))
        return old
