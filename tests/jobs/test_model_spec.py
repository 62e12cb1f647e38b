"""Which model a configuration plans with: its task, its classes, and that it is counted once."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
from data.assets.kit import FakeHub
from data.hub_server import serve
from transformers import BloomConfig, BloomForCausalLM

from cutlayer.config.schema import Config
from cutlayer.data.find import HuggingFaceHub, known_config
from cutlayer.errors import ModelError, UnsupportedModelError
from cutlayer.jobs.model_spec import PlannedModel, model_request, planned_model
from cutlayer.logs import lines_to
from cutlayer.model.describe import describe
from cutlayer.model.described import AdapterSpec
from cutlayer.spec import Base

NO_HUB = FakeHub({})
NO_DATA = {"name": "data-of-mine", "image_size": 28}


def configuration(folder: Path, **sections: Any) -> Config:
    """The model in `folder`, and no data that anything is known of."""
    return Config.model_validate({"model": str(folder), "data": NO_DATA, **sections})


def planned(config: Config, cache: Path) -> PlannedModel:
    return planned_model(config, cache=cache, hub=NO_HUB)


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.vision_model(tmp_path_factory.mktemp("vision"))


def test_the_spec_is_what_describe_gives(vision: Path, tmp_path: Path) -> None:
    config = configuration(vision, adapter={"rank": 3, "alpha": 7.0, "patch_embedding": True})
    found = planned(config, tmp_path)
    adapter = AdapterSpec(3, 7.0, patch_embedding=True, head=True)
    expected = describe(vision, "image-classification", adapter, classes=2, image_size=28)
    assert vars(found.model) == {**vars(expected), "name": str(vision)}
    assert (found.task, found.tokens) == ("image-classification", 5)  # 2 x 2 patches and a class


def test_a_model_is_counted_once(vision: Path, tmp_path: Path) -> None:
    said: list[str] = []
    config = configuration(vision)
    with lines_to(said.append):
        first = planned_model(config, cache=tmp_path)
        assert planned_model(config, cache=tmp_path) == first
    assert said == [f"{vision}: counting its parameters and activations, once"]


@pytest.mark.parametrize(
    "sections",
    [
        {"adapter": {"rank": 4}},
        {"adapter": {"targets": ["fc1"]}},
        {"adapter": {"head": False}},
        {"adapter": {"patch_embedding": True}},
        {"devices": {"base": "bfloat16", "device": "cuda"}},
        {"devices": {"base": "nf4", "preset": "jetson-nano"}},
        {"data": {**NO_DATA, "image_size": 56}},
        {"data": {**NO_DATA, "name": "icons-200"}},
    ],
)
def test_what_decides_the_spec_decides_its_key(vision: Path, sections: dict[str, Any]) -> None:
    first = model_request(configuration(vision), vision)
    other = model_request(configuration(vision, **sections), vision)
    assert other.key != first.key


def test_what_does_not_is_not(vision: Path, tmp_path: Path) -> None:
    said: list[str] = []
    planned(configuration(vision), tmp_path)
    other = configuration(vision, adapter={"alpha": 1.0}, seed=3, training={"batch_size": 2})
    with lines_to(said.append):
        planned_model(other, cache=tmp_path)
    assert said == []


def test_a_damaged_description_is_counted_again(vision: Path, tmp_path: Path) -> None:
    first = planned(configuration(vision), tmp_path)
    (kept,) = tmp_path.rglob("*.json")
    whole = kept.read_text(encoding="utf-8")
    kept.write_text(whole[:100], encoding="utf-8")
    assert planned(configuration(vision), tmp_path) == first
    assert kept.read_text(encoding="utf-8") == whole


def test_a_cache_that_cannot_be_written_is_no_hindrance(vision: Path, tmp_path: Path) -> None:
    cache = tmp_path / "file"
    cache.write_text("in the way", encoding="utf-8")
    said: list[str] = []
    with lines_to(said.append):
        assert planned_model(configuration(vision), cache=cache).tokens == 5
    assert "not kept there, Not a directory" in said[-1]


@pytest.mark.parametrize(
    ("model", "data", "task", "classes"),
    [
        ("vit-b16", {"name": "icons-200"}, "image-classification", 200),
        ("vit-b16", {"name": "mine"}, "image-classification", 1000),
        ("minilm", {"name": "wordnet-glosses"}, "text-classification", 19),
        ("minilm", {"name": "fashion-mnist"}, "text-classification", 2),
        ("gpt2", {"name": "brown"}, "causal-lm", 2),
        ("gpt2", {"name": "wordnet-glosses"}, "text-classification", 19),
        ("gpt2", {"name": "fashion-mnist"}, "causal-lm", 2),
        ("gpt2", {"name": "brown", "task": "text-classification"}, "text-classification", 2),
    ],
)
def test_task_and_classes_follow_from_data_and_architecture(
    model: str, data: dict[str, Any], task: str, classes: int
) -> None:
    folder = known_config(model)
    assert folder is not None
    request = model_request(Config.model_validate({"model": model, "data": data}), folder)
    assert (request.task, request.classes) == (task, classes)


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_a_checkpoint_in_bfloat16_is_known_by_its_configuration(key: str, tmp_path: Path) -> None:
    folder = tiny.text_model(tmp_path / "llama", "llama")
    config = configuration(folder, data={"name": "brown", "max_tokens": 48})
    assert planned(config, tmp_path).checkpoint is Base.FLOAT32
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings.pop("dtype", None)
    text = json.dumps(settings | {key: "bfloat16"})
    (folder / "config.json").write_text(text, encoding="utf-8")
    assert planned(config, tmp_path).checkpoint is Base.BFLOAT16


def test_a_language_model_has_its_vocabulary_for_classes(tmp_path: Path) -> None:
    folder = tiny.text_model(tmp_path / "llama", "llama")
    found = planned(configuration(folder, data={"name": "brown", "max_tokens": 48}), tmp_path)
    vocabulary = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    assert (found.task, found.model.classes, found.tokens) == ("causal-lm", vocabulary, 48)


def test_texts_longer_than_the_model_reads_are_refused(tmp_path: Path) -> None:
    folder = tiny.text_model(tmp_path / "bert", "bert")
    data = {"name": "wordnet-glosses", "max_tokens": 513}
    with pytest.raises(ModelError, match=r"data\.max_tokens is 513, and .* reads 512 at most"):
        planned(configuration(folder, data=data), tmp_path)


def test_packed_documents_that_would_see_each_other_are_refused(tmp_path: Path) -> None:
    """As a run does, which knows it from the same small copy; a plan's later ones need no torch."""
    data = {"name": "brown", "max_tokens": 48, "packing": "documents"}
    llama = tiny.text_model(tmp_path / "llama", "llama")
    assert planned(configuration(llama, data=data), tmp_path).tokens == 48
    bloom = tiny.text_model(tmp_path / "bloom", "llama")
    sizes = {"vocab_size": 14, "hidden_size": 24, "n_layer": 4, "n_head": 2, "pad_token_id": 0}
    BloomForCausalLM(BloomConfig(**sizes)).save_pretrained(bloom)
    planned(configuration(bloom, data={**data, "packing": "blocks"}), tmp_path)
    with pytest.raises(UnsupportedModelError, match="'bloom' cannot train on packed rows"):
        planned(configuration(bloom, data=data), tmp_path)


