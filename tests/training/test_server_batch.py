"""One pass for several devices' mini-batches against one pass for each.

Float32 sums in another order round by about 1e-7 relative to their largest term, and the blocks
amplify that by less than 100.
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from model.architectures import ARCHITECTURES, CLASSES, VOCABULARY, WIDTH, save_model
from model.runs import full_spec, trained_row
from torch import Tensor

from cutlayer.model.load import load_server_part
from cutlayer.model.split import ServerPart
from cutlayer.training.server_batch import ServerLoad, ServerReply, server_batch, server_pass

# samples of each of three mini-batches
UNEQUAL, EQUAL, LIGHT = (3, 1, 2), (2, 2, 2), (1, 1, 4)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def part(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ServerPart:
    """The server part of each architecture, its head trained where it can be."""
    task, model_type = request.param
    path = save_model(tmp_path_factory.mktemp("model"), model_type, task)
    return load_server_part(path, task, 1, full_spec(task), classes=CLASSES)


def loads_of(part: ServerPart, sizes: Sequence[int]) -> list[ServerLoad]:
    """A mini-batch of each device; texts of lengths of their own, padded to each one's longest."""
    generator = torch.Generator().manual_seed(7)
    return [load_of(part, size, device, generator) for device, size in enumerate(sizes)]


def load_of(part: ServerPart, size: int, device: int, generator: torch.Generator) -> ServerLoad:
    def whole(high: int, *shape: int) -> Tensor:
        return torch.randint(1, high, shape, generator=generator)

    tokens, lengths = 9, None
    if part.task != "image-classification":
        tokens = 3 + 2 * device
        lengths = (tokens, *whole(tokens + 1, size - 1).tolist())
    labels = whole(CLASSES, size)
    if part.task == "causal-lm":
        assert lengths is not None
        real = torch.arange(tokens) < torch.tensor(lengths)[:, None]
        labels = whole(VOCABULARY, size, tokens).where(real, -100)
    return ServerLoad(
        row=trained_row(part, seed=device),
        activation=torch.randn(size, tokens, WIDTH, generator=generator),
        lengths=lengths,
        labels=labels,
        weight=1.0 / (device + 1),
    )


def assert_same(found: ServerReply, expected: ServerReply) -> None:
    """Within a hundred-thousandth of the largest value."""
    for own, alone in (
        (found.loss, expected.loss),
        (found.gradient, expected.gradient),
        (found.row_gradient, expected.row_gradient),
    ):
        assert own.shape == alone.shape
        assert (own - alone).abs().max() <= 1e-5 * alone.abs().max()


@pytest.mark.parametrize("sizes", [UNEQUAL, EQUAL, LIGHT], ids=str)
def test_each_devices_result_is_its_result_alone(part: ServerPart, sizes: Sequence[int]) -> None:
    loads = loads_of(part, sizes)
    for found, load in zip(server_batch(part, loads), loads, strict=True):
        assert_same(found, *server_batch(part, [load]))


def test_two_of_one_device_are_two_gradients_of_one_row(part: ServerPart) -> None:
    first, second = loads_of(part, (2, 1))
    second = ServerLoad(first.row, second.activation, second.lengths, second.labels)
    for found, load in zip(server_batch(part, [first, second]), (first, second), strict=True):
        assert_same(found, *server_batch(part, [load]))


def test_one_load_is_the_pass_itself_to_the_bit(part: ServerPart) -> None:
    (load,) = loads_of(part, (3,))
    rows = load.row[None].requires_grad_()
    result = server_pass(part, rows, [3], load.activation, load.lengths, load.labels, [load.weight])
    (reply,) = server_batch(part, [load])
    assert torch.equal(reply.gradient, result.gradient)
    assert rows.grad is not None and torch.equal(reply.row_gradient, rows.grad[0])
    assert torch.equal(reply.loss, result.losses[0])


def test_packed_rows_share_a_pass_with_others(part: ServerPart) -> None:
    if part.task != "causal-lm":
        pytest.skip("only a language model's rows are packed")
    first, second, third = loads_of(part, (2, 1, 1))
    packed = replace(second, documents=((2, second.activation.shape[1] - 2),))
    loads = [first, packed, third]
    for found, load in zip(server_batch(part, loads), loads, strict=True):
        assert_same(found, *server_batch(part, [load]))
    (apart,), (joined,) = (server_batch(part, [own]) for own in (packed, second))
    assert (apart.gradient - joined.gradient).abs().max() > 1e-3 * joined.gradient.abs().max()
