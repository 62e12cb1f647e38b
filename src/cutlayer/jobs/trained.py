"""What a run leaves for others: a folder with what was trained, and all that whoever takes it
needs.

An adapter as PEFT has it, or a whole model; beside it the tokenizer or the images' preprocessing,
the settings (`cutlayer.yaml`), what is known of where it comes from (`cutlayer.json`), and the same
as a model card (`README.md`): `jobs.facts`.
"""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cutlayer.config.read import SETTINGS_FILE, config_yaml
from cutlayer.data.assets.catalogue import RECORD
from cutlayer.data.find import FoundAsset
from cutlayer.errors import ModelError, RunError, reason
from cutlayer.files import write_folder_atomically
from cutlayer.jobs.facts import (
    ADAPTERS,
    CARD_FILE,
    FACTS_FILE,
    FORMAT,
    MODELS,
    BaseFacts,
    TrainedFacts,
    Which,
    model_card,
)
from cutlayer.jobs.prepare import Job
from cutlayer.model.inputs import save_tokenizer
from cutlayer.model.peft_format import read_adapter, save_adapter
from cutlayer.model.tasks import loading_of, read_config, unread_padding
from cutlayer.spec import Trained
from cutlayer.training.records import scored
from cutlayer.training.run_directory import RunDirectory
from cutlayer.training.run_log import Keep
from cutlayer.training.state import RunState
from cutlayer.version import __version__

_CHAT_TEMPLATE = "chat_template.jinja"  # as transformers calls it
_PREPROCESSING = ("preprocessor_config.json", "processor_config.json")


def save_trained(job: Job, state: RunState, directory: RunDirectory, which: Which) -> None:
    """Put what `state` holds into the run's directory, whole, in the place of what was there: an
    adapter, or, of a scheme that trains all weights, a model; where each device keeps its own, one
    for each that took part in the round, in `device-0`, `device-1`, ...

    The run's record of the state's round is there already. Raises StorageError.
    """
    device, server = (part.adapted.layout for part in job.setup.parts)
    facts = _facts(job, state.round, directory)
    whole = job.setup.training.scheme.trained is Trained.WEIGHTS

    def write(to: Path) -> None:
        if state.device.row.ndim == state.server.row.ndim == 1:
            write_one(to, 0)
            return
        numbers = range(len(job.setup.devices)) if state.devices is None else state.devices
        for place, number in enumerate(numbers):
            (to / f"device-{number}").mkdir(parents=True)
            write_one(to / f"device-{number}", place)

    def write_one(to: Path, place: int) -> None:
        below, above = state.device.of(place).cpu(), state.server.of(place).cpu()
        named = {**device.named(below), **server.named(above)}
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
        add_companions(
            to, facts, config_yaml(job.config), job.found.path, job.prepared.chat_template
        )

    folders = MODELS if whole else ADAPTERS
    write_folder_atomically(directory.path / folders[which], write)


def keep(job: Job, directory: RunDirectory) -> Keep:
    """What puts the trained into the run's directory as a round ends."""

    def write(state: RunState, best: bool) -> None:
        # the best first: where there is a last there is a best
        for which in ("best", "last") if best else ("last",):
            save_trained(job, state, directory, which)

    return write


def kept_state(job: Job, directory: RunDirectory, last: RunState) -> RunState:
    """What is kept of the best round: `last` with that round's trained values, and no more.

    Raises RunError for a folder that cannot be read.
    """
    whole = job.setup.training.scheme.trained is Trained.WEIGHTS
    folder = directory.path / (MODELS if whole else ADAPTERS)["best"]
    personal = last.device.row.ndim + last.server.row.ndim > 2
    devices, folders = last.devices, [folder]
    if personal and devices is not None:  # those that took part in the best round
        devices = tuple(sorted(int(one.name.partition("-")[2]) for one in folder.iterdir()))
    if personal:
        numbers = range(len(job.setup.devices)) if devices is None else devices
        folders = [folder / f"device-{n}" for n in numbers]
    try:
        named = [
            load_file(one / "model.safetensors") if whole else read_adapter(one) for one in folders
        ]
    except (OSError, SafetensorError, ModelError) as error:
        raise RunError(
            f"what the best round trained cannot be read: {reason(error)}; without {folder} the"
            " run's best round is not known any more: start a new run"
        ) from error
    layouts = [part.adapted.layout for part in job.setup.parts]
    device, server = (
        replace(side, row=_rows([layout.join(one) for one in named], like=side.row))
        for layout, side in zip(layouts, (last.device, last.server), strict=True)
    )
    return replace(last, device=device, server=server, devices=devices)


def _rows(rows: Sequence[torch.Tensor], *, like: torch.Tensor) -> torch.Tensor:
    """One row, or one a device, as a state has them."""
    return rows[0] if like.ndim == 1 else torch.stack(list(rows))


def add_companions(
    folder: Path, facts: TrainedFacts, settings: str, base: Path, chat_template: str | None
) -> None:
    """Put beside what was trained all that belongs to it; `base`: the folder of the weights;
    `chat_template`: what the tokenizer makes a text of turns by, instead of its own."""
    if facts.task == "image-classification":
        for name in _PREPROCESSING:
            if (base / name).is_file():
                shutil.copyfile(base / name, folder / name)
    else:
        decides = facts.task == "text-classification"
        save_tokenizer(base, folder, unread_padding(read_config(base)) if decides else None)
        if chat_template is not None:
            (folder / _CHAT_TEMPLATE).write_text(chat_template, encoding="utf-8")
    (folder / SETTINGS_FILE).write_text(settings, encoding="utf-8")
    text = json.dumps(asdict(facts), indent=1) + "\n"
    (folder / FACTS_FILE).write_text(text, encoding="utf-8")
    card = model_card(facts, is_model=(folder / "config.json").is_file())
    (folder / CARD_FILE).write_text(card, encoding="utf-8")


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
    scores = {record.round: score for record, score in scored(directory.records())}
    known = number in scores and 0 in scores
    noted = json.loads(directory.fingerprint_path.read_text(encoding="utf-8"))
    files: dict[str, str] = noted["model_files"]  # as the run began: no need to read them again
    return TrainedFacts(
        format=FORMAT,
        version=__version__,
        task=task,
        class_names=() if task == "causal-lm" else tuple(data.class_names),
        base=_base_facts(config.model.name, job.found, files),
        loading=loading_of(job.found.path, job.setup.server.part.adapted.model),
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
