"""A transformer's blocks: where they are, what runs before and after them, and how they keep their
place while they hold no weights.

Found by looking at the module tree and watching one forward on torch's meta device, which holds
shapes and no values. The model's own forward runs over hollow blocks too, so its masks, positions,
pooling and head stay its own code. Knows no adapter and no cut.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn, final

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import meta_device_safe_creation_ops

from cutlayer.errors import UnsupportedModelError
from cutlayer.model.tasks import fault_of_config, setting, task_class, text_or_vision
from cutlayer.spec import Task


@dataclass(frozen=True)
class Anatomy:
    """The parts of a model by module name.

    `before` and `after`: the outermost modules with weights that run before the first block and
    after the last one. `head`: those of `after` outside the base model. `shared`: those that both
    parts need, since they give the blocks something that is the same for every input (relative
    positions), or are read in another way than by a call. `unread`: those that nothing reads.
    `apart`: linear layers, by name within a block, whose rows are not the samples' (relative
    positions too), so that adapters of several devices would not fit. `output_length`: 0 where a
    block returns a tensor, else the length of its tuple. `width`: of the hidden states; `tokens`:
    those of the watched input, of which `free_tokens` are no patches of an image. `documents_by`:
    of `inputs.DOCUMENTS_BY`, what keeps the documents of a packed row apart; None: nothing does.
    """

    blocks: str
    count: int
    before: tuple[str, ...]
    after: tuple[str, ...]
    head: tuple[str, ...]
    output_length: int
    width: int
    tokens: int
    shared: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    free_tokens: int = 0
    documents_by: str | None = None


def meta_model(config: PreTrainedConfig, task: Task) -> PreTrainedModel:
    """The task's model without values, on the meta device.

    Its attention is the eager one: the others look at a mask's values to choose a faster kernel. So
    are its experts: products by groups need values too.
    Raises ModelError for a configuration that no model can be made of.
    """
    config = copy.deepcopy(config)
    config._attn_implementation = "eager"
    config._experts_implementation = "batched_mm"
    with torch.device("meta"), meta_device_safe_creation_ops():
        model_class = task_class(config, task)
        with fault_of_config(config):
            model = model_class(config)
    model.train(False)
    return model


def block_list(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """A model's one list of blocks, with its name. Raises UnsupportedModelError if it has not."""
    found = list(_outermost_lists(model))
    count = setting(text_or_vision(model.config), "num_hidden_layers")
    if count is not None and len(found) > 1:
        found = [(name, blocks) for name, blocks in found if len(blocks) == count]
    if len(found) != 1:
        lists = ", ".join(f"{name} of {len(blocks)}" for name, blocks in _outermost_lists(model))
        raise UnsupportedModelError(
            f"{type(model).__name__} is not one stack of blocks: it has"
            f" {f'several lists of modules ({lists})' if lists else 'no list of modules'}"
        )
    return found[0]


def _outermost_lists(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.ModuleList]]:
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList) and len(child) > 1:
            yield f"{prefix}{name}", child
        else:
            yield from _outermost_lists(child, f"{prefix}{name}.")


def examine_model(model: PreTrainedModel, example: Mapping[str, Any]) -> Anatomy:
    """Watch one forward of a model.

    Raises UnsupportedModelError for a model that is not: modules, one stack of blocks that run
    once each in order, modules.
    """
    path, blocks = block_list(model)
    units, loose = _units(model, path)
    with fault_of_config(model.config):
        watch = _watch(model, blocks, units, example)
    name = type(model).__name__
    _check_blocks(name, watch)
    between = [unit for unit, phases in watch.phases.items() if "between" in phases]
    if between:
        raise UnsupportedModelError(f"{name} runs {between[0]} between its blocks")
    before = tuple(
        unit
        for unit, phases in watch.phases.items()
        if phases == {"before"} and watch.outputs[unit][:-1] == watch.shape[:-1]
    )
    after = tuple(unit for unit, phases in watch.phases.items() if phases == {"after"})
    base = base_model_name(model, path)
    return Anatomy(
        blocks=path,
        count=len(blocks),
        before=before,
        after=after,
        head=tuple(unit for unit in after if not unit.startswith(f"{base}.")),
        output_length=watch.output_length,
        width=watch.shape[2],
        tokens=watch.shape[1],
        shared=tuple(unit for unit in (*units, *loose) if unit not in (*before, *after)),
    )


