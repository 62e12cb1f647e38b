"""What is found in a model, and which structures are refused."""

import pytest
import torch
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    T5Config,
    T5ForSequenceClassification,
)

from cutlayer.errors import UnsupportedModelError
from cutlayer.model.blocks import Anatomy, examine_model, meta_model
from cutlayer.model.inputs import example_inputs
from cutlayer.spec import Task
from model.architectures import BLOCKS, WIDTH, config_of


@pytest.mark.parametrize(
    ("task", "model_type", "expected"),
    [
        (
            "image-classification",
            "vit",
            (
                "vit.layers",
                ("vit.embeddings",),
                ("vit.layernorm", "classifier"),
                ("classifier",),
                5,
            ),
        ),
        (
            "text-classification",
            "distilbert",
            (
                "distilbert.transformer.layer",
                ("distilbert.embeddings",),
                ("pre_classifier", "classifier"),
                ("pre_classifier", "classifier"),
                4,
            ),
        ),
        (
            "text-classification",
            "bert",
            (
                "bert.encoder.layer",
                ("bert.embeddings",),
                ("bert.pooler", "classifier"),
                ("classifier",),
                4,
            ),
        ),
        (
            "causal-lm",
            "gpt2",
            (
                "transformer.h",
                ("transformer.wte", "transformer.wpe"),
                ("transformer.ln_f", "lm_head"),
                ("lm_head",),
                4,
            ),
        ),
    ],
)
def test_blocks_and_what_surrounds_them(
    task: Task, model_type: str, expected: tuple[str, tuple[str, ...], tuple[str, ...], str, int]
) -> None:
    model = meta_model(config_of(model_type), task)
    blocks, before, after, head, tokens = expected
    assert examine_model(model, example_inputs(model, task)) == Anatomy(
        blocks=blocks,
        count=BLOCKS,
        before=before,
        after=after,
        head=head,
        output_length=0,
        width=WIDTH,
        tokens=tokens,
    )


def test_a_meta_model_holds_no_values() -> None:
    model = meta_model(config_of("dinov2"), "image-classification")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert not model.training


@pytest.mark.parametrize(
    ("model_class", "config", "message"),
    [
        (
            AlbertForSequenceClassification,
            AlbertConfig(num_hidden_layers=3),
            "is not one stack of blocks",
        ),
        (
            T5ForSequenceClassification,
            T5Config(num_layers=3),
            "several lists of modules .*encoder.block of 3, .*decoder",
        ),
    ],
)
def test_other_structures_are_refused(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, message: str
) -> None:
    config._attn_implementation = "eager"
    with torch.device("meta"):
        model = model_class(config).eval()
    ids = torch.ones(1, 4, dtype=torch.long, device="meta")
    with pytest.raises(UnsupportedModelError, match=message):
        examine_model(model, {"input_ids": ids})


def test_blocks_out_of_order_are_refused() -> None:
    model = meta_model(config_of("vit"), "image-classification")
    layers = model.get_submodule("vit.layers")
    inner = layers[0].forward
    layers[0].forward = lambda *args, **kwargs: inner(layers[2](*args, **kwargs))
    with pytest.raises(UnsupportedModelError, match="order"):
        examine_model(model, example_inputs(model, "image-classification"))


def test_hooks_are_removed() -> None:
    model = meta_model(config_of("llama"), "causal-lm")
    examine_model(model, example_inputs(model, "causal-lm"))
    for module in model.modules():
        assert not module._forward_pre_hooks and not module._forward_hooks
