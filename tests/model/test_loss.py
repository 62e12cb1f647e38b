"""Losses of a group against transformers' own, to the bit: the same call on the same values."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from cutlayer.errors import ModelError
from cutlayer.model.tasks import group_losses
from cutlayer.spec import IGNORED_LABEL, Task
from model.architectures import (
    CLASSES,
    LENGTHS,
    VOCABULARY,
    config_of,
    image_batch,
    random_model,
    text_batch,
)


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


def test_low_precision_logits_give_a_float32_loss() -> None:
    logits = torch.zeros(2, CLASSES, dtype=torch.bfloat16)
    losses = group_losses("image-classification", logits, torch.tensor([0, 1]), [2])
    assert losses.dtype == torch.float32
    # the logarithm of 5 in float32, computed from five equal exponentials: within one ulp
    assert abs(losses.item() - 1.6094379) < 3e-7


def test_sizes_must_divide_the_labels() -> None:
    with pytest.raises(ModelError, match="do not divide 2 labels"):
        group_losses("image-classification", torch.zeros(2, 5), torch.zeros(2).long(), [3])