def base_model_name(model: PreTrainedModel, blocks: str) -> str:
    """The name of the model without a head in a model with one: the outermost around the blocks."""
    names = blocks.split(".")
    around = (".".join(names[:length]) for length in range(1, len(names)))
    found = (name for name in around if isinstance(model.get_submodule(name), PreTrainedModel))
    return next(found, model.base_model_prefix)


def block_input(model: PreTrainedModel, blocks: str, example: Mapping[str, Any]) -> torch.Size:
    """The shape of what the first block is given for an example: [sample, token, width].

    Where a model looks at values on its way there, which the meta device has none of, the
    configuration says it of texts, and of patches. Raises ModelError if it does not.
    """
    first = model.get_submodule(f"{blocks}.0")
    width = setting(text_or_vision(model.config), "hidden_size")
    tokens = example["input_ids"][..., None] if "input_ids" in example else example["pixel_values"]

    def stop(*args: Any, **kwargs: Any) -> NoReturn:
        raise CutReachedError(hidden_of(args, kwargs))

    with answering(first, stop), torch.no_grad(), fault_of_config(model.config):
        try:
            model(**example)
        except CutReachedError as reached:
            return reached.activation.shape
        except RuntimeError:
            if tokens.ndim != 3 or not isinstance(width, int):
                raise
            return torch.Size((*tokens.shape[:2], width))
    raise RuntimeError("the forward pass ended without reaching a block")


@dataclass
class _Watch:
    """What hooks saw during one forward."""

    count: int
    phase: str = "before"
    order: list[int] = field(default_factory=list)
    shapes: set[tuple[int, ...]] = field(default_factory=set)
    phases: dict[str, set[str]] = field(default_factory=dict)
    outputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    lengths: set[int] = field(default_factory=set)

    @property
    def shape(self) -> tuple[int, ...]:
        return next(iter(self.shapes))

    @property
    def output_length(self) -> int:
        return next(iter(self.lengths))


