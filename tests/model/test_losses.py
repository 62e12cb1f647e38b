"""The losses of the tasks, beside torch's and transformers'."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from cutlayer.errors import ModelError
from cutlayer.model.losses import group_losses, head_losses
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
