"""A model, or what is left of one, with its adapters in place.

Knows how slots are found, initialised and read, and how blocks keep only their inputs; not where
the model was cut.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from cutlayer.errors import ModelError, UnsupportedModelError, cut
from cutlayer.model.base import held, named_tensors
from cutlayer.model.blocks import Anatomy, passing_through
from cutlayer.model.described import AdapterSpec, by_pattern, ends_with
from cutlayer.model.lora import (
    BankRows,
    Dropping,
    LoraLinear,
    LoraPatches,
    RowLayout,
    RowLinear,
    Slot,
    keyed_generator,
)
from cutlayer.model.placement import HOST, ON_HOST, Placement
from cutlayer.spec import Task, Trained

# makes the layers of a part read these slots, each [group, *shape], for so many samples a device
Using = Callable[[Mapping[str, Tensor], Sequence[int]], AbstractContextManager[None]]

HEAD_STD = 0.02


@final
class AdaptedModel:
    """A model whose targeted layers, or all of it, read the rows of the devices in a pass.

    `spec` None: rows are empty. `known`: the checkpoint's values of slots that start with them, by
    slot name. The model goes to where `placement` says; rows that it is to read are there already.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        anatomy: Anatomy,
        spec: AdapterSpec | None,
        known: Mapping[str, Tensor],
        *,
        patches: bool,
        head: bool,
        trained: Trained = Trained.ADAPTERS,
        placement: Placement = ON_HOST,
    ) -> None:
        model.train(False)
        model.requires_grad_(False)
        if placement.device != HOST:
            model.to(placement.device)  # type: ignore[arg-type]
        self.placement = placement
        self.spec = spec
        self.model = model
        self.trained = trained
        self.documents_by = anatomy.documents_by
        self.transposed = any(isinstance(module, Conv1D) for module in model.modules())
        self._blocks = {
            f"{anatomy.blocks}.{index}": block for index, block in _owned_blocks(model, anatomy)
        }
        self._output_length = anatomy.output_length
        self.free_tokens = anatomy.free_tokens
        self._dropping: Dropping | None = None
        self._reader: BankRows | OwnWeights
        if trained is Trained.WEIGHTS:
            self._reader = OwnWeights(model)
            slots = self._reader.slots
        else:
            self._reader = BankRows()
            slots = ()
            if spec is not None:
                slots = _adapt(model, anatomy, spec, self._reader, patches=patches, head=head)
        self.layout = RowLayout(slots)
        self._known = {slot.name: known[slot.name] for slot in slots if slot.name in known}

    def initial_row(self, seed: int) -> Float[Tensor, "parameter"]:
        """A row before training, on the host. Each slot's values depend on the seed and its name
        alone, so a device's and a server's rows together are the same at every cut, and on every
        device.

        LoRA A normal with deviation 1 / sqrt(inputs), so that `x A^T` has the scale of x; B zero;
        head as in the checkpoint, else weights normal with deviation 0.02 and bias zero. Where all
        weights are trained: as in the checkpoint, or as a head that it lacks.
        """
        return self.layout.join(
            {slot.name: self._initial(slot, seed) for slot in self.layout.slots}
        )

    @contextmanager
    def using(
        self,
        rows: Float[Tensor, "group parameter"],
        sizes: Sequence[int],
        batch: int,
        *,
        checkpoint: bool = False,
    ) -> Iterator[None]:
        """Make the layers read these rows; checks that the samples are as many as announced.

        `checkpoint`: of each block, only its input is held for backward, which runs it again.
        """
        if len(sizes) != rows.shape[0] or sum(sizes) != batch or min(sizes, default=0) < 1:
            raise ModelError(
                f"sizes {list(sizes)} do not divide {batch} samples among {rows.shape[0]} rows; "
                "give the number of samples, at least 1, of each row"
            )
        slots = self.layout.split(rows)
        using = partial(self._reader.using, dropping=self._dropping)
        with ExitStack() as stack:
            stack.enter_context(using(slots, sizes))
            if checkpoint:
                stack.enter_context(checkpointed(self._blocks, slots, sizes, using))
            yield

    @contextmanager
    def dropping(self, dropping: Dropping | None) -> Iterator[None]:
        """Let adapters see only a part of their inputs in the passes within, and where blocks of
        those run again."""
        outer, self._dropping = self._dropping, dropping
        try:
            yield
        finally:
            self._dropping = outer

    @contextmanager
    def without_blocks(self) -> Iterator[None]:
        """Run the model's forward for what comes after its blocks alone."""
        with passing_through(self._blocks.values(), self._output_length):
            yield

    @property
    def device(self) -> torch.device:
        """Where the weights are, and rows, inputs and activations of a pass."""
        return self.placement.device

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The frozen weights and buffers."""
        weights = (tensor for weight in self.model.parameters() for tensor in held(weight))
        return (*weights, *self.model.buffers())

    def frozen(self) -> dict[str, Tensor]:
        """The frozen weights by their names in a file (`named_tensors`)."""
        # a layer with an adapter stands around the model's own
        return {
            name.replace(".base.", "."): value for name, value in named_tensors(self.model).items()
        }

    @property
    def trained_from(self) -> dict[str, Tensor]:
        """Where all weights are trained, the checkpoint's, by their names there: all begin so."""
        return dict(self._known) if self.trained is Trained.WEIGHTS else {}

    @property
    def parameters(self) -> int:
        """Frozen weights held, each counted once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def bytes(self) -> int:
        """Bytes of the frozen weights held."""
        weights = self.model.parameters()
        return sum(tensor.nbytes for weight in weights for tensor in held(weight))

    def _initial(self, slot: Slot, seed: int) -> Tensor:
        kind = slot.name.rpartition(".")[2]
        if slot.name in self._known:
            return self._known[slot.name]
        if kind in ("lora_B", "bias"):
            return torch.zeros(slot.shape)
        inputs = slot.parameters // slot.shape[0]
        deviation = inputs**-0.5 if kind == "lora_A" else HEAD_STD
        return deviation * torch.randn(slot.shape, generator=keyed_generator(f"{seed}:{slot.name}"))


def check_adapter(
    model: PreTrainedModel, anatomy: Anatomy, adapter: AdapterSpec, task: Task
) -> None:
    """Raise ModelError for an adapter that this model cannot have."""
    if adapter.head and task == "causal-lm":
        raise ModelError(
            "the adapter's head is true, but a language model's head is its vocabulary; set it to "
            "false for causal-lm"
        )
    _check_targets(model, anatomy, adapter)
    if adapter.patch_embedding:
        patch_convolution(model, anatomy)


def target_names(
    block: nn.Module, anatomy: Anatomy, index: int, spec: AdapterSpec
) -> tuple[str, ...]:
    """The linear layers of block `index` that the spec adapts, by name within it; "all" leaves a
    mixture of experts as it is."""
    mixtures = mixture_names(block) if spec.targets == "all" else ()
    return tuple(
        name
        for name in linear_names(block)
        if spec.adapts(index, f"{anatomy.blocks}.{index}.{name}")
        and not is_within(name, (*mixtures, *anatomy.apart))
    )


def linear_names(block: nn.Module) -> tuple[str, ...]:
    """The linear layers of a block, by name within it."""
    return tuple(
        name for name, module in block.named_modules() if isinstance(module, nn.Linear | Conv1D)
    )


def _check_targets(model: PreTrainedModel, anatomy: Anatomy, spec: AdapterSpec) -> None:
    """Raise ModelError for targets, blocks or patterns that the model has none of."""
    beyond = [index for index in spec.layers or () if not 0 <= index < anatomy.count]
    if beyond:
        raise ModelError(
            f"the adapter's layers name block {beyond[0]}; there are {anatomy.count}, from 0"
        )
    blocks = model.get_submodule(anatomy.blocks)
    assert isinstance(blocks, nn.ModuleList)
    linear = [
        (index, f"{anatomy.blocks}.{index}.{name}", name)
        for index, block in enumerate(blocks.children())
        for name in linear_names(block)
        if name not in anatomy.apart
    ]
    known = ", ".join(dict.fromkeys(name for _, _, name in linear))
    if any(mixture_names(block) for block in blocks.children()):
        known += " (its experts are one weight of three dimensions, and no linear layers)"
    if anatomy.apart:
        known += f" ({', '.join(anatomy.apart)} see more than a mini-batch's samples)"
    for target in spec.targets if isinstance(spec.targets, tuple) else ():
        if not any(ends_with(path, target) for _, path, _ in linear):
            raise ModelError(f"the blocks have no linear layer named {target!r}; they have {known}")
    adapted = [
        f"{anatomy.blocks}.{index}.{name}"
        for index, block in enumerate(blocks.children())
        for name in target_names(block, anatomy, index, spec)
    ]
    if not adapted:
        raise ModelError(
            f"the adapter's targets {cut(str(spec.targets))} match no linear layer of its blocks: a"
            f" pattern matches whole names, such as {linear[0][1]}; the blocks have {known}"
        )
    routers = [
        path for index, path, name in linear if path in adapted and _is_router(blocks[index], name)
    ]
    if routers:
        raise ModelError(
            f"the adapter's targets name the router {routers[0]}, which stays as it is: its choice"
            " of experts has no gradient"
        )
    if spec.patch_embedding:
        adapted.append(patch_convolution(model, anatomy)[0])
    for name, patterns in (("rank", spec.rank_pattern), ("alpha", spec.alpha_pattern)):
        for pattern, value in patterns:
            if not any(by_pattern(((pattern, value),), path, 0) for path in adapted):
                raise ModelError(
                    f"the adapter's {name}_pattern {cut(pattern)} matches none of its layers: a"
                    f" pattern matches ends of names, such as {adapted[0]}"
                )


def mixture_names(block: nn.Module) -> tuple[str, ...]:
    """The mixtures of experts in a block: the modules that have experts and a router."""
    experts = [
        name
        for name, module in block.named_modules()
        if name.rpartition(".")[2] == "experts" or type(module).__name__.endswith("Experts")
    ]
    around = {name.rpartition(".")[0] or name for name in experts}
    routers = [name for name, _ in block.named_modules() if experts and _is_router(block, name)]
    return tuple(sorted(around | set(routers)))


def is_within(name: str, units: Sequence[str]) -> bool:
    """Whether a module or tensor is one of these modules, or of one."""
    return any(name == unit or name.startswith(f"{unit}.") for unit in units)


def _is_router(block: nn.Module, name: str) -> bool:
    own = name.rpartition(".")[2]
    return (
        own == "router"
        or "Router" in type(block.get_submodule(name)).__name__
        or (own == "gate" and f"{name.rpartition('.')[0]}.experts".lstrip(".") in _names(block))
    )


def _names(block: nn.Module) -> set[str]:
    return {name for name, _ in block.named_modules()}


def patch_convolution(model: PreTrainedModel, anatomy: Anatomy) -> tuple[str, nn.Conv2d]:
    """The convolution that makes patches, with its name. Raises ModelError if there is none."""
    found = [
        (f"{unit}.{name}" if name else unit, module)
        for unit in anatomy.before
        for name, module in model.get_submodule(unit).named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    if len(found) != 1:
        raise ModelError(
            f"{type(model).__name__} has {len(found)} convolutions before its blocks, so the "
            "adapter's patch_embedding cannot be true"
        )
    return found[0]


def _adapt(
    model: PreTrainedModel,
    anatomy: Anatomy,
    spec: AdapterSpec,
    rows: BankRows,
    *,
    patches: bool,
    head: bool,
) -> tuple[Slot, ...]:
    """Put layers that read rows into the model; their slots."""
    slots = list(_adapt_blocks(model, anatomy, spec, rows))
    if patches and spec.patch_embedding:
        slots += _adapt_patches(model, anatomy, spec, rows)
    if head and spec.head:
        slots += _adapt_head(model, anatomy, rows)
    return tuple(slots)


def _adapt_blocks(
    model: PreTrainedModel, anatomy: Anatomy, spec: AdapterSpec, rows: BankRows
) -> Iterator[Slot]:
    for index, block in _owned_blocks(model, anatomy):
        for name in target_names(block, anatomy, int(index), spec):
            path = f"{anatomy.blocks}.{index}.{name}"
            base = model.get_submodule(path)
            assert isinstance(base, nn.Linear | Conv1D)
            layer = LoraLinear(base, path, spec, rows)
            model.set_submodule(path, layer)
            yield from layer.slots


def _owned_blocks(model: PreTrainedModel, anatomy: Anatomy) -> Iterator[tuple[str, nn.Module]]:
    """The blocks that are not hollow, with their index."""
    for index, block in model.get_submodule(anatomy.blocks).named_children():
        if next(block.children(), None) is not None:
            yield index, block


def _adapt_patches(
    model: PreTrainedModel, anatomy: Anatomy, spec: AdapterSpec, rows: BankRows
) -> tuple[Slot, ...]:
    path, base = patch_convolution(model, anatomy)
    layer = LoraPatches(base, path, spec, rows)
    model.set_submodule(path, layer)
    return layer.slots


def _adapt_head(model: PreTrainedModel, anatomy: Anatomy, rows: BankRows) -> Iterator[Slot]:
    for unit in anatomy.head:
        for name, module in list(model.get_submodule(unit).named_modules()):
            path = f"{unit}.{name}" if name else unit
            if isinstance(module, nn.Linear):
                layer = RowLinear(module, path, rows)
                model.set_submodule(path, layer)
                yield from layer.slots
            elif next(module.parameters(recurse=False), None) is not None and not is_norm(module):
                raise UnsupportedModelError(
                    f"the head's {path} is a {type(module).__name__}; only linear layers of a head "
                    "can be trained, and its norms stay: set the adapter's head to false"
                )


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm, of torch or of an architecture: its weights begin as ones."""
    return "Norm" in type(module).__name__


