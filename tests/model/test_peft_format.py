"""Adapters over PEFT: what we write it loads, what it writes we read."""

import json
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cutlayer.errors import ModelError
from cutlayer.model.described import AdapterSpec
from cutlayer.model.load import load_device_part, load_server_part, load_whole
from cutlayer.model.lora import Draws
from cutlayer.model.peft_format import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    load_adapter,
    read_adapter,
    save_adapter,
)
from cutlayer.model.split import WholeModel
from cutlayer.spec import Task
from model.architectures import (
    BLOCKS,
    CLASSES,
    batches,
    config_of,
    random_model,
    save_model,
)
from model.runs import full_spec, trained_row

# a deprecation between peft and transformers
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

SOME = AdapterSpec(rank=2, alpha=3.0, targets=("query", "dense"))
CASES: list[tuple[Task, str, AdapterSpec]] = [
    ("image-classification", "vit", full_spec("image-classification")),
    ("image-classification", "vit", AdapterSpec(2, 3.0, ("q_proj", "fc2"), patch_embedding=True)),
    ("image-classification", "dinov2", AdapterSpec(3, 2.0, head=True)),
    ("text-classification", "bert", SOME),  # its pooler has a `dense` too, which stays as it is
    ("text-classification", "distilbert", full_spec("text-classification")),
    ("text-classification", "roberta", full_spec("text-classification")),
    ("text-classification", "gpt2", full_spec("text-classification")),
    ("causal-lm", "gpt2", AdapterSpec(2, 4.0)),
    ("causal-lm", "llama", AdapterSpec(2, 4.0)),
    ("causal-lm", "llama", AdapterSpec(4, 3.0, r".*\.(q|v)_proj", rslora=True)),
    ("text-classification", "bert", replace(SOME, layers=(0, 2))),
    (
        "text-classification",
        "gpt2",
        AdapterSpec(
            *(2, 4.0, r"transformer\.h\.[02]\..*"),
            head=True,
            rank_pattern=(("c_attn", 4), (r"h\.2\.mlp\.c_proj", 1)),
            alpha_pattern=((r"mlp\.c_fc", 16.0),),
            rslora=True,
        ),
    ),
    (
        "image-classification",
        "vit",
        AdapterSpec(
            *(2, 3.0, ("q_proj", "fc2"), True, True), layers=(0, 1), rank_pattern=(("q_proj", 5),)
        ),
    ),
]
IDS = [f"{case[0]}-{case[1]}-{number}" for number, case in enumerate(CASES)]


def adapter_of(whole: WholeModel, directory: Path, spec: AdapterSpec, task: Task) -> Tensor:
    """Save a trained adapter; its row."""
    row = trained_row(whole)
    save_adapter(
        directory,
        whole.adapted.layout.named(row),
        spec,
        "base",
        task,
        transposed=whole.adapted.transposed,
    )
    return row


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_peft_gives_the_same_logits(tmp_path: Path, case: tuple[Task, str, AdapterSpec]) -> None:
    task, model_type, spec = case
    base = random_model(config_of(model_type), task)
    base.save_pretrained(tmp_path / "model")
    whole = load_whole(tmp_path / "model", task, spec, classes=CLASSES)
    row = adapter_of(whole, tmp_path / "adapter", spec, task)
    model = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    inputs, lengths = batches(task)[0]
    with torch.no_grad():
        expected = model(**inputs).logits
        logits = whole.forward(row.unsqueeze(0), [4], inputs, lengths)
        plain = whole.forward(whole.adapted.initial_row(3).unsqueeze(0), [4], inputs, lengths)
    # sums of at most a hundred float32 terms in another order, through three blocks
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (logits - plain).abs().max() > 1e-2 * expected.abs().max()


@pytest.mark.parametrize(
    "case", [CASES[1], CASES[3], CASES[8]], ids=lambda case: f"{case[0]}-{case[1]}"
)
def test_peft_drops_the_same_inputs(tmp_path: Path, case: tuple[Task, str, AdapterSpec]) -> None:
    """With our masks in the place of its random ones: in what is dropped, and how it is scaled."""
    task, model_type, spec = case[0], case[1], replace(case[2], dropout=0.4)
    base = random_model(config_of(model_type), task)
    base.save_pretrained(tmp_path / "model")
    whole = load_whole(tmp_path / "model", task, spec, classes=CLASSES)
    row = adapter_of(whole, tmp_path / "adapter", spec, task)
    assert json.loads((tmp_path / "adapter" / CONFIG_FILE).read_text())["lora_dropout"] == 0.4
    model = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    draws, inputs = Draws(("a", "b", "c", "d")), batches(task)[0][0]
    for name, module in model.named_modules():
        dropouts = getattr(module, "lora_dropout", {})
        if "default" in dropouts:
            dropouts["default"] = Masked(draws, name.removeprefix("base_model.model."))
    with torch.no_grad():
        with whole.adapted.dropping(draws):
            logits = whole.forward(row.unsqueeze(0), [4], *batches(task)[0])
        expected = model(**inputs).logits
        plain = whole.forward(row.unsqueeze(0), [4], *batches(task)[0])
    # as above
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (logits - plain).abs().max() > 1e-2 * expected.abs().max()


