"""Frozen weights held in fewer bytes than they are computed with: bfloat16, int8, nf4.

A `PackedWeight` takes the place of a module's float32 weight. The module's own code runs on: a
product with it unpacks a slice of rows at a time, forward and once more in backward, so that
neither the whole float32 matrix nor a copy for backward is ever there. int8 and nf4 are
bitsandbytes' numbers. Its layers are not used: in evaluation mode on a processor with bfloat16,
`Linear4bit` repacks its weight for inference, and no gradient passes through it.

Knows no cut and no adapter.
"""

import ctypes
import logging
import math
import mmap
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from cutlayer.errors import ModelError, needing
from cutlayer.spec import NF4_BLOCK, UNPACKED_VALUES, Base

# an accelerator's kernels are long enough only if it is much
_UNPACKED_ELSEWHERE = 2**27
# values that are packed at a time: bitsandbytes' temporaries are several times as many
_PACKED = 2**18
# an embedding or head with fewer values is left in float32: 4 MiB
LARGE = 2**20
# what int8 numbers are multiples of, of their row's largest: bitsandbytes' 1 / 127
_INT8_STEP = 7.874015718698502e-3
_PAGEOUT = 21  # of Linux's madvise


@final
class PackedWeight(Tensor):
    """A frozen matrix [row, column], held as `base` has it; its shape, type and device are those of
    the float matrix that it stands for.

    `stored`: bfloat16 [row, column]; or int8 [row, column] with `scales` [row]; or nf4, uint8
    [block, 32] of 64 values each with `scales` [block], the last block filled up with zeros.
    What is not a product or a look-up unpacks the whole of it first.
    """

    @staticmethod
    def __new__(
        cls,
        base: Base,
        shape: tuple[int, ...],
        stored: Tensor,
        scales: Tensor | None,
        dtype: torch.dtype = torch.float32,
    ) -> "PackedWeight":
        made: PackedWeight = Tensor._make_wrapper_subclass(
            cls, shape, dtype=dtype, device=stored.device, requires_grad=False
        )
        return made

    def __init__(
        self,
        base: Base,
        shape: tuple[int, ...],
        stored: Tensor,
        scales: Tensor | None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.base = base
        self.stored = stored
        self.scales = scales

    def __repr__(self) -> str:  # type: ignore[override]
        return f"PackedWeight({self.base}, {tuple(self.shape)})"

    @property
    def held(self) -> tuple[Tensor, ...]:
        """The tensors in memory."""
        return (self.stored,) if self.scales is None else (self.stored, self.scales)

    def unpacked(self, first: int, end: int) -> Float[Tensor, "row column"]:
        """Rows first..end-1, until more are unpacked in this thread. Of nf4 the first must begin a
        block."""
        width = self.shape[1]
        match self.base:
            case Base.INT8:
                assert self.scales is not None
                return _from_int8(self.stored[first:end], self.scales[first:end], self.dtype)
            case Base.NF4:
                blocks = slice(first * width // NF4_BLOCK, -(-end * width // NF4_BLOCK))
                assert self.scales is not None
                values = _from_nf4(self.stored[blocks], self.scales[blocks], self.dtype)
                return values.view(-1)[: (end - first) * width].view(end - first, width)
            case _:
                rows = self.stored[first:end]
                return _SCRATCH.room(len(rows), width, self.device, self.dtype).copy_(rows)

    def slices(self) -> Iterator[tuple[slice, Float[Tensor, "row column"]]]:
        """All rows, some at a time, with their place; each until the next."""
        height, width = self.shape
        # of nf4, rows that begin a block
        step = NF4_BLOCK // math.gcd(width, NF4_BLOCK)
        most = UNPACKED_VALUES if self.device.type == "cpu" else _UNPACKED_ELSEWHERE
        rows = max(step, most // width // step * step)
        for first in range(0, height, rows):
            end = min(first + rows, height)
            yield slice(first, end), self.unpacked(first, end)

    def whole(self) -> Float[Tensor, "row column"]:
        """The float matrix that it stands for."""
        matrix = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        for place, rows in self.slices():
            matrix[place] = rows
        return matrix

    def looked_up(self, rows: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch column"]:
        """These rows, as an embedding gives them. Of nf4 a row must be whole blocks."""
        width, wanted = self.shape[1], rows.reshape(-1)
        match self.base:
            case Base.INT8:
                assert self.scales is not None
                found = _from_int8(self.stored[wanted], self.scales[wanted], self.dtype)
            case Base.NF4:
                assert self.scales is not None
                each = width // NF4_BLOCK
                packed = self.stored.view(-1, each, self.stored.shape[1])[wanted]
                scales = self.scales.view(-1, each)[wanted]
                found = _from_nf4(packed.flatten(0, 1), scales.flatten(), self.dtype)
            case _:
                found = self.stored[wanted]
        # a copy: what is unpacked is there until more is
        return torch.empty_like(found, dtype=self.dtype).copy_(found).view(*rows.shape, width)

    @classmethod
    def __torch_function__(
        cls,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.linear and isinstance(args[1], PackedWeight):
            return _linear(*args, **kwargs)
        if func is torch.addmm and isinstance(args[2], PackedWeight) and not kwargs:
            bias, x, weight = args  # GPT-2's transposed layer
            return _Product.apply(x, weight, bias, False)  # type: ignore[no-untyped-call]
        if func is functional.embedding and isinstance(args[1], PackedWeight):
            return args[1].looked_up(args[0])
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.ops.aten.detach.default:
            return args[0]._with(args[0].held)
        if func is torch.ops.aten._to_copy.default:
            return args[0]._moved(**(kwargs or {}))
        plain = [_whole(value) for value in args]
        return func(*plain, **{name: _whole(value) for name, value in (kwargs or {}).items()})

    def _with(self, held: Sequence[Tensor], dtype: torch.dtype | None = None) -> "PackedWeight":
        """The same of other tensors in memory, or to be computed with as another type."""
        stored, scales = held[0], held[1] if len(held) > 1 else None
        return PackedWeight(self.base, tuple(self.shape), stored, scales, dtype or self.dtype)

    def _moved(
        self, *, device: Any = None, dtype: torch.dtype | None = None, **rest: Any
    ) -> "PackedWeight":
        where = self.device if device is None else device
        return self._with(tuple(tensor.to(where) for tensor in self.held), dtype)

    # by these two, `Module.to` knows that there are tensors within, and puts the moved one in place

    def __tensor_flatten__(self) -> tuple[list[str], tuple[Base, torch.dtype]]:
        names = ["stored"] if self.scales is None else ["stored", "scales"]
        return names, (self.base, self.dtype)

    @staticmethod
    def __tensor_unflatten__(
        inner: Mapping[str, Tensor], about: tuple[Base, torch.dtype], size: Any, stride: Any
    ) -> "PackedWeight":
        base, dtype = about
        return PackedWeight(base, tuple(size), inner["stored"], inner.get("scales"), dtype)


def _whole(value: Any) -> Any:
    return value.whole() if isinstance(value, PackedWeight) else value


@final
class _Scratch(threading.local):
    """Where each thread unpacks, again and again. Taken and freed for each slice, between what is
    kept for backward, such pieces left a fifth of a server's memory in gaps."""

    def __init__(self) -> None:
        self._values = torch.empty(0)

    def room(self, rows: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """For so many values. An accelerator's allocator has its own ways."""
        if device.type != "cpu" or dtype is not torch.float32:
            return torch.empty(rows, width, dtype=dtype, device=device)
        if self._values.numel() < rows * width:
            self._values = torch.empty(rows * width)
        return self._values[: rows * width].view(rows, width)


_SCRATCH = _Scratch()


def _linear(x: Tensor, weight: PackedWeight, bias: Tensor | None = None) -> Tensor:
    flat = x.reshape(-1, x.shape[-1])
    output: Tensor = _Product.apply(flat, weight, bias, True)  # type: ignore[no-untyped-call]
    return output.view(*x.shape[:-1], output.shape[1])


@final
class _Product(torch.autograd.Function):
    """`x W^T + bias`, or `x W + bias`, of a frozen W; nothing of it is kept for backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: PackedWeight, bias: Tensor | None, turned: bool
    ) -> Tensor:
        ctx.weight, ctx.turned = weight, turned
        return _times_turned(x, weight, bias) if turned else _times(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        product = _times if ctx.turned else _times_turned
        return product(gradient, ctx.weight, None), None, None, None


def _times_turned(x: Tensor, weight: PackedWeight, bias: Tensor | None) -> Tensor:
    """`x W^T`: rows of W are columns of the result."""
    output = x.new_empty(len(x), len(weight))
    for place, rows in weight.slices():
        if bias is None:
            torch.mm(x, rows.t(), out=output[:, place])
        else:
            torch.addmm(bias[place], x, rows.t(), out=output[:, place])
    return output


def _times(x: Tensor, weight: PackedWeight, bias: Tensor | None) -> Tensor:
    """`x W`: a sum over slices of W's rows."""
    total = bias
    for place, rows in weight.slices():
        part = x[:, place]
        total = part @ rows if total is None else torch.addmm(total, part, rows)
    assert total is not None
    return total


# --- packing -------------------------------------------------------------------------------------


def pack(weight: Float[Tensor, "row column"], base: Base, dtype: torch.dtype) -> PackedWeight:
    """A frozen matrix in the base's numbers, to be computed with as `dtype`; a little of it at a
    time. Raises ConfigError for a base that needs bitsandbytes, where it is not installed."""
    shape = (weight.shape[0], weight.shape[1])
    match base:
        case Base.INT8:
            stored, scales = _to_int8(weight.detach())
            return PackedWeight(base, shape, stored, scales, dtype)
        case Base.NF4:
            stored, scales = _to_nf4(weight.detach().reshape(-1))
            return PackedWeight(base, shape, stored, scales, dtype)
        case Base.BFLOAT16:
            return PackedWeight(base, shape, weight.detach().bfloat16().contiguous(), None, dtype)
        case Base.FLOAT32:
            raise ValueError("a float32 weight is not packed")


# What is kept is allocated before the temporaries, which then leave no gaps between it.


def _to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    quantise = _bitsandbytes().functional.int8_vectorwise_quant
    stored = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scales = torch.empty(len(weight), device=weight.device)
    rows = max(1, _PACKED // weight.shape[1])
    for first in range(0, len(weight), rows):
        place = slice(first, first + rows)
        # of float32, which its kernel for the processor takes: float16 would round twice
        stored[place], scales[place], _ = quantise(weight[place].float())
    return stored, scales


def _to_nf4(values: Tensor) -> tuple[Tensor, Tensor]:
    functions = _bitsandbytes().functional
    blocks = -(-values.numel() // NF4_BLOCK)
    stored = torch.empty(blocks, NF4_BLOCK // 2, dtype=torch.uint8, device=values.device)
    scales = torch.empty(blocks, device=values.device)
    each = _PACKED // NF4_BLOCK
    for first in range(0, blocks, each):
        part = values[first * NF4_BLOCK : (first + each) * NF4_BLOCK].float()
        whole = functional.pad(part, (0, -part.numel() % NF4_BLOCK))
        packed, state = functions.quantize_4bit(whole, blocksize=NF4_BLOCK, quant_type="nf4")
        place = slice(first, first + each)
        stored[place], scales[place] = packed.view(-1, NF4_BLOCK // 2), state.absmax
    return stored, scales


def _from_int8(stored: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Values [row, column], until more are unpacked in this thread. They are those of bitsandbytes'
    function, which takes new memory twice."""
    values = _SCRATCH.room(len(stored), stored.shape[1], stored.device, dtype)
    if dtype is torch.float32:
        return torch.mul(stored, scales[:, None], out=values).mul_(_INT8_STEP)
    return values.copy_(_bitsandbytes().functional.int8_vectorwise_dequant(stored, scales))


def _from_nf4(stored: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Values [block, 64], until more are unpacked in this thread. As rows of one block, whatever
    the matrix: for rows that are longer than a block and no multiple of it, bitsandbytes 0.50's
    AVX512 kernel takes wrong scales."""
    blocks, kernel = len(stored), _nf4_kernel()
    if kernel is not None and stored.device.type == "cpu" and dtype is torch.float32:
        values = _SCRATCH.room(blocks, NF4_BLOCK, stored.device, dtype)
        stored, scales = stored.contiguous(), scales.contiguous()
        addresses = [ctypes.c_void_p(each.data_ptr()) for each in (stored, scales, values)]
        kernel(*addresses, *map(ctypes.c_longlong, (NF4_BLOCK, blocks, NF4_BLOCK)))
        return values
    functions = _bitsandbytes().functional
    shape = torch.Size((blocks, NF4_BLOCK))
    state = functions.QuantState(
        absmax=scales, shape=shape, blocksize=NF4_BLOCK, quant_type="nf4", dtype=dtype
    )
    found: Tensor = functions.dequantize_4bit(stored.reshape(-1, 1), state)
    return found


@cache
def _nf4_kernel() -> Callable[..., object] | None:
    """What bitsandbytes' function calls for the processor, with new memory; None where a version or
    a platform has no such thing."""
    library = getattr(_bitsandbytes().cextension, "lib", None)
    kernel: Callable[..., object] | None = getattr(
        getattr(library, "_lib", None), "cdequantize_blockwise_cpu_nf4_fp32", None
    )
    return kernel


@cache
def _bitsandbytes() -> Any:
    # it warns of a kernel for inference that it would like to download
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.setLevel(logging.ERROR)
    with needing("a base of int8 or nf4", "quant"):
        import bitsandbytes

    return bitsandbytes


def check_base(base: Base) -> None:
    """Raises ConfigError for a base that needs bitsandbytes, where it is not installed."""
    if base in (Base.INT8, Base.NF4):
        _bitsandbytes()


# --- a model's weights, packed as they are read --------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where in a model a parameter stands. `inside`: in one of the blocks."""

    name: str
    module: nn.Module
    attribute: str
    inside: bool

    def numbers(self, base: Base, shape: tuple[int, ...]) -> Base:
        """In which numbers a base of the model holds a parameter here.

        Linear layers of the blocks (GPT-2's too) have the base's. So have large embeddings. Large
        heads have them too, but where the base is nf4 they are int8: in nf4, the head of SmolLM2
        adds a sixth to the perplexity, in int8 0.2 %; its embedding in nf4 0.9 %. All else is
        float32, rounded to bfloat16: norms, biases, convolutions, small embeddings and heads.
        """
        if len(shape) != 2 or not (self.inside or math.prod(shape) >= LARGE):
            return Base.FLOAT32
        if isinstance(self.module, nn.Embedding) and not self.inside:
            aligned = shape[1] % NF4_BLOCK == 0  # or a row's values would share others' scales
            return Base.INT8 if base is Base.NF4 and not aligned else base
        if isinstance(self.module, nn.Linear | Conv1D):
            return Base.INT8 if base is Base.NF4 and not self.inside else base
        return Base.FLOAT32

    def put(self, value: nn.Parameter) -> None:
        """Put a frozen value here."""
        setattr(self.module, self.attribute, value)


def places_of(model: nn.Module, blocks: str) -> list[tuple[nn.Parameter, list[Place]]]:
    """Each parameter of a model and its places, several where it is tied. `blocks`: the name of the
    model's list of them."""
    found: dict[int, tuple[nn.Parameter, list[Place]]] = {}
    for prefix, module in model.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            name = f"{prefix}.{attribute}" if prefix else attribute
            place = Place(name, module, attribute, name.startswith(f"{blocks}."))
            found.setdefault(id(parameter), (parameter, []))[1].append(place)
    return list(found.values())


def pack_model(
    model: nn.Module,
    blocks: str,
    base_of_name: Callable[[str], Base],
    dtype: torch.dtype,
    plain: Iterable[str],
) -> list[str]:
    """Put a model's weights into the numbers of their base, one after another as they are read from
    the file they are mapped from; `plain` names those that stay float32 all the same.

    What is not packed becomes `dtype`, where the base has fewer bits rounded to bfloat16, as which
    it is sent (norms, biases, convolutions and positions, half of a shallow part's bytes beside
    nf4). Gives the names of weights that are not finite. Raises
    ConfigError where bitsandbytes is needed and not there.
    """
    left, bad = set(plain), []
    for parameter, places in places_of(model, blocks):
        source, shape = parameter.detach(), tuple(parameter.shape)
        if source.numel() and not _finite(source):
            bad.append(places[0].name)
        # a tied weight is held in each place's numbers, once
        values: dict[tuple[Base, bool], nn.Parameter] = {}
        for place in places:
            base = Base.FLOAT32 if place.name in left else base_of_name(place.name)
            numbers, exact = place.numbers(base, shape), base is Base.FLOAT32
            if (numbers, exact) not in values:
                as_it_is = numbers is Base.FLOAT32 or (
                    numbers is Base.BFLOAT16 and dtype is torch.bfloat16
                )
                rounded = source if exact else source.bfloat16()
                value = rounded.to(dtype) if as_it_is else pack(source, numbers, dtype)
                if value is source:
                    values[numbers, exact] = parameter
                else:
                    values[numbers, exact] = nn.Parameter(value, requires_grad=False)
            place.put(values[numbers, exact])
        if all(value is not parameter for value in values.values()):
            forget(source)
    return bad


def _finite(weights: Tensor) -> bool:
    least, most = torch.aminmax(weights)  # no copy of the weights, as isfinite needs
    return bool(least.isfinite() and most.isfinite())


def forget(tensor: Tensor) -> None:
    """Give back the memory of a tensor that nobody reads any more, and that of temporaries.

    What is mapped from a file counts as this process's as long as any tensor of that file is there;
    of other memory, nothing changes. glibc keeps what was freed in small pieces.
    """
    if sys.platform != "linux" or tensor.device.type != "cpu" or not tensor.is_contiguous():
        return
    page = mmap.PAGESIZE
    first = -(-tensor.data_ptr() // page) * page
    size = (tensor.data_ptr() + tensor.nbytes) // page * page - first
    if size > 0:
        library = ctypes.CDLL(None)
        library.madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), _PAGEOUT)
        with suppress(AttributeError):  # of other C libraries
            library.malloc_trim(ctypes.c_size_t(0))


def held(tensor: Tensor) -> tuple[Tensor, ...]:
    """The tensors in memory behind a weight."""
    return tensor.held if isinstance(tensor, PackedWeight) else (tensor,)


# --- a part's weights as a file ------------------------------------------------------------------

# what the file calls the scales of a packed weight
SCALES = "scales"


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """A model's weights as a file has them: packed ones as `NAME.nf4` and `NAME.scales`."""
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if isinstance(value, PackedWeight):
            tensors[f"{name}.{value.base}"] = value.stored
            if value.scales is not None:
                tensors[f"{name}.{SCALES}"] = value.scales
        else:
            tensors[name] = value
    return tensors


def packed_names(names: Iterable[str]) -> dict[str, Base]:
    """The weights that a file with these names has packed, and how."""
    packed = {}
    for name in names:
        weight, _, numbers = name.rpartition(".")
        if numbers in (Base.BFLOAT16, Base.INT8, Base.NF4):
            packed[weight] = Base(numbers)
    return packed


def base_of(packed: Mapping[str, Base]) -> Base:
    """The base of a file with these packed weights."""
    found = set(packed.values())
    order = (Base.NF4, Base.INT8, Base.BFLOAT16)
    return next((base for base in order if base in found), Base.FLOAT32)


def restored(
    base: Base, shape: tuple[int, ...], stored: Tensor, scales: Tensor | None, dtype: torch.dtype
) -> PackedWeight:
    """A packed weight from a file's tensors. Raises ModelError for tensors that do not fit."""
    blocks = -(-math.prod(shape) // NF4_BLOCK)
    due: dict[Base, tuple[torch.dtype, tuple[int, ...], tuple[int, ...] | None]] = {
        Base.BFLOAT16: (torch.bfloat16, shape, None),
        Base.INT8: (torch.int8, shape, shape[:1]),
        Base.NF4: (torch.uint8, (blocks, NF4_BLOCK // 2), (blocks,)),
    }
    kind, stored_shape, scales_shape = due[base]
    scales_found = None if scales is None else tuple(scales.shape)
    if (stored.dtype, tuple(stored.shape), scales_found) != (kind, stored_shape, scales_shape):
        raise ModelError(
            f"a weight of {list(shape)} in {base} has {stored.dtype} {list(stored.shape)} and"
            f" scales {scales_found}, not {kind} {list(stored_shape)} and {scales_shape}"
        )
    return PackedWeight(base, shape, stored, scales, dtype)
