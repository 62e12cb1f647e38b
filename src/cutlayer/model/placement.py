"""Where a part of a model is, and in which numbers its frozen base is held.

Knows the devices that torch may have; neither models nor rows.
"""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cutlayer.errors import ConfigError
from cutlayer.spec import Base

HOST = torch.device("cpu")


@dataclass(frozen=True)
class Placement:
    """A part's device, and the numbers of its base. Adapters, gradients and optimisers are there
    too, in float32."""

    device: torch.device = HOST
    base: Base = Base.FLOAT32

    @property
    def dtype(self) -> torch.dtype:
        """The type of activations, and of weights that are not packed: float32 on a processor,
        whatever its base is held in; bfloat16 on an accelerator, unless the base is float32."""
        full = self.base is Base.FLOAT32 or self.device.type == "cpu"
        return torch.float32 if full else torch.bfloat16

    @property
    def title(self) -> str:
        """What a person calls it: `cpu, float32`, `NVIDIA H200 (cuda:0), bfloat16`."""
        return f"{device_title(self.device)}, {self.base}"


ON_HOST = Placement()


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`; itself if it is there. The host does not wait for what it copies to an
    accelerator, only for what comes from one.

    What is to go to CUDA is pinned first, or the copy would wait. To mps it is made at once: that
    backend may read the host's memory after it was given back.
    """
    if tensor.device == device:
        return tensor
    from_host = tensor.device == HOST
    if from_host and device.type == "cuda" and not tensor.requires_grad:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=from_host and device.type != "mps")


def all_to_device(values: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The same with every tensor on `device`, those of mappings within it too."""
    return {name: _moved(value, device) for name, value in values.items()}


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Mapping):
        return all_to_device(value, device)
    return to_device(value, device) if isinstance(value, Tensor) else value


@dataclass(frozen=True)
class Accelerators:
    """What this torch sees: how many CUDA devices, whether Apple's. `build`: its version."""

    cuda: int
    mps: bool
    build: str

    @staticmethod
    def seen() -> "Accelerators":
        """By asking torch."""
        mps = bool(torch.backends.mps.is_available())
        return Accelerators(torch.cuda.device_count(), mps, str(torch.__version__))


def device_named(name: str, setting: str, seen: Accelerators) -> torch.device:
    """The device that `setting` names: auto (cuda, else mps, else cpu), cpu, cuda, cuda:N or mps.

    Raises ConfigError for another name, and for a device that is not there.
    """
    if name == "auto":
        name = "cuda" if seen.cuda else "mps" if seen.mps else "cpu"
    if name == "cpu":
        return HOST
    if name == "mps":
        if not seen.mps:
            raise ConfigError(
                f"{setting} is mps, but this torch ({seen.build} on {sys.platform}) sees no Apple"
                " GPU: macOS on Apple silicon has one; set it to auto, cpu or cuda"
            )
        return torch.device("mps", 0)
    named = re.fullmatch(r"cuda(?::(\d+))?", name)
    if named is None:
        raise ConfigError(f"{setting} is {name!r}: give auto, cpu, cuda, cuda:0, ... or mps")
    if not seen.cuda:
        why = "it was built without CUDA: install a build with it" if "cpu" in seen.build else ""
        raise ConfigError(
            f"{setting} is {name}, but this torch ({seen.build}) sees no CUDA device:"
            f" {why or 'check nvidia-smi and CUDA_VISIBLE_DEVICES'}, or set it to auto or cpu"
        )
    number = int(named[1] or 0)
    if number >= seen.cuda:
        raise ConfigError(
            f"{setting} is {name}, but there {_are(seen.cuda)}: give one of cuda:0 to"
            f" cuda:{seen.cuda - 1}"
        )
    return torch.device("cuda", number)


def repeat_sums() -> None:
    """Torch's settings for the whole process, of commands: where there is CUDA, it sums float32 in
    float32 and in one order each time.

    So a run repeats on the same GPU, and a server that replays its journal there makes the packets
    that it had sent. Where CUDA has no such order for an operation, torch warns.
    """
    if not torch.cuda.is_available():
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it as it starts
    torch.backends.cudnn.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    # else memory that nobody has written yet is written first, which takes time and decides nothing
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def device_title(device: torch.device) -> str:
    """What a person calls it: `cpu`, `NVIDIA H200 (cuda:0)`, `mps`."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({device})"
    return device.type


def _are(devices: int) -> str:
    return "is 1 CUDA device" if devices == 1 else f"are {devices} CUDA devices"