@final
class OwnWeights:
    """All weights of a part as values of a device's row: what full fine-tuning trains.

    Takes the parameters out of `model`; `using` puts a row's values in their places for the length
    of a pass. Knows no layer by kind, and serves one device at a time.

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
        first = next(model.parameters())
        for prefix, module in model.named_modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                full = f"{prefix}.{name}" if prefix else name
                self._places[full] = (module, name)
                self._shapes[full] = tuple(parameter.shape)
                delattr(module, name)
                # models look at such things as `projection.weight.dtype`
                setattr(module, name, parameter.new_empty(0))
        # transformers tells a model's type and device by its first parameter
        model.register_parameter("no_weights", nn.Parameter(first.new_empty(0), False))

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Every parameter, in the model's order."""
        return tuple(Slot(name, shape) for name, shape in self._shapes.items())

    @contextmanager
    def using(
        self,
        slots: Mapping[str, Tensor],
        sizes: Sequence[int],
        dropping: Dropping | None = None,
    ) -> Iterator[None]:
        """Make the modules use these slots, each [1, *shape]; there is no adapter to drop inputs
        of. Raises ModelError for more rows."""
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


@contextmanager
def checkpointed(
    blocks: Mapping[str, nn.Module], slots: Mapping[str, Tensor], sizes: Sequence[int], using: Using
) -> Generator[None]:
    """Make these blocks, by path, keep only their inputs for backward, for the length of a forward;
    they run again when it comes.

    `slots`, `sizes`: what the layers read in this forward; `using` makes them read it again.
    Backward costs the blocks one more forward, and gives the same gradients to the bit: the same
    operations run on the same values. What they drop, `using` says each time.

    Our own and not `torch.utils.checkpoint`, for two reasons. A block reads the devices' rows,
    which are there during a forward only, so running again must bring them back. And what the
    second run saves passes the saved-tensor hooks in force like any other, so that it can be
    measured.
    """
    for path, block in blocks.items():
        own = {name: slot for name, slot in slots.items() if name.startswith(f"{path}.")}
        block.__dict__["forward"] = _TwiceRun(block.forward, own, tuple(sizes), using)
    try:
        yield
    finally:
        for block in blocks.values():
            del block.__dict__["forward"]


