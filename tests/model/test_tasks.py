"""The tasks: classes, heads, configurations."""

import json
from pathlib import Path

import pytest
from transformers import AutoConfig, PreTrainedConfig

from cutlayer.errors import ModelError, UnsupportedModelError
from cutlayer.model.blocks import meta_model
from cutlayer.model.tasks import is_decoder, read_config, task_class, task_config, unread_padding
from model.architectures import (
    TYPES,
    config_of,
)


@pytest.mark.parametrize("model_type", sorted({t for types in TYPES.values() for t in types}))
def test_no_dropout_is_left(model_type: str) -> None:
    config = AutoConfig.for_model(model_type)
    for task, types in TYPES.items():
        if model_type in types:
            settings = task_config(config, task, 4).to_dict()
            left = {k: v for k, v in settings.items() if "drop" in k and isinstance(v, float) and v}
            assert left == {}


def test_the_given_configuration_is_left_alone() -> None:
    config = config_of("bert", hidden_dropout_prob=0.5)
    before = config.to_dict()
    assert task_config(config, "text-classification", 9).num_labels == 9
    assert read_config(config) is not config
    assert config.to_dict() == before


def test_a_decoder_that_knows_no_padding_gets_some() -> None:
    gpt2 = config_of("gpt2", eos_token_id=7)
    assert gpt2.pad_token_id is None
    assert task_config(gpt2, "text-classification", 3).pad_token_id == 7
    assert task_config(gpt2, "causal-lm", 0).pad_token_id is None
    llama = config_of("llama", pad_token_id=None, eos_token_id=[5, 6])
    assert task_config(llama, "text-classification", 3).pad_token_id == 5
    assert is_decoder(llama) and not is_decoder(config_of("bert"))


def test_padding_that_a_classifier_passes_over() -> None:
    assert unread_padding(config_of("gpt2", eos_token_id=7)) == 7
    assert unread_padding(config_of("llama", pad_token_id=3)) == 3
    assert unread_padding(config_of("bert", pad_token_id=3)) is None


def kind(model_type: str, **settings: object) -> PreTrainedConfig:
    return AutoConfig.for_model(model_type, **settings)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (kind("albert"), "share one set of weights"),
        (kind("bert"), "sees the tokens it is to predict"),
        (kind("t5"), "encoder-decoder has two stacks"),
        (kind("vit"), "no model of this type for it .only for image-classification"),
    ],
)
def test_a_kind_that_cannot_be_split_says_why(config: PreTrainedConfig, reason: str) -> None:
    with pytest.raises(UnsupportedModelError, match=reason):
        task_class(config, "causal-lm")


def test_every_type_has_a_class() -> None:
    for task, types in TYPES.items():
        for model_type in types:
            assert task_class(config_of(model_type), task).config_class is not None


def test_a_classifier_needs_two_classes() -> None:
    with pytest.raises(ModelError, match="classes is 1"):
        task_config(config_of("vit"), "image-classification", 1)


def test_a_configuration_is_read_from_its_folder(tmp_path: Path) -> None:
    config_of("opt").save_pretrained(tmp_path)
    assert read_config(tmp_path).ffn_dim == 32


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"num_attention_heads": 0}, "gives no model that can be run: .*zero"),
        ({"num_attention_heads": 5}, "gives no model that can be run: .*multiple"),
        ({"hidden_act": "odd"}, "'odd' is unknown"),
        ({"pad_token_id": 10**6}, "Padding_idx"),
        ({"hidden_size": "24"}, "config.json cannot be read: .*'hidden_size' expected int"),
        ({"hidden_size": None}, "config.json cannot be read: .*'hidden_size' expected int"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_sizes_that_give_no_model_are_the_configurations_fault(
    tmp_path: Path, settings: dict[str, object], told: str
) -> None:
    values = {**config_of("bert").to_dict(), **settings}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match=told):
        meta_model(
            task_config(read_config(tmp_path), "text-classification", 2), "text-classification"
        )


def test_what_a_configuration_says_of_outputs_and_kernels_decides_nothing() -> None:
    config = config_of("bert", return_dict=False)
    config._attn_implementation = "flash_attention_2"
    ready = task_config(config, "text-classification", 2)
    assert ready.return_dict is True
    assert ready._attn_implementation != "flash_attention_2"
