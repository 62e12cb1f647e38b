"""Tiny random models of each verified architecture, saved as checkpoints. Knows no parts."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from cutlayer.model.tasks import VERIFIED, Task

BLOCKS = 3
CLASSES = 5
VOCABULARY = 61
WIDTH = 24

_COMMON = {
    "hidden_size": WIDTH,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
_IMAGE = {**_COMMON, "image_size": 16, "patch_size": 8}
_TEXT = {**_COMMON, "vocab_size": VOCABULARY, "max_position_embeddings": 40, "pad_token_id": 1}
_GROUPED = {**_TEXT, "num_key_value_heads": 1}
_SETTINGS: dict[str, dict[str, Any]] = {
    "bert": _TEXT,
    "deit": _IMAGE,
    "dinov2": {**_IMAGE, "mlp_ratio": 2},
    "distilbert": {
        "dim": WIDTH,
        "n_layers": BLOCKS,
        "n_heads": 2,
        "hidden_dim": 32,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 40,
        "pad_token_id": 1,
    },
    "gpt2": {
        "n_embd": WIDTH,
        "n_layer": BLOCKS,
        "n_head": 2,
        "vocab_size": VOCABULARY,
        "n_positions": 40,
        "bos_token_id": 2,
        "eos_token_id": 2,
    },
    "llama": _GROUPED,
    "cohere": _GROUPED, "gemma": {**_GROUPED,"head_dim":8}, "gemma2": {**_GROUPED,"head_dim":8,"sliding_window":4}, "gpt_neox": _TEXT, "granite": _GROUPED, "olmo2": _GROUPED, "phi": _GROUPED, "phi3": _GROUPED, "smollm3": _GROUPED, "stablelm": _GROUPED, "starcoder2": _GROUPED, "bloom": {"hidden_size":24,"n_layer":3,"n_head":2,"vocab_size":61,"pad_token_id":1}, "falcon": _TEXT,
    "beit": _IMAGE, "dinov2_with_registers": {**_IMAGE,"mlp_ratio":2}, "ijepa":_IMAGE, "vit_msn": _IMAGE, "camembert": _TEXT, "electra": {**_TEXT,"embedding_size":12}, "ernie": _TEXT, "xlm-roberta": _TEXT, "data2vec-text": _TEXT, "deberta-v2":_TEXT, "mpnet":_TEXT,"modernbert":_TEXT,
    "mistral": _GROUPED,
    "opt": {**_TEXT, "ffn_dim": 32, "word_embed_proj_dim": WIDTH},
    "qwen2": _GROUPED,
    "qwen3": {**_GROUPED, "head_dim": 8},
    "roberta": _TEXT,
    "vit": _IMAGE,
}


def config_of(model_type: str, **changes: object) -> transformers.PreTrainedConfig:
    """A tiny configuration of this model type."""
    settings = {**_SETTINGS[model_type], "num_labels": CLASSES, **changes}
    return transformers.AutoConfig.for_model(model_type, **settings)
