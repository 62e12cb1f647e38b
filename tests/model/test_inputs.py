"""What a forward is given, and which inputs are refused."""

import pytest
import torch

from cutlayer.errors import ModelError, UnsupportedModelError
from cutlayer.model.anatomy import meta_model
from cutlayer.model.inputs import (
    image_sides,
    image_step,
    length_mask,
    patch_sides,
    real_inputs,
    stand_in_inputs,
    token_limit,
)
from cutlayer.spec import Task
from model.architectures import (
    LENGTHS,
    PADDING,
    config_of,
    image_batch,
    random_model,
    text_batch,
)

TEXT: Task = "text-classification"
IMAGES: Task = "image-classification"


def test_stand_ins_reproduce_the_padding() -> None:
    activation = torch.zeros(4, 7, 24)
    for model_type in ("llama", "gpt2"):
        config = config_of(model_type, pad_token_id=PADDING)
        given = stand_in_inputs(config, TEXT, activation, LENGTHS)
        assert (given["input_ids"] != PADDING).sum(1).tolist() == LENGTHS
        assert given["attention_mask"].sum(1).tolist() == LENGTHS
        full = stand_in_inputs(config, TEXT, activation, None)
        assert bool((full["input_ids"] != PADDING).all())
        assert bool(full["attention_mask"].all())


def test_images_of_another_size_ask_for_interpolation() -> None:
    vit = meta_model(config_of("vit"), IMAGES)
    assert set(real_inputs(vit, IMAGES, image_batch(), None)) == {"pixel_values"}
    other = real_inputs(vit, IMAGES, image_batch(side=24), None)
    assert other["interpolate_pos_encoding"] is True
    dinov2 = meta_model(config_of("dinov2"), IMAGES)  # it always interpolates
    assert set(real_inputs(dinov2, IMAGES, image_batch(side=24), None)) == {"pixel_values"}


def test_lengths_stand_for_a_mask() -> None:
    model = meta_model(config_of("bert"), TEXT)
    padded = text_batch(LENGTHS)
    given = real_inputs(model, TEXT, {"input_ids": padded["input_ids"]}, LENGTHS)
    assert torch.equal(given["attention_mask"], padded["attention_mask"])
    assert length_mask(None, 2, 3, torch.device("cpu")).tolist() == [[1, 1, 1], [1, 1, 1]]


def test_padding_of_another_token_is_replaced_for_a_decoder() -> None:
    model = meta_model(config_of("llama"), TEXT)
    batch = text_batch(LENGTHS)
    ids = batch["input_ids"].where(batch["attention_mask"] != 0, 33)
    given = real_inputs(model, TEXT, {**batch, "input_ids": ids}, None)
    assert torch.equal(given["input_ids"], batch["input_ids"])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 20, 16), "20x16 pixels cannot be cut into patches of 8x8"),
        ((2, 1, 16, 16), r"takes \[batch, 3, height, width\]"),
        ((3, 16, 16), r"takes \[batch, 3, height, width\]"),
    ],
)
def test_images_that_do_not_fit_are_refused(shape: tuple[int, ...], message: str) -> None:
    model = meta_model(config_of("vit"), IMAGES)
    with pytest.raises(ModelError, match=message):
        real_inputs(model, IMAGES, {"pixel_values": torch.zeros(shape)}, None)


@pytest.mark.parametrize(("model_type", "limit"), [("bert", 40), ("roberta", 38)])
def test_texts_that_are_too_long_are_refused(model_type: str, limit: int) -> None:
    model = meta_model(config_of(model_type), TEXT)
    fits = torch.zeros(1, limit, dtype=torch.long)
    real_inputs(model, TEXT, {"input_ids": fits}, None)
    with pytest.raises(ModelError, match=f"at most {limit} tokens"):
        real_inputs(model, TEXT, {"input_ids": torch.zeros(1, limit + 1).long()}, None)


def test_missing_inputs_are_named() -> None:
    model = meta_model(config_of("bert"), TEXT)
    with pytest.raises(ModelError, match=r"no 'input_ids', only \['pixel_values'\]"):
        real_inputs(model, TEXT, image_batch(), None)


def test_what_a_configuration_does_not_say() -> None:
    for sides in (image_sides, patch_sides):
        with pytest.raises(UnsupportedModelError, match=r"type 'bert' has no .*_size in its"):
            sides(config_of("bert"))
    assert image_step(config_of("bert")) is None
    assert token_limit(config_of("vit")) is None
    assert image_step(config_of("vit")) == 8
    with pytest.raises(ModelError, match="patch_size 0: it must be above 0"):
        image_step(config_of("vit", patch_size=0))
    assert token_limit(config_of("gpt2")) == 40


@pytest.mark.parametrize("wrong", [61, -1])
def test_ids_without_embedding_are_refused(wrong: int) -> None:
    bert = random_model(config_of("bert"), TEXT)
    ids = torch.tensor([[5, wrong]])
    with pytest.raises(ModelError, match="the tokenizer that belongs to the model"):
        real_inputs(bert, TEXT, {"input_ids": ids}, None)
