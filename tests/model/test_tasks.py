"""The tasks' classes and losses."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from transformers import AutoConfig, PreTrainedConfig

from cutlayer.errors import ModelError, UnsupportedModelError
from cutlayer.model.blocks import meta_model
from cutlayer.model.losses import group_losses, head_losses
from cutlayer.model.tasks import is_decoder, read_config, task_class, task_config, unread_padding
from cutlayer.spec import IGNORED_LABEL, Task
from model.architectures import (
    CLASSES,
    LENGTHS,
    TYPES,
    VOCABULARY,
    config_of,
    image_batch,
    random_model,
    text_batch,
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


@pytest.mark.parametrize(
    ("task", "model_type"),
    [
        ("image-classification", "vit"),
        ("text-classification", "bert"),
        ("text-classification", "llama"),
        ("causal-lm", "gpt2"),
        ("causal-lm", "qwen2"),
    ],
)
def test_loss_is_that_of_transformers(task: Task, model_type: str) -> None:
    model = random_model(config_of(model_type), task)
    inputs = image_batch() if task == "image-classification" else text_batch(LENGTHS)
    labels = torch.tensor([0, 4, 2, 2])
    if task == "causal-lm":
        labels = inputs["input_ids"].where(inputs["attention_mask"] != 0, IGNORED_LABEL)
    with torch.no_grad():
        expected = model(**inputs, labels=labels)
    assert torch.equal(group_losses(task, expected.logits, labels, [4])[0], expected.loss)


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_each_device_has_the_loss_and_gradient_it_would_have_alone(
    sizes: list[int], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (sum(sizes), 6, VOCABULARY)
    logits = torch.randn(shape, generator=generator, requires_grad=True)
    labels = torch.randint(0, VOCABULARY, shape[:2], generator=generator)
    labels[torch.rand(shape[:2], generator=generator) < 0.3] = IGNORED_LABEL
    losses = group_losses("causal-lm", logits, labels, sizes)
    losses.sum().backward()
    assert logits.grad is not None
    parts = zip(logits.detach().split(sizes), labels.split(sizes), strict=True)
    for number, (own, own_labels) in enumerate(parts):
        own.requires_grad_()
        (alone,) = group_losses("causal-lm", own, own_labels, [len(own)])
        alone.backward()
        assert torch.equal(alone, losses[number])
        assert own.grad is not None
        assert torch.equal(own.grad, logits.grad.split(sizes)[number])


def test_a_device_with_nothing_to_predict_has_loss_zero() -> None:
    logits = torch.randn(2, 3, VOCABULARY, requires_grad=True)
    labels = torch.full((2, 3), IGNORED_LABEL)
    labels[0] = 1
    losses = group_losses("causal-lm", logits, labels, [1, 1])
    losses.sum().backward()
    assert losses[0] > 0 and losses[1] == 0
    assert logits.grad is not None and not logits.grad[1].any()


@pytest.mark.parametrize(("samples", "classes"), [(16, 4), (3000, 7), (40, 500_000)])
def test_it_is_torchs_cross_entropy_to_the_bit_in_many_pieces(samples: int, classes: int) -> None:
    """The last case has more values than are looked at together."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(samples, 1, classes, generator=generator, requires_grad=True)
    labels = torch.randint(0, classes, (samples, 1), generator=generator)
    labels[::3] = IGNORED_LABEL
    (expected,) = torch.autograd.grad(
        wanted := functional.cross_entropy(logits[:, 0], labels[:, 0]) * 0.37, logits
    )
    loss = group_losses("text-classification", logits, labels, [samples])[0] * 0.37
    (found,) = torch.autograd.grad(loss, logits)
    assert torch.equal(loss, wanted)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("samples", "classes"), [(30, 4), (24, 500_000)])
@pytest.mark.parametrize("smoothing", [0.1, 1.0])
def test_smoothed_labels_are_torchs(samples: int, classes: int, smoothing: float) -> None:
    """Two devices of unlike size, of which labels anywhere do not count."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(samples, classes, generator=generator, requires_grad=True)
    labels = torch.randint(0, classes, (samples,), generator=generator)
    labels[::3] = IGNORED_LABEL
    sizes = [samples - 7, 7]
    options = {"label_smoothing": smoothing}
    parts = zip(logits.split(sizes), labels.split(sizes), strict=True)
    wanted = torch.stack([functional.cross_entropy(*part, **options) for part in parts])
    (expected,) = torch.autograd.grad(wanted @ torch.tensor([0.37, 2.0]), logits)
    losses = group_losses("text-classification", logits, labels, sizes, smoothing)
    (found,) = torch.autograd.grad(losses @ torch.tensor([0.37, 2.0]), logits)
    # means of up to 500,000 values in float32, in another order
    torch.testing.assert_close(losses, wanted, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-9)


def test_nothing_to_predict_is_no_loss_with_smoothed_labels_either() -> None:
    logits = torch.randn(2, 3, VOCABULARY, requires_grad=True)
    labels = torch.full((2, 3), IGNORED_LABEL)
    labels[0] = 1
    losses = group_losses("causal-lm", logits, labels, [1, 1], 0.1)
    losses.sum().backward()
    assert losses[1] == 0 and logits.grad is not None and not logits.grad[1].any()


@pytest.mark.parametrize("most", [100, 5, 1])
def test_a_head_in_pieces_smooths_labels_as_all_logits_do(most: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(4, 7, 6, generator=generator, requires_grad=True)
    weight = torch.randn(VOCABULARY, 6, generator=generator)
    labels = torch.randint(0, VOCABULARY, (4, 7), generator=generator)
    labels[torch.rand(4, 7, generator=generator) < 0.4] = IGNORED_LABEL
    labels[3] = IGNORED_LABEL
    weights = [0.3, 1.0, 1.0]
    whole = group_losses("causal-lm", hidden @ weight.T, labels, [2, 1, 1], 0.1)
    wanted = whole * torch.tensor(weights)
    (expected,) = torch.autograd.grad(wanted.sum(), hidden)
    losses = head_losses(hidden, labels, [2, 1, 1], weights, lambda own: own @ weight.T, most, 0.1)
    (found,) = torch.autograd.grad(losses.sum(), hidden)
    # the same sums of a few products, in another order of float32
    torch.testing.assert_close(losses, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_low_precision_logits_give_a_float32_loss() -> None:
    logits = torch.zeros(2, CLASSES, dtype=torch.bfloat16)
    losses = group_losses("image-classification", logits, torch.tensor([0, 1]), [2])
    assert losses.dtype == torch.float32
    # the logarithm of 5 in float32, computed from five equal exponentials: within one ulp
    assert abs(losses.item() - 1.6094379) < 3e-7


def test_sizes_must_divide_the_labels() -> None:
    with pytest.raises(ModelError, match="do not divide 2 labels"):
        group_losses("image-classification", torch.zeros(2, 5), torch.zeros(2).long(), [3])
