"""The dimensions of a configuration's model, counted once and then read: no weights, no torch.

Counting takes torch and seconds, so that what was counted is kept in the cache, under a key of all
that decides it; the default job's and the examples' come with cutlayer.
"""

import contextlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from cutlayer.config.presets import find_preset
from cutlayer.config.schema import Config
from cutlayer.data.assets.catalogue import cache_root, known_asset
from cutlayer.data.find import Hub, find_config
from cutlayer.errors import ConfigError, ModelError, reason
from cutlayer.files import write_whole
from cutlayer.jobs.build import make_adapter
from cutlayer.model.described import (
    DescribedModel,
    ModelRequest,
    check_documents,
    described_text,
    likely_tasks,
    read_described,
)
from cutlayer.spec import Base, ModelSpec, Task
from cutlayer.version import __version__

_LOG = logging.getLogger(__name__)

SHIPPED = Path(str(files("cutlayer.planner") / "models"))


@dataclass(frozen=True)
class PlannedModel:
    """A model as a planner sees it, for a task; `tokens` of an image, or of the longest text.
    `checkpoint`: the numbers of its file, as far as its configuration says."""

    model: ModelSpec
    task: Task
    tokens: int
    checkpoint: Base = Base.FLOAT32


def planned_model(
    config: Config, *, cache: Path | None = None, hub: Hub | None = None
) -> PlannedModel:
    """The model that `config` names, with its adapters, for its task.

    The task is `data.task`; else that of the data, if it is known without reading them and the
    architecture has a head for it; else the architecture's first. The classes are those of such
    data, else what the model's configuration says. `cache`, `hub`: as of `find_model`.
    Weights are in the bases of both sides.
    Raises AssetError for a model that nobody has, ModelError for one that cannot be split or
    adapted as asked or for texts longer than it reads, ConfigError if torch is needed and missing.
    """
    name = config.model.name
    folder = find_config(name, cache=cache, hub=hub).path
    request = model_request(config, folder)
    described = _read_described(request, cache or cache_root())
    if described is None:
        _LOG.info(f"{name}: counting its parameters and activations, once")
        described = describe_request(request, folder)
        _keep(_kept(request, cache or cache_root()), described_text(described))
    tokens = described.image_tokens or config.data.max_tokens
    if described.most_tokens is not None and tokens > described.most_tokens:
        raise ModelError(
            f"data.max_tokens is {tokens}, and {name} reads {described.most_tokens} at most: lower"
            " it"
        )
    config.data.check_task(request.task)
    if config.data.packing == "documents":
        check_documents(str(request.settings.get("model_type")), described.documents_by)
    model = based(replace(described.model, name=name), config)
    return PlannedModel(model, request.task, tokens, _checkpoint(request.settings))


def based(model: ModelSpec, config: Config) -> ModelSpec:
    """The model with both sides' weights in the numbers that `config` says."""
    return replace(
        model, device_base=Base(config.devices.base), server_base=Base(config.server.base)
    )


def model_request(
    config: Config, folder: Path, task: Task | None = None, classes: int | None = None
) -> ModelRequest:
    """What `config` asks of the model whose `config.json` lies in `folder`.

    `task` and `classes` are what the data turned out to be; None: as `planned_model` takes them.
    Raises ModelError for a file that cannot be read or says nothing of a model.
    """
    settings = _settings(folder / "config.json")
    task = _task(config, settings) if task is None else task
    return ModelRequest(
        settings=settings,
        task=task,
        classes=_classes(config, settings, task) if classes is None else classes,
        image_size=config.data.image_size if task == "image-classification" else None,
        numbers=_numbers(config),
        adapter=make_adapter(config.adapter, task),
    )


def _numbers(config: Config) -> str:
    """The numbers of activations: float32 on a processor, whatever the base; on an accelerator
    bfloat16, unless the base is float32. What `auto` finds is not known here: a preset's GPU."""
    devices = config.devices
    if devices.base == "float32" or devices.device == "cpu":
        return "float32"
    if devices.device != "auto":
        return "bfloat16"
    named = (devices.preset,) if isinstance(devices.preset, str) else devices.preset or ()
    gpu = any(find_preset(name).processor == "GPU" for name in named)
    return "bfloat16" if gpu else "float32"


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {reason(error)}") from error
    if not isinstance(settings, dict):
        raise ModelError(f"{path} holds no configuration of a model")
    return settings


def _checkpoint(settings: Mapping[str, Any]) -> Base:
    named = settings.get("dtype", settings.get("torch_dtype"))
    return Base.BFLOAT16 if named == Base.BFLOAT16 else Base.FLOAT32


def _task(config: Config, settings: Mapping[str, Any]) -> Task:
    if config.data.task is not None:
        return config.data.task
    tasks = likely_tasks(settings)
    known = known_asset(config.data.name, "data")
    if known is not None and known.task is not None and known.task in (tasks or [known.task]):
        return known.task  # of a model that cannot be split, describing says why
    if not tasks:
        raise ModelError(
            f"{config.model.name} is of model type {settings.get('model_type')!r}, and its"
            " config.json does not say which task it is for; set data.task to see why"
        )
    # a decoder can classify texts too, but is made for the other
    return "causal-lm" if "causal-lm" in tasks else tasks[0]


def _classes(config: Config, settings: Mapping[str, Any], task: Task) -> int:
    """Labels of the head; 2, as transformers has it, where nothing says. A language model's head
    is its vocabulary, whatever this is."""
    data = known_asset(config.data.name, "data")
    if data is not None and data.task == task and data.classes is not None:
        return data.classes
    labels = settings.get("id2label")
    return len(labels) if isinstance(labels, dict) else int(settings.get("num_labels", 2))


def _read_described(request: ModelRequest, cache: Path) -> DescribedModel | None:
    """What comes with cutlayer or was kept; None for nothing, or something damaged."""
    for path in (SHIPPED / f"{request.key}.json", _kept(request, cache)):
        with contextlib.suppress(ConfigError):
            return read_described(path)
    return None


def _kept(request: ModelRequest, cache: Path) -> Path:
    return cache / "models-described" / __version__ / f"{request.key}.json"


def describe_request(request: ModelRequest, folder: Path) -> DescribedModel:
    """What is asked for, counted by the model's own code. Imports torch.

    Raises ModelError or UnsupportedModelError as `model.describe` does, ConfigError without torch.
    """
    try:
        from cutlayer.model.describe import count_described
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"describing a new model needs {error.name}: pip install 'cutlayer[train]'"
        ) from error
    return count_described(request, folder)


def _keep(path: Path, text: str) -> None:
    """Put a description into the cache, whole or not at all; a cache that cannot be written costs
    no more than counting again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda new: new.write_text(text, encoding="utf-8"))
    except OSError as error:
        _LOG.info(f"{path.parent}: not kept there, {error.strerror}")
