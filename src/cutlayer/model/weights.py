"""Whether the weights that were read are this model's: what was absent, left over, not finite.

transformers draws what is absent at random and passes over what is left over. Knows no cut.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cutlayer.errors import ModelError
from cutlayer.model.anatomy import Anatomy

_NAMED = 3
_ADAPTERS = re.compile(r"\.(lora_[A-Z]\w*|base_layer)\b")


def check_weights(
    path: Path, anatomy: Anatomy, info: Mapping[str, Any], classes: int | None, trains_head: bool
) -> set[str]:
    """Names of the head's tensors that the checkpoint does not have, or has for other classes.

    `info`: as `from_pretrained` gives it. `classes`: None of a language model. Raises ModelError
    for any other tensor that would be random and stay so, and for a checkpoint with more in it than
    the configuration says.
    """
    _check_left_over(path, anatomy, info["unexpected_keys"])
    absent = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    # a mask token serves masked pretraining only
    needed = sorted(name for name in absent if not name.endswith("mask_token"))
    frozen = [name for name in needed if not within(name, anatomy.head)]
    if frozen:
        raise ModelError(
            f"the weights in {path} lack {len(frozen)} of this model's tensors, or have them in"
            f" another shape: {_listed(frozen, info)}. They would be random and stay so;"
            f" {_remedy(frozen, anatomy)}"
        )
    if needed and classes is None:
        raise ModelError(
            f"the weights in {path} lack the language model's head ({_listed(needed, info)}): take"
            " a checkpoint that was saved with it, or, where the head is the embedding, set"
            " tie_word_embeddings to true in config.json"
        )
    if needed and not trains_head:
        raise ModelError(
            f"the checkpoint in {path} has no head for {classes} classes; set the adapter's head to"
            f" true to train one (absent: {_listed(needed, info)})"
        )
    return absent


def check_finite(path: Path, model: nn.Module, absent: set[str]) -> None:
    """Raises ModelError for weights of which some are NaN or infinite."""
    bad = [
        name
        for name, weights in model.named_parameters()
        if name not in absent and weights.numel() and not _finite(weights)
    ]
    if bad:
        raise ModelError(
            f"the weights in {path} are not finite in {len(bad)} tensors, such as {bad[0]}: the"
            " checkpoint is damaged, or comes from a training run that diverged; take another"
        )


def within(name: str, units: tuple[str, ...]) -> bool:
    """Whether a tensor is of one of these modules."""
    return any(name.startswith(f"{unit}.") for unit in units)


def _finite(weights: torch.Tensor) -> bool:
    least, most = torch.aminmax(weights.detach())  # no copy of the weights, as isfinite needs
    return bool(least.isfinite() and most.isfinite())


def _check_left_over(path: Path, anatomy: Anatomy, names: Collection[str]) -> None:
    adapters = sorted(name for name in names if _ADAPTERS.search(name))
    if adapters:
        raise ModelError(
            f"the weights in {path} hold adapters that were not merged, such as {adapters[0]}:"
            " merge them (merge_and_unload in PEFT) and save the result"
        )
    number = re.compile(rf"(?:^|\.){re.escape(anatomy.blocks.rpartition('.')[2])}\.(\d+)\.")
    blocks = [int(found[1]) for name in names if (found := number.search(name))]
    if max(blocks, default=0) >= anatomy.count:
        raise ModelError(
            f"the weights in {path} are of {max(blocks) + 1} blocks, config.json says"
            f" {anatomy.count}: the others would be left out; take the config.json that belongs to"
            " these weights"
        )


def _listed(names: Sequence[str], info: Mapping[str, Any]) -> str:
    shapes = {key: f" {tuple(own)} for {tuple(due)}" for key, own, due in info["mismatched_keys"]}
    named = ", ".join(f"{name}{shapes.get(name, '')}" for name in names[:_NAMED])
    return named if len(names) <= _NAMED else f"{named} and {len(names) - _NAMED} more"


def _remedy(absent: Sequence[str], anatomy: Anatomy) -> str:
    """A pooler is what checkpoints of language models lack; anything else is another model's."""
    if all(within(name, anatomy.after) for name in absent):
        return (
            "a checkpoint trained for something else has none. Load it with transformers for this"
            " task and save that (save_pretrained), which draws them once; or take a checkpoint"
            " that has them, or a type that needs none (DistilBERT, RoBERTa)"
        )
    return "is it a checkpoint of this architecture, and config.json its own?"
