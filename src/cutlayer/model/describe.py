"""A pretrained model's dimensions, from its configuration alone.

Built on torch's meta device and on fake tensors: exact counts, no weights. Knows no cut.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from cutlayer.errors import UnsupportedModelError
from cutlayer.model.activations import count_activations
from cutlayer.model.adapted import check_adapter, is_within, patch_convolution, target_names
from cutlayer.model.base import places_of
from cutlayer.model.blocks import Anatomy
from cutlayer.model.described import AdapterSpec, DescribedModel, ModelRequest
from cutlayer.model.inputs import example_inputs, token_limit
from cutlayer.model.lora import linear_shape
from cutlayer.model.proof import examine
from cutlayer.model.reduced import chosen_experts
from cutlayer.model.tasks import fault_of_config, read_config, setting, task_config, text_or_vision
from cutlayer.spec import Base, LinearShape, ModelSpec, Task

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
    config = task_config(read_config(source), task, classes)
    model, anatomy = examine(config, task, image_size)
    example = example_inputs(model, task, image_size)
    check_adapter(model, anatomy, adapter, task)
    weights, patches = _patches(model, anatomy, example)
    early, late = anatomy.before + anatomy.shared, anatomy.after + anatomy.shared
    before, after, both = (_parameters(model, units) for units in (early, late, early + late))
    with fault_of_config(config):
        counted = count_activations(
            config,
            task,
            anatomy,
            adapter,
            free_tokens=anatomy.tokens - patches,
            dtype=dtype,
            padded=task == "text-classification" if padded is None else padded,
        )
    heads, head_width = _attention(config, anatomy)
    return ModelSpec(
        name=source.name if isinstance(source, Path) else config.model_type,
        blocks=anatomy.count,
        width=anatomy.width,
        heads=heads,
        head_width=head_width,
        block_linears=_linears(model, anatomy, adapter, example),
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
        embedding_matrix=_matrices(model, anatomy, early),
        expert_flops_per_token=_expert_flops(model, anatomy),
        head_matrix=0 if adapter.head else _matrices(model, anatomy, late),
    )


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
    return DescribedModel(model, None, token_limit(read_config(folder)))


def image_tokens(source: Path | PreTrainedConfig, image_size: int) -> int:
    """Tokens that the blocks see for a square image of `image_size` [pixel] a side.

    Raises ModelError for a size that the patch does not divide.
    """
    task: Task = "image-classification"
    return examine(task_config(read_config(source), task, classes=2), task, image_size)[1].tokens


def _linears(
    model: PreTrainedModel, anatomy: Anatomy, adapter: AdapterSpec, example: dict[str, Any]
) -> tuple[LinearShape, ...]:
    block = model.get_submodule(f"{anatomy.blocks}.0")
    adapted = target_names(block, adapter)
    untrained = _untrained_inputs(model, block, adapted, example)
    if adapter.patch_embedding:
        untrained = set()
    return tuple(
        LinearShape(
            *linear_shape(layer),
            rank=adapter.rank if name in adapted else 0,
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
    with torch.enable_grad():
        model(**example)
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
    _, convolution = patch_convolution(model, anatomy)
    patches: int = example["pixel_values"][0, 0].numel() // convolution.weight[0, 0].numel()
    return convolution.weight.numel(), patches


def _patch_flops(anatomy: Anatomy, weights: int, patches: int) -> int:
    """Operations with each of `weights` on each patch, shared among all tokens of an image."""
    return round(2 * weights * patches / anatomy.tokens)
