"""Tiny copies of a model's configuration: few narrow blocks that keep every feature of the model's.

Blocks are the model's first ones, as many as it takes to have one of each kind: what a block is
made of (modules, weights, flags such as `is_sliding`) says its kind. Widths, heads, experts and
vocabulary shrink as far as the model's own code allows. Knows no cut and no adapter.
"""

import contextlib
import copy
import re
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from cutlayer.model.tasks import setting, text_or_vision

_FEWEST_BLOCKS = 3
_VOCABULARY = 96
_HEAD_WIDTH = 8
_WINDOW = 4
_PATCHES = 2  # along a side
# parts of the names of settings that say a width between two layers, and a window of tokens
_INNER = ("intermediate", "ffn", "n_inner", "d_ff", "inner_dim", "hidden_dim")
_WINDOWS = ("sliding_window", "window_size", "local_attention", "chunk_size")
# heads of a state-space layer, which its width is divided among
_STATE_HEADS = ("mamba_n_heads", "mamba_num_heads")
# narrow heads, few of them; few heads; as they are
_WIDTHS = ("narrow", "few", "own")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "top_k", "moe_k", "moe_topk")


def block_kinds(blocks: nn.ModuleList) -> list[Hashable]:
    """What each block is made of; equal where two differ in sizes alone."""
    return [_kind(block) for block in blocks]


def outer_kinds(model: nn.Module, blocks: str) -> set[Hashable]:
    """What a model is made of outside its list of blocks."""
    return {
        (re.sub(r"\.\d+", "", name), type(module).__name__)
        for name, module in model.named_modules()
        if not name.startswith(f"{blocks}.")
    }


def chosen_experts(config: PreTrainedConfig) -> int | None:
    """How many experts a router chooses for a token; None where the configuration does not say."""
    found = (setting(config, name) for name in _CHOSEN)
    return next((count for count in found if type(count) is int), None)


def reduced_configs(
    config: PreTrainedConfig, kinds: Sequence[Hashable]
) -> Iterator[PreTrainedConfig]:
    """Copies of a configuration, the smallest first, for whoever takes the first that gives a
    model. `kinds`: of the model's blocks."""
    all_blocks = len(kinds)
    last_new = max(kinds.index(kind) for kind in kinds) + 1
    few = min(all_blocks, max(_FEWEST_BLOCKS, last_new + (len(set(kinds)) > 1)))
    for blocks in dict.fromkeys((few, all_blocks)):
        for widths in _WIDTHS:
            yield _reduced(config, blocks, widths)


def _kind(block: nn.Module) -> Hashable:
    return tuple(
        (
            name,
            type(module).__name__,
            tuple(sorted(_flags(module).items())),
            tuple(weight for weight, _ in module.named_parameters(recurse=False)),
        )
        for name, module in block.named_modules()
    )


def _flags(module: nn.Module) -> dict[str, str]:
    """A module's plain attributes: words and flags by value, numbers by their being there."""
    return {
        name: repr(value) if isinstance(value, bool | str | None) else "number"
        for name, value in vars(module).items()
        if isinstance(value, bool | str | int | float | None) and not name.startswith("__")
    }


def _reduced(config: PreTrainedConfig, blocks: int, widths: str) -> PreTrainedConfig:
    config = copy.deepcopy(config)
    part = text_or_vision(config)
    _cut_blocks(part, blocks)
    if widths != "own":
        _shrink_widths(part, narrow=widths == "narrow")
        _shrink_experts(part)
    if widths == "narrow":
        _shrink_windows(part)
        _shrink_images(part)
    _shrink_vocabulary(config)
    return config


def _cut_blocks(config: PreTrainedConfig, blocks: int) -> None:
    before = setting(config, "num_hidden_layers")
    if not isinstance(before, int):
        return
    for name, value in _settings(config).items():
        if isinstance(value, list | tuple) and len(value) == before:
            _set(config, name, value[:blocks])
    _set(config, "num_hidden_layers", blocks)


