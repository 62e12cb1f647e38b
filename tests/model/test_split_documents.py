"""Packed rows against one row a document: the same losses and gradients, split and unsplit.

Sums of float32 products come in other orders, as in `test_split_group`.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig

from cutlayer.errors import ModelError
from cutlayer.model.inputs import document_positions
from cutlayer.model.load import load_device_part, load_server_part, load_whole
from cutlayer.model.losses import group_losses
from cutlayer.model.proof import examine
from cutlayer.model.tasks import task_config
from cutlayer.spec import IGNORED_LABEL
from model.architectures import ARCHITECTURES, PADDING, VOCABULARY, config_of, random_model
from model.runs import full_spec, gradient_of, trained_row

DECODERS = [each for each in ARCHITECTURES if each.values[0][0] == "causal-lm"]
ROWS = ((3, 2, 2), (5,), (1, 4))
ALONE = tuple((length,) for row in ROWS for length in row)
TASK = "causal-lm"


def texts(rows: Sequence[Sequence[int]]) -> tuple[dict[str, Tensor], list[int], Tensor]:
    """The same documents in these rows: inputs, lengths, and labels of all but first tokens."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, VOCABULARY, (sum(map(sum, rows)),), generator=generator)
    lengths = [sum(row) for row in rows]
    shape = len(rows), max(lengths)
    padded, labels = torch.full(shape, PADDING), torch.full(shape, IGNORED_LABEL)
    place = 0
    for number, row in enumerate(rows):
        at = 0
        for length in row:
            own = ids[place : place + length]
            padded[number, at : at + length] = own
            labels[number, at + 1 : at + length] = own[1:]
            place, at = place + length, at + length
    inputs = {"input_ids": padded, "position_ids": document_positions(rows, shape[1])}
    if rows is ALONE:
        mask = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
        inputs = {"input_ids": padded, "attention_mask": mask.long()}
    return inputs, lengths, labels


def document_losses(logits: Tensor, labels: Tensor, rows: Sequence[Sequence[int]]) -> Tensor:
    """Each document's mean loss."""
    parts = [
        part
        for row, own in enumerate(rows)
        for part in zip(
            logits[row, : sum(own)].split(list(own)),
            labels[row, : sum(own)].split(list(own)),
            strict=True,
        )
    ]
    return torch.cat([group_losses(TASK, logit[None], label[None], [1]) for logit, label in parts])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", DECODERS)
def test_documents_in_a_row_do_not_see_each_other(
    architecture: tuple[str, str], attention: str, tmp_path: Path
) -> None:
    model = random_model(config_of(architecture[1]), TASK)
    if attention == "sdpa" and not model._supports_sdpa:
        pytest.skip("it has no such attention")
    model.save_pretrained(tmp_path)
    whole = load_whole(tmp_path, TASK, full_spec(TASK), classes=0)
    whole.adapted.model.set_attn_implementation(attention)
    row = trained_row(whole)
    losses, gradients = [], []
    for rows in (ALONE, ROWS):
        inputs, lengths, labels = texts(rows)
        leaf = row[None].clone().requires_grad_()
        own = document_losses(whole.forward(leaf, [len(rows)], inputs, lengths), labels, rows)
        own.sum().backward()
        losses.append(own.detach())
        gradients.append(gradient_of(leaf))
    assert (losses[0] > 0).sum() == 5  # a document of one token has nothing to predict
    assert (losses[0] - losses[1]).abs().max() <= 1e-5
    assert (gradients[0] - gradients[1]).norm() <= 1e-5 * gradients[0].norm()
    inputs, lengths, _ = texts(ROWS)
    joined = whole.forward(row[None], [3], {"input_ids": inputs["input_ids"]}, lengths)
    assert (document_losses(joined, texts(ROWS)[2], ROWS) - losses[0]).abs().max() > 1e-3


@pytest.mark.parametrize("architecture", DECODERS)
def test_packed_rows_over_a_cut_are_those_of_the_whole(
    architecture: tuple[str, str], tmp_path: Path
) -> None:
    random_model(config_of(architecture[1]), TASK).save_pretrained(tmp_path)
    whole = load_whole(tmp_path, TASK, full_spec(TASK), classes=0)
    inputs, lengths, labels = texts(ROWS)
    row = trained_row(whole)
    leaf = row[None].clone().requires_grad_()
    expected = group_losses(TASK, whole.forward(leaf, [3], inputs), labels, [3])
    expected.sum().backward()
    named = whole.adapted.layout.named(row)
    device, server = (
        load(tmp_path, TASK, 1, full_spec(TASK), classes=0)
        for load in (load_device_part, load_server_part)
    )
    below, above = (
        part.adapted.layout.join(named)[None].requires_grad_() for part in (device, server)
    )
    activation = device.forward(below, [3], inputs)
    received = activation.detach().requires_grad_()
    losses = server.losses(above, [3], received, lengths, labels, [1.0], ROWS)
    losses.sum().backward()
    activation.backward(gradient_of(received))
    assert torch.equal(losses, expected)
    found = {
        **device.adapted.layout.named(gradient_of(below)[0]),
        **server.adapted.layout.named(gradient_of(above)[0]),
    }
    for name, gradient in whole.adapted.layout.named(gradient_of(leaf)[0]).items():
        assert torch.equal(found[name], gradient), name


@pytest.mark.parametrize(
    ("model_type", "by"),
    [("llama", "positions"), ("opt", "mask"), ("gpt_oss", "masks"), ("bloom", None)],
)
def test_a_small_copy_shows_what_keeps_documents_apart(model_type: str, by: str | None) -> None:
    """Bloom counts its distances over the whole row."""
    config = task_config(AutoConfig.for_model(model_type), TASK, 0)
    _, anatomy = examine(config, TASK)
    assert anatomy.documents_by == by


def test_positions_begin_anew_with_each_document() -> None:
    assert document_positions([(2, 3), (1,)], 6).tolist() == [[0, 1, 0, 1, 2, 0], [0] * 6]
    for wrong in ([(4, 3)], [(2, 0)], [()]):
        with pytest.raises(ModelError, match="are no row of 6"):
            document_positions(wrong, 6)