def test_the_labels_of_a_configuration_are_counted(vision: Path, tmp_path: Path) -> None:
    settings = json.loads((vision / "config.json").read_text(encoding="utf-8"))
    settings["id2label"] = {str(n): f"kind {n}" for n in range(7)}
    folder = tmp_path / "labelled"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert model_request(configuration(folder), folder).classes == 7


def test_a_hub_is_asked_for_the_configuration_alone(vision: Path, tmp_path: Path) -> None:
    files = {
        "config.json": (vision / "config.json").read_bytes(),
        "model.safetensors": b"weights that nobody asks for",
    }
    config = Config.model_validate({"model": "owner/tiny", "data": NO_DATA})
    with serve("owner/tiny", files) as (address, asked):
        hub = HuggingFaceHub(address, tmp_path / "hub")
        found = planned_model(config, cache=tmp_path, hub=hub)
    assert asked == ["config.json"]
    assert found.model.name == "owner/tiny"
    assert planned_model(config, cache=tmp_path, hub=hub) == found  # the hub is gone


def test_what_is_no_model_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("not JSON", encoding="utf-8")
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        planned(configuration(tmp_path), tmp_path / "cache")
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ModelError, match="holds no configuration of a model"):
        planned(configuration(tmp_path), tmp_path / "cache")


def test_an_architecture_that_cannot_be_split_is_told_why(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}', encoding="utf-8")
    with pytest.raises(ModelError, match=r"of model type 't5'.*set data.task to see why"):
        planned(configuration(tmp_path), tmp_path / "cache")
    data = {"name": "data-of-mine", "task": "text-classification"}
    with pytest.raises(UnsupportedModelError, match="an encoder-decoder has two stacks"):
        planned(configuration(tmp_path, data=data), tmp_path / "cache")


def test_images_that_no_patch_divides_are_told(vision: Path, tmp_path: Path) -> None:
    data = {**NO_DATA, "image_size": 30}
    with pytest.raises(ModelError, match="30x30 pixels cannot be cut into patches of 14x14"):
        planned(configuration(vision, data=data), tmp_path)


def test_without_torch_a_new_model_is_told_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from cutlayer.config.read import read_config\n"
        "from cutlayer.jobs.model_spec import planned_model\n"
        "from cutlayer.errors import ConfigError\n"
        "try: planned_model(read_config(None, {'model.name': 'gpt2'}))\n"
        "except ConfigError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"CUTLAYER_CACHE": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
    )
    assert "needs torch: pip install 'cutlayer[train]'" in done.stdout


def test_the_built_in_model_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cutlayer.config.schema import Config;"
        "from cutlayer.jobs.model_spec import planned_model;"
        f"found = planned_model(Config(), cache=Path({str(tmp_path)!r}));"
        "print(found.tokens, sorted({'torch', 'transformers', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "17 []"