def _shrink_widths(config: PreTrainedConfig, *, narrow: bool) -> None:
    settings = _settings(config)
    width, heads = setting(config, "hidden_size"), setting(config, "num_attention_heads") or 1
    if not isinstance(width, int) or not isinstance(heads, int):
        return
    groups, own = setting(config, "num_key_value_heads"), setting(config, "head_dim")
    head_width = own if isinstance(own, int) else width // heads
    new_groups = min(2 if narrow else 1, groups) if isinstance(groups, int) and groups else None
    if new_groups is None or groups is None:
        new_heads = min(heads, 2)
    elif heads % groups:
        new_heads, new_groups = heads, groups
    else:
        new_heads = new_groups * (heads // groups)
    new_head_width = _narrow(head_width) if narrow else head_width
    new_width = max(1, round(width / (heads * head_width) * new_heads)) * new_head_width
    factor = max(1, head_width // new_head_width)
    new = {heads * head_width: new_heads * new_head_width, width: new_width}
    for name, value in settings.items():
        if isinstance(value, list) and any(part in name for part in _INNER):
            _set(config, name, [min(each, 2 * new_width) for each in value])
        if type(value) is not int or "vocab" in name or "position" in name or "token" in name:
            continue
        if any(part in name for part in _INNER):
            _set(config, name, min(value, 2 * new_width))
        elif name.endswith("head_dim") and value % factor == 0:
            _set(config, name, value // factor)
        elif name in _STATE_HEADS:
            _set(config, name, max(1, value * new_width // width))
        elif name.endswith("lora_rank"):
            _set(config, name, min(value, 2 * new_width))
        elif value in new and value > 1 and ("size" in name or "dim" in name or "width" in name):
            _set(config, name, new[value])
    _shrink_rotations(config, factor)
    for own_settings in _of_single_blocks(config):
        for name, value in own_settings.items():
            if name.endswith("head_dim") and type(value) is int and value % factor == 0:
                own_settings[name] = value // factor
    _set(config, "hidden_size", new_width)
    _set(config, "num_attention_heads", new_heads)
    if new_groups is not None:
        _set(config, "num_key_value_heads", new_groups)


def _narrow(head_width: int) -> int:
    """The smallest width that divides a head's and is even, as rotations need; 8 where it can."""
    widths = (_HEAD_WIDTH, *range(_HEAD_WIDTH - 2, head_width, 2))
    return next((width for width in widths if head_width % width == 0), head_width)


def _shrink_experts(config: PreTrainedConfig) -> None:
    settings = _settings(config)
    chosen = [settings[name] for name in _CHOSEN if type(settings.get(name)) is int]
    groups = settings.get("n_group")
    step = groups if type(groups) is int and groups > 0 else 1
    most = max(4, *(2 * count for count in chosen), 2 * step) if chosen else None
    for name in _EXPERTS:
        count = settings.get(name)
        if most is not None and type(count) is int and count > most:
            _set(config, name, -(-most // step) * step)


def _shrink_windows(config: PreTrainedConfig) -> None:
    """So narrow that the few tokens of a test reach beyond."""
    for name, value in _settings(config).items():
        if any(part in name for part in _WINDOWS) and type(value) is int and value > _WINDOW:
            _set(config, name, _WINDOW)


def _shrink_vocabulary(config: PreTrainedConfig) -> None:
    """Special tokens keep to be the same or others."""
    rows = setting(config, "vocab_size")
    if type(rows) is not int or rows <= _VOCABULARY:
        return
    names = [name for name in _settings(config) if name.endswith("token_id")]
    far: dict[int, int] = {}

    def near(token: Any) -> Any:
        if isinstance(token, list):
            return [near(each) for each in token]
        if type(token) is not int or token < _VOCABULARY // 2:
            return token
        return far.setdefault(token, _VOCABULARY - 1 - len(far))

    for name in names:
        _set(config, name, near(_settings(config)[name]))
    for name, value in _settings(config).items():
        if "vocab" in name and type(value) is int and value > _VOCABULARY:
            _set(config, name, _VOCABULARY)


def _shrink_images(config: PreTrainedConfig) -> None:
    size, patch = setting(config, "image_size"), setting(config, "patch_size")
    if size is None and patch is not None and setting(config, "num_patches") is not None:
        _set(config, "num_patches", _PATCHES**2)
    if size is None or patch is None or isinstance(size, int) != isinstance(patch, int):
        return
    small = patch * _PATCHES if isinstance(patch, int) else [side * _PATCHES for side in patch]
    _set(config, "image_size", small)


def _shrink_rotations(config: PreTrainedConfig, factor: int) -> None:
    """Shares of a head that turn with time, height and width."""
    rotations = setting(config, "rope_parameters")
    sections = rotations.get("mrope_section") if isinstance(rotations, dict) else None
    if isinstance(sections, list) and factor > 1:
        rest = max(1, sum(sections) // factor // len(sections))
        first = sum(sections) // factor - rest * (len(sections) - 1)
        rotations["mrope_section"] = [first, *[rest] * (len(sections) - 1)]


def _of_single_blocks(config: PreTrainedConfig) -> list[dict[str, Any]]:
    """What blocks have for themselves, where transformers keeps that beside the settings."""
    spec = getattr(config, "_heterogeneity_spec", None)
    return list(getattr(spec, "per_layer_overrides", {}).values())


def _set(config: PreTrainedConfig, name: str, value: Any) -> None:
    """Some configurations compute a setting of that name: theirs follows from others."""
    with contextlib.suppress(AttributeError, NotImplementedError):
        setattr(config, name, value)


def _settings(config: PreTrainedConfig) -> dict[str, Any]:
    """Settings by the names that the configuration itself has."""
    return {name: value for name, value in vars(config).items() if not name.startswith("_")}