def _units(model: PreTrainedModel, blocks: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The outermost modules with weights outside the block list, and the parameters that modules
    around it have themselves."""
    units: list[str] = []
    loose: list[str] = []

    def walk(module: nn.Module, prefix: str) -> None:
        loose.extend(f"{prefix}{name}" for name, _ in module.named_parameters(recurse=False))
        for name, child in module.named_children():
            path = f"{prefix}{name}"
            if blocks.startswith(f"{path}."):
                walk(child, f"{path}.")
            elif path != blocks and next(child.parameters(), None) is not None:
                units.append(path)

    walk(model, "")
    return tuple(units), tuple(loose)


def _watch(
    model: PreTrainedModel,
    blocks: nn.ModuleList,
    units: tuple[str, ...],
    example: Mapping[str, Any],
) -> _Watch:
    watch = _Watch(len(blocks), phases={unit: set() for unit in units})
    handles = [
        *(_watch_unit(model.get_submodule(unit), unit, watch) for unit in units),
        *(
            handle
            for index, block in enumerate(blocks)
            for handle in _watch_block(block, index, watch)
        ),
    ]
    try:
        with torch.no_grad():
            model(**example)
    finally:
        for handle in handles:
            handle.remove()
    return watch


def _check_blocks(name: str, watch: _Watch) -> None:
    if watch.order != list(range(watch.count)):
        raise UnsupportedModelError(f"{name} runs its blocks in the order {watch.order}")
    if len(watch.shapes) != 1 or len(watch.shape) != 3:
        raise UnsupportedModelError(
            f"{name}'s blocks take hidden states of shapes {sorted(watch.shapes)}; one shape "
            "[batch, token, width] is needed"
        )
    if len(watch.lengths) != 1:
        raise UnsupportedModelError(
            f"{name}'s blocks give {sorted(watch.lengths)} values each; as many of each are needed"
        )


def _watch_unit(unit: nn.Module, name: str, watch: _Watch) -> torch.utils.hooks.RemovableHandle:
    def leave(module: nn.Module, args: object, output: object) -> None:
        watch.phases[name].add(watch.phase)
        watch.outputs[name] = tuple(output.shape) if isinstance(output, Tensor) else ()

    return unit.register_forward_hook(leave)


def _watch_block(
    block: nn.Module, index: int, watch: _Watch
) -> tuple[torch.utils.hooks.RemovableHandle, torch.utils.hooks.RemovableHandle]:
    def enter(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        watch.phase = "within"
        watch.order.append(index)
        watch.shapes.add(tuple(hidden_of(args, kwargs).shape))

    def leave(module: nn.Module, args: object, output: object) -> None:
        watch.lengths.add(len(output) if isinstance(output, tuple) else 0)
        watch.phase = "after" if index == watch.count - 1 else "between"

    return (
        block.register_forward_pre_hook(enter, with_kwargs=True),
        block.register_forward_hook(leave),
    )


def hidden_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """The hidden states among a block's arguments: its first."""
    hidden = args[0] if args else kwargs.get("hidden_states", next(iter(kwargs.values()), None))
    if not isinstance(hidden, Tensor):
        raise UnsupportedModelError(
            f"the blocks take a {type(hidden).__name__} first, and not hidden states"
        )
    return hidden


# Modules that keep their place in a model but hold no weights.


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


def keep_device(model: PreTrainedModel, anatomy: Anatomy, cut: int) -> None:
    """Leave of a model what a device has: the embedding and blocks 1..cut."""
    blocks = _blocks(model, anatomy)
    stop_at(blocks[cut])
    for block in blocks[cut + 1 :]:
        pass_through(block, anatomy.output_length)
    for unit in (*anatomy.after, *anatomy.unread):
        strip(model.get_submodule(unit))
    model.all_tied_weights_keys = {}


def keep_server(model: PreTrainedModel, anatomy: Anatomy, cut: int, injection: Injection) -> None:
    """Leave of a model what a server has: blocks cut+1.. and what comes after them.

    What a tied head needs of the embedding is left, until the weights are read.
    """
    blocks = _blocks(model, anatomy)
    inject_at(blocks[0], injection, anatomy.output_length)
    for block in blocks[1:cut]:
        pass_through(block, anatomy.output_length)
    tied = set(model.all_tied_weights_keys.values())
    for unit in anatomy.before:
        answer_always(model.get_submodule(unit), injection.zeros)
    for unit in (*anatomy.before, *anatomy.unread):
        if not any(source.startswith(f"{unit}.") for source in tied):
            strip(model.get_submodule(unit))


def _blocks(model: PreTrainedModel, anatomy: Anatomy) -> nn.ModuleList:
    blocks = model.get_submodule(anatomy.blocks)
    assert isinstance(blocks, nn.ModuleList)
    return blocks


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
        for name, _ in list(module.named_parameters(recurse=False)):
            empty_weight(module, name)


def empty_weight(module: nn.Module, name: str) -> None:
    """Drop one weight, as `strip` does."""
    empty = torch.empty(0, dtype=getattr(module, name).dtype, device="cpu")
    delattr(module, name)
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
        hidden = value(hidden_of(args, kwargs))
        return (hidden, *[None] * (output_length - 1)) if output_length else hidden

    block.__dict__["forward"] = forward
