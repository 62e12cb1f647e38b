"""What is known of something that was trained: the facts beside it, its model card, and where a run
has it.

A run leaves folders with an adapter, or a whole model, each with `cutlayer.json`, which has these
facts, and `cutlayer.yaml`, the settings; so have those that `export` and `merge` write. Imports no
torch; who writes such folders is `jobs.trained`.
"""

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeGuard

import yaml
from pydantic import TypeAdapter, ValidationError

from cutlayer.config.read import SETTINGS_FILE, read_written
from cutlayer.config.schema import Config
from cutlayer.data.assets.catalogue import known_asset
from cutlayer.data.samples import Source
from cutlayer.errors import ConfigError, RunError, column_listing
from cutlayer.spec import Loading, Task
from cutlayer.training.records import Score

FACTS_FILE = "cutlayer.json"
CARD_FILE = "README.md"
# what is answered: a text, or a conversation's turns, each with role and content
Prompt: TypeAlias = str | Sequence[Mapping[str, Any]]
# which round's adapter, and the folder that a run has it in
Which: TypeAlias = Literal["last", "best"]
ADAPTERS: Mapping[Which, str] = {"last": "adapter", "best": "adapter-best"}
# of a run that trains all weights
MODELS: Mapping[Which, str] = {"last": "model", "best": "model-best"}

FORMAT = 1
# tokens of an answer at most, unless somebody says how many
MOST_NEW = 256
# how the hub calls what a model does
_PIPELINES: Mapping[Task, str] = {
    "causal-lm": "text-generation",
    "text-classification": "text-classification",
    "image-classification": "image-classification",
}
AUTO_CLASSES: Mapping[Task, str] = {
    "causal-lm": "AutoModelForCausalLM",
    "text-classification": "AutoModelForSequenceClassification",
    "image-classification": "AutoModelForImageClassification",
}
_WIDTH = 100


@dataclass(frozen=True)
class BaseFacts:
    """The weights that were trained over. `weights`: what names these very ones to transformers, a
    hub id with its `revision` or a folder of the machine that trained; `package`: the one that they
    came in; `hub_id`: what the hub calls this model, whose weights there may be others; `files`:
    SHA-256 by name."""

    name: str
    weights: str
    source: Source
    path: str
    hub_id: str | None
    revision: str | None
    package: str | None
    licence: str | None
    files: Mapping[str, str]


@dataclass(frozen=True)
class TrainedFacts:
    """What was trained, on what, and how far. `numbers`: of the base's blocks on devices, and of
    the others. `scores`: before training, and after this round. `merged`: the numbers of a model
    that an adapter was merged into; None of an adapter by itself."""

    format: int
    version: str
    task: Task
    class_names: tuple[str, ...]
    base: BaseFacts
    loading: Loading
    cut: int
    numbers: tuple[str, str]
    data: str
    data_source: Source
    devices: int
    samples: int | None
    round: int
    rounds: int
    scores: tuple[Score, Score] | None
    merged: str | None = None


_FACTS = TypeAdapter(TrainedFacts)


def read_facts(folder: Path) -> TrainedFacts:
    """What the folder says of itself. Raises RunError for one that says nothing that we can
    read."""
    path = folder / FACTS_FILE
    try:
        facts = _FACTS.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        why = str(error).split("\n")[0]
        raise RunError(
            f"{path} cannot be read ({why}): give a run of this version, or a folder that"
            " `cutlayer export` or `cutlayer merge` wrote"
        ) from error
    if facts.format != FORMAT:
        raise RunError(f"{path} is of format {facts.format}, not {FORMAT}: of another version")
    return facts


@dataclass(frozen=True)
class TrainedFolder:
    """A folder with an adapter or a model, what is known of it, and the settings it was trained
    with."""

    path: Path
    facts: TrainedFacts
    config: Config

    @property
    def is_model(self) -> bool:
        """Whether it is a model by itself."""
        return (self.path / "config.json").is_file()


