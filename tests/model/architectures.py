"""Tiny random models of each verified architecture, as checkpoints. Knows no parts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from cutlayer.model.tasks import task_class
from cutlayer.spec import Task

BLOCKS = 3
CLASSES = 5
VOCABULARY = 61
WIDTH = 24
PADDING = 1
LENGTHS = [7, 3, 5, 1]

REQUIRED = (
    *("vit", "deit", "dinov2", "bert", "distilbert", "roberta"),
    *("gpt2", "llama", "qwen2", "qwen3", "mistral", "opt"),
)
_DECODERS = (
    *("gemma", "gemma2", "gpt2", "gpt_neox", "llama", "mistral", "olmo2", "opt", "phi", "phi3"),
    *("qwen2", "qwen3", "smollm3", "starcoder2"),
)
# types whose checkpoints are loaded, split at every cut, in each test of what a part does
TYPES: dict[Task, tuple[str, ...]] = {
    "image-classification": ("deit", "dinov2", "dinov2_with_registers", "ijepa", "vit", "vit_msn"),
    "text-classification": (
        *("bert", "camembert", "distilbert", "electra", "ernie", "roberta", "xlm-roberta"),
        *_DECODERS,
    ),
    "causal-lm": (*_DECODERS, "cohere", "granite"),
}
BEYOND = pytest.mark.slow("beyond the required architectures, which take their time together")
ARCHITECTURES = [
    pytest.param((task, name), id=f"{task}-{name}", marks=() if name in REQUIRED else BEYOND)
    for task, names in TYPES.items()
    for name in names
]

_COMMON = {
    "hidden_size": WIDTH,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
_IMAGE = {**_COMMON, "image_size": 16, "patch_size": 8}
_TOKENS = {
    "vocab_size": VOCABULARY,
    "pad_token_id": PADDING,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_TEXT = {**_COMMON, **_TOKENS, "max_position_embeddings": 40}
_GROUPED = {**_TEXT, "num_key_value_heads": 1}
_NARROW_HEADS = {**_GROUPED, "head_dim": 8}
_SETTINGS: dict[str, dict[str, Any]] = {
    "bert": _TEXT,
    "camembert": _TEXT,
    "cohere": _GROUPED,
    "deit": _IMAGE,
    "dinov2": {**_IMAGE, "mlp_ratio": 2},
    "dinov2_with_registers": {**_IMAGE, "mlp_ratio": 2},
    "distilbert": {
        **_TOKENS,
        "dim": WIDTH,
        "n_layers": BLOCKS,
        "n_heads": 2,
        "hidden_dim": 32,
        "max_position_embeddings": 40,
    },
    "electra": {**_TEXT, "embedding_size": 12},
    "ernie": _TEXT,
    "gemma": _NARROW_HEADS,
    "gemma2": {**_NARROW_HEADS, "sliding_window": 4},
    "gpt2": {
        "n_embd": WIDTH,
        "n_layer": BLOCKS,
        "n_head": 2,
        "n_positions": 40,
        "vocab_size": VOCABULARY,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    "gpt_neox": _TEXT,
    "granite": _GROUPED,
    "ijepa": _IMAGE,
    "llama": _GROUPED,
    "mistral": {**_GROUPED, "sliding_window": 4},
    "olmo2": _GROUPED,
    "opt": {**_TEXT, "ffn_dim": 32, "word_embed_proj_dim": WIDTH},
    "phi": _GROUPED,
    "phi3": _GROUPED,
    "qwen2": _GROUPED,
    "qwen3": _NARROW_HEADS,
    "roberta": _TEXT,
    "smollm3": _GROUPED,
    "starcoder2": _GROUPED,
    "vit": _IMAGE,
    "vit_msn": _IMAGE,
    "xlm-roberta": _TEXT,
}


def config_of(model_type: str, **changes: object) -> PreTrainedConfig:
    """A tiny configuration of this model type."""
    settings = {**_SETTINGS[model_type], "num_labels": CLASSES, **changes}
    return AutoConfig.for_model(model_type, **settings)


def random_model(config: PreTrainedConfig, task: Task, seed: int = 0) -> PreTrainedModel:
    """An evaluated model whose every weight, norms and biases too, is random."""
    if task == "text-classification" and config.pad_token_id is None:
        config.pad_token_id = config.eos_token_id
    model = task_class(config, task)(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
    return model


def save_model(directory: Path, model_type: str, task: Task, **changes: object) -> Path:
    """A random model's checkpoint folder."""
    random_model(config_of(model_type, **changes), task).save_pretrained(directory)
    return directory


def image_batch(samples: int = 4, side: int = 16) -> dict[str, Tensor]:
    """Random images."""
    generator = torch.Generator().manual_seed(1)
    return {"pixel_values": torch.randn(samples, 3, side, side, generator=generator)}


def text_batch(lengths: list[int] | None = None, samples: int = 4) -> dict[str, Tensor]:
    """Random tokens, seven a sample, padded on the right if `lengths` says so."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, VOCABULARY, (samples, 7), generator=generator)
    if lengths is None:
        return {"input_ids": ids}
    mask = torch.arange(7) < torch.tensor(lengths).unsqueeze(1)
    return {"input_ids": ids.where(mask, PADDING), "attention_mask": mask.long()}


def batches(task: Task) -> list[tuple[dict[str, Tensor], list[int] | None]]:
    """Inputs with their lengths: two image sizes, or unpadded and padded text."""
    if task == "image-classification":
        return [(image_batch(), None), (image_batch(side=24), None)]
    return [(text_batch(), None), (text_batch(LENGTHS), LENGTHS)]
