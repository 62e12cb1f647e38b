"""What a checkpoint must and may not have, so that nothing of a model is random or left out."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from cutlayer.errors import ModelError
from cutlayer.model.adapted import is_within
from cutlayer.model.blocks import Anatomy

_NAMED = 3
_ADAPTERS = re.compile(r"\.(lora_[A-Z]\w*|base_layer)\b")


def check_weights(
    at: object,
    anatomy: Anatomy,
    info: Mapping[str, Any],
    classes: int | None,
    trains_head: bool,
) -> set[str]:
    """Names of the head's tensors that the checkpoint does not have, or has for other classes.

    transformers draws what is absent at random and passes over what is left over.
    `at`: where it is, for errors. `info`: as `from_pretrained` gives it. `classes`: None of a
    language model. Raises ModelError for any other tensor that would be random and stay so, and for
    a checkpoint with more in it than the configuration says.
    """
    _check_left_over(at, anatomy, info["unexpected_keys"])
    absent = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    # a mask token serves masked pretraining only
    needed = sorted(name for name in absent if not name.endswith("mask_token"))
    frozen = [name for name in needed if not is_within(name, anatomy.head)]
    if frozen:
        raise ModelError(
            f"the weights in {at} lack {len(frozen)} of this model's tensors, or have them in"
            f" another shape: {_listed(frozen, info)}. They would be random and stay so;"
            f" {_remedy(frozen, anatomy)}"
        )
    if needed and classes is None:
        raise ModelError(
            f"the weights in {at} lack the language model's head ({_listed(needed, info)}): take"
            " a checkpoint that was saved with it, or, where the head is the embedding, set"
            " tie_word_embeddings to true in config.json"
        )
    if needed and not trains_head:
        raise ModelError(
            f"the checkpoint in {at} has no head for {classes} classes; set the adapter's head to"
            f" true to train one (absent: {_listed(needed, info)})"
        )
    return absent


def check_finite(at: object, bad: Sequence[str]) -> None:
    """Raises ModelError, naming the first of the tensors that are `bad`, not finite."""
    if bad:
        raise ModelError(
            f"the weights in {at} are not finite in {len(bad)} tensors, such as {bad[0]}: the"
            " checkpoint is damaged, or comes from a training run that diverged; take another"
        )


def _check_left_over(at: object, anatomy: Anatomy, names: Collection[str]) -> None:
    adapters = sorted(name for name in names if _ADAPTERS.search(name))
    if adapters:
        raise ModelError(
            f"the weights in {at} hold adapters that were not merged, such as {adapters[0]}:"
            " merge them (merge_and_unload in PEFT) and save the result"
        )
    inner = anatomy.blocks.partition(".")[2] or anatomy.blocks
    number = re.compile(rf"^(?:{re.escape(anatomy.blocks)}|{re.escape(inner)})\.(\d+)\.")
    blocks = [int(found[1]) for name in names if (found := number.search(name))]
    if max(blocks, default=0) >= anatomy.count:
        raise ModelError(
            f"the weights in {at} are of {max(blocks) + 1} blocks, config.json says"
            f" {anatomy.count}: the others would be left out; take the config.json that belongs to"
            " these weights"
        )


def _listed(names: Sequence[str], info: Mapping[str, Any]) -> str:
    shapes = {key: f" {tuple(own)} for {tuple(due)}" for key, own, due in info["mismatched_keys"]}
    named = ", ".join(f"{name}{shapes.get(name, '')}" for name in names[:_NAMED])
    return named if len(names) <= _NAMED else f"{named} and {len(names) - _NAMED} more"


def _remedy(absent: Sequence[str], anatomy: Anatomy) -> str:
    """A pooler is what checkpoints of language models lack; anything else is another model's."""
    if all(is_within(name, anatomy.after) for name in absent):
        return (
            "a checkpoint trained for something else has none. Load it with transformers for this"
            " task and save that (save_pretrained), which draws them once; or take a checkpoint"
            " that has them, or a type that needs none (DistilBERT, RoBERTa)"
        )
    return "is it a checkpoint of this architecture, and config.json its own?"