def open_trained(path: Path, which: Which = "last") -> TrainedFolder:
    """What a run has come to, finished or not, or what `cutlayer export` or `cutlayer merge` wrote.

    Raises RunError for another folder, and for a run without a finished round.
    """
    if not path.is_dir():
        raise RunError(f"{path}: no such run directory")
    if (path / "config.yaml").is_file():
        path = _within(path, which)
    elif not (path / FACTS_FILE).is_file():
        raise RunError(
            f"{path} is no run (it has no config.yaml), and nothing that `cutlayer export` or"
            f" `cutlayer merge` wrote (it has no {FACTS_FILE})"
        )
    return TrainedFolder(path, read_facts(path), read_written(path / SETTINGS_FILE))


def check_generates(folder: TrainedFolder, doing: str) -> None:
    """Raises ConfigError for a model that generates no text."""
    facts = folder.facts
    if facts.task != "causal-lm":
        raise ConfigError(
            f"{doing}: {folder.path} is for {facts.task} ({column_listing(facts.class_names)}), and"
            " writes no text; `cutlayer evaluate` says how often it is right"
        )


def is_prompt(value: object) -> TypeGuard[Prompt]:
    """Whether it can be answered."""
    if isinstance(value, str):
        return bool(value)
    return (
        isinstance(value, Sequence)
        and bool(value)
        and all(isinstance(turn, Mapping) and {"role", "content"} <= turn.keys() for turn in value)
    )


def _within(run: Path, which: Which) -> Path:
    for folders in (ADAPTERS, MODELS):
        own = sorted((run / folders[which]).glob("device-*"))
        if own:
            raise RunError(
                f"each device of {run} has what it trained for itself: name one of them, such as"
                f" {own[0]}"
            )
        if (run / folders[which]).is_dir():
            return run / folders[which]
    raise RunError(f"{run} has nothing trained yet: wait until its first round has finished")


# The model card: what a person reads, and the front matter that the hub reads.


def model_card(facts: TrainedFacts, *, is_model: bool) -> str:
    """The README.md of a folder with an adapter, or, if it `is_model`, with a model."""
    front = yaml.safe_dump(_front(facts, is_model), sort_keys=False, allow_unicode=True)
    what = "Model" if is_model else "LoRA adapter"
    return (
        f"---\n{front}---\n\n# {what}: {_short(facts.base.name)} on {_short(facts.data)}\n\n"
        + "\n".join(f"* {line}" for line in _told(facts, is_model))
        + f"\n\n{_use(facts, is_model)}"
    )


def _use(facts: TrainedFacts, is_model: bool) -> str:
    if facts.loading == "own-head":
        return (
            "The head is cutlayer's, and transformers has no class of this model with one:"
            " `cutlayer evaluate FOLDER DATA` and `model.name` take it.\n"
        )
    if facts.loading == "part" and not is_model:
        return (
            "The base is a larger model, of which this is over a part: `cutlayer merge FOLDER OUT`"
            " writes that part as a model that transformers loads.\n"
        )
    return (
        "To use it, with `folder` this folder or what the hub calls it:\n\n"
        f"```python\n{_loading(facts, is_model)}```\n"
    )


def _front(facts: TrainedFacts, is_model: bool) -> dict[str, Any]:
    base = facts.base
    same = base.weights == base.hub_id
    front: dict[str, Any] = {"library_name": "transformers" if is_model else "peft"}
    # of weights that the hub does not have, the hub's name would promise others
    if same and base.hub_id is not None:
        relation = "finetune" if is_model else "adapter"
        front |= {"base_model": base.hub_id, "base_model_relation": relation}
    if base.licence is not None and re.fullmatch(r"[\w.-]+", base.licence):
        front["license"] = base.licence.lower()
    front["pipeline_tag"] = _PIPELINES[facts.task]
    data = known_asset(facts.data, "data")
    hub_data = data.hub_id if data is not None else facts.data
    if facts.data_source == "hub" and hub_data is not None:
        front["datasets"] = [hub_data]
    return {**front, "tags": ["cutlayer", "lora", "split-learning"]}