class Masked(torch.nn.Module):
    """PEFT's dropout with masks of ours."""

    def __init__(self, draws: Draws, name: str) -> None:
        super().__init__()
        self.draws, self.name = draws, name

    def forward(self, x: Tensor) -> Tensor:
        return x * self.draws.kept(self.name, tuple(x.shape[1:]), 0.4) / 0.6


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_merged_into_the_model_it_gives_the_same_logits(
    tmp_path: Path, case: tuple[Task, str, AdapterSpec]
) -> None:
    task, model_type, spec = case
    model = random_model(config_of(model_type), task)
    model.save_pretrained(tmp_path / "model")
    whole = load_whole(tmp_path / "model", task, spec, classes=CLASSES)
    row = adapter_of(whole, tmp_path / "adapter", spec, task)
    load_adapter(model, tmp_path / "adapter")
    inputs, lengths = batches(task)[0]
    with torch.no_grad():
        logits = whole.forward(row.unsqueeze(0), [4], inputs, lengths)
        merged = model.eval()(**inputs).logits
    # as above
    assert (logits - merged).abs().max() <= 1e-5 * merged.abs().max()


def test_a_model_that_it_does_not_fit_is_left_as_it_was(tmp_path: Path) -> None:
    task: Task = "image-classification"
    model = random_model(config_of("vit"), task)
    model.save_pretrained(tmp_path / "model")
    spec = full_spec(task)
    whole = load_whole(tmp_path / "model", task, spec, classes=CLASSES)
    adapter_of(whole, tmp_path / "adapter", spec, task)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    headless, fewer = model.vit, random_model(config_of("vit"), task)
    fewer.classifier = torch.nn.Linear(fewer.classifier.in_features, CLASSES - 1)
    with pytest.raises(ModelError, match=r"which the model does not have: .* with its head"):
        load_adapter(headless, tmp_path / "adapter")
    with pytest.raises(ModelError, match=rf"classifier.*\({CLASSES - 1},.*as many classes"):
        load_adapter(fewer, tmp_path / "adapter")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(
        torch.equal(value, before[name])
        for name, value in fewer.state_dict().items()
        if not name.startswith("classifier")
    )


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_both_sides_write_and_read_back(
    tmp_path: Path, case: tuple[Task, str, AdapterSpec]
) -> None:
    task, model_type, spec = case
    path = save_model(tmp_path / "model", model_type, task)
    for cut in range(1, BLOCKS):
        device = load_device_part(path, task, cut, spec, classes=CLASSES)
        server = load_server_part(path, task, cut, spec, classes=CLASSES)
        rows = trained_row(device), trained_row(server)
        named = {**device.adapted.layout.named(rows[0]), **server.adapted.layout.named(rows[1])}
        folder = tmp_path / f"adapter-{cut}"
        save_adapter(folder, named, spec, str(path), task, transposed=device.adapted.transposed)
        read = read_adapter(folder, spec)
        assert read.keys() == named.keys()
        assert torch.equal(device.adapted.layout.join(read), rows[0])
        assert torch.equal(server.adapted.layout.join(read), rows[1])
        assert sorted(p.name for p in folder.iterdir()) == [CONFIG_FILE, WEIGHTS_FILE]


