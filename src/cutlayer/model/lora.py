"""How trainable values lie in a row, and LoRA and head layers that read a device's own from it.

One pass may serve several devices: the frozen layer runs once on all their samples, then each
device's A and B are applied to its own. Knows no model and no cut.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int32, Int64, Shaped
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from cutlayer.errors import ModelError, UnsupportedModelError
from cutlayer.model.described import AdapterSpec
from cutlayer.model.placement import to_device

# torch's product of rows by device; older ones have none
_GROUPED_MM: Callable[..., Tensor] | None = getattr(functional, "grouped_mm", None)
MOST_GROUPS = 1023
_ROW_BYTES = 16


@dataclass(frozen=True)
class Slot:
    """One trainable tensor in a row, e.g. `vit.layers.3.attention.q_proj.lora_A`."""

    name: str
    shape: tuple[int, ...]

    @property
    def parameters(self) -> int:
        """Values in this tensor."""
        return math.prod(self.shape)

    @property
    def lora(self) -> bool:
        """Whether it is an A or B, and not of a trained head."""
        return self.name.endswith((".lora_A", ".lora_B"))


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

    @property
    def head_parameters(self) -> int:
        """Values of a trained head, beside adapters: the last of a row."""
        return sum(slot.parameters for slot in self.slots if not slot.lora)

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

    def named(self, row: Shaped[Tensor, "parameter"]) -> dict[str, Tensor]:
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


@dataclass(frozen=True, eq=False)
class RowGroups:
    """Whose the rows of a layer's input are: so many of each device, in device order."""

    counts: tuple[int, ...]
    device: torch.device

    @cached_property
    def equal(self) -> bool:
        """Whether all devices have as many."""
        return len(set(self.counts)) == 1

    @cached_property
    def ends(self) -> Int32[Tensor, " group"]:
        """Where each device's rows end, as `grouped_mm` takes it."""
        ends = torch.tensor(self.counts).cumsum(0)
        return to_device(ends.to(torch.int32), self.device)

    @cached_property
    def owners(self) -> Int64[Tensor, " row"]:
        """The place of each row's device."""
        counts = torch.tensor(self.counts)
        return to_device(torch.repeat_interleave(counts), self.device)

    @cached_property
    def padded(self) -> Int64[Tensor, " row"]:
        """Where each row lies if every device had as many as the one with most."""
        within = [torch.arange(count) + n * max(self.counts) for n, count in enumerate(self.counts)]
        return to_device(torch.cat(within), self.device)

    @cached_property
    def pieces(self) -> "tuple[RowGroups, ...]":
        """The same in pieces of as many devices as `grouped_mm` takes."""
        if len(self.counts) <= MOST_GROUPS:
            return (self,)
        return tuple(
            RowGroups(self.counts[first : first + MOST_GROUPS], self.device)
            for first in range(0, len(self.counts), MOST_GROUPS)
        )


@runtime_checkable
class Dropping(Protocol):
    """What an adapter's inputs are dropped by, sample by sample of a pass."""

    def kept(
        self, name: str, shape: tuple[int, ...], probability: float
    ) -> Bool[Tensor, "sample *shape"]:
        """Which values the layer of this name sees; `shape`: of one sample's."""
        ...


@final
@dataclass(frozen=True)
class Draws:
    """Drawn for each sample by itself, from its key and the layer's name: whoever shares its pass,
    and however often the layer runs. `keys`: of the samples in order.

    Drawn on the host, so that every device drops the same. What is drawn for a sample's first rows
    does not depend on how many follow: padding changes nothing.
    """

    keys: tuple[str, ...]

    def kept(
        self, name: str, shape: tuple[int, ...], probability: float
    ) -> Bool[Tensor, "sample *shape"]:
        """Each value with probability `1 - probability`."""
        drawn = torch.empty(len(self.keys), *shape)
        for key, own in zip(self.keys, drawn.unbind(), strict=True):
            own.uniform_(generator=keyed_generator(f"{key}:{name}"))
        return drawn >= probability


