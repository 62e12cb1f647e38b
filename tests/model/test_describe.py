"""A model's dimensions, counted."""

import json
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from data.assets.kit import FakeHub
from torch import nn
from transformers import AutoConfig
from transformers.pytorch_utils import Conv1D

from cutlayer.errors import ModelError, UnsupportedModelError
from cutlayer.jobs.model_spec import planned_model
from cutlayer.jobs.prepare import prepare
from cutlayer.model.describe import describe, image_tokens
from cutlayer.model.described import AdapterSpec
from cutlayer.model.load import load_device_part, load_server_part
from cutlayer.model.tasks import task_class
from cutlayer.rounds.costs import physical_flops
from cutlayer.spec import BatchBytes, MiniBatch, Task
from model.architectures import (
    ARCHITECTURES,
    BLOCKS,
    CLASSES,
    VOCABULARY,
    WIDTH,
    config_of,
    random_model,
    save_model,
)
from model.runs import full_spec

SPEC = AdapterSpec(rank=2, alpha=4.0)


@pytest.mark.parametrize("names", ARCHITECTURES)
def test_counts_are_those_of_the_real_model(names: tuple[Task, str]) -> None:
    task, model_type = names
    config = config_of(model_type)
    spec = describe(config, task, full_spec(task), classes=CLASSES)
    model = random_model(config, task)
    real = sum(parameter.numel() for parameter in model.parameters())
    tied = task == "causal-lm" and bool(model.all_tied_weights_keys)
    assert spec.parameters == real
    assert spec.shared_parameters == (VOCABULARY * WIDTH if tied else 0)
    assert (spec.name, spec.blocks, spec.width, spec.heads) == (model_type, BLOCKS, WIDTH, 2)
    blocks = next(
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) == BLOCKS
    )
    assert spec.block_parameters == sum(p.numel() for p in blocks[0].parameters())
    linear = [m for m in blocks[0].modules() if isinstance(m, nn.Linear | Conv1D)]
    assert sum(x.inputs * x.outputs for x in spec.block_linears) == sum(
        layer.weight.numel() for layer in linear
    )
    assert all(x.rank == 2 for x in spec.block_linears)
    assert spec.classes == (VOCABULARY if task == "causal-lm" else CLASSES)
    assert spec.head_per_token == (task == "causal-lm")


@pytest.mark.parametrize(
    ("task", "model_type"),
    [("image-classification", "vit"), ("text-classification", "bert"), ("causal-lm", "gpt2")],
)
def test_counts_are_those_that_the_parts_hold(tmp_path: Path, task: Task, model_type: str) -> None:
    path = save_model(tmp_path / "tiny", model_type, task)
    spec = describe(path, task, SPEC, classes=CLASSES)
    assert spec.name == "tiny"
    for cut in range(1, BLOCKS):
        device = load_device_part(path, task, cut, SPEC, classes=CLASSES)
        server = load_server_part(path, task, cut, SPEC, classes=CLASSES)
        assert device.adapted.parameters == spec.embedding_parameters + cut * spec.block_parameters
        served = (BLOCKS - cut) * spec.block_parameters + spec.head_parameters
        assert server.adapted.parameters == served
        assert device.adapted.layout.parameters == cut * spec.adapter_parameters(0, 1)
        assert server.adapted.layout.parameters == (BLOCKS - cut) * spec.adapter_parameters(0, 1)


def test_only_named_layers_have_a_rank() -> None:
    spec = AdapterSpec(3, 4.0, ("q_proj", "fc1"))
    found = describe(config_of("vit"), "image-classification", spec, classes=CLASSES)
    ranks = [(x.inputs, x.outputs, x.rank) for x in found.block_linears]
    assert ranks == [(24, 24, 3), (24, 24, 0), (24, 24, 0), (24, 24, 0), (24, 32, 3), (32, 24, 0)]


UNEVEN: list[tuple[Task, str, AdapterSpec]] = [
    ("causal-lm", "llama", AdapterSpec(2, 4.0, layers=(0, 2))),
    ("text-classification", "bert", AdapterSpec(2, 4.0, r".*\.layer\.[12]\..*query", head=True)),
    (
        "image-classification",
        "vit",
        AdapterSpec(2, 4.0, patch_embedding=True, rank_pattern=((r"layers\.1\..*", 5), ("fc1", 3))),
    ),
]


