"""docs/architectures.md from trying each of these types: `python docs/make_architectures.py`.

Each is transformers' own configuration of the type, examined as a run examines it, so that the page
says what this version of transformers gives. A test makes its lines again.
"""

import sys
import warnings
from pathlib import Path
from typing import Any

from transformers import AutoConfig
from transformers.utils import logging as transformers_logging

from cutlayer.errors import ModelError
from cutlayer.model.blocks import meta_model
from cutlayer.model.proof import at_full_size, prove
from cutlayer.model.tasks import read_config, task_config
from cutlayer.spec import Task

PAGE = Path(__file__).parent / "architectures.md"

_IMAGES, _CLASSES, _WORDS = "image-classification", "text-classification", "causal-lm"
_SIZES = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 4}
_ROTATED = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
}
_DEBERTA_3 = {
    "relative_attention": True,
    "position_biased_input": False,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_buckets": 256,
    "type_vocab_size": 0,
}
# settings beside those that transformers has for a type
_SETTINGS: dict[str, dict[str, Any]] = {
    "deberta-v2": _DEBERTA_3,
    "esm": {"vocab_size": 33, "pad_token_id": 1},
    "gemma4_text": {"hidden_size_per_layer_input": 0},
    "mistral3": {"text_config": {"model_type": "ministral3"}},
    "qwen2_5_vl": {"text_config": {**_SIZES, "num_key_value_heads": 2, **_ROTATED}},
    "qwen3_vl": {"text_config": {**_SIZES, "num_key_value_heads": 2, **_ROTATED}},
}
TYPES: dict[Task, tuple[str, ...]] = {
    _IMAGES: (
        *("aimv2", "beit", "clip", "data2vec-vision", "deit", "dinov2", "dinov2_with_registers"),
        *("dinov3_vit", "ijepa", "metaclip_2", "mlcd_vision_model", "pixio", "siglip", "siglip2"),
        *("vit", "vit_msn"),
        *("pvt", "resnet", "swin", "vit_mae"),
    ),
    _CLASSES: (
        *("bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "esm"),
        *("eurobert", "mobilebert", "modernbert", "mpnet", "nomic_bert", "roberta", "xlm-roberta"),
        *("llama", "qwen3"),
        *("albert", "bart", "flaubert", "t5"),
    ),
    _WORDS: (
        *("bloom", "cohere", "cohere2", "deepseek_v3", "ernie4_5", "exaone4", "falcon", "gemma"),
        *("gemma2", "gemma3", "gemma4_text", "glm4", "glm4_moe", "gpt2", "gpt_bigcode", "gpt_neo"),
        *("gpt_neox", "gpt_oss", "gptj", "granite", "granitemoe", "jamba", "lfm2", "llama"),
        *("llama4_text", "mamba", "mistral", "mistral3", "mixtral", "mpt", "olmo2", "olmo3"),
        *("olmoe", "opt", "phi", "phi3", "qwen2", "qwen2_5_vl", "qwen2_moe", "qwen3", "qwen3_moe"),
        *("qwen3_next", "qwen3_vl", "smollm3", "stablelm", "starcoder2"),
        *("bert", "gemma3n_text", "gemma4", "xlnet", "zamba"),
    ),
}
ROWS: tuple[tuple[Task, str], ...] = tuple(
    (task, name) for task, names in TYPES.items() for name in names
)
INTRODUCTION = """\
# Architectures

Made by `python docs/make_architectures.py`, which tried {tried} pairs of task and type:
{accepted} are split, the others refused with the reason. Nothing else about a type is written
down anywhere: whatever has the form of one stack of blocks is tried as these were
([split.md](split.md)), so a type that is not here may well be split too.

What is equal, to the bit in float32 on a processor: the logits, and the gradient of every
adapter, of the two parts and of the whole; for texts padded and not, for images of two sizes where
the type takes them; at the first and the last cut, and at the first between two kinds of blocks.
What gives the blocks the same for every input, such as relative positions, both parts hold.

Adapters go on every linear layer of a block, with two exceptions. Experts: transformers keeps
those of a block in one weight of three dimensions, which is no linear layer, so they stay as they
are, and so does their router, whose choice has no gradient; the other layers of a mixture (shared
experts) have adapters where `adapter.targets` names them. The auxiliary loss that balances experts
is off, since it is the routers'. And layers that see more than a mini-batch's samples: relative
positions go through them too, so that adapters of several devices would not fit.

Of a model of texts and images the language model is trained (`gemma3`, `mistral3`, the Qwens with
`vl`), and of a pair of encoders the one of images (`clip`, `siglip`); only their weights are read.
A vision transformer without a classifier has a linear one of ours.

| task | type | model | split |
|---|---|---|---|
"""


def row(task: Task, name: str) -> str:
    """One line of the table."""
    source = AutoConfig.for_model(name, **_SETTINGS.get(name, {}))
    config = read_config(source)
    kind = name if config.model_type == name else f"{name} ({config.model_type})"
    try:
        config = task_config(config, task, classes=3)
        model = meta_model(config, task)
        anatomy = at_full_size(model, task, prove(config, task, model))
    except ModelError as error:
        return f"| {task} | {kind} | | no: {error} |"
    remarks = ["yes"]
    if anatomy.shared:
        remarks.append(f"both parts hold {_named(anatomy.shared)}")
    if anatomy.apart:
        remarks.append(f"no adapters on {_named(anatomy.apart)}")
    return f"| {task} | {kind} | {type(model).__name__} | {'; '.join(remarks)} |"


def _named(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def page() -> str:
    """The whole page."""
    lines = []
    for task, name in ROWS:
        lines.append(row(task, name))
        sys.stderr.write(f"{lines[-1]}\n")
    accepted = sum("| no: " not in line for line in lines)
    return INTRODUCTION.format(tried=len(lines), accepted=accepted) + "\n".join(lines) + "\n"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    PAGE.write_text(page(), encoding="utf-8")
