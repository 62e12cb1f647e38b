"""Which cuts a model has. Knows no cost."""

from cutlayer.errors import ConfigError
from cutlayer.spec import ModelSpec


def check_split(model: ModelSpec, cut: int) -> None:
    """Raise ConfigError unless both sides get at least one block."""
    if not 1 <= cut <= model.blocks - 1:
        raise ConfigError(
            f"cut {cut} is outside 1..{model.blocks - 1}: {model.name} has {model.blocks} blocks,"
            " and each side needs at least one"
        )


def check_held(model: ModelSpec, cut: int) -> None:
    """Raise ConfigError unless a device can hold the first `cut` blocks; all of them is the whole
    model, head included."""
    if not 1 <= cut <= model.blocks:
        raise ConfigError(
            f"cut {cut} is outside 1..{model.blocks}: {model.name} has {model.blocks} blocks"
        )
