"""A pretrained model's dimensions, from its configuration alone."""

from pathlib import Path

from transformers import PretrainedConfig

from cutlayer.model.lora import AdapterSpec
from cutlayer.model.tasks import Task
from cutlayer.spec import ModelSpec


def describe(
    source: Path | PretrainedConfig,
    task: Task,
    adapter: AdapterSpec,
    *,
    classes: int,
    image_size: int | None = None,
) -> ModelSpec:
    """Exact parameter counts on the meta device; no weights are read."""
    raise NotImplementedError


def image_tokens(source: Path | PretrainedConfig, image_size: int) -> int:
    """Tokens that the blocks see for a square image of `image_size` pixels a side."""
    raise NotImplementedError
