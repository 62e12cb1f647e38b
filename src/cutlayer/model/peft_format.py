"""Adapters in PEFT's file format."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from cutlayer.model.lora import AdapterSpec
from cutlayer.model.tasks import Task


def save_adapter(
    directory: Path, named: Mapping[str, Tensor], spec: AdapterSpec, base_model: str, task: Task
) -> None:
    """Write adapter_config.json and adapter_model.safetensors; `named`: slot name -> tensor of both
    sides merged (`{**device.layout.named(row), **server.layout.named(row)}`)."""
    raise NotImplementedError


def load_adapter(directory: Path, spec: AdapterSpec | None = None) -> dict[str, Tensor]:
    """Slot name -> tensor; `layout.join(...)` makes a side's row of it. Raises ModelError for a
    folder that contradicts itself, or the spec if given."""
    raise NotImplementedError
