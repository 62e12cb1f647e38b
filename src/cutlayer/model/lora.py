"""How trainable values lie in a row, and LoRA and head layers that read a device's own from it.

One pass may serve several devices: the frozen layer runs once on all their samples, then each
device's A and B are applied to its own. Knows no model and no cut.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from cutlayer.errors import ModelError, UnsupportedModelError
from cutlayer.model.described import AdapterSpec


@dataclass(frozen=True)
class Slot:
    """One trainable tensor in a row, e.g. `vit.layers.3.attention.q_proj.lora_A`."""

    name: str
    shape: tuple[int, ...]

    @property
    def parameters(self) -> int:
        """Values in this tensor."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class RowLayout:
    """The order of the slots in a row of float32 values.

    A bank of devices is then a matrix [device, parameter], FedAvg a weighted mean of its rows, an
    optimiser a row-wise update, and a payload the bytes of one row.
    """

    slots: tuple[Slot, ...]

    @property
    def parameters(self) -> int:
        """Values in a row."""
        return sum(slot.parameters for slot in self.slots)

    def split(self, rows: Float[Tensor, "group parameter"]) -> dict[str, Tensor]:
        """Each slot of each row, [group, *shape].

        Views made by one `torch.split`, so that backward is one concatenation: slicing slot by
        slot would fill a whole row of zeros for each.
        """
        self._check(rows.shape[1])
        pieces = torch.split(rows, [slot.parameters for slot in self.slots], dim=1)
        return {
            slot.name: piece.view(-1, *slot.shape)
            for slot, piece in zip(self.slots, pieces, strict=True)
        }

    def named(self, row: Float[Tensor, "parameter"]) -> dict[str, Tensor]:
        """Each slot of one row, [*shape]; views."""
        self._check(row.shape[0])
        pieces = torch.split(row, [slot.parameters for slot in self.slots])
        return {
            slot.name: piece.view(slot.shape)
            for slot, piece in zip(self.slots, pieces, strict=True)
        }

    def join(self, named: Mapping[str, Tensor]) -> Float[Tensor, "parameter"]:
        """The float32 row that holds these slots; other names are ignored, since a folder or a
        merged mapping holds both sides.

        Raises ModelError for a slot that is missing or has another shape.
        """
        pieces = [self._piece(slot, named) for slot in self.slots]
        return torch.cat(pieces) if pieces else torch.zeros(0)

    @staticmethod
    def _piece(slot: Slot, named: Mapping[str, Tensor]) -> Tensor:
        if slot.name not in named:
            raise ModelError(
                f"the adapter has no values for {slot.name}; were other targets trained?"
            )
        value = named[slot.name]
        if tuple(value.shape) != slot.shape:
            raise ModelError(
                f"the adapter's {slot.name} has shape {tuple(value.shape)} where this model needs "
                f"{slot.shape}; use the rank, classes and model it was trained with"
            )
        return value.detach().to(torch.float32).reshape(-1)

    def _check(self, parameters: int) -> None:
        if parameters != self.parameters:
            raise ModelError(
                f"a row of {parameters} values does not fit a layout of {self.parameters}; "
                "device rows and server rows differ"
            )


@final
class BankRows:
    """The devices' values that the layers of one part read during one pass.

    Filled by `using` for the length of a forward; a part therefore runs one pass at a time.
    Backward needs it no more, unless it runs blocks again: within that, `using` may be nested.
    """

    def __init__(self) -> None:
        self._slots: Mapping[str, Tensor] = {}
        self._sizes: tuple[int, ...] = ()

    @contextmanager
    def using(self, slots: Mapping[str, Tensor], sizes: Sequence[int]) -> Iterator[None]:
        """Make the layers read these slots, each [group, *shape], for samples in device order."""
        outer = self._slots, self._sizes
        self._slots, self._sizes = slots, tuple(sizes)
        try:
            yield
        finally:
            self._slots, self._sizes = outer

    @property
    def sizes(self) -> tuple[int, ...]:
        """Samples of each device."""
        return self._sizes

    def read(self, name: str) -> Tensor:
        """A slot of every device, [group, *shape]. Raises ModelError outside a pass."""
        if name not in self._slots:
            raise ModelError(f"{name} was read outside a forward pass of its part")
        return self._slots[name]


@final
class LoraLinear(nn.Module):
    """A frozen linear layer (or GPT-2's transposed one) with a LoRA adapter per device."""

    def __init__(
        self, base: nn.Linear | Conv1D, name: str, spec: AdapterSpec, rows: BankRows
    ) -> None:
        super().__init__()
        self.base = base
        self._a, self._b = lora_slots(name, spec.rank, linear_shape(base))
        self._scale = spec.scale
        self._rows = rows

    @property
    def slots(self) -> tuple[Slot, ...]:
        """A [rank, inputs] and B [outputs, rank]."""
        return self._a, self._b

    @property
    def weight(self) -> Tensor:
        """The frozen weight; some models look at its dtype."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output for samples in device order, [rows, inputs] or [batch, token, inputs].

        Blocks that flatten batch and token give rows in proportion to the samples.
        """
        output: Tensor = self.base(x)
        a, b = self._rows.read(self._a.name), self._rows.read(self._b.name)
        return add_low_rank(output, x, a, b, self._scale, self._rows.sizes)


