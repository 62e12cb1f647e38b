"""A split model against the unsplit one, to the bit: every architecture, task and cut.

Both run the same operations in the same order on the same values, so no tolerance is needed.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from data.sets import texts
from transformers import AutoConfig, PreTrainedModel

from cutlayer.data.batches import TextBatches
from cutlayer.errors import ModelError
from cutlayer.model.described import AdapterSpec
from cutlayer.model.load import load_device_part, load_server_part, load_whole
from cutlayer.model.placement import Placement
from cutlayer.model.split import ServerPart, WholeModel
from cutlayer.spec import IGNORED_LABEL, ActivationPolicy, Base, Task
from model.architectures import (
    ARCHITECTURES,
    BLOCKS,
    CLASSES,
    PADDING,
    VOCABULARY,
    WIDTH,
    batches,
    config_of,
    image_batch,
    random_model,
    save_model,
    text_batch,
)
from model.runs import full_spec, run_parts, run_whole, trained_row


@dataclass(frozen=True)
class Case:
    path: Path
    task: Task
    model: PreTrainedModel
    whole: WholeModel


@pytest.fixture(scope="module", params=ARCHITECTURES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    task, model_type = request.param
    path = tmp_path_factory.mktemp("model")
    model = random_model(config_of(model_type), task)
    model.save_pretrained(path)
    return Case(path, task, model, load_whole(path, task, full_spec(task), classes=CLASSES))


# heads of other names, tied, with a bias, scaled, softly capped
@pytest.mark.parametrize("kind", ["gpt2", "opt", "gpt_neox", "phi", "cohere", "granite", "gemma2"])
def test_a_language_models_logits_come_a_few_tokens_at_a_time(tmp_path: Path, kind: str) -> None:
    path = save_model(tmp_path, kind, "causal-lm")
    server = load_server_part(path, "causal-lm", 1, full_spec("causal-lm"), classes=0)
    row = trained_row(server)
    activation = torch.randn(4, 7, WIDTH, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for lengths in (None, [7, 3, 5, 1]):
            whole = server.forward(row[None], [4], activation, lengths)
            for most in (5, 100):
                pieces = list(server.token_logits(row, activation, lengths, most))
                assert max(len(piece) for piece in pieces) == min(most, 28)
                # the same sums of WIDTH products, in another order of float32 at most
                torch.testing.assert_close(
                    torch.cat(pieces), whole.flatten(0, 1), rtol=1e-5, atol=1e-5
                )
            assert torch.equal(server.forward(row[None], [4], activation, lengths), whole)


@pytest.mark.parametrize("kind", ["gpt2", "opt", "gpt_neox", "cohere", "granite", "gemma2"])
def test_losses_and_gradients_come_a_few_tokens_at_a_time(tmp_path: Path, kind: str) -> None:
    """Two devices of three and one texts, of which some tokens are not to be predicted."""
    path, spec = save_model(tmp_path, kind, "causal-lm"), full_spec("causal-lm")
    keeping, checkpointing = (
        load_server_part(path, "causal-lm", 1, spec, classes=0, activation_memory=policy)
        for policy in (ActivationPolicy.KEEP, ActivationPolicy.CHECKPOINT)
    )
    vocabulary = keeping.adapted.model.config.vocab_size
    labels = torch.randint(0, vocabulary, (4, 7), generator=torch.Generator().manual_seed(3))
    labels[1, 3:] = IGNORED_LABEL

    def gradients(server: ServerPart, tokens: int) -> tuple[torch.Tensor, ...]:
        activation = torch.randn(4, 7, WIDTH, generator=torch.Generator().manual_seed(2))
        rows = torch.stack([trained_row(server, seed) for seed in (1, 2)]).requires_grad_()
        losses = server.losses(
            rows,
            [3, 1],
            activation.requires_grad_(),
            [7, 3, 5, 7],
            labels,
            [0.3, 1.0],
            most_logits=tokens * vocabulary,
        )
        losses.sum().backward()
        assert activation.grad is not None and rows.grad is not None
        return losses.detach(), activation.grad, rows.grad

    whole = gradients(keeping, 28)
    for tokens in (28, 27, 5, 0):
        pieces = gradients(keeping, tokens)
        # the same sums of WIDTH products, in another order of float32 at most
        for found, expected in zip(pieces, whole, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        assert all(map(torch.equal, gradients(checkpointing, tokens), pieces))


def test_split_equals_unsplit_at_every_cut(case: Case) -> None:
    task, whole = case.task, case.whole
    row = trained_row(whole)
    expected = [run_whole(whole, row, inputs, lengths) for inputs, lengths in batches(task)]
    for cut in range(1, BLOCKS):
        device = load_device_part(case.path, task, cut, full_spec(task), classes=CLASSES)
        server = load_server_part(case.path, task, cut, full_spec(task), classes=CLASSES)
        for (logits, gradients), (inputs, lengths) in zip(expected, batches(task), strict=True):
            named = whole.adapted.layout.named(row)
            split_logits, split_gradients = run_parts(device, server, named, inputs, lengths)
            assert torch.equal(split_logits, logits)
            assert split_gradients.keys() == gradients.keys()
            for name, gradient in gradients.items():
                assert torch.equal(split_gradients[name], gradient), name
                assert gradient.any(), f"{name} is not trained"


def test_an_untrained_adapter_changes_nothing(case: Case) -> None:
    config = case.model.config
    rows = case.whole.adapted.initial_row(seed=0).unsqueeze(0)
    for inputs, lengths in batches(case.task):
        given: dict[str, object] = dict(inputs)
        if case.task == "image-classification" and not config.model_type.startswith("dinov2"):
            given["interpolate_pos_encoding"] = True
        if lengths is not None and config.pad_token_id is not None:
            real = inputs["attention_mask"] != 0
            given["input_ids"] = inputs["input_ids"].where(real, config.pad_token_id)
        with torch.no_grad():
            expected = case.model(**given).logits
            logits = case.whole.forward(rows, [4], inputs, lengths)
        assert torch.equal(logits, expected)


def test_parts_follow_each_other_without_trace(tmp_path: Path) -> None:
    """Two forwards in flight, backward in the other order: nothing is kept between passes."""
    path = save_model(tmp_path, "vit", "image-classification")
    spec = full_spec("image-classification")
    device = load_device_part(path, "image-classification", 1, spec, classes=CLASSES)
    rows = [trained_row(device, seed).unsqueeze(0).requires_grad_() for seed in (1, 2)]
    inputs = image_batch()
    first, second = (device.forward(row, [4], inputs) for row in rows)
    first.sum().backward()
    second.sum().backward()
    for row in rows:
        alone = row.detach().clone().requires_grad_()
        device.forward(alone, [4], inputs).sum().backward()
        assert row.grad is not None and alone.grad is not None
        assert torch.equal(row.grad, alone.grad)


@pytest.mark.parametrize(
    ("task", "model_type", "changes"),
    [
        # as opt-350m: embeddings narrower than the blocks, norms after them
        ("causal-lm", "opt", {"word_embed_proj_dim": 12, "do_layer_norm_before": False}),
        ("text-classification", "opt", {"word_embed_proj_dim": 12}),
        ("causal-lm", "gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("causal-lm", "gpt2", {"tie_word_embeddings": False}),
        ("causal-lm", "llama", {"tie_word_embeddings": True, "attention_bias": True}),
        ("causal-lm", "qwen2", {"use_sliding_window": True, "sliding_window": 3}),
        ("image-classification", "dinov2", {"use_swiglu_ffn": True}),
        ("text-classification", "bert", {"hidden_dropout_prob": 0.5}),
    ],
)
def test_variants_of_an_architecture_split_too(
    tmp_path: Path, task: Task, model_type: str, changes: dict[str, object]
) -> None:
    path = save_model(tmp_path, model_type, task, **changes)
    whole = load_whole(path, task, full_spec(task), classes=CLASSES)
    device = load_device_part(path, task, 2, full_spec(task), classes=CLASSES)
    server = load_server_part(path, task, 2, full_spec(task), classes=CLASSES)
    row = trained_row(whole)
    for inputs, lengths in batches(task):
        logits, gradients = run_whole(whole, row, inputs, lengths)
        found = run_parts(device, server, whole.adapted.layout.named(row), inputs, lengths)
        assert torch.equal(found[0], logits)
        assert gradients
        assert all(torch.equal(found[1][name], value) for name, value in gradients.items())


@pytest.mark.parametrize(
    ("task", "model_type", "inputs"),
    [
        ("text-classification", "llama", text_batch()),
        ("image-classification", "dinov2", image_batch()),
        ("image-classification", "vit", image_batch(side=24)),
    ],
)
def test_lower_precision_keeps_rows_in_float32(
    tmp_path: Path, task: Task, model_type: str, inputs: dict[str, torch.Tensor]
) -> None:
    path = save_model(tmp_path, model_type, task)
    part = (task, 1, full_spec(task))
    device = load_device_part(path, *part, classes=CLASSES, placement=Placement(base=Base.BFLOAT16))
    server = load_server_part(path, *part, classes=CLASSES, placement=Placement(base=Base.BFLOAT16))
    named = {
        **device.adapted.layout.named(trained_row(device)),
        **server.adapted.layout.named(trained_row(server)),
    }
    logits, gradients = run_parts(device, server, named, inputs, None)
    assert logits.dtype == torch.float32
    assert gradients
    assert all(gradient.dtype == torch.float32 for gradient in gradients.values())
    assert device.adapted.bytes < 4 * device.adapted.parameters


def test_a_server_in_lower_precision_takes_the_activation_that_crosses_the_cut(
    tmp_path: Path,
) -> None:
    path = save_model(tmp_path, "llama", "text-classification")
    part = ("text-classification", 1, full_spec("text-classification"))
    server = load_server_part(path, *part, classes=CLASSES, placement=Placement(base=Base.BFLOAT16))
    activation = torch.randn(2, 3, WIDTH, requires_grad=True)
    rows = trained_row(server)[None]
    logits = server.forward(rows, [2], activation, None)
    logits.float().sum().backward()
    assert activation.grad is not None and activation.grad.dtype == torch.float32
    whole = load_server_part(path, *part, classes=CLASSES)
    with torch.no_grad():
        full = whole.forward(rows, [2], activation, None)
        # bfloat16 rounds by 2^-9 relative, at each of some dozen results
        torch.testing.assert_close(
            logits.float(), full, rtol=0.1, atol=0.1 * float(full.abs().max())
        )


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_texts_that_end_in_padding_are_read_as_transformers_reads_them(
    tmp_path: Path, kind: str
) -> None:
    """Where the end-of-text mark is the padding, a text may end in it."""
    model = random_model(config_of(kind), "text-classification")
    model.save_pretrained(tmp_path)
    end = model.config.pad_token_id
    ids = [[5, 6, 7, end], [8, end, 9, end, end], [4, 3, 2, 6]]
    samples = texts(["0", "1", "2"])
    batches = TextBatches(lambda given: [ids[int(n)] for n in given], 8, end, unread=end)
    batch = batches.make(samples, np.arange(3))
    part = (tmp_path, "text-classification", 1, full_spec("text-classification"))
    device, server = (load(*part, classes=CLASSES) for load in (load_device_part, load_server_part))
    rows = [each.adapted.initial_row(0)[None] for each in (device, server)]
    inputs = {name: torch.from_numpy(value) for name, value in batch.inputs.items()}
    with torch.no_grad():
        split = server.forward(rows[1], [3], device.forward(rows[0], [3], inputs), batch.lengths)
        padded = torch.tensor([own + [end] * (5 - len(own)) for own in ids])
        whole = model(padded).logits  # initial adapters change nothing
    torch.testing.assert_close(split, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rows", "sizes"), [(1, [3]), (3, [2, 2]), (2, [0, 4]), (0, [])])
def test_sizes_must_divide_the_samples(tmp_path: Path, rows: int, sizes: list[int]) -> None:
    path = save_model(tmp_path, "vit", "image-classification")
    spec = AdapterSpec(rank=2, alpha=4.0)
    whole = load_whole(path, "image-classification", spec, classes=CLASSES)
    with pytest.raises(ModelError, match="do not divide 4 samples"):
        whole.forward(whole.adapted.initial_row(0).expand(rows, -1), sizes, image_batch())


@pytest.mark.parametrize("lengths", [[7], [7, 8], [0, 7]])
def test_lengths_must_fit(tmp_path: Path, lengths: list[int]) -> None:
    path = save_model(tmp_path, "bert", "text-classification")
    spec = AdapterSpec(rank=2, alpha=4.0)
    server = load_server_part(path, "text-classification", 1, spec, classes=CLASSES)
    rows = server.adapted.initial_row(0).unsqueeze(0)
    with pytest.raises(ModelError, match="do not fit 2 samples of 7 tokens"):
        server.forward(rows, [2], torch.zeros(2, 7, WIDTH), lengths)


_SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}
_WORDS = {**_SIZES, "vocab_size": VOCABULARY, "pad_token_id": PADDING, "eos_token_id": 0}
_MIXED = {**_WORDS, "num_key_value_heads": 1, "head_dim": 8, "num_experts_per_tok": 2}
_IMAGES = {**_SIZES, "image_size": 16, "patch_size": 8}
_RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "share_att_key": True}


@pytest.mark.parametrize(
    ("task", "model_type", "settings"),
    [
        ("causal-lm", "mixtral", {**_MIXED, "num_local_experts": 4}),
        ("causal-lm", "qwen3_moe", {**_MIXED, "num_experts": 4, "moe_intermediate_size": 12}),
        ("causal-lm", "gpt_oss", {**_MIXED, "num_local_experts": 4, "sliding_window": 3}),
        ("causal-lm", "gemma3_text", {**_MIXED, "sliding_window": 3, "query_pre_attn_scalar": 8}),
        ("text-classification", "cohere", {**_WORDS, "num_key_value_heads": 1}),
        ("text-classification", "modernbert", {**_WORDS, "local_attention": 4}),
        ("text-classification", "deberta-v2", {**_WORDS, **_RELATIVE}),
        ("image-classification", "dinov3_vit", _IMAGES),
        (
            "image-classification",
            "siglip_vision_model",
            {**_SIZES, "image_size": 16, "patch_size": 8},
        ),
    ],
)
def test_what_was_proven_small_holds_for_checkpoints(
    tmp_path: Path, task: Task, model_type: str, settings: dict[str, object]
) -> None:
    config = AutoConfig.for_model(model_type, **settings, num_labels=CLASSES)
    model = random_model(config, task)
    # a vision transformer's checkpoint is without the classifier that is ours
    (model.base_model if task == "image-classification" else model).save_pretrained(tmp_path)
    spec = AdapterSpec(rank=2, alpha=4.0, head=task != "causal-lm")
    whole = load_whole(tmp_path, task, spec, classes=CLASSES)
    row = trained_row(whole)
    named = whole.adapted.layout.named(row)
    for cut in (1, 2):
        device, server = (
            load(tmp_path, task, cut, spec, classes=CLASSES)
            for load in (load_device_part, load_server_part)
        )
        for inputs, lengths in batches(task):
            logits, gradients = run_whole(whole, row, inputs, lengths)
            found = run_parts(device, server, named, inputs, lengths)
            assert torch.equal(found[0], logits)
            assert found[1].keys() == gradients.keys()
            assert all(torch.equal(found[1][name], value) for name, value in gradients.items())
