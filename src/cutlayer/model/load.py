"""Reads a checkpoint folder into a device part, a server part or a whole model."""

from pathlib import Path

import torch

from cutlayer.model.lora import AdapterSpec
from cutlayer.model.split import DevicePart, ServerPart, WholeModel
from cutlayer.model.tasks import Task


def load_device_part(
    path: Path,
    task: Task,
    cut: int,
    adapter: AdapterSpec,
    *,
    classes: int,
    dtype: torch.dtype = torch.float32,
) -> DevicePart:
    """Only the embedding and blocks 1..cut are read. classes is ignored for causal-lm.
    Raises ModelError, UnsupportedModelError."""
    raise NotImplementedError


def load_server_part(
    path: Path,
    task: Task,
    cut: int,
    adapter: AdapterSpec,
    *,
    classes: int,
    dtype: torch.dtype = torch.float32,
) -> ServerPart:
    raise NotImplementedError


def load_whole(
    path: Path,
    task: Task,
    adapter: AdapterSpec,
    *,
    classes: int,
    dtype: torch.dtype = torch.float32,
) -> WholeModel:
    raise NotImplementedError