@final
class _TwiceRun:
    """A block's forward as one node of the graph."""

    def __init__(
        self,
        forward: Callable[..., Any],
        slots: Mapping[str, Tensor],
        sizes: Sequence[int],
        using: Using,
    ) -> None:
        self._forward = forward
        self._slots = slots
        self._sizes = sizes
        self._using = using

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        values, structure = tree_flatten((args, kwargs))
        places = [place for place, value in enumerate(values) if isinstance(value, Tensor)]
        # tensors are kept by autograd, not here: counted there, and freed with the graph
        others = [None if isinstance(value, Tensor) else value for value in values]
        names, forward, sizes, using = tuple(self._slots), self._forward, self._sizes, self._using

        def run(tensors: Sequence[Tensor]) -> Any:
            slots, given = tensors[: len(names)], tensors[len(names) :]
            filled = list(others)
            for place, tensor in zip(places, given, strict=True):
                filled[place] = tensor
            again, named = tree_unflatten(filled, structure)
            with using(dict(zip(names, slots, strict=True)), sizes):
                return forward(*again, **named)

        given = [values[place] for place in places]
        return _Node.apply(run, *self._slots.values(), *given)  # type: ignore[no-untyped-call]


@final
class _Node(torch.autograd.Function):
    """`run(tensors)`, without a graph in forward and with one in backward."""

    @staticmethod
    def forward(ctx: Any, run: Callable[[Sequence[Tensor]], Any], *tensors: Tensor) -> Any:
        ctx.run = run
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        return run(tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
        leaves = [
            tensor.detach().requires_grad_(need)
            for tensor, need in zip(ctx.saved_tensors, needed, strict=True)
        ]
        with torch.enable_grad():
            outputs = ctx.run(leaves)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        known = [place for place, gradient in enumerate(gradients) if gradient is not None]
        # not `autograd.grad`, which torch's FLOP counter cannot watch
        torch.autograd.backward(
            [outputs[place] for place in known], [gradients[place] for place in known]
        )
        return None, *(leaf.grad for leaf in leaves)
