"""A pretrained model's dimensions, from its configuration alone.

Built on torch's meta device and on fake tensors: exact counts, no weights. Knows no cut.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from cutlayer.errors import CutlayerError, UnsupportedModelError, reason
from cutlayer.model.activations import Counted, count_activations, count_block
from cutlayer.model.adapted import (
    check_adapter,
    is_within,
    linear_names,
    patch_convolution,
    target_names,
)
from cutlayer.model.base import places_of
from cutlayer.model.blocks import Anatomy
from cutlayer.model.described import AdapterSpec, DescribedModel, ModelRequest
from cutlayer.model.inputs import channels, example_inputs, patch_sides, token_limit
from cutlayer.model.lora import linear_shape
from cutlayer.model.positions import at_image_size
from cutlayer.model.proof import examine
from cutlayer.model.reduced import chosen_experts
from cutlayer.model.tasks import read_config, setting, task_config, text_or_vision
from cutlayer.spec import Base, LinearShape, ModelSpec, OtherBlocks, Task

# of activations, and of weights that no base packs
NUMBERS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def describe(
    source: Path | PreTrainedConfig,
    task: Task,
    adapter: AdapterSpec,
    *,
    classes: int,
    image_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    padded: bool | None = None,
) -> ModelSpec:
    """The dimensions of a model folder or configuration, as the cost models read them.

    Parameters are what each side holds, exactly: where a language model's embedding is also its
    head, both count it. `classes` is replaced by the vocabulary for a language model. `image_size`
    [pixel]: side of the images (None: as the model was trained); it moves
    `embedding_flops_per_token` a little, since class tokens are free. `dtype`: of activations.
    `padded`: whether a mini-batch's texts differ in length (None: in text classification they do).
    Raises ModelError or UnsupportedModelError as `load_device_part` does.
    """
    config = at_image_size(task_config(read_config(source), task, classes), task, image_size)
    model, anatomy = examine(config, task, image_size)
    example = example_inputs(model, task, image_size)
    check_adapter(model, anatomy, adapter, task)
    weights, patches = _patches(model, anatomy, example)
    early, late = anatomy.before + anatomy.shared, anatomy.after + anatomy.shared
    before, after, both = (_parameters(model, units) for units in (early, late, early + late))
    kinds = _kinds(model, anatomy, adapter)
    padded = task == "text-classification" if padded is None else padded
    with _counting(model):
        counted, others = _count(config, task, model, anatomy, adapter, kinds, dtype, padded)
    heads, head_width = _attention(config, anatomy)
    return ModelSpec(
        name=source.name if isinstance(source, Path) else config.model_type,
        blocks=anatomy.count,
        width=anatomy.width,
        heads=heads,
        head_width=head_width,
        block_linears=_linears(model, anatomy, adapter, kinds[0], example),
        block_parameters=sum(p.numel() for p in _largest_block(model, anatomy).parameters()),
        embedding_parameters=before,
        head_parameters=after,
        shared_parameters=before + after - both,
        classes=config.vocab_size if task == "causal-lm" else classes,
        head_per_token=task == "causal-lm",
        embedding_flops_per_token=_patch_flops(anatomy, weights, patches),
        bytes_per_value=dtype.itemsize,
        embedding_adapter_parameters=counted.embedding_adapter_parameters,
        embedding_adapter_flops_per_token=_patch_flops(
            anatomy, counted.embedding_adapter_parameters, patches
        ),
        head_adapter_parameters=counted.head_adapter_parameters,
        first_attention_trained=counted.first_attention_trained,
        attention_backward=counted.attention_backward,
        activations=counted.activations,
        others=others,
        embedding_matrix=_matrices(model, anatomy, early),
        expert_flops_per_token=_expert_flops(model, anatomy),
        head_matrix=0 if adapter.head else _matrices(model, anatomy, late),
    )


def _count(
    config: PreTrainedConfig,
    task: Task,
    model: PreTrainedModel,
    anatomy: Anatomy,
    adapter: AdapterSpec,
    kinds: "Sequence[_Kind]",
    dtype: torch.dtype,
    padded: bool,
) -> tuple[Counted, tuple[OtherBlocks, ...]]:
    """What blocks of the first kind keep, with what lies outside of them; and those of others."""
    free = anatomy.free_tokens
    short = [adapter if adapter.even else _short(model, anatomy, adapter, kinds[:1])]
    short += [_short(model, anatomy, adapter, (kinds[0], kind)) for kind in kinds[1:]]
    counted = count_activations(
        config, task, anatomy, short[0], free_tokens=free, dtype=dtype, padded=padded
    )
    others = tuple(
        OtherBlocks(
            kind.at,
            tuple(kind.ranks.get(name, 0) for name in kinds[0].linears),
            *count_block(
                config,
                task,
                anatomy,
                own,
                free_tokens=free,
                dtype=dtype,
                padded=padded,
            ),
        )
        for kind, own in zip(kinds[1:], short[1:], strict=True)
    )
    return counted, others


@contextmanager
def _counting(model: PreTrainedModel) -> Iterator[None]:
    """Turns what a model's code raises where there are no values into UnsupportedModelError."""
    try:
        yield
    except (CutlayerError, MemoryError):
        raise
    except Exception as error:
        raise UnsupportedModelError(
            f"what {type(model).__name__} keeps for its backward cannot be counted, and so neither"
            f" planned nor bounded: {reason(error)}"
        ) from error


