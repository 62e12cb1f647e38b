"""Everything about a run that can be told before torch is imported and weights or data are fetched.

`train`, `plan`, `serve`, `lab`, `compare` and `profile` ask this first; each file and each rule is
asked where it is used, too, by the same code.
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, final

from cutlayer.config.codec import make_codecs
from cutlayer.config.devices import check_steps, make_devices
from cutlayer.config.link import make_channel, make_rules
from cutlayer.config.micro_batches import count_micro_batches
from cutlayer.config.schema import Config
from cutlayer.config.shares import fixed_shares, most_shares
from cutlayer.data.find import find_config
from cutlayer.data.hub import Hub, is_hub_id
from cutlayer.errors import AssetError, ConfigError
from cutlayer.logs import unheard
from cutlayer.schemes.all import SCHEMES

# as architectures that can be split name them in their config.json
_BLOCKS = ("num_hidden_layers", "n_layer", "n_layers")
_WIDTH = ("hidden_size", "n_embd", "dim")


def check(config: Config, *, cut: bool = True, dealt: bool = True) -> None:
    """Raises CutlayerError for what cannot be, as far as `config.json` and small files say.

    `cut`: whether the configured cut is to be made; `dealt`: whether devices share the samples.
    """
    samples, count = config.data.train_samples, config.devices.count
    if dealt and samples is not None and samples < count:
        raise ConfigError(
            f"data.train_samples {samples} are too few for {count} devices: raise it, or lower"
            " devices.count"
        )
    devices, scheme = make_devices(config.devices), SCHEMES[config.scheme.name]
    check_steps(config.training)
    count_micro_batches(config.training, scheme)
    make_rules(config)
    make_codecs(config.codec, packets=1)
    shares = fixed_shares(config, len(devices))
    most_shares(config.planner, len(devices))
    make_channel(config, devices).rates(1, 0.0, shares.value)
    settings = _model_settings(config.model.name)
    if settings is not None:
        check_model(config, settings, cut=cut)


def check_model(config: Config, settings: Mapping[str, Any], *, cut: bool = True) -> None:
    """Cut and rank against what a model's `config.json` says of its blocks. Raises ConfigError."""
    name, rank = config.model.name, config.adapter.rank
    blocks, width = _number(settings, _BLOCKS), _number(settings, _WIDTH)
    cut = cut and SCHEMES[config.scheme.name].splits
    if cut and blocks is not None and config.model.cut >= blocks:
        raise ConfigError(
            f"model.cut is {config.model.cut}; {name}, of {blocks} blocks, can be cut after block"
            f" 1..{blocks - 1}"
        )
    if width is not None and rank > width:
        raise ConfigError(
            f"adapter.rank {rank} is above {width}, the width of {name}: lower it, 8 to 64 are"
            " usual"
        )


def _number(settings: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    found = (settings[name] for name in names if name in settings)
    return next((value for value in found if type(value) is int and value > 0), None)


def _model_settings(name: str) -> dict[str, Any] | None:
    """The model's `config.json` if it lies on this machine, outside the hub's own cache.

    Raises AssetError for a name that nobody can have.
    """
    try:
        with unheard():  # the hub is not asked
            folder = find_config(name, hub=_NotAsked()).path
    except AssetError:
        if is_hub_id(name) or Path(name).expanduser().exists():
            return None  # whoever loads it looks further, and says what is wrong
        raise
    with contextlib.suppress(OSError, ValueError, RecursionError):
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return settings if isinstance(settings, dict) else None
    return None


@final
class _NotAsked(Hub):
    """No hub: it may take seconds."""

    def model(self, hub_id: str) -> NoReturn:
        raise AssetError("not asked")

    config = data = model