def _told(facts: TrainedFacts, is_model: bool) -> list[str]:
    base = facts.base
    below, above = facts.numbers
    return [
        f"base: `{base.weights}`{_came(base)}",
        *_other_weights(base),
        *_sums(base),
        f"numbers of the base in training: embedding and blocks 1 to {facts.cut} in {below}, the"
        f" others and the head in {above}; {_numbers(facts, is_model)}",
        f"task: {facts.task}{_classes(facts)}",
        f"data: {_short(facts.data)} (from {facts.data_source}){_samples(facts)}",
        f"training: split fine-tuning over {facts.devices} devices, round {facts.round} of"
        f" {facts.rounds}",
        *_figures(facts),
        f"settings: `{SETTINGS_FILE}`; all of this for programs: `{FACTS_FILE}`; made by cutlayer"
        f" {facts.version}",
        *([] if base.licence is None else [f"licence of the base: {base.licence}"]),
    ]


def _came(base: BaseFacts) -> str:
    if base.source == "hub":
        return f" (from the hub, revision {base.revision})" if base.revision else " (from the hub)"
    came = f", which came in {base.package}" if base.package else ""
    return f" (from {base.source}: {base.path}{came})"


def _other_weights(base: BaseFacts) -> list[str]:
    if base.hub_id is None or base.weights == base.hub_id:
        return []
    known = known_asset(base.hub_id, "model")
    again = ""
    if known is not None and base.package is not None:
        again = f"; `cutlayer assets get {known.name}` gets these on another machine"
    return [
        f"the hub calls this model `{base.hub_id}`, and may have other weights of it, over which"
        f" the adapter gives other results{again}"
    ]


def _sums(base: BaseFacts) -> list[str]:
    weights = [f"{name} {sum_}" for name, sum_ in base.files.items() if "safetensors" in name]
    if len(weights) == 1:
        return [f"SHA-256 of the base: {weights[0]}"]
    return [f"SHA-256 of the base's {len(weights)} files: in `{FACTS_FILE}`"] if weights else []


def _numbers(facts: TrainedFacts, is_model: bool) -> str:
    if facts.merged is not None:
        return f"the adapter is merged into the base's own weights, in {facts.merged}"
    if is_model:
        return "all weights were trained, and are here in float32"
    return "over other numbers the adapter gives other results"


def _classes(facts: TrainedFacts) -> str:
    names = facts.class_names
    if not names:
        return ""
    return f", {len(names)} classes: {textwrap.shorten(', '.join(names), 200, placeholder=' ...')}"


def _samples(facts: TrainedFacts) -> str:
    if facts.samples is None:
        return ", the devices' own"
    return f", {facts.samples} training samples"


def _figures(facts: TrainedFacts) -> list[str]:
    if facts.scores is None:
        return []
    first, now = facts.scores
    return [
        f"{now.measure} on held-out samples: {first.value:.4g} before training, {now.value:.4g}"
        f" after round {facts.round}"
    ]


def _loading(facts: TrainedFacts, is_model: bool) -> str:
    auto, base = AUTO_CLASSES[facts.task], facts.base
    texts = facts.task != "image-classification"
    reads = "AutoTokenizer" if texts else "AutoImageProcessor"
    lines = [f"from transformers import {auto}, {reads}", "", 'folder = "."']
    given = ['dtype="float32"']
    if texts:
        lines.append("tokenizer = AutoTokenizer.from_pretrained(folder)")
    if is_model:
        lines.append(f"model = {auto}.from_pretrained(folder, {', '.join(given)})")
    else:
        lines.insert(0, "from peft import PeftModel")
        if base.revision is not None:
            given.append(f'revision="{base.revision}"')
        if facts.class_names:
            given += [f"num_labels={len(facts.class_names)}", "ignore_mismatched_sizes=True"]
        if facts.task == "text-classification":
            # a decoder's classifier reads the last token that is not this
            given.append("pad_token_id=tokenizer.pad_token_id")
        words = "".join(f"    {word},\n" for word in (json.dumps(base.weights), *given))
        lines.append(f"base = {auto}.from_pretrained(\n{words})")
        lines.append("model = PeftModel.from_pretrained(base, folder)")
    return "\n".join(lines) + "\n"


def _short(name: str) -> str:
    """Of a path its last part: where it lies here is nobody's business."""
    return textwrap.shorten(Path(name).name or name, _WIDTH, placeholder=" ...")
