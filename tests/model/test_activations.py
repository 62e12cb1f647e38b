"""What `describe` counts on fake tensors, against closed forms and against itself."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import ViTConfig

from cutlayer.model.describe import describe
from cutlayer.model.described import AdapterSpec
from cutlayer.model.load import load_device_part, load_server_part
from cutlayer.rounds.vit import VIT_BASE, VitDimensions, VitLayer, vit_spec
from cutlayer.spec import BatchBytes, ModelSpec
from model.architectures import CLASSES, config_of, save_model
from model.runs import full_spec

LAYERS: dict[VitLayer, str] = {
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "output": "o_proj",
    "up": "fc1",
    "down": "fc2",
}


def _vit(adapter: AdapterSpec, dtype: torch.dtype = torch.float32) -> ModelSpec:
    return describe(ViTConfig(), "image-classification", adapter, classes=100, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_vit_b_is_what_its_dimensions_say(dtype: torch.dtype) -> None:
    """Counted on the real architecture, computed from plain dimensions: equal in every field."""
    dimensions = replace(VIT_BASE, name="vit", bytes_per_value=dtype.itemsize)
    assert _vit(AdapterSpec(16, 16.0), dtype) == vit_spec(dimensions)


@pytest.mark.parametrize(
    "adapted",
    [("query",), ("value",), ("output",), ("up",), ("down",), ("query", "value", "down")],
    ids="+".join,
)
def test_any_layers_may_be_adapted(adapted: tuple[VitLayer, ...]) -> None:
    small = VitDimensions(
        "vit", 4, 24, 2, patch=8, image_side=16, classes=5, rank=3, adapted=adapted
    )
    config = config_of("vit", intermediate_size=96, num_hidden_layers=4)
    spec = AdapterSpec(3, 3.0, tuple(LAYERS[layer] for layer in adapted))
    found = describe(config, "image-classification", spec, classes=5)
    expected = vit_spec(small)
    assert found.activations == expected.activations
    assert found.first_attention_trained == expected.first_attention_trained
    assert found.block_linears == expected.block_linears


def test_adapters_outside_the_blocks_are_those_of_the_parts(tmp_path: Path) -> None:
    task = "image-classification"
    path = save_model(tmp_path, "dinov2", task)
    spec = describe(path, task, full_spec(task), classes=CLASSES)
    assert spec.embedding_adapter_parameters > 0 < spec.head_adapter_parameters
    for cut in (1, 2):
        device = load_device_part(path, task, cut, full_spec(task), classes=CLASSES)
        server = load_server_part(path, task, cut, full_spec(task), classes=CLASSES)
        held = spec.device_adapter_parameters(cut)
        assert device.adapted.layout.parameters == held
        whole = spec.device_adapter_parameters(spec.blocks)
        assert server.adapted.layout.parameters == whole - held


def test_a_mask_is_kept_where_texts_are_padded() -> None:
    """A float32 for each pair of tokens, in every block; all else is the same."""
    config = config_of("llama")
    plain, padded = (
        describe(config, "causal-lm", AdapterSpec(2, 2.0), classes=0, padded=padded).activations
        for padded in (False, True)
    )
    assert plain is not None and padded is not None
    assert padded.block.kept == plain.block.kept + BatchBytes(token_pair=4)
    assert plain.block.kept.token_pair == 0


def test_texts_are_taken_to_be_padded_in_classification_alone() -> None:
    bert = describe(config_of("bert"), "text-classification", AdapterSpec(2, 2.0), classes=5)
    gpt2 = describe(config_of("gpt2"), "causal-lm", AdapterSpec(2, 2.0), classes=0)
    assert bert.activations is not None and bert.activations.block.kept.token_pair == 4
    assert gpt2.activations is not None and gpt2.activations.block.kept.token_pair == 0


def test_attention_without_a_fused_kernel_keeps_its_matrix() -> None:
    """Gemma 2 caps its attention's logits, which the fused kernel cannot."""
    spec = describe(config_of("gemma2"), "causal-lm", AdapterSpec(2, 2.0), classes=0)
    assert spec.attention_backward == 2.0 and spec.first_attention_trained
    assert spec.activations is not None
    assert spec.activations.block.kept.token_pair >= 4 * spec.heads


@pytest.mark.parametrize("blocks", [2, 5])
def test_any_number_of_blocks(blocks: int) -> None:
    config = config_of("vit", num_hidden_layers=blocks)
    spec = describe(config, "image-classification", AdapterSpec(2, 2.0), classes=5)
    assert spec.activations is not None
    assert spec.activations.served_block == spec.activations.block
