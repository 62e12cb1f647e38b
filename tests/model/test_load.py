"""What a part reads from a checkpoint, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    BertForMaskedLM,
    BertForSequenceClassification,
    PreTrainedConfig,
)
from transformers.utils import logging

from cutlayer.errors import ModelError, UnsupportedModelError
from cutlayer.model.described import AdapterSpec
from cutlayer.model.load import load_device_part, load_server_part, load_whole
from cutlayer.spec import Task
from model.architectures import (
    BLOCKS,
    CLASSES,
    VOCABULARY,
    WIDTH,
    config_of,
    random_model,
    save_model,
    text_batch,
)
from model.runs import full_spec, run_parts, trained_row

IMAGES: Task = "image-classification"
SPEC = AdapterSpec(rank=2, alpha=4.0)
MIB = 1024**2

MEASURE = """
import sys
from pathlib import Path
import torch
from cutlayer.model.load import load_device_part
from cutlayer.model.described import AdapterSpec

def kib(name):
    status = Path("/proc/self/status").read_text()
    return int(status.partition(name + ":")[2].split()[0])

def measure(folder, cut):
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = kib("VmRSS")
    part = load_device_part(Path(folder), "image-classification", cut, spec, classes=5)
    touched = sum(float(tensor.sum()) for tensor in part.adapted.tensors)
    return part.adapted.bytes, 1024 * (kib("VmHWM") - before)

torch.set_num_threads(1)
spec = AdapterSpec(rank=2, alpha=4.0)
measure(sys.argv[1], 1)
for cut in (1, 11):
    print(*measure(sys.argv[2], cut))
"""


@pytest.mark.slow("loads a model in processes of their own to see their memory")
def test_loading_a_part_never_holds_the_whole_model(tmp_path: Path) -> None:
    """Peak resident memory of a process that loads one, or eleven, of a model's twelve blocks."""
    small = save_model(tmp_path / "small", "vit", IMAGES)
    settings = {"hidden_size": 384, "intermediate_size": 3 * 384, "num_hidden_layers": 12}
    large = save_model(tmp_path / "large", "vit", IMAGES, num_attention_heads=6, **settings)
    file_bytes = (large / "model.safetensors").stat().st_size
    found = subprocess.run(
        [sys.executable, "-c", MEASURE, str(small), str(large)],
        capture_output=True,
        text=True,
        check=True,
    )
    one, eleven = ([int(figure) for figure in line.split()] for line in found.stdout.splitlines())
    assert file_bytes > 60 * MIB
    assert one[0] < file_bytes / 10
    # its own weights and some MiB of Python objects (0.8 MiB when measured)
    assert one[1] < one[0] + 16 * MIB < file_bytes / 2
    assert eleven[1] > eleven[0] > 0.9 * file_bytes  # the measure does see what is loaded


def test_parts_hold_the_whole_model_between_them(tmp_path: Path) -> None:
    path = save_model(tmp_path, "vit", IMAGES)
    whole = load_whole(path, IMAGES, SPEC, classes=CLASSES)
    for cut in range(1, BLOCKS):
        device = load_device_part(path, IMAGES, cut, SPEC, classes=CLASSES)
        server = load_server_part(path, IMAGES, cut, SPEC, classes=CLASSES)
        assert device.adapted.parameters + server.adapted.parameters == whole.adapted.parameters
        assert device.adapted.bytes == 4 * device.adapted.parameters
    stored = load_file(path / "model.safetensors")
    assert whole.adapted.parameters == sum(value.numel() for value in stored.values())


@pytest.mark.parametrize("model_type", ["gpt2", "opt", "gemma"])
def test_tied_embeddings_are_held_once_by_each_side(tmp_path: Path, model_type: str) -> None:
    path = save_model(tmp_path, model_type, "causal-lm")
    whole = load_whole(path, "causal-lm", SPEC, classes=0)
    device = load_device_part(path, "causal-lm", 1, SPEC, classes=0)
    server = load_server_part(path, "causal-lm", 1, SPEC, classes=0)
    both = device.adapted.parameters + server.adapted.parameters
    assert both == whole.adapted.parameters + VOCABULARY * WIDTH


