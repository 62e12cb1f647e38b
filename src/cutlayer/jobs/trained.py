"""What a run leaves for others: a folder with what was trained, and all that whoever takes it
needs.

An adapter as PEFT has it, or a whole model; beside it the tokenizer or the images' preprocessing,
the settings (`cutlayer.yaml`), what is known of where it comes from (`cutlayer.json`), and the same
as a model card (`README.md`). What is read of such a folder afterwards is `jobs.use`'s.
"""

import json
import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
import yaml
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save_file

from cutlayer.config.read import config_yaml
from cutlayer.data.assets.catalogue import RECORD, known_asset
from cutlayer.data.find import FoundAsset
from cutlayer.data.samples import Source
from cutlayer.errors import RunError
from cutlayer.files import write_folder_atomically
from cutlayer.jobs.prepare import Job
from cutlayer.model.inputs import save_tokenizer
from cutlayer.model.peft_format import save_adapter
from cutlayer.model.tasks import read_config, unread_padding
from cutlayer.spec import Task, Trained
from cutlayer.training.records import Score
from cutlayer.training.run import Keep
from cutlayer.training.run_directory import RunDirectory
from cutlayer.training.state import RunState
from cutlayer.version import __version__

FACTS_FILE = "cutlayer.json"
SETTINGS_FILE = "cutlayer.yaml"
CARD_FILE = "README.md"
# which round's adapter, and the folder that a run has it in
Which: TypeAlias = Literal["last", "best"]
ADAPTERS: Mapping[Which, str] = {"last": "adapter", "best": "adapter-best"}
# of a run that trains all weights
MODELS: Mapping[Which, str] = {"last": "model", "best": "model-best"}

_FORMAT = 1
_PREPROCESSING = ("preprocessor_config.json", "processor_config.json")
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


def save_trained(job: Job, state: RunState, directory: RunDirectory, which: Which) -> None:
    """Put what `state` holds into the run's directory, whole, in the place of what was there: an
    adapter, or, of a scheme that trains all weights, a model.

    The run's record of the state's round is there already. Raises StorageError.
    """
    device, server = (part.adapted.layout for part in job.setup.parts)
    named = {**device.named(state.device.row.cpu()), **server.named(state.server.row.cpu())}
    facts = _facts(job, state.round, directory)
    whole = job.setup.training.scheme.trained is Trained.WEIGHTS

    def write(to: Path) -> None:
        if whole:
            _save_model(job, named, to)
        else:
            save_adapter(
                to,
                named,
                job.adapter,
                facts.base.weights,
                facts.task,
                transposed=job.setup.server.device_part.adapted.transposed,
                revision=facts.base.revision,
            )
        add_companions(to, facts, config_yaml(job.config), job.found.path)

    folders = MODELS if whole else ADAPTERS
    write_folder_atomically(directory.path / folders[which], write)


def keep(job: Job, directory: RunDirectory) -> Keep:
    """What puts the trained into the run's directory as a round ends."""

    def write(state: RunState, best: bool) -> None:
        # the best first: where there is a last there is a best
        for which in ("best", "last") if best else ("last",):
            save_trained(job, state, directory, which)

    return write


def add_companions(folder: Path, facts: TrainedFacts, settings: str, base: Path) -> None:
    """Put beside what was trained all that belongs to it; `base`: the folder of the weights."""
    if facts.task == "image-classification":
        for name in _PREPROCESSING:
            if (base / name).is_file():
                shutil.copyfile(base / name, folder / name)
    else:
        decides = facts.task == "text-classification"
        save_tokenizer(base, folder, unread_padding(read_config(base)) if decides else None)
    (folder / SETTINGS_FILE).write_text(settings, encoding="utf-8")
    text = json.dumps(asdict(facts), indent=1) + "\n"
    (folder / FACTS_FILE).write_text(text, encoding="utf-8")
    card = model_card(facts, is_model=(folder / "config.json").is_file())
    (folder / CARD_FILE).write_text(card, encoding="utf-8")


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
    if facts.format != _FORMAT:
        raise RunError(f"{path} is of format {facts.format}, not {_FORMAT}: of another version")
    return facts


def _save_model(job: Job, named: dict[str, torch.Tensor], folder: Path) -> None:
    """All weights as a folder that `from_pretrained` reads."""
    config = job.setup.server.part.adapted.model.config
    name_classes_in(config, job.prepared.data.class_names)
    config.save_pretrained(folder)
    whole = {name: value.contiguous() for name, value in named.items()}
    save_file(whole, folder / "model.safetensors", {"format": "pt"})


def name_classes_in(config: Any, class_names: Sequence[str]) -> None:
    """Let a model's configuration say what its classes are called; of a language model nothing."""
    if class_names and config.num_labels == len(class_names):
        config.id2label = dict(enumerate(class_names))
        config.label2id = {name: place for place, name in enumerate(class_names)}


def _facts(job: Job, number: int, directory: RunDirectory) -> TrainedFacts:
    config, data, task = job.config, job.prepared.data, job.prepared.task
    scores = {record.round: record.score for record in directory.records()}
    known = number in scores and 0 in scores
    noted = json.loads(directory.fingerprint_path.read_text(encoding="utf-8"))
    files: dict[str, str] = noted["model_files"]  # as the run began: no need to read them again
    return TrainedFacts(
        format=_FORMAT,
        version=__version__,
        task=task,
        class_names=() if task == "causal-lm" else tuple(data.class_names),
        base=_base_facts(config.model.name, job.found, files),
        cut=config.model.cut,
        numbers=(str(config.devices.base), str(config.server.base)),
        data=config.data.name,
        data_source=data.source,
        devices=len(job.setup.devices),
        # of devices that are machines of their own, nobody here knows
        samples=None if data.train is data.test else len(data.train),
        round=number,
        rounds=config.training.rounds,
        scores=(scores[0], scores[number]) if known else None,
    )


def _base_facts(name: str, found: FoundAsset, files: Mapping[str, str]) -> BaseFacts:
    record = _record(found.path)
    licence = record.get("licence") or (found.asset.licence if found.asset else None)
    return BaseFacts(
        name=name,
        weights=found.weights,
        source=found.source,
        path=str(found.path),
        hub_id=found.hub_id or (found.asset.hub_id if found.asset else None),
        revision=found.revision,
        package=record.get("package"),
        licence=licence or _licence_in_card(found.path),
        files=files,
    )


def _record(folder: Path) -> dict[str, Any]:
    """What the cache notes of a model that came in a package."""
    try:
        values = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _licence_in_card(folder: Path) -> str | None:
    try:
        text = (folder / CARD_FILE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:\s*([\w.-]+)\s*$", front[1] if front else "", re.MULTILINE)
    return found[1] if found else None


# The model card: what a person reads, and the front matter that the hub reads.


def model_card(facts: TrainedFacts, *, is_model: bool) -> str:
    """The README.md of a folder with an adapter, or, if it `is_model`, with a model."""
    front = yaml.safe_dump(_front(facts, is_model), sort_keys=False, allow_unicode=True)
    what = "Model" if is_model else "LoRA adapter"
    return (
        f"---\n{front}---\n\n# {what}: {_short(facts.base.name)} on {_short(facts.data)}\n\n"
        + "\n".join(f"* {line}" for line in _told(facts, is_model))
        + f"\n\nTo use it, with `folder` this folder or what the hub calls it:\n\n"
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
