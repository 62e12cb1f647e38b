"""A vision model at the size of a job's images: its position embeddings are those of that size.

A checkpoint's are mostly of larger images, and a model's own code interpolates them anew in every
forward pass. Interpolated once, by that same code, they give the same values to the bit; and a
device holds, and is sent, the rows that its images have (DINOv2-small at 56 pixels: 17 of 1,370).
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from cutlayer.model.blocks import meta_model
from cutlayer.model.tasks import setting
from cutlayer.spec import Task

_NAME = "position_embeddings"


def at_image_size(config: PreTrainedConfig, task: Task, image_size: int | None) -> PreTrainedConfig:
    """A task's configuration for square images of this side [pixel], where they are smaller than
    those that the model was trained on and its code interpolates positions; else the same.

    Raises ModelError for a configuration that no model can be made of.
    """
    trained_on = setting(config, "image_size")
    if task != "image-classification" or image_size is None or not isinstance(trained_on, int):
        return config
    if image_size >= trained_on:
        return config
    whole = meta_model(config, task)
    if _positions(whole) is None:
        return config
    sized = copy.deepcopy(config)
    sized.image_size = image_size
    model = meta_model(sized, task)
    found = _positions(model)
    if found is None:
        return config
    name, module = found
    own = module.get_parameter(_NAME)
    try:
        kept = module.interpolate_pos_encoding(torch.empty_like(own), image_size, image_size)
        made = interpolated(model, whole.get_parameter(name).detach())
    except (RuntimeError, TypeError, ValueError):  # what an architecture's own code does is open
        return config
    return sized if kept is own and made.shape == own.shape else config


def interpolated(model: PreTrainedModel, stored: Tensor) -> Tensor:
    """Positions [1, row, width] of other images made into those of the model's, by its own code."""
    found = _positions(model)
    assert found is not None
    _, module = found
    own, side = module.get_parameter(_NAME), setting(model.config, "image_size")
    setattr(module, _NAME, nn.Parameter(stored, requires_grad=False))
    try:
        with torch.no_grad():
            made: Tensor = module.interpolate_pos_encoding(torch.empty_like(own), side, side)
    finally:
        setattr(module, _NAME, own)
    return made.detach()


def fit_positions(
    model: PreTrainedModel,
    info: Mapping[str, Any],
    stored: Mapping[str, Callable[[], Tensor]],
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Give a model that was just read its positions, where a file has others; what transformers
    said of reading it (`info`), without them. `stored`: what reads each tensor of the file by name;
    `dtype`: what is computed in."""
    found = _positions(model)
    others = [key for key in info["mismatched_keys"] if found is not None and key[0] == found[0]]
    tail = f"embeddings.{_NAME}"
    names = [name for name in stored if name == tail or name.endswith(f".{tail}")]
    if not others or len(names) != 1:
        return dict(info)
    assert found is not None
    values = interpolated(model, stored[names[0]]().to(dtype))
    setattr(found[1], _NAME, nn.Parameter(values, requires_grad=False))
    rest = [key for key in info["mismatched_keys"] if key not in others]
    return {**info, "mismatched_keys": rest}


def _positions(model: PreTrainedModel) -> tuple[str, Any] | None:
    """The name of a model's one position embedding, a row for each patch and class token, and the
    module whose code interpolates it."""
    found = [
        (f"{name}.{_NAME}", module)
        for name, module in model.named_modules()
        if isinstance(values := module._parameters.get(_NAME), nn.Parameter)
        and values.ndim == 3
        and callable(getattr(module, "interpolate_pos_encoding", None))
    ]
    return found[0] if len(found) == 1 else None
