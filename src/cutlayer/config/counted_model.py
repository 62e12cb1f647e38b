"""The dimensions that a configuration asks for, counted by the model's own code: by plan and run.

Imports torch. Knows the request alone, so that equal requests give equal dimensions.
"""

from pathlib import Path

import torch

from cutlayer.model.describe import describe, image_tokens
from cutlayer.model.inputs import token_limit
from cutlayer.model.lora import AdapterSpec
from cutlayer.model.tasks import read_config
from cutlayer.planner.model_file import DescribedModel, ModelRequest
from cutlayer.spec import ModelSpec

# of the frozen weights, as `devices.base` names them
BASES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def count_model(request: ModelRequest, folder: Path) -> ModelSpec:
    """The model in `folder` with its adapters.

    Raises ModelError or UnsupportedModelError as `model.describe` does.
    """
    adapter = AdapterSpec(
        request.rank,
        1.0,  # alpha scales values, and counts for nothing
        request.targets,
        request.patch_embedding,
        request.head,
    )
    return describe(
        folder,
        request.task,
        adapter,
        classes=request.classes,
        image_size=request.image_size,
        dtype=BASES[request.base],
    )


def count_described(request: ModelRequest, folder: Path) -> DescribedModel:
    """The same, with the tokens of an image or the most that a text may have."""
    model = count_model(request, folder)
    if request.image_size is not None:
        return DescribedModel(model, image_tokens(folder, request.image_size), None)
    return DescribedModel(model, None, token_limit(read_config(folder)))
