"""What a small copy proves, keeps, and finds out; that a copy keeps what its model is made of."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig

from cutlayer.errors import ModelError, UnsupportedModelError
from cutlayer.model import proof
from cutlayer.model.adapted import check_adapter, target_names
from cutlayer.model.blocks import block_list, meta_model
from cutlayer.model.described import AdapterSpec
from cutlayer.model.proof import examine, prove
from cutlayer.model.reduced import block_kinds, outer_kinds, reduced_configs
from cutlayer.model.tasks import read_config, task_config
from model.architectures import config_of


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path))
    monkeypatch.setattr(proof, "_PROVEN", {})
    return tmp_path


def test_a_proof_is_kept_and_read(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = task_config(config_of("llama"), "causal-lm", 0)
    _, first = examine(config, "causal-lm")
    (kept,) = cache.rglob("*.json")
    monkeypatch.setattr(proof, "prove", None)  # nobody proves it again
    assert examine(config, "causal-lm")[1] == first  # from memory
    monkeypatch.setattr(proof, "_PROVEN", {})
    assert examine(config, "causal-lm")[1] == first  # from the file
    assert json.loads(kept.read_text(encoding="utf-8"))["blocks"] == "model.layers"


def test_a_damaged_proof_is_made_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = task_config(config_of("gpt2"), "causal-lm", 0)
    _, first = examine(config, "causal-lm")
    (kept,) = cache.rglob("*.json")
    kept.write_text("{", encoding="utf-8")
    monkeypatch.setattr(proof, "_PROVEN", {})
    assert examine(config, "causal-lm")[1] == first
    assert json.loads(kept.read_text(encoding="utf-8"))["count"] > 0


def test_a_path_around_the_cut_is_found() -> None:
    """The third block adds what the first was given: nothing of the module tree shows it."""
    config = task_config(config_of("llama"), "causal-lm", 0)
    layer = type(block_list(meta_model(config, "causal-lm"))[1][0])
    own, passes = layer.forward, []

    def leaking(self: nn.Module, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        angles = kwargs["position_embeddings"]  # one object in a pass
        if self.self_attn.layer_idx == 0:
            passes.append((angles, hidden_states.detach()))
        found: torch.Tensor = own(self, hidden_states, **kwargs)
        first = [hidden for known, hidden in passes if known is angles]
        return found + first[0] if first and self.self_attn.layer_idx == 2 else found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer, "forward", leaking)
        with pytest.raises(UnsupportedModelError, match=r"after block \d.*more than the hidden"):
            prove(config, "causal-lm", meta_model(config, "causal-lm"))
    assert prove(config, "causal-lm", meta_model(config, "causal-lm")).count == 3


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("llama", {"hidden_size": 8192, "num_attention_heads": 64, "num_key_value_heads": 8}),
        ("gemma3_text", {}),
        ("qwen3_moe", {}),
        ("deepseek_v3", {}),
        ("opt", {"word_embed_proj_dim": 512, "hidden_size": 1024, "num_attention_heads": 16}),
    ],
)
def test_a_copy_is_small_and_made_of_the_same(model_type: str, settings: dict[str, int]) -> None:
    config = task_config(AutoConfig.for_model(model_type, **settings), "causal-lm", 0)
    large = meta_model(config, "causal-lm")
    path, blocks = block_list(large)
    kinds = block_kinds(blocks)
    small = next(
        model
        for model in (meta_model(one, "causal-lm") for one in reduced_configs(config, kinds))
        if outer_kinds(model, path) == outer_kinds(large, path)
    )
    found = block_kinds(block_list(small)[1])
    assert found == kinds[: len(found)] and set(found) == set(kinds)
    assert sum(weight.numel() for weight in small.parameters()) < 10**8
    assert config.num_hidden_layers == len(kinds)  # the given one is left alone


def test_a_mixture_of_experts_has_adapters_on_attention() -> None:
    config = task_config(AutoConfig.for_model("qwen2_moe", num_hidden_layers=2), "causal-lm", 0)
    model, anatomy = examine(config, "causal-lm")
    block = block_list(model)[1][0]
    attention = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
    assert target_names(block, anatomy, 0, AdapterSpec(2, 4.0)) == attention
    shared = AdapterSpec(2, 4.0, ("shared_expert.up_proj",))
    assert target_names(block, anatomy, 0, shared) == ("mlp.shared_expert.up_proj",)
    with pytest.raises(ModelError, match=r"named 'experts\.up_proj'.*one weight of three"):
        check_adapter(model, anatomy, AdapterSpec(2, 4.0, ("experts.up_proj",)), "causal-lm")


def test_layers_that_see_relative_positions_have_none() -> None:
    settings = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "share_att_key": True}
    config = AutoConfig.for_model("deberta-v2", num_hidden_layers=3, **settings)
    model, anatomy = examine(task_config(config, "text-classification", 3), "text-classification")
    assert anatomy.shared == ("deberta.encoder.rel_embeddings",)
    assert anatomy.apart == ("attention.self.key_proj", "attention.self.query_proj")
    with pytest.raises(ModelError, match="query_proj see more than a mini-batch's samples"):
        check_adapter(model, anatomy, AdapterSpec(2, 4.0, ("query_proj",)), "text-classification")


def test_the_language_model_of_a_model_of_images_is_read() -> None:
    config = AutoConfig.for_model("gemma3", text_config={"num_hidden_layers": 7})
    assert read_config(config).model_type == "gemma3_text"
    clip = AutoConfig.for_model("clip")
    assert read_config(clip).model_type == "clip"  # it has a classifier for the part of images
    assert read_config(AutoConfig.for_model("aimv2")).model_type == "aimv2_vision_model"