def test_tied_and_untied_llama_load(tmp_path: Path) -> None:
    for tied in (True, False):
        path = save_model(tmp_path / str(tied), "llama", "causal-lm", tie_word_embeddings=tied)
        device = load_device_part(path, "causal-lm", 2, SPEC, classes=0)
        server = load_server_part(path, "causal-lm", 2, SPEC, classes=0)
        named = {
            **device.adapted.layout.named(trained_row(device)),
            **server.adapted.layout.named(trained_row(server)),
        }
        logits, _ = run_parts(device, server, named, text_batch(), None)
        assert logits.shape == (4, 7, VOCABULARY)


def test_a_sharded_checkpoint_is_the_same_model(tmp_path: Path) -> None:
    model = random_model(config_of("bert"), "text-classification")
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="10KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 3
    spec = full_spec("text-classification")
    results = []
    for name in ("one", "many"):
        part = (tmp_path / name, "text-classification", 1, spec)
        device = load_device_part(*part, classes=CLASSES)
        server = load_server_part(*part, classes=CLASSES)
        named = {
            **device.adapted.layout.named(trained_row(device)),
            **server.adapted.layout.named(trained_row(server)),
        }
        results.append(run_parts(device, server, named, text_batch(), None)[0])
    assert torch.equal(*results)


def test_a_checkpoint_of_the_bare_model_loads_with_a_trained_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    AutoModel.from_config(config_of("dinov2")).save_pretrained(tmp_path)
    server = load_server_part(tmp_path, IMAGES, 1, full_spec(IMAGES), classes=CLASSES)
    assert server.adapted.layout.slots[-2].name == "classifier.weight"
    load_device_part(tmp_path, IMAGES, 1, SPEC, classes=CLASSES)  # it never holds the head
    with pytest.raises(ModelError, match="no head for 5 classes; set the adapter's head to true"):
        load_server_part(tmp_path, IMAGES, 1, SPEC, classes=CLASSES)


def test_a_head_of_other_classes_must_be_trained(tmp_path: Path) -> None:
    path = save_model(tmp_path, "vit", IMAGES)
    with pytest.raises(ModelError, match="no head for 7 classes"):
        load_whole(path, IMAGES, SPEC, classes=7)
    assert load_whole(path, IMAGES, full_spec(IMAGES), classes=7).adapted.layout.slots[
        -1
    ].shape == (7,)


@pytest.mark.parametrize("cut", [-1, 0, BLOCKS, BLOCKS + 5])
def test_a_cut_outside_is_refused_with_the_range(tmp_path: Path, cut: int) -> None:
    path = save_model(tmp_path, "vit", IMAGES)
    for load in (load_device_part, load_server_part):
        with pytest.raises(ModelError, match=rf"cut is {cut}; .* after block 1\.\.{BLOCKS - 1}"):
            load(path, IMAGES, cut, SPEC, classes=CLASSES)


def small_config(model_type: str) -> PreTrainedConfig:
    return AutoConfig.for_model(model_type)


