"""What a run began with, and with what it may go on."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Literal

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from cutlayer.codec.codec import Codec, CodecPair
from cutlayer.codec.kernels.kernels import Kernels
from cutlayer.codec.memories import Delta, ErrorFeedback
from cutlayer.codec.pipeline import LearnedBasis
from cutlayer.codec.references import References
from cutlayer.codec.staged import StagedCodec
from cutlayer.config.read import config_yaml, flat_values
from cutlayer.data.samples import digest_of, digest_of_order
from cutlayer.errors import ConfigError, RunError, cut
from cutlayer.files import write_json, write_text
from cutlayer.jobs.build import start_folder
from cutlayer.jobs.check import may_change
from cutlayer.jobs.prepare import Job
from cutlayer.training.run_directory import RunDirectory
from cutlayer.training.state import Setup

# Objects as texts that are equal for equal objects in another process: a fingerprint of code.
#
# Knows dataclasses and plain values; of anything else its class and what it keeps.


# longer lists are taken as their hash
_SHOWN = 16
# enough for what is decided by solving, which another machine does a little otherwise
_DIGITS = 9
# objects may know each other
_DEPTH = 8


def described(value: Any, depth: int = _DEPTH) -> str:
    """The value's class and fields, whatever its address; fields that do not count in comparing two
    of its kind are left out. Of what lies deeper than `depth`, the class alone."""
    if depth == 0:
        return type(value).__qualname__
    match value:
        case None | bool() | int() | str() | bytes():
            return value.name if isinstance(value, Enum) else repr(value)
        case float():
            return f"{value:.{_DIGITS}g}"
        case Enum():
            return value.name
        case np.ndarray() | np.generic():
            return _sequence("array", [described(one) for one in np.ravel(value).tolist()])
        case Tensor():
            return f"tensor {described(value.detach().to('cpu', torch.float64).numpy())}"
        case tuple() | list():
            return _sequence("", [described(one, depth - 1) for one in value])
        case set() | frozenset():
            return _sequence("set", sorted(described(one, depth - 1) for one in value))
        case Mapping():
            return _fields("", value, depth)
        case Kernels():  # how fast, not what; and a library's address is no two processes'
            return "Kernels"
        case type() | FunctionType() | BuiltinFunctionType() | MethodType():
            return value.__qualname__
    if is_dataclass(value):
        counted = {one.name: getattr(value, one.name) for one in fields(value) if one.compare}
        return _fields(type(value).__qualname__, counted, depth)
    return _fields(type(value).__qualname__, getattr(value, "__dict__", {}), depth)


def _fields(name: str, values: Mapping[Any, Any], depth: int) -> str:
    inner = ", ".join(f"{key}={described(value, depth - 1)}" for key, value in values.items())
    return f"{name}({inner})"


def _sequence(name: str, texts: list[str]) -> str:
    inner = ", ".join(texts)
    if len(texts) > _SHOWN:
        inner = f"{len(texts)} values, {hashlib.sha256(inner.encode()).hexdigest()[:16]}"
    return f"{name}({inner})"


# What a run began with, noted in its directory, so that it goes on with nothing else.
#
# A resumed run makes its inputs anew, from files and settings that may have changed meanwhile:
# class names in another order, for one, would swap the heads of a trained classifier without a
# word. All that decides a round is noted here, as a value or as a hash of it.


_LOG = logging.getLogger(__name__)

# what is read of a model's folder: its weights, its configuration, its tokenizer or preprocessing
_MODEL_FILES = (
    *("*.safetensors", "*.safetensors.index.json", "config.json", "*processor_config.json"),
    *("*token*", "vocab*", "merges*", "*.model", "*.jinja"),
)
# what is compared otherwise or decides no number: where things are, what is read from files
_ELSEWHERE = ("model", "devices", "clock", "group")
_TITLES = {
    "codecs": "the codec",
    "batches": "how samples are made into mini-batches",
    "allocation": "the bandwidth allocation",
    "accounting": "how costs are counted",
    "rules": "how links and server are shared",
    "server_flops_per_s": "what the server reaches [FLOP/s]",
    "schedule": "the learning rate's schedule, which ends with training.rounds,",
    "server_block_s": "what a block takes on the server at least [s]",
}
# characters of a value in a message
_LETTERS = 80


@dataclass(frozen=True)
class Noted:
    """What is in the file. Of samples: how many and a hash; None where devices have their own."""

    command: str
    settings: dict[str, Any]
    class_names: list[str]
    training_samples: list[Any] | None
    test_samples: list[Any]
    samples_per_device: list[int] | None
    samples_of_devices: str | None
    model_files: dict[str, str]
    objects: dict[str, str]
    # what computed it last, which may change
    ran_on: tuple[str, str] | None = None
    # what rounds are evaluated on; None: the test samples
    watched_samples: list[Any] | None = None


_NOTED = TypeAdapter(Noted)


def fingerprint(job: Job, command: Literal["train", "serve"]) -> Noted:
    """All that the run of a job is made of. `command`: whose run it is."""
    setup = job.setup
    train, test, watched = setup.devices[0].train, setup.server.test, setup.server.watched
    parts = tuple(device.plan.samples for device in setup.devices)
    same = train is test
    return Noted(
        command=command,
        settings={
            key: value for key, value in flat_values(job.config).items() if not may_change(key)
        },
        class_names=list(job.prepared.data.class_names),
        training_samples=None if same else [len(train), digest_of(train)],
        test_samples=[len(test), digest_of(test)],
        samples_per_device=None if same else [len(part) for part in parts],
        samples_of_devices=None if same else digest_of_order(parts),
        model_files={**model_digests(job.found.path), **_start_digests(job)},
        objects=dict(_objects(setup)),
        ran_on=setup.ran_on,
        watched_samples=None if watched is None else [len(watched), digest_of(watched)],
    )


def _start_digests(job: Job) -> dict[str, str]:
    """SHA-256 of the adapter that the run started from, by file."""
    folder = start_folder(job.config.adapter)
    found = {} if folder is None else model_digests(folder)
    weights = {name: digest for name, digest in found.items() if name.startswith("adapter_")}
    return {f"adapter.start_from/{name}": digest for name, digest in weights.items()}


def settle(job: Job, directory: RunDirectory, command: Literal["train", "serve"] = "train") -> None:
    """Note what a new run is made of; of one that goes on, compare it, and note what may change.

    Raises RunError, naming what differs, before anything is written.
    """
    path, finished = directory.fingerprint_path, directory.finished()
    directory.check_log()
    rounds, now = job.config.training.rounds, fingerprint(job, command)
    if finished is not None and rounds < finished:
        raise ConfigError(
            f"training.rounds is {rounds}, but {directory.path} has finished {finished}: give that"
            " many or more"
        )
    if finished is None:
        write_json(path, asdict(now))
    elif not path.exists():
        _LOG.warning(
            f"{directory.path} was begun by an older version, or its {path.name} was deleted:"
            " the current data, weights and settings are taken for those that it began with"
        )
        write_json(path, asdict(now))
    else:
        before = _read(path)
        _compare(before, now, directory, finished)
        _note_move(before, now, path)
    text = config_yaml(job.config)
    if directory.config_path.read_text(encoding="utf-8") != text:
        write_text(directory.config_path, text)


def _note_move(old: Noted, new: Noted, path: Path) -> None:
    """A run may go on elsewhere than it began: its sums are then of another order."""
    if old.ran_on == new.ran_on:
        return
    if old.ran_on is not None:
        was, goes_on = ("; ".join(noted.ran_on or ()) for noted in (old, new))
        _LOG.warning(
            f"this run was computed on {was} (devices' part; server's part) and goes on on"
            f" {goes_on}: its results are those of one machine within rounding, not to the bit"
        )
    write_json(path, asdict(replace(old, ran_on=new.ran_on)))


def _compare(old: Noted, new: Noted, directory: RunDirectory, finished: int) -> None:
    if old.command != new.command:
        raise RunError(
            f"{directory.path} is a run of {old.command}, not of {new.command}: resume it by"
            f" {old.command}"
        )
    changed = [*_changed_settings(old.settings, new.settings)]
    if not changed:
        changed += _changed_objects(old.objects, new.objects)
    data = [*_changed_data(old, new)]
    if data:
        changed.append(f"the data changed: {'; '.join(data)}")
    files = _changed_files(old.model_files, new.model_files)
    if files:
        changed.append(f"the model changed: {', '.join(files)}")
    if changed:
        raise RunError(
            f"{directory.path} cannot be resumed: since round {finished} {'; '.join(changed)}."
            " Restore it, or start a new run"
        )


def _changed_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for key in old:
        if key in new and old[key] != new[key]:
            yield f"{key} was {_short(old[key])}, config.yaml says {_short(new[key])}"


def _changed_objects(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    for key in old:
        if key in new and old[key] != new[key]:
            first, second = _apart(old[key], new[key])
            yield f"{_TITLES.get(key, key)} was {first} and is {second}"


def _changed_data(old: Noted, new: Noted) -> Iterator[str]:
    if old.class_names != new.class_names:
        before, now = (", ".join(names.class_names) for names in (old, new))
        yield "class names were {} and are {}".format(*_apart(before, now))
    whole = True
    for title, before_now in (
        ("training", (old.training_samples, new.training_samples)),
        ("test", (old.test_samples, new.test_samples)),
        ("evaluation's", (old.watched_samples, new.watched_samples)),
    ):
        first, second = before_now
        if first is not None and second is not None and first != second:
            whole = False
            (before, _), (now, _) = first, second
            yield (
                f"{before} {title} samples were there and {now} are"
                if before != now
                else f"the {now} {title} samples have different content or order"
            )
    dealt, now_dealt = old.samples_per_device, new.samples_per_device
    if dealt is None or now_dealt is None:
        return
    if dealt != now_dealt:
        yield f"{_short(dealt)} samples were assigned to devices and {_short(now_dealt)} are"
    elif whole and old.samples_of_devices != new.samples_of_devices:
        yield "devices have different samples"


def _changed_files(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def _short(value: Any) -> str:
    return cut(value if isinstance(value, str) else json.dumps(value))


def _apart(first: str, second: str) -> tuple[str, str]:
    """Both texts, cut; of long ones the place where they part."""
    if max(len(first), len(second)) <= _LETTERS:
        return first, second
    same = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), 0)
    begin = max(0, same - _LETTERS // 4)
    lead = "..." if begin else ""
    return lead + _short(first[begin:]), lead + _short(second[begin:])


def _read(path: Path) -> Noted:
    try:
        return _NOTED.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = str(error).split("\n")[0]
        raise RunError(
            f"{path} cannot be read: {reason}; delete it to go on without comparing the data,"
            " weights and settings with those that the run began with"
        ) from error


def _objects(setup: Setup) -> Iterator[tuple[str, str]]:
    """All that a round calls or counts with, whether the settings say so or a caller put it in."""
    codecs = setup.training.codecs
    timeless = CodecPair(_timeless(codecs.up), _timeless(codecs.down))
    training = replace(setup.training, codecs=timeless)
    for bundle in (training, setup.simulation):
        for one in fields(bundle):
            if one.name not in _ELSEWHERE:
                yield one.name, described(getattr(bundle, one.name))
    yield "batches", described(setup.server.batches)
    steps = [device.local_steps for device in setup.devices]
    yield "devices' local steps", described(steps)
    rates = [device.flops_per_s for device in setup.simulation.devices]
    yield "devices' rates", described(rates)
    yield "devices that share a pass (as the server's memory allows)", described(setup.together)


def _timeless(codec: Codec) -> Codec:
    """The codec without how long its streams will be, which follows the number of rounds."""
    match codec:
        case StagedCodec(transform=LearnedBasis() as basis):
            return replace(codec, transform=replace(basis, packets=None))
        case ErrorFeedback() | Delta() | References():
            return replace(codec, inner=_timeless(codec.inner))
        case _:
            return codec


def model_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of what is read of a model's folder, by file."""
    paths = {path for pattern in _MODEL_FILES for path in folder.glob(pattern) if path.is_file()}
    return {path.name: _digest(path) for path in sorted(paths)}


def _digest(path: Path) -> str:
    name = path.resolve().name
    # the hub's cache calls large files by their hash
    if path.is_symlink() and len(name) == 64 and set(name) <= set("0123456789abcdef"):
        return name
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