@final
class LoraPatches(nn.Module):
    """The frozen convolution that makes patches, with a LoRA adapter per device.

    A convolution is a linear layer on unfolded patches, so A [rank, channels, k, k] and
    B [outputs, rank, 1, 1] (PEFT's shapes) act as in `LoraLinear`.
    """

    def __init__(self, base: nn.Conv2d, name: str, spec: AdapterSpec, rows: BankRows) -> None:
        super().__init__()
        padding = base.padding
        if base.groups != 1 or base.padding_mode != "zeros" or isinstance(padding, str):
            raise UnsupportedModelError(f"{name} is not a plain convolution; leave it unadapted")
        self.base = base
        self._padding = padding
        kernel = (base.kernel_size[0], base.kernel_size[1])
        self._a = Slot(f"{name}.lora_A", (spec.rank, base.in_channels, *kernel))
        self._b = Slot(f"{name}.lora_B", (base.out_channels, spec.rank, 1, 1))
        self._scale = spec.scale
        self._rows = rows

    @property
    def slots(self) -> tuple[Slot, ...]:
        """A [rank, channels, k, k] and B [outputs, rank, 1, 1]."""
        return self._a, self._b

    @property
    def weight(self) -> Tensor:
        """The frozen weight; ViT looks at its dtype."""
        return self.base.weight

    def forward(self, pixels: Tensor) -> Tensor:
        """Patches [batch, outputs, height, width] of images [batch, channels, ...]."""
        output: Tensor = self.base(pixels)
        patches = functional.unfold(
            pixels,
            self.base.kernel_size,
            dilation=self.base.dilation,
            padding=self._padding,
            stride=self.base.stride,
        ).transpose(1, 2)
        a = self._rows.read(self._a.name).flatten(2)
        b = self._rows.read(self._b.name).flatten(2)
        flat = output.flatten(2).transpose(1, 2)
        adapted = add_low_rank(flat, patches, a, b, self._scale, self._rows.sizes)
        return adapted.transpose(1, 2).reshape(output.shape)


@final
class RowLinear(nn.Module):
    """A linear layer whose weight and bias are each device's own: a trained head."""

    def __init__(self, base: nn.Linear, name: str, rows: BankRows) -> None:
        super().__init__()
        self._weight = Slot(f"{name}.weight", tuple(base.weight.shape))
        self._bias = None
        if base.bias is not None:
            self._bias = Slot(f"{name}.bias", tuple(base.bias.shape))
        self._rows = rows

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Weight [outputs, inputs] and, if the layer has one, bias [outputs]."""
        return (self._weight,) if self._bias is None else (self._weight, self._bias)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output for samples in device order, as `LoraLinear` takes them."""
        weight = self._rows.read(self._weight.name).to(x.dtype)
        bias = None if self._bias is None else self._rows.read(self._bias.name).to(x.dtype)
        flat = x.reshape(-1, x.shape[-1])
        pieces = [
            functional.linear(part, own_weight, own_bias)
            for part, own_weight, own_bias in zip(
                torch.split(flat, rows_of(flat, self._rows.sizes)),
                weight.unbind(),
                [None] * len(weight) if bias is None else bias.unbind(),
                strict=True,
            )
        ]
        output = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        return output.view(*x.shape[:-1], weight.shape[1])


def linear_shape(layer: nn.Linear | Conv1D) -> tuple[int, int]:
    """(inputs, outputs) of a linear layer; GPT-2's stores its weight the other way round."""
    rows, columns = layer.weight.shape
    return (rows, columns) if isinstance(layer, Conv1D) else (columns, rows)


def lora_slots(name: str, rank: int, shape: tuple[int, int]) -> tuple[Slot, Slot]:
    """A and B of the linear layer `name` with (inputs, outputs)."""
    inputs, outputs = shape
    return Slot(f"{name}.lora_A", (rank, inputs)), Slot(f"{name}.lora_B", (outputs, rank))


def rows_of(x: Float[Tensor, "rows inputs"], sizes: Sequence[int]) -> list[int]:
    """How many of the rows of `x` belong to each device: as many per sample throughout.

    Raises UnsupportedModelError where the rows are no multiple of the samples: the layer mixes
    samples, so no row belongs to one device.
    """
    per_sample, rest = divmod(x.shape[0], sum(sizes))
    if rest:
        raise UnsupportedModelError(
            f"a layer sees {x.shape[0]} rows for {sum(sizes)} samples; it cannot be adapted per "
            "device"
        )
    return [per_sample * size for size in sizes]


def add_low_rank(
    output: Float[Tensor, "*batch outputs"],
    x: Float[Tensor, "*batch inputs"],
    a: Float[Tensor, "group rank inputs"],
    b: Float[Tensor, "group outputs rank"],
    scale: float,
    sizes: Sequence[int],
) -> Float[Tensor, "*batch outputs"]:
    """`output + scale (x A^T) B^T`, each device's A and B on its own samples.

    One device is two plain products; devices with equally many samples are two batched ones;
    others are taken one after another.
    """
    flat, base = x.reshape(-1, x.shape[-1]), output.reshape(-1, output.shape[-1])
    a, b = a.to(x.dtype).transpose(1, 2), b.to(x.dtype).transpose(1, 2)
    rows = rows_of(flat, sizes)
    if len(rows) == 1:
        adapted = torch.addmm(base, flat @ a.squeeze(0), b.squeeze(0), alpha=scale)
    elif len(set(rows)) == 1:
        grouped = torch.bmm(flat.view(len(rows), rows[0], -1), a)
        adapted = torch.baddbmm(base.view(len(rows), rows[0], -1), grouped, b, alpha=scale)
    else:
        parts = zip(
            torch.split(base, rows), torch.split(flat, rows), a.unbind(), b.unbind(), strict=True
        )
        adapted = torch.cat(
            [torch.addmm(y, part @ own_a, own_b, alpha=scale) for y, part, own_a, own_b in parts]
        )
    return adapted.view(output.shape)
