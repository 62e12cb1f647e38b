"""Models with adapters, or all weights, in place; and blocks that run again."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cutlayer.errors import ModelError
from cutlayer.model.adapted import checkpointed
from cutlayer.model.described import AdapterSpec
from cutlayer.model.load import load_device_part, load_server_part, load_whole
from cutlayer.spec import Task
from model.architectures import BLOCKS, CLASSES, WIDTH, image_batch, save_model
from model.runs import full_spec

IMAGES: Task = "image-classification"


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("vit"), "vit", IMAGES)


def names(path: Path, spec: AdapterSpec) -> set[str]:
    return {
        slot.name for slot in load_whole(path, IMAGES, spec, classes=CLASSES).adapted.layout.slots
    }


def test_all_means_every_linear_layer_of_every_block(vit: Path) -> None:
    layers = [f"attention.{kind}_proj" for kind in "qkvo"] + ["mlp.fc1", "mlp.fc2"]
    assert names(vit, AdapterSpec(2, 4.0)) == {
        f"vit.layers.{block}.{layer}.lora_{matrix}"
        for block in range(BLOCKS)
        for layer in layers
        for matrix in "AB"
    }


def test_targets_are_last_components(vit: Path) -> None:
    spec = AdapterSpec(2, 4.0, ("q_proj", "mlp.fc1"))
    assert {name.split(".", 3)[3] for name in names(vit, spec)} == {
        f"{layer}.lora_{matrix}" for layer in ("attention.q_proj", "mlp.fc1") for matrix in "AB"
    }


def test_options_add_patches_and_head(vit: Path) -> None:
    added = names(vit, full_spec(IMAGES)) - names(vit, AdapterSpec(2, 4.0))
    patches = "vit.embeddings.patch_embeddings.projection"
    assert added == {
        *(f"{patches}.lora_A", f"{patches}.lora_B", "classifier.weight", "classifier.bias"),
    }


def test_an_unknown_target_is_named_with_the_known(vit: Path) -> None:
    with pytest.raises(ModelError, match=r"no linear layer named 'query'.*attention\.q_proj"):
        names(vit, AdapterSpec(2, 4.0, ("query",)))


def test_patches_of_text_and_heads_of_language_models_are_refused(tmp_path: Path) -> None:
    path = save_model(tmp_path, "gpt2", "causal-lm")
    with pytest.raises(ModelError, match="patch_embedding cannot be true"):
        load_whole(path, "causal-lm", AdapterSpec(2, 4.0, patch_embedding=True), classes=2)
    with pytest.raises(ModelError, match="its vocabulary; set it to false"):
        load_whole(path, "causal-lm", AdapterSpec(2, 4.0, head=True), classes=2)


def test_initial_values_depend_on_seed_and_name_alone(vit: Path) -> None:
    spec = full_spec(IMAGES)
    whole = load_whole(vit, IMAGES, spec, classes=CLASSES)
    expected = whole.adapted.layout.named(whole.adapted.initial_row(7))
    for cut in range(1, BLOCKS):
        for load in (load_device_part, load_server_part):
            part = load(vit, IMAGES, cut, spec, classes=CLASSES)
            for name, value in part.adapted.layout.named(part.adapted.initial_row(7)).items():
                assert torch.equal(value, expected[name]), name
    assert torch.equal(whole.adapted.initial_row(7), whole.adapted.initial_row(7))
    assert not torch.equal(whole.adapted.initial_row(7), whole.adapted.initial_row(8))
    firsts = [value.flatten()[0].item() for name, value in expected.items() if "lora_A" in name]
    assert len(set(firsts)) == len(firsts)


def test_initial_values_have_the_promised_spread(vit: Path) -> None:
    spec = AdapterSpec(rank=200, alpha=4.0, patch_embedding=True)
    whole = load_whole(vit, IMAGES, spec, classes=CLASSES)
    for name, value in whole.adapted.layout.named(whole.adapted.initial_row(0)).items():
        if name.endswith("lora_B"):
            assert not value.any()
        else:
            # the deviation of n >= 4800 normal values has a relative error of 1 / sqrt(2 n),
            # at most 1.1 %: five of those
            assert value.std().item() * value[0].numel() ** 0.5 == pytest.approx(1.0, rel=0.055)


def test_a_head_starts_from_the_checkpoint_if_it_fits(vit: Path) -> None:
    spec = full_spec(IMAGES)
    stored = load_file(vit / "model.safetensors")
    server = load_server_part(vit, IMAGES, 1, spec, classes=CLASSES)
    for seed in (0, 1):
        named = server.adapted.layout.named(server.adapted.initial_row(seed))
        assert torch.equal(named["classifier.weight"], stored["classifier.weight"])
        assert torch.equal(named["classifier.bias"], stored["classifier.bias"])
    other = load_server_part(vit, IMAGES, 1, spec, classes=300)
    named = other.adapted.layout.named(other.adapted.initial_row(0))
    assert named["classifier.weight"].shape == (300, WIDTH)
    # 7200 values: five times a relative error of 0.8 %
    assert named["classifier.weight"].std().item() == pytest.approx(0.02, rel=0.042)
    assert not named["classifier.bias"].any()


def test_a_trained_head_is_no_frozen_weight(vit: Path) -> None:
    frozen = load_server_part(vit, IMAGES, 1, AdapterSpec(2, 4.0), classes=CLASSES)
    trained = load_server_part(vit, IMAGES, 1, full_spec(IMAGES), classes=CLASSES)
    head = WIDTH * CLASSES + CLASSES
    assert frozen.adapted.parameters - trained.adapted.parameters == head
    assert trained.adapted.layout.parameters - frozen.adapted.layout.parameters == head


def test_frozen_weights_get_no_gradient(vit: Path) -> None:
    whole = load_whole(vit, IMAGES, full_spec(IMAGES), classes=CLASSES)
    rows = whole.adapted.initial_row(0).unsqueeze(0).requires_grad_()
    whole.forward(rows, [4], image_batch()).sum().backward()
    assert whole.adapted.tensors
    assert all(tensor.grad is None for tensor in whole.adapted.tensors)


class _Block(nn.Module):
    """Takes tensors in every way that blocks do; counts its runs."""

    def __init__(self) -> None:
        super().__init__()
        self.slot = torch.zeros(0)
        self.runs = 0

    def forward(
        self, hidden: Tensor, scale: float, *, mask: Tensor | None, rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, None]:
        self.runs += 1
        inner = (hidden @ self.slot[0]).tanh() * rotary[0] + rotary[1]
        return hidden + scale * (inner if mask is None else inner.where(mask, 0.0)), None


@contextmanager
def _using(block: _Block, slots: Mapping[str, Tensor], sizes: Sequence[int]) -> Iterator[None]:
    assert tuple(sizes) == (3,)
    outer = block.slot
    (block.slot,) = slots.values()
    try:
        yield
    finally:
        block.slot = outer


def _gradients(again: bool, mask: Tensor | None) -> tuple[list[Tensor], int]:
    """The gradients of hidden states, slot and one of the rotary tensors; and the runs."""
    generator = torch.Generator().manual_seed(0)
    hidden, cosine, sine = (torch.randn(3, 4, generator=generator) for _ in range(3))
    slot = torch.randn(1, 4, 4, generator=generator)
    leaves = [hidden.requires_grad_(), slot.requires_grad_(), sine.requires_grad_()]
    block = _Block()
    slots = {"blocks.0.slot": slot, "blocks.1.slot": torch.zeros(1)}
    with _using(block, {"blocks.0.slot": slot}, [3]):
        if again:
            with checkpointed(
                {"blocks.0": block}, slots, [3], lambda own, sizes: _using(block, own, sizes)
            ):
                output, nothing = block(hidden, 0.5, mask=mask, rotary=(cosine, sine))
        else:
            output, nothing = block(hidden, 0.5, mask=mask, rotary=(cosine, sine))
    assert nothing is None
    assert "forward" not in vars(block)
    found = torch.autograd.grad(output, leaves, torch.ones_like(output))
    assert block.slot.numel() == 0  # nothing is left of the second run
    return list(found), block.runs


def test_gradients_are_the_same_to_the_bit() -> None:
    for mask in (None, torch.tensor([[True], [False], [True]])):
        once, runs = _gradients(False, mask)
        twice, runs_again = _gradients(True, mask)
        assert (runs, runs_again) == (1, 2)
        assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))


def test_without_gradients_a_block_runs_once() -> None:
    block = _Block()
    slots = {"blocks.0.slot": torch.ones(1, 4, 4)}
    with (
        torch.no_grad(),
        checkpointed({"blocks.0": block}, slots, [3], lambda own, sizes: _using(block, own, sizes)),
    ):
        output, _ = block(torch.ones(3, 4), 1.0, mask=None, rotary=(torch.ones(4), torch.ones(4)))
    assert not output.requires_grad
    assert block.runs == 1