@pytest.mark.parametrize(
    ("task", "model_type", "message"),
    [
        ("text-classification", "t5", "T5ForSequenceClassification.*encoder-decoder"),
        ("text-classification", "bart", "BartForSequenceClassification.*encoder-decoder"),
        ("text-classification", "albert", "AlbertForSequenceClassification.*share one set"),
        ("image-classification", "resnet", "'resnet' has no image_size.*not one stack of blocks"),
        (
            "image-classification",
            "swin",
            "Swin.*s blocks take hidden states of shapes",
        ),
        ("causal-lm", "bert", "BertLMHeadModel.*sees the tokens it is to predict"),
        ("causal-lm", "vit", "ViTConfig.*transformers has no model of this type"),
        ("image-classification", "llama", "LlamaConfig.*transformers has no model of this type"),
    ],
)
def test_other_architectures_are_refused_with_a_reason(
    tmp_path: Path, task: Task, model_type: str, message: str
) -> None:
    small_config(model_type).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match=message):
        load_device_part(tmp_path, task, 1, SPEC, classes=CLASSES)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load_whole(tmp_path, IMAGES, SPEC, classes=CLASSES)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        load_whole(tmp_path, IMAGES, SPEC, classes=CLASSES)
    nonsense = {"model_type": "nonsense"}
    (tmp_path / "config.json").write_text(json.dumps(nonsense))
    with pytest.raises(ModelError, match="cannot be read"):
        load_whole(tmp_path, IMAGES, SPEC, classes=CLASSES)
    nonsense["auto_map"] = {"AutoConfig": "own.Config"}
    (tmp_path / "config.json").write_text(json.dumps(nonsense))
    with pytest.raises(
        ModelError, match=r"code of its own \(auto_map\), which cutlayer does not run"
    ):
        load_whole(tmp_path, IMAGES, SPEC, classes=CLASSES)


def test_weights_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = save_model(tmp_path, "vit", IMAGES)
    weights = path / "model.safetensors"
    stored = load_file(weights)
    save_file({name: v for name, v in stored.items() if ".layer.2." not in name}, weights)
    load_device_part(path, IMAGES, 2, SPEC, classes=CLASSES)
    with pytest.raises(ModelError, match=r"lack 16 of this model's tensors.*vit\.layers\.2"):
        load_server_part(path, IMAGES, 2, SPEC, classes=CLASSES)
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(
        ModelError, match=r"cannot be read: model\.safetensors is damaged or cut off"
    ):
        load_device_part(path, IMAGES, 1, SPEC, classes=CLASSES)
    weights.unlink()
    with pytest.raises(ModelError, match="cannot be read: it has no weights"):
        load_device_part(path, IMAGES, 1, SPEC, classes=CLASSES)


def test_weights_of_another_shape_are_named_with_both(tmp_path: Path) -> None:
    path = save_model(tmp_path, "vit", IMAGES)
    config_of("vit", intermediate_size=40).save_pretrained(path)
    message = r"another shape: vit\..* \(32,\) for \(40,\).*config\.json its own"
    with pytest.raises(ModelError, match=message):
        load_server_part(path, IMAGES, 1, SPEC, classes=CLASSES)


def test_more_blocks_than_the_configuration_says_are_not_left_out(tmp_path: Path) -> None:
    path = save_model(tmp_path, "vit", IMAGES)
    config_of("vit", num_hidden_layers=2).save_pretrained(path)
    for load in (load_device_part, load_server_part):
        with pytest.raises(ModelError, match=r"are of 3 blocks, config\.json says 2"):
            load(path, IMAGES, 1, SPEC, classes=CLASSES)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    path = save_model(tmp_path, "gpt2", "causal-lm")
    stored = load_file(path / "model.safetensors")
    stored["transformer.h.2.mlp.c_fc.bias"][3] = value
    save_file(stored, path / "model.safetensors", {"format": "pt"})
    load_device_part(path, "causal-lm", 1, SPEC, classes=0)
    message = "not finite in 1 tensors, such as transformer.h.2.mlp.c_fc.bias"
    with pytest.raises(ModelError, match=message):
        load_server_part(path, "causal-lm", 1, SPEC, classes=0)


@pytest.mark.parametrize("change", ["lora_A.default.weight", "base_layer.weight"])
def test_adapters_among_the_weights_are_not_left_out(tmp_path: Path, change: str) -> None:
    path = save_model(tmp_path, "gpt2", "causal-lm")
    stored = load_file(path / "model.safetensors")
    stored[f"transformer.h.0.attn.c_attn.{change}"] = torch.ones(1)
    save_file(stored, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="hold adapters that were not merged"):
        load_device_part(path, "causal-lm", 1, SPEC, classes=0)