def count_model(request: ModelRequest, folder: Path) -> ModelSpec:
    """The dimensions that a request asks for of the model in `folder`; equal requests give equal
    ones. Raises as `describe` does."""
    return describe(
        folder,
        request.task,
        request.adapter,
        classes=request.classes,
        image_size=request.image_size,
        dtype=NUMBERS[request.numbers],
    )


def count_described(request: ModelRequest, folder: Path) -> DescribedModel:
    """The same, with the tokens of an image or the most that a text may have."""
    model = count_model(request, folder)
    if request.image_size is not None:
        return DescribedModel(model, image_tokens(folder, request.image_size), None)
    config = read_config(folder)
    _, anatomy = examine(task_config(config, request.task, request.classes), request.task)
    return DescribedModel(model, None, token_limit(config), anatomy.documents_by)


def image_tokens(source: Path | PreTrainedConfig, image_size: int) -> int:
    """Tokens that the blocks see for a square image of `image_size` [pixel] a side.

    Raises ModelError for a size that the patch does not divide.
    """
    task: Task = "image-classification"
    config = at_image_size(task_config(read_config(source), task, classes=2), task, image_size)
    return examine(config, task, image_size)[1].tokens


@dataclass(frozen=True)
class _Kind:
    """Blocks, by number, with adapters of the same `ranks` on the same of their `linears`."""

    at: tuple[int, ...]
    linears: tuple[str, ...]
    ranks: dict[str, int]


def _kinds(model: PreTrainedModel, anatomy: Anatomy, spec: AdapterSpec) -> list[_Kind]:
    """First that of the first block that has adapters, or something trained before it."""
    found: dict[tuple[tuple[str, int], ...], _Kind] = {}
    blocks = list(model.get_submodule(anatomy.blocks).children())
    for index, block in enumerate(blocks[:1] if spec.even else blocks):
        names = target_names(block, anatomy, index, spec)
        ranks = {name: spec.rank_of(f"{anatomy.blocks}.{index}.{name}") for name in names}
        key = tuple(ranks.items())
        known = found.get(key, _Kind((), linear_names(block), ranks))
        found[key] = replace(known, at=(*known.at, index))
    usual = next(iter(found.values()))
    first = next((kind for kind in found.values() if kind.ranks or spec.patch_embedding), usual)
    return [first, *(kind for kind in found.values() if kind is not first)]


def _short(
    model: PreTrainedModel, anatomy: Anatomy, spec: AdapterSpec, kinds: Sequence[_Kind]
) -> AdapterSpec:
    """The adapters of a model whose first block is of the first of these kinds, and the others of
    the last."""
    ranks = {
        f"{anatomy.blocks}.{index}.{name}": rank
        for index, kind in enumerate((kinds[0], kinds[-1], kinds[-1]))
        for name, rank in kind.ranks.items()
    }
    if spec.patch_embedding:
        path, _ = patch_convolution(model, anatomy)
        ranks[path] = spec.rank_of(path)
    return spec.only(ranks)