def keyed_generator(key: str) -> torch.Generator:
    """A generator of the host that the key alone decides."""
    digest = hashlib.sha256(key.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@final
class BankRows:
    """The devices' values that the layers of one part read during one pass.

    Filled by `using` for the length of a forward; a part therefore runs one pass at a time.
    Backward needs it no more, unless it runs blocks again: within that, `using` may be nested.
    """

    def __init__(self) -> None:
        self._slots: Mapping[str, Tensor] = {}
        self._sizes: tuple[int, ...] = ()
        self._groups: dict[tuple[int, torch.device], RowGroups] = {}
        self._dropping: Dropping | None = None

    @contextmanager
    def using(
        self,
        slots: Mapping[str, Tensor],
        sizes: Sequence[int],
        dropping: Dropping | None = None,
    ) -> Iterator[None]:
        """Make the layers read these slots, each [group, *shape], for samples in device order;
        `dropping`: what of their inputs they see (None: all)."""
        outer = self._slots, self._sizes, self._groups, self._dropping
        self._slots, self._sizes, self._groups = slots, tuple(sizes), {}
        self._dropping = dropping
        try:
            yield
        finally:
            self._slots, self._sizes, self._groups, self._dropping = outer

    def dropped(
        self, name: str, x: Float[Tensor, "rows *inputs"], probability: float
    ) -> tuple[Float[Tensor, "rows *inputs"], float]:
        """What the adapter of this layer sees of its input, as many rows a sample, and what its
        output is scaled by for it."""
        if self._dropping is None or not probability:
            return x, 1.0
        shape = (x.shape[0] // sum(self._sizes), *x.shape[1:])
        kept = self._dropping.kept(name, shape, probability)
        return x * to_device(kept.view(x.shape), x.device), 1.0 / (1.0 - probability)

    def groups(self, x: Float[Tensor, "rows inputs"]) -> RowGroups:
        """Whose the rows of `x` are; made once a pass for all layers that see as many.

        Raises UnsupportedModelError where the rows are no multiple of the samples: the layer mixes
        samples, so no row belongs to one device.
        """
        key = x.shape[0], x.device
        if key not in self._groups:
            self._groups[key] = row_groups(x, self._sizes)
        return self._groups[key]

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
        self._a, self._b = lora_slots(name, spec.rank_of(name), linear_shape(base))
        self._scale = spec.scale_of(name)
        self._name, self._dropout = name, spec.dropout
        self._rows = rows

    @property
    def slots(self) -> tuple[Slot, ...]:
        """A [rank, inputs] and B [outputs, rank]."""
        return self._a, self._b

    @property
    def weight(self) -> Tensor:
        """The frozen weight; some models look at its dtype."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias, if it has one; some models look at it."""
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output for samples in device order, [rows, inputs] or [batch, token, inputs].

        Blocks that flatten batch and token give rows in proportion to the samples.
        """
        output: Tensor = self.base(x)
        a, b = self._rows.read(self._a.name), self._rows.read(self._b.name)
        flat, base = x.reshape(-1, x.shape[-1]), output.reshape(-1, output.shape[-1])
        seen, more = self._rows.dropped(self._name, flat, self._dropout)
        adapted = add_low_rank(base, seen, a, b, more * self._scale, self._rows.groups(flat))
        return adapted.view(output.shape)


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
        rank = spec.rank_of(name)
        self._a = Slot(f"{name}.lora_A", (rank, base.in_channels, *kernel))
        self._b = Slot(f"{name}.lora_B", (base.out_channels, rank, 1, 1))
        self._scale = spec.scale_of(name)
        self._name, self._dropout = name, spec.dropout
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
        seen, more = self._rows.dropped(self._name, pixels, self._dropout)
        patches = functional.unfold(
            seen,
            self.base.kernel_size,
            dilation=self.base.dilation,
            padding=self._padding,
            stride=self.base.stride,
        ).transpose(1, 2)
        a = self._rows.read(self._a.name).flatten(2)
        b = self._rows.read(self._b.name).flatten(2)
        base, flat = output.flatten(2).transpose(1, 2), patches.flatten(0, 1)
        groups = self._rows.groups(flat)
        adapted = add_low_rank(base.flatten(0, 1), flat, a, b, more * self._scale, groups)
        return adapted.view(base.shape).transpose(1, 2).reshape(output.shape)


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
        output = _linear_by_device(flat, weight, bias, self._rows.groups(flat))
        return output.view(*x.shape[:-1], weight.shape[1])


def linear_shape(layer: nn.Linear | Conv1D) -> tuple[int, int]:
    """(inputs, outputs) of a linear layer; GPT-2's stores its weight the other way round."""
    rows, columns = layer.weight.shape
    return (rows, columns) if isinstance(layer, Conv1D) else (columns, rows)


def lora_slots(name: str, rank: int, shape: tuple[int, int]) -> tuple[Slot, Slot]:
    """A and B of the linear layer `name` with (inputs, outputs)."""
    inputs, outputs = shape
    return Slot(f"{name}.lora_A", (rank, inputs)), Slot(f"{name}.lora_B", (outputs, rank))


def row_groups(x: Float[Tensor, "rows inputs"], sizes: Sequence[int]) -> RowGroups:
    """Whose the rows of `x` are: as many per sample throughout. Raises as `BankRows.groups`."""
    per_sample, rest = divmod(x.shape[0], sum(sizes))
    if rest:
        raise UnsupportedModelError(
            f"a layer sees {x.shape[0]} rows for {sum(sizes)} samples; it cannot be adapted per "
            "device"
        )
    return RowGroups(tuple(per_sample * size for size in sizes), x.device)


def add_low_rank(
    output: Float[Tensor, "rows outputs"],
    x: Float[Tensor, "rows inputs"],
    a: Float[Tensor, "group rank inputs"],
    b: Float[Tensor, "group outputs rank"],
    scale: float,
    groups: RowGroups,
) -> Float[Tensor, "rows outputs"]:
    """`output + scale (x A^T) B^T`, each device's A and B on its own rows.

    One device is two plain products, devices with equally many rows two batched ones, others two
    products by device.
    """
    a, b, count = a.to(x.dtype), b.to(x.dtype), len(groups.counts)
    if count == 1:
        return torch.addmm(output, x @ a[0].T, b[0].T, alpha=scale)
    if groups.equal:
        shape = count, groups.counts[0], -1
        low = torch.bmm(x.view(shape), a.transpose(1, 2))
        wide = torch.baddbmm(output.view(shape), low, b.transpose(1, 2), alpha=scale)
        return wide.view(output.shape)
    more = -a.shape[1] % (_ROW_BYTES // x.element_size())
    if more:  # once, where each product would
        a, b = functional.pad(a, (0, 0, 0, more)), functional.pad(b, (0, more))
    return torch.add(output, by_device(by_device(x, a, groups), b, groups), alpha=scale)


def _linear_by_device(
    x: Float[Tensor, "rows inputs"],
    weight: Float[Tensor, "group outputs inputs"],
    bias: Float[Tensor, "group outputs"] | None,
    groups: RowGroups,
) -> Float[Tensor, "rows outputs"]:
    """`x W^T + bias`, each device's own on its own rows."""
    if x.device.type == "cpu":
        # one by one, for each one's own bits: a head is one small layer, and launches cost little
        pieces = zip(
            torch.split(x, list(groups.counts)),
            weight.unbind(),
            [None] * len(weight) if bias is None else bias.unbind(),
            strict=True,
        )
        found = [functional.linear(*piece) for piece in pieces]
        return found[0] if len(found) == 1 else torch.cat(found)
    product = by_device(x, weight, groups)
    return product if bias is None else product + bias.index_select(0, groups.owners)


def by_device(
    x: Float[Tensor, "rows inputs"],
    weight: Float[Tensor, "group outputs inputs"],
    groups: RowGroups,
) -> Float[Tensor, "rows outputs"]:
    """`x W^T`, each device's W on its own rows.

    By a batched product where they have as many rows, else by torch's grouped one. Where torch has
    none for these numbers, by a batched one with rows padded to the device with most.
    """
    if not groups.equal and _grouped_here(x):
        if len(groups.pieces) == 1:
            return _grouped(x, weight, groups)
        rows = torch.split(x, [sum(piece.counts) for piece in groups.pieces])
        parts = zip(rows, torch.split(weight, MOST_GROUPS), groups.pieces, strict=True)
        return torch.cat([_grouped(*part) for part in parts])
    devices, most = len(groups.counts), max(groups.counts)
    if not groups.equal:
        x = x.new_zeros(devices * most, x.shape[1]).index_copy(0, groups.padded, x)
    wide = torch.bmm(x.view(devices, most, -1), weight.transpose(1, 2)).flatten(0, 1)
    return wide if groups.equal else wide.index_select(0, groups.padded)


def _grouped(x: Tensor, weight: Tensor, groups: RowGroups) -> Tensor:
    # rows of 16 bytes or a multiple: the kernels read no others, and zeros add nothing
    whole = _ROW_BYTES // x.element_size()
    outputs = weight.shape[1]
    columns, more = -x.shape[1] % whole, -outputs % whole
    if columns:
        x = functional.pad(x, (0, columns))
    if columns or more:
        weight = functional.pad(weight, (0, columns, 0, more))
    assert _GROUPED_MM is not None
    product = _GROUPED_MM(x.contiguous(), weight.transpose(1, 2), offs=groups.ends)
    if product.requires_grad:
        # a gradient that is a view of something smaller, such as a sum's, is refused
        product.register_hook(Tensor.contiguous)  # type: ignore[no-untyped-call]
    return product[:, :outputs] if more else product


def _grouped_here(x: Tensor) -> bool:
    """Whether torch has the product for tensors like this: since 2.10, and on CUDA of bfloat16."""
    if _GROUPED_MM is None:
        return False
    if x.device.type == "cpu":
        return x.dtype in (torch.float32, torch.bfloat16)
    return (
        x.device.type == "cuda"
        and x.dtype is torch.bfloat16
        and torch.cuda.get_device_capability(x.device) >= (8, 0)
    )