def test_a_pooler_that_the_checkpoint_lacks_is_named_with_a_way_on(tmp_path: Path) -> None:
    config = config_of("bert")
    BertForMaskedLM(config).save_pretrained(tmp_path / "masked")
    spec = full_spec("text-classification")
    part = (tmp_path / "masked", "text-classification", 1, spec)
    load_device_part(*part, classes=CLASSES)
    message = r"lack 2 of.*bert\.pooler\.dense\.bias, bert\.pooler\.dense\.weight\. .*random"
    with pytest.raises(ModelError, match=message):
        load_server_part(*part, classes=CLASSES)
    with_pooler = BertForSequenceClassification.from_pretrained(
        tmp_path / "masked", num_labels=CLASSES
    )
    with_pooler.save_pretrained(tmp_path / "ready")
    load_server_part(tmp_path / "ready", *part[1:], classes=CLASSES)


def test_a_language_model_without_its_head_is_refused(tmp_path: Path) -> None:
    AutoModel.from_config(config_of("llama")).save_pretrained(tmp_path)
    load_device_part(tmp_path, "causal-lm", 1, SPEC, classes=0)
    message = r"lack the language model's head \(lm_head\.weight\).*tie_word_embeddings"
    with pytest.raises(ModelError, match=message):
        load_server_part(tmp_path, "causal-lm", 1, SPEC, classes=0)


def test_an_adapter_beside_the_weights_is_not_applied(tmp_path: Path) -> None:
    """transformers applies it as soon as PEFT is installed, and trains on top of it."""
    path = save_model(tmp_path, "gpt2", "causal-lm")
    (path / "adapter_config.json").write_text("{}")
    with pytest.raises(
        ModelError, match=r"adapter_config\.json is in the folder of the model's weights"
    ):
        load_device_part(path, "causal-lm", 1, SPEC, classes=0)


def test_loading_leaves_the_world_as_it_was(tmp_path: Path) -> None:
    """No global random number is drawn, no log level or progress bar setting stays changed."""
    path = save_model(tmp_path, "vit", IMAGES)
    before = torch.get_rng_state(), logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_whole(path, IMAGES, full_spec(IMAGES), classes=9)
    after = torch.get_rng_state(), logging.get_verbosity(), logging.is_progress_bar_enabled()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_loading_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = save_model(tmp_path, "gpt2", "causal-lm")
    capfd.readouterr()
    load_device_part(path, "causal-lm", 1, SPEC, classes=0)
    load_server_part(path, "causal-lm", 1, SPEC, classes=0)
    assert capfd.readouterr() == ("", "")


def test_the_text_part_is_read_from_a_model_of_texts_and_images(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    text = {**sizes, "num_hidden_layers": 3, "num_key_value_heads": 1, "head_dim": 8}
    vision = {**sizes, "num_hidden_layers": 5, "image_size": 16, "patch_size": 8}
    for kind, inner in (("gemma3", "gemma3_text"), ("llava", "llama")):
        config = AutoConfig.for_model(
            kind,
            text_config={"model_type": inner, **text, "vocab_size": 90, "pad_token_id": 0},
            vision_config={"model_type": "siglip_vision_model", **vision},
        )
        model = AutoModelForImageTextToText.from_config(config).eval()
        model.save_pretrained(tmp_path / kind)
        whole = load_whole(tmp_path / kind, "causal-lm", SPEC, classes=0)
        ids = torch.randint(2, 80, (2, 6), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
            row = whole.adapted.initial_row(0)
            assert torch.equal(whole.forward(row[None], [2], {"input_ids": ids}), expected)
        device = load_device_part(tmp_path / kind, "causal-lm", 1, SPEC, classes=0)
        assert not any("vision" in name for name, _ in device.adapted.model.named_parameters())
