"""An adapter in a model's weights: the same numbers as by PEFT, in a folder as the base's."""

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    PreTrainedModel,
)

from cutlayer.data.find import model_fault
from cutlayer.errors import ModelError
from cutlayer.model.described import AdapterSpec
from cutlayer.model.load import load_whole
from cutlayer.model.merge import merge_adapter
from cutlayer.model.peft_format import load_adapter, save_adapter
from cutlayer.model.tasks import task_class
from cutlayer.spec import Task
from model.architectures import CLASSES, batches, config_of, random_model
from model.runs import full_spec, trained_row

# a deprecation between peft and transformers
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

NAMES = tuple("abcde")
LM = AdapterSpec(2, 4.0)
CASES: list[tuple[Task, str, AdapterSpec]] = [
    ("image-classification", "vit", full_spec("image-classification")),
    ("image-classification", "dinov2", AdapterSpec(3, 2.0, head=True)),
    ("text-classification", "bert", full_spec("text-classification")),
    ("text-classification", "distilbert", full_spec("text-classification")),
    ("text-classification", "roberta", full_spec("text-classification")),
    ("text-classification", "gpt2", full_spec("text-classification")),
    ("text-classification", "llama", full_spec("text-classification")),
    ("causal-lm", "gpt2", LM),
    ("causal-lm", "llama", LM),
    ("causal-lm", "qwen3", LM),
    (
        "causal-lm",
        "llama",
        AdapterSpec(
            2, 4.0, rank_pattern=(("up_proj", 3),), alpha_pattern=(("q_proj", 5.0),), rslora=True
        ),
    ),
]


def saved(
    folder: Path, model: PreTrainedModel, spec: AdapterSpec, task: Task
) -> tuple[Tensor, Tensor]:
    """A base and an adapter in `folder`; the adapter's row, and logits with it kept apart."""
    model.save_pretrained(folder / "base")
    whole = load_whole(folder / "base", task, spec, classes=CLASSES)
    row, layout = trained_row(whole), whole.adapted.layout
    transposed = whole.adapted.transposed
    save_adapter(folder / "adapter", layout.named(row), spec, "base", task, transposed=transposed)
    inputs, lengths = batches(task)[0]
    with torch.no_grad():
        return row, whole.forward(row[None], [4], inputs, lengths)


def loaded(folder: Path, task: Task, **settings: object) -> PreTrainedModel:
    config = config_of(json.loads((folder / "config.json").read_text())["model_type"])
    found = task_class(config, task).from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, **settings
    )
    model, info = found
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    return model.eval()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def test_merged_it_is_the_base_and_the_adapter_to_the_bit(
    tmp_path: Path, case: tuple[Task, str, AdapterSpec]
) -> None:
    task, kind, spec = case
    _, apart = saved(tmp_path, random_model(config_of(kind), task), spec, task)
    names = () if task == "causal-lm" else NAMES
    (tmp_path / "merged").mkdir()
    merge_adapter(
        tmp_path / "base",
        task,
        tmp_path / "adapter",
        tmp_path / "merged",
        class_names=names,
        shard_bytes=4096,
    )
    assert model_fault(tmp_path / "merged") is None
    merged = loaded(tmp_path / "merged", task)
    inputs = batches(task)[0][0]
    with torch.no_grad():
        logits = merged(**inputs).logits
        added = loaded(tmp_path / "base", task)
        load_adapter(added, tmp_path / "adapter")
        assert torch.equal(logits, added(**inputs).logits)
        base = loaded(tmp_path / "base", task)
        theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload()
        assert torch.equal(logits, theirs(**inputs).logits)
        # of the sums of at most a hundred float32 terms in another order, through three blocks
        assert (logits - apart).abs().max() <= 1e-5 * apart.abs().max()
    own = merged.state_dict()
    assert all(torch.equal(own[name], value) for name, value in theirs.state_dict().items())
    # other tools know the weights by the names of the base's file
    index = json.loads((tmp_path / "merged" / "model.safetensors.index.json").read_text())
    before = load_file(tmp_path / "base" / "model.safetensors")
    assert index["weight_map"].keys() == before.keys()
    assert len(set(index["weight_map"].values())) > 3
    if names:
        assert merged.config.id2label == dict(enumerate(NAMES))


def test_the_head_of_a_checkpoint_without_one_is_the_adapters(tmp_path: Path) -> None:
    task: Task = "image-classification"
    spec = AdapterSpec(2, 4.0, head=True)
    torch.manual_seed(0)
    _, apart = saved(tmp_path, AutoModel.from_config(config_of("dinov2")), spec, task)
    (tmp_path / "merged").mkdir()
    folders = tmp_path / "base", task, tmp_path / "adapter", tmp_path / "merged"
    merge_adapter(*folders, class_names=NAMES)
    merged = loaded(tmp_path / "merged", task)
    with torch.no_grad():
        logits = merged(**batches(task)[0][0]).logits
    assert (logits - apart).abs().max() <= 1e-5 * apart.abs().max()