@pytest.mark.parametrize(
    ("task", "model_type", "spec", "options"),
    [
        (
            "image-classification",
            "vit",
            AdapterSpec(2, 3.0, ("q_proj", "fc1"), head=True),
            {"target_modules": ["q_proj", "fc1"], "modules_to_save": ["classifier"]},
        ),
        (
            "causal-lm",
            "gpt2",
            AdapterSpec(2, 3.0, ("c_attn",)),
            {"target_modules": ["c_attn"], "task_type": "CAUSAL_LM", "fan_in_fan_out": True},
        ),
        (
            "causal-lm",
            "llama",
            AdapterSpec(
                *(2, 3.0, ("q_proj", "up_proj")),
                layers=(0, 2),
                rank_pattern=(("up_proj", 4),),
                alpha_pattern=((r"layers\.2\.self_attn\.q_proj", 12.0),),
                rslora=True,
            ),
            {
                "target_modules": ["q_proj", "up_proj"],
                "layers_to_transform": [0, 2],
                "rank_pattern": {"up_proj": 4},
                "alpha_pattern": {r"layers\.2\.self_attn\.q_proj": 12.0},
                "use_rslora": True,
            },
        ),
        (
            "image-classification",
            "vit",
            AdapterSpec(2, 3.0, r"vit\.layers\.1\..*_proj", head=True),
            {"target_modules": r"vit\.layers\.1\..*_proj", "modules_to_save": ["classifier"]},
        ),
    ],
)
def test_a_folder_that_peft_wrote_reads_back(
    tmp_path: Path, task: Task, model_type: str, spec: AdapterSpec, options: dict[str, object]
) -> None:
    base = random_model(config_of(model_type), task)
    base.save_pretrained(tmp_path / "model")
    config = peft.LoraConfig(r=2, lora_alpha=3, init_lora_weights=False, **options)
    torch.manual_seed(0)
    model = peft.get_peft_model(base, config).eval()
    model.save_pretrained(tmp_path / "adapter")
    whole = load_whole(tmp_path / "model", task, spec, classes=CLASSES)
    row = whole.adapted.layout.join(read_adapter(tmp_path / "adapter", spec))
    inputs, lengths = batches(task)[0]
    with torch.no_grad():
        expected = model(**inputs).logits
        logits = whole.forward(row.unsqueeze(0), [4], inputs, lengths)
    # as above
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    named = {
        "vit.layers.0.attention.q_proj.lora_A": torch.ones(2, 4),
        "vit.layers.0.attention.q_proj.lora_B": torch.ones(6, 2),
        "classifier.weight": torch.ones(3, 6),
    }
    spec = AdapterSpec(2, 3.0, ("q_proj",), head=True)
    save_adapter(tmp_path / "adapter", named, spec, "base", "image-classification")
    assert read_adapter(tmp_path / "adapter", spec).keys() == named.keys()
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (AdapterSpec(4, 3.0, ("q_proj",), head=True), "rank 2, where 4"),
        (AdapterSpec(2, 6.0, ("q_proj",), head=True), r"alpha 3\.0, where 6\.0"),
        (AdapterSpec(2, 3.0, ("q_proj",)), "head True, where False"),
        (AdapterSpec(2, 3.0, ("q_proj",), patch_embedding=True, head=True), "patch_embedding"),
        (AdapterSpec(2, 3.0, ("k_proj",), head=True), "an adapter on .*q_proj"),
        (AdapterSpec(2, 3.0, ("q_proj", "fc1"), head=True), "no adapter on .*fc1"),
        (AdapterSpec(2, 3.0, ("q_proj",), head=True, rslora=True), "rslora False, where True"),
        (
            AdapterSpec(2, 3.0, ("q_proj",), head=True, rank_pattern=(("q_proj", 4),)),
            r"for vit\.layers\.0\.attention\.q_proj rank 2, where 4",
        ),
        (
            AdapterSpec(2, 3.0, ("q_proj",), head=True, alpha_pattern=(("q_proj", 6.0),)),
            r"q_proj a scale of 1\.5, where 3\.0",
        ),
    ],
)
def test_another_spec_is_refused(folder: Path, spec: AdapterSpec, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read_adapter(folder, spec)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("peft_type", "IA3"),
        ("use_dora", True),
        ("bias", "all"),
    ],
)
def test_other_kinds_of_adapter_are_refused(folder: Path, key: str, value: object) -> None:
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps({**config, key: value}))
    with pytest.raises(ModelError, match=key):
        read_adapter(folder)


def test_patterns_of_peft_decide_the_rank(folder: Path) -> None:
    config = json.loads((folder / CONFIG_FILE).read_text())
    for key, value, message in (
        ("rank_pattern", {"q_proj": 4}, r"rank 4, but has lora_A \(2, 4\)"),
        ("rank_pattern", {"(": 4}, "is no pattern"),
        ("rank_pattern", [4], "is not the configuration of an adapter"),
        ("alpha_pattern", {"q_proj": 0}, r"alpha is 0\.0"),
    ):
        (folder / CONFIG_FILE).write_text(json.dumps({**config, key: value}))
        with pytest.raises(ModelError, match=message):
            read_adapter(folder)


def test_broken_folders_are_refused(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS_FILE)
    prefix = "base_model.model.vit.layers.0.attention.q_proj"

    def refused(changed: dict[str, Tensor], message: str) -> None:
        save_file(changed, folder / WEIGHTS_FILE)
        with pytest.raises(ModelError, match=message):
            read_adapter(folder)

    without = {name: value for name, value in weights.items() if "lora_B" not in name}
    refused(without, "only one of lora_A and lora_B")
    refused({**weights, f"{prefix}.lora_A.weight": torch.ones(3, 4)}, r"rank 2, .*lora_A \(3, 4\)")
    refused({**weights, f"{prefix}.lora_embedding_A": torch.ones(1)}, "not of plain LoRA")
    refused({**weights, "elsewhere.weight": torch.ones(1)}, "does not start with")
    refused({"base_model.model.classifier.weight": torch.ones(1)}, "no LoRA tensors")
    (folder / WEIGHTS_FILE).write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be read"):
        read_adapter(folder)
    (folder / CONFIG_FILE).write_text("[]")
    with pytest.raises(ModelError, match="names no rank"):
        read_adapter(folder)
    (folder / CONFIG_FILE).unlink()
    with pytest.raises(ModelError, match="it has no adapter_config"):
        read_adapter(folder)


def test_slots_of_another_rank_are_not_written(tmp_path: Path) -> None:
    named = {"q.lora_A": torch.ones(2, 4), "q.lora_B": torch.ones(6, 2)}
    with pytest.raises(ModelError, match="rank 3"):
        save_adapter(tmp_path / "a", named, AdapterSpec(3, 3.0), "base", "causal-lm")
    assert not (tmp_path / "a").exists()