@pytest.mark.parametrize(("task", "model_type", "adapter"), UNEVEN)
def test_blocks_may_differ_in_adapters(
    tmp_path: Path, task: Task, model_type: str, adapter: AdapterSpec
) -> None:
    """Counted as both parts hold them, and only cuts that leave both something to train."""
    path = save_model(tmp_path / "tiny", model_type, task)
    spec = describe(path, task, adapter, classes=CLASSES)
    assert spec.others and sum(kind.count for kind in spec.kinds(0, BLOCKS)) == BLOCKS
    for cut in range(1, BLOCKS):
        device = load_device_part(path, task, cut, adapter, classes=CLASSES).adapted.layout
        server = load_server_part(path, task, cut, adapter, classes=CLASSES).adapted.layout
        assert device.parameters == spec.device_adapter_parameters(cut)
        assert server.parameters == spec.server_adapter_parameters(cut)
        assert (cut in spec.cuts) == bool(device.parameters and server.parameters)


def test_heads_may_be_narrower_than_the_width() -> None:
    assert describe(config_of("qwen3"), "causal-lm", SPEC, classes=0).head_width == 8
    assert describe(config_of("llama"), "causal-lm", SPEC, classes=0).head_width == 12


@pytest.mark.parametrize(
    ("model_type", "targets", "patches", "expected"),
    [
        ("vit", "all", False, [True, True, True, False, False, False]),
        ("vit", "all", True, [False] * 6),
        ("vit", ("fc1",), False, [True, True, True, True, True, False]),
        ("vit", ("v_proj",), False, [True, True, True, False, False, False]),
    ],
)
def test_gradients_stop_where_nothing_before_is_trained(
    model_type: str, targets: tuple[str, ...] | str, patches: bool, expected: list[bool]
) -> None:
    spec = AdapterSpec(2, 4.0, targets, patch_embedding=patches)
    found = describe(config_of(model_type), "image-classification", spec, classes=CLASSES)
    assert [linear.reads_block_input for linear in found.block_linears] == expected


