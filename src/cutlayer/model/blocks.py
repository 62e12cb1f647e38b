"""A transformer's blocks: where they are, what runs before and after them, and how they keep their
place while they hold no weights.

Found by looking at the module tree and watching one forward on torch's meta device, which holds
shapes and no values. The model's own forward runs over hollow blocks too, so its masks, positions,
pooling and head stay its own code. Knows no adapter and no cut.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn, final

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import meta_device_safe_creation_ops

from cutlayer.errors import UnsupportedModelError
from cutlayer.model.tasks import fault_of_config, task_class
from cutlayer.spec import Task


@dataclass(frozen=True)
class Anatomy:
    """The parts of a model by module name.

    `before` and `after`: the outermost modules with weights that run before the first block and
    after the last one. `head`: those of `after` outside the base model. `output_length`: 0 where a
    block returns a tensor, else the length of its tuple. `tokens`: those of the watched input.
    """

    blocks: str
    count: int
    before: tuple[str, ...]
    after: tuple[str, ...]
    head: tuple[str, ...]
    output_length: int
    width: int
    tokens: int


def meta_model(config: PreTrainedConfig, task: Task) -> PreTrainedModel:
    """The task's model without values, on the meta device.

    Its attention is the eager one: the others look at a mask's values to choose a faster kernel.
    Raises ModelError for a configuration that no model can be made of.
    """
    config = copy.deepcopy(config)
    config._attn_implementation = "eager"
    with torch.device("meta"), meta_device_safe_creation_ops():
        model_class = task_class(config, task)
        with fault_of_config(config):
            model = model_class(config)
    model.train(False)
    return model


def examine_model(model: PreTrainedModel, example: Mapping[str, Any]) -> Anatomy:
    """Watch one forward of a model on the meta device.

    Raises UnsupportedModelError for a model that is not: modules, one stack of blocks that run
    once each in order, modules.
    """
    path, blocks = _block_list(model)
    with fault_of_config(model.config):
        watch = _watch(model, blocks, _units(model, path), example)
    _check_blocks(type(model).__name__, watch)
    _check_units(type(model).__name__, watch)
    after = tuple(unit for unit, phases in watch.phases.items() if phases == {"after"})
    return Anatomy(
        blocks=path,
        count=len(blocks),
        before=tuple(unit for unit, phases in watch.phases.items() if phases == {"before"}),
        after=after,
        head=tuple(unit for unit in after if not unit.startswith(f"{model.base_model_prefix}.")),
        output_length=watch.output_length,
        width=watch.shape[2],
        tokens=watch.shape[1],
    )


@dataclass
class _Watch:
    """What hooks saw during one forward."""

    count: int
    phase: str = "before"
    order: list[int] = field(default_factory=list)
    shapes: set[tuple[int, ...]] = field(default_factory=set)
    phases: dict[str, set[str]] = field(default_factory=dict)
    outputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    output_length: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return next(iter(self.shapes))


def _block_list(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    count = getattr(model.config, "num_hidden_layers", None)
    if count is None:
        raise UnsupportedModelError(
            f"{type(model).__name__}'s configuration has no num_hidden_layers: it is not one stack"
            " of equal transformer blocks"
        )
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == count
        and len({type(block) for block in module}) == 1
    ]
    if len(found) != 1:
        raise UnsupportedModelError(
            f"{type(model).__name__} has {len(found)} lists of {count} equal blocks; one is needed"
        )
    return found[0]


def _units(model: PreTrainedModel, blocks: str) -> tuple[str, ...]:
    """The outermost modules with weights outside the block list."""
    units: list[str] = []

    def walk(module: nn.Module, prefix: str) -> None:
        if next(module.parameters(recurse=False), None) is not None:
            raise UnsupportedModelError(
                f"{type(model).__name__} holds weights beside its blocks, in {prefix or 'itself'}"
            )
        for name, child in module.named_children():
            path = f"{prefix}{name}"
            if blocks.startswith(f"{path}."):
                walk(child, f"{path}.")
            elif path != blocks and next(child.parameters(), None) is not None:
                units.append(path)

    walk(model, "")
    return tuple(units)


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
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UnsupportedModelError(
            f"{type(model).__name__} with this configuration cannot be examined: {reason}"
        ) from error
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


def _check_units(name: str, watch: _Watch) -> None:
    for unit, phases in watch.phases.items():
        if len(phases) != 1 or "within" in phases:
            raise UnsupportedModelError(
                f"{name} uses {unit} {' and '.join(sorted(phases)) or 'nowhere'}; weights must "
                "serve either before or after the blocks"
            )
        if phases == {"before"} and watch.outputs[unit][:-1] != watch.shape[:-1]:
            raise UnsupportedModelError(
                f"{name}'s {unit} gives the blocks more than hidden states, which a server would "
                "lack"
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
        hidden = args[0] if args else kwargs.get("hidden_states")
        watch.shapes.add(tuple(hidden.shape) if isinstance(hidden, Tensor) else ())

    def leave(module: nn.Module, args: object, output: object) -> None:
        watch.output_length = len(output) if isinstance(output, tuple) else 0
        if index == watch.count - 1:
            watch.phase = "after"

    return (
        block.register_forward_pre_hook(enter, with_kwargs=True),
        block.register_forward_hook(leave),
    )


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
        hidden = value(args[0] if args else kwargs["hidden_states"])
        return (hidden, *[None] * (output_length - 1)) if output_length else hidden

    block.__dict__["forward"] = forward