def _linears(
    model: PreTrainedModel,
    anatomy: Anatomy,
    adapter: AdapterSpec,
    kind: _Kind,
    example: dict[str, Any],
) -> tuple[LinearShape, ...]:
    block = model.get_submodule(f"{anatomy.blocks}.{kind.at[0]}")
    untrained = _untrained_inputs(model, block, tuple(kind.ranks), example)
    if adapter.patch_embedding:
        untrained = set()
    return tuple(
        LinearShape(
            *linear_shape(layer),
            rank=kind.ranks.get(name, 0),
            reads_block_input=name in untrained,
        )
        for name, layer in block.named_modules()
        if isinstance(layer, nn.Linear | Conv1D)
    )


def _untrained_inputs(
    model: PreTrainedModel, block: nn.Module, adapted: tuple[str, ...], example: dict[str, Any]
) -> set[str]:
    """The linear layers of the first block whose input no adapter has touched.

    Autograd says which, with the adapted layers' own weights in place of their adapters.
    """
    untrained: set[str] = set()

    def watch(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def enter(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if not args[0].requires_grad:
                untrained.add(name)

        return layer.register_forward_pre_hook(enter)

    model.requires_grad_(False)
    for name in adapted:
        block.get_submodule(name).requires_grad_(True)
    linears = [(n, m) for n, m in block.named_modules() if isinstance(m, nn.Linear | Conv1D)]
    handles = [watch(name, layer) for name, layer in linears]
    try:
        with torch.enable_grad():
            model(**example)
    except (NotImplementedError, RuntimeError):  # values are looked at, which are not there
        return set()
    finally:
        for handle in handles:
            handle.remove()
    return untrained


def _attention(config: PreTrainedConfig, anatomy: Anatomy) -> tuple[int, int]:
    """Heads and width of each; of blocks without attention, one of width 0."""
    sizes = text_or_vision(config)
    heads = setting(sizes, "num_attention_heads")
    if not isinstance(heads, int) or heads < 1:
        return 1, 0
    width = setting(sizes, "head_dim")
    return heads, width if isinstance(width, int) else anatomy.width // heads


def _expert_flops(model: PreTrainedModel, anatomy: Anatomy) -> int:
    """Operations per token of a block's experts, of those that its router chooses.

    Raises UnsupportedModelError where the configuration does not say how many.
    """
    weights = [
        weight
        for module in _largest_block(model, anatomy).modules()
        for weight in module.parameters(recurse=False)
        if weight.ndim == 3 and type(module).__name__.endswith("Experts")
    ]
    if not weights:
        return 0
    chosen = chosen_experts(model.config)
    if chosen is None:
        raise UnsupportedModelError(
            f"{type(model).__name__}'s configuration does not say how many experts a token has, so"
            " its operations cannot be counted"
        )
    return sum(2 * chosen * weight[0].numel() for weight in weights)


def _largest_block(model: PreTrainedModel, anatomy: Anatomy) -> nn.Module:
    """The block with the most parameters: where blocks differ, plans take all to be like it."""
    blocks = model.get_submodule(anatomy.blocks).children()
    return max(blocks, key=lambda block: sum(weight.numel() for weight in block.parameters()))


def _parameters(model: PreTrainedModel, units: tuple[str, ...]) -> int:
    """Values in the distinct parameters of these modules, or with these names."""
    distinct = {
        weight
        for name, weight in model.named_parameters(remove_duplicate=False)
        if is_within(name, units)
    }
    return sum(weight.numel() for weight in distinct)


def _matrices(model: PreTrainedModel, anatomy: Anatomy, units: tuple[str, ...]) -> int:
    """Values of the matrices in these modules that a base packs."""
    return sum(
        parameter.numel()
        for parameter, places in places_of(model, anatomy.blocks)
        if any(
            place.name.startswith(f"{unit}.")
            and place.numbers(Base.BFLOAT16, tuple(parameter.shape)) is Base.BFLOAT16
            for place in places
            for unit in units
        )
    )


def _patches(model: PreTrainedModel, anatomy: Anatomy, example: dict[str, Any]) -> tuple[int, int]:
    """Weights of the convolution that makes patches, and the patches of an image; 0 for text."""
    if "pixel_values" not in example:
        return 0, 0
    patch = math.prod(patch_sides(model.config))
    weights = channels(model.config) * patch * anatomy.width
    return weights, example["pixel_values"][0].numel() // (channels(model.config) * patch)


def _patch_flops(anatomy: Anatomy, weights: int, patches: int) -> int:
    """Operations with each of `weights` on each patch, shared among all tokens of an image."""
    return round(2 * weights * patches / anatomy.tokens)