@pytest.mark.parametrize(
    ("model_type", "side", "tokens"),
    [("vit", 16, 5), ("vit", 32, 17), ("deit", 16, 6), ("dinov2", 24, 10), ("ijepa", 16, 4)],
)
def test_tokens_and_flops_of_an_image(model_type: str, side: int, tokens: int) -> None:
    config = config_of(model_type)
    assert image_tokens(config, side) == tokens
    spec = describe(config, "image-classification", SPEC, classes=CLASSES, image_size=side)
    patches = (side // 8) ** 2
    # two operations for each of 3 x 8 x 8 x 24 weights and each patch; rounded to whole ones
    total = 2 * 3 * 8 * 8 * WIDTH * patches
    assert abs(spec.embedding_flops_per_token * tokens - total) <= tokens / 2


def test_text_embeddings_cost_nothing() -> None:
    for task, model_type in (("causal-lm", "llama"), ("text-classification", "bert")):
        spec = describe(config_of(model_type), task, SPEC, classes=CLASSES)
        assert spec.embedding_flops_per_token == 0


def test_what_cannot_be_is_refused_without_weights() -> None:
    with pytest.raises(ModelError, match="17x17 pixels cannot be cut into patches of 8x8"):
        image_tokens(config_of("vit"), 17)
    with pytest.raises(ModelError, match="classes is 1"):
        describe(config_of("vit"), "image-classification", SPEC, classes=1)
    with pytest.raises(ModelError, match="no linear layer named 'query'"):
        describe(
            config_of("vit"), "image-classification", AdapterSpec(2, 4.0, ("query",)), classes=5
        )
    with pytest.raises(UnsupportedModelError, match="no model of this type"):
        describe(config_of("vit"), "causal-lm", SPEC, classes=0)


def test_describing_holds_no_memory() -> None:
    """A model of 6 GiB is described on the meta device."""
    config = config_of(
        "llama",
        hidden_size=4096,
        intermediate_size=11008,
        num_attention_heads=32,
        num_key_value_heads=32,
        num_hidden_layers=8,
        vocab_size=32000,
    )
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spec = describe(config, "causal-lm", SPEC, classes=0)
    assert spec.parameters * 4 > 6 * 1024**3
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    assert grown_kib < 200 * 1024


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """A tiny model and data for it, by task; the configurations know how many classes there are."""
    root = tmp_path_factory.mktemp("jobs")
    vision = tiny.vision_model(root / "vision")
    path = vision / "config.json"
    labels = {"id2label": {str(n): f"kind {n}" for n in range(tiny.CLASSES)}}
    settings = json.loads(path.read_text(encoding="utf-8")) | labels
    path.write_text(json.dumps(settings), encoding="utf-8")
    return {
        "images": (vision, tiny.images(root / "images")),
        "texts": (tiny.text_model(root / "bert", "bert"), tiny.reviews(root / "reviews")),
        "language": (tiny.text_model(root / "llama", "llama"), tiny.corpus(root / "corpus")),
    }


@pytest.mark.parametrize(
    ("kind", "sections"),
    [
        ("images", {}),
        ("images", {"devices": {"base": "bfloat16"}, "adapter": {"patch_embedding": True}}),
        ("texts", {"devices": {"base": "bfloat16"}, "adapter": {"targets": ["query", "value"]}}),
        ("language", {"devices": {"base": "bfloat16"}, "adapter": {"head": False, "rank": 3}}),
    ],
)
def test_a_plan_and_a_run_count_the_same(
    kind: str,
    sections: dict[str, Any],
    folders: dict[str, tuple[Path, Path]],
    tmp_path: Path,
) -> None:
    config = tiny.config(*folders[kind], **sections)
    planned = planned_model(config, cache=tmp_path, hub=FakeHub({}))
    job = prepare(config)
    assert (job.setup.simulation.model, job.setup.training.task) == (planned.model, planned.task)
    assert planned.model.bytes_per_value == 4
    measured = job.setup.server.device_part.adapted.bytes
    assert measured == planned.model.device_weight_bytes(job.setup.server.device_part.cut)


def test_the_experts_that_a_token_has_are_counted() -> None:
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    config = AutoConfig.for_model(
        "qwen3_moe",
        **sizes,
        num_hidden_layers=2,
        num_experts=6,
        num_experts_per_tok=3,
        moe_intermediate_size=12,
        vocab_size=50,
    )
    spec = describe(config, "causal-lm", SPEC, classes=0)
    # gate and up, then down, of three experts: two operations a weight
    assert spec.expert_flops_per_token == 2 * 3 * (2 * 12 * 16 + 16 * 12)
    assert spec.block_parameters > 6 * 3 * 12 * 16
    linears = [(linear.inputs, linear.outputs, linear.rank) for linear in spec.block_linears]
    assert linears == [(16, 16, 2), (16, 8, 2), (16, 8, 2), (16, 16, 2)]
    plain = replace(spec, expert_flops_per_token=0)
    batch, rows = MiniBatch(2, 5), 10
    more, less = (physical_flops(one, 1, batch) for one in (spec, plain))
    for name in ("device_forward", "device_backward", "server_forward", "server_backward"):
        added = getattr(more, name) - getattr(less, name)
        assert added == spec.expert_flops_per_token * rows


def test_blocks_of_different_size_are_all_as_the_largest() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    config = AutoConfig.for_model("modernbert", **sizes, num_hidden_layers=4, vocab_size=50)
    config.pad_token_id = 0
    spec = describe(config, "text-classification", SPEC, classes=3)
    model = task_class(config, "text-classification")(config)
    counts = [sum(p.numel() for p in block.parameters()) for block in model.model.layers]
    assert spec.block_parameters == max(counts) > min(counts)


def test_an_embedding_that_looks_at_values_keeps_nothing() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    vision = {**sizes, "num_hidden_layers": 3, "patch_size": 4, "num_patches": 4}
    config = AutoConfig.for_model("siglip2", vision_config=vision)
    spec = describe(config, "image-classification", SPEC, classes=3, image_size=12)
    assert spec.activations is not None
    assert spec.activations.embedding == BatchBytes()
    assert spec.activations.block.kept.token > 0
    assert image_tokens(config, 12) == 9