def test_a_part_of_a_larger_model_becomes_a_model(tmp_path: Path) -> None:
    """The language model of one for texts and images."""
    task: Task = "causal-lm"
    text = {**config_of("gemma2").to_dict(), "model_type": "gemma3_text"}
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    images = {**vision, "intermediate_size": 16, "image_size": 16, "patch_size": 8}
    config = Gemma3Config(text_config=text, vision_config=images)
    torch.manual_seed(0)
    _, apart = saved(tmp_path, Gemma3ForConditionalGeneration(config), LM, task)
    merged = tmp_path / "merged"
    merged.mkdir()
    merge_adapter(tmp_path / "base", task, tmp_path / "adapter", merged)
    model, info = AutoModelForCausalLM.from_pretrained(
        merged, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    inputs = batches(task)[0][0]
    with torch.no_grad():
        logits = model.eval()(**inputs).logits
    # norms of small values before and after each sum magnify its rounding
    assert (logits - apart).abs().max() <= 1e-4 * apart.abs().max()


def test_a_head_of_ours_is_read_again(tmp_path: Path) -> None:
    """transformers has no classifier of this model; cutlayer loads what it wrote."""
    task: Task = "image-classification"
    settings = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    sizes = {"intermediate_size": 32, "image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model("dinov3_vit", **settings, **sizes))
    _, apart = saved(tmp_path, model, AdapterSpec(2, 4.0, head=True), task)
    merged = tmp_path / "merged"
    merged.mkdir()
    folders = tmp_path / "base", task, tmp_path / "adapter", merged
    merge_adapter(*folders, class_names=NAMES)
    again = load_whole(merged, task, None, classes=CLASSES)
    with torch.no_grad():
        logits = again.forward(torch.zeros(1, 0), [4], batches(task)[0][0])
    assert (logits - apart).abs().max() <= 1e-5 * apart.abs().max()


@pytest.mark.parametrize("tied", [True, False])
def test_numbers_of_the_file_and_of_the_result(tmp_path: Path, tied: bool) -> None:
    """A bfloat16 base, as most come: merged in float32 nothing of the adapter is rounded away."""
    task: Task = "causal-lm"
    model = random_model(config_of("llama", tie_word_embeddings=tied), task).bfloat16()
    saved(tmp_path, model, LM, task)
    for dtype, name in ((torch.float32, "float32"), (torch.bfloat16, "bfloat16")):
        to = tmp_path / name
        to.mkdir()
        merge_adapter(tmp_path / "base", task, tmp_path / "adapter", to, dtype=dtype)
        weights = load_file(to / "model.safetensors")
        assert {value.dtype for value in weights.values()} == {dtype}
        assert ("lm_head.weight" in weights) is not tied
        assert json.loads((to / "config.json").read_text())["dtype"] == name
    added = loaded(tmp_path / "base", task)
    load_adapter(added, tmp_path / "adapter")
    inputs = batches(task)[0][0]
    with torch.no_grad():
        expected = added(**inputs).logits
        assert torch.equal(loaded(tmp_path / "float32", task)(**inputs).logits, expected)


def test_what_is_written_is_in_memory_a_shard_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task: Task = "causal-lm"
    saved(tmp_path, random_model(config_of("llama"), task), LM, task)
    (tmp_path / "merged").mkdir()
    sizes = []
    import cutlayer.model.merge as merge

    def save(weights: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        sizes.append(sum(value.nbytes for value in weights.values()))
        original(weights, path, metadata)

    original = merge.save_file
    monkeypatch.setattr(merge, "save_file", save)
    merge_adapter(
        tmp_path / "base", task, tmp_path / "adapter", tmp_path / "merged", shard_bytes=6000
    )
    assert len(sizes) > 3 and max(sizes) <= 6000


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    task: Task = "causal-lm"
    saved(tmp_path, random_model(config_of("llama"), task), LM, task)
    random_model(config_of("llama", num_hidden_layers=2), task).save_pretrained(tmp_path / "less")
    random_model(config_of("llama", intermediate_size=16), task).save_pretrained(tmp_path / "thin")
    (tmp_path / "merged").mkdir()
    for other, why in (("less", "which the model does not have"), ("thin", "with as many classes")):
        with pytest.raises(ModelError, match=why):
            merge_adapter(tmp_path / other, task, tmp_path / "adapter", tmp_path / "merged")
