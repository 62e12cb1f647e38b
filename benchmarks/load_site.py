"""What a run of many devices needs on one machine: a folder with a tiny model and data, the run's
keys, and for each device an identity and samples of its own.

Knows files; what is run with them is `load.py`'s and `load_devices.py`'s.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from identities import enrolled

from cutlayer.config.join import Joining
from cutlayer.config.own_data import OwnData
from cutlayer.config.read import config_yaml
from cutlayer.config.schema import Config
from cutlayer.data.arrays import write_arrays
from cutlayer.net.gate import LOOPBACK
from cutlayer.net.identity.device_keys import DeviceKeys, read_device_keys, write_device_keys
from cutlayer.net.identity.private_files import make_private_folder
from cutlayer.net.identity.run_keys import RunKeys, init_keys

CLASSES = ("dark", "dim", "light", "bright")
_WIDTH = 24
_SIDE_PX = 28
_SAMPLES = 32
_PATIENCE_S = 300.0


@dataclass(frozen=True)
class Site:
    """The files of a run in `folder`."""

    folder: Path

    @property
    def config(self) -> Path:
        """The server's configuration."""
        return self.folder / "run.yaml"

    @property
    def keys(self) -> Path:
        """The run's keys."""
        return self.folder / "keys"

    def identity(self, number: int) -> DeviceKeys:
        """What a device shows."""
        return read_device_keys(self._device(number) / "identity")

    def joining(self, number: int, port: int) -> Joining:
        """A device as `cutlayer join` has it."""
        folder = self._device(number)
        return Joining(
            address=f"{LOOPBACK}:{port}",
            keys=self.identity(number),
            own=OwnData(folder / "samples"),
            state=folder / "state.safetensors",
            cache=folder / "cache",
            patience_s=_PATIENCE_S,
            threads=1,
            jitter=lambda: 0.0,
        )

    def add_device(self, number: int, keys: RunKeys) -> None:
        """Invite and enrol it, and give it samples."""
        folder = self._device(number)
        make_private_folder(folder / "identity")
        write_device_keys(folder / "identity", enrolled(keys, name(number)))
        _write_samples(folder / "samples", _SAMPLES, np.random.default_rng(number))

    def _device(self, number: int) -> Path:
        return self.folder / name(number)


def make_site(folder: Path, devices: int, rounds: int, local_steps: int) -> Site:
    """Everything on disk."""
    site = Site(folder)
    _write_model(folder / "model")
    # those that nobody trains on: the server deals its own out as a simulation would
    _write_samples(folder / "data", max(devices, _SAMPLES), np.random.default_rng(devices))
    config = _config(folder, devices, rounds, local_steps)
    site.config.write_text(config_yaml(config), encoding="utf-8")
    keys = init_keys(site.keys, time.time())
    for number in range(devices):
        site.add_device(number, keys)
    return site


def name(number: int) -> str:
    """A device's."""
    return f"device-{number}"


def _config(folder: Path, devices: int, rounds: int, local_steps: int) -> Config:
    return Config.model_validate(
        {
            "model": {"name": str(folder / "model"), "cut": 2},
            "data": {
                "name": str(folder / "data"),
                "image_size": _SIDE_PX,
                "train_samples": None,
                "test_samples": None,
            },
            "adapter": {"rank": 2, "alpha": 2},
            "training": {"rounds": rounds, "local_steps": local_steps, "batch_size": 4},
            "devices": {"count": devices},
            "net": {"devices": tuple(name(number) for number in range(devices))},
            "threads": 1,
        }
    )


def _write_model(folder: Path) -> None:
    """A DINOv2 of four blocks, random: five tokens of 24 values a sample."""
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=_WIDTH,
        num_hidden_layers=4,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=_SIDE_PX,
    )
    transformers.Dinov2Model(config).save_pretrained(folder)


def _write_samples(folder: Path, count: int, rng: np.random.Generator) -> None:
    """Both splits: noise whose brightness is the class."""
    folder.mkdir(parents=True)
    labels = np.arange(count) % len(CLASSES)
    noise = rng.integers(0, 60, (count, _SIDE_PX, _SIDE_PX))
    split = ((60 * labels[:, None, None] + noise).astype(np.uint8), labels)
    write_arrays(folder, split, split, CLASSES)
