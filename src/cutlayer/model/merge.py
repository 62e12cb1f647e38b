"""A model with an adapter in its weights, as a folder that `from_pretrained` reads.

`W += scale B A` in float32, weight by weight: of the base, what is read is mapped from its file and
given back, and what is written is in memory a shard at a time. The base's numbers are those of its
file, whatever a run held them in.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import final

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.pytorch_utils import Conv1D

from cutlayer.errors import ModelError
from cutlayer.files import json_text
from cutlayer.model.base import forget
from cutlayer.model.load import MappedModel, load_mapped
from cutlayer.model.peft_format import Changes
from cutlayer.model.tasks import loading_of, read_config
from cutlayer.spec import Task

# of one file of weights, and so of what is held in memory
SHARD_BYTES = 2**30
_GENERATION = "generation_config.json"


def merge_adapter(
    base: Path,
    task: Task,
    adapter: Path,
    to: Path,
    *,
    class_names: Sequence[str] = (),
    dtype: torch.dtype = torch.float32,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the model in the folder `base`, with the adapter in the folder `adapter` added, into
    the empty folder `to`.

    In float32 its logits are, to the bit, those of the base in float32 with the adapter added to
    its weights, by `load_adapter` or by PEFT's `merge_and_unload`; with the adapter kept apart they
    differ by rounding. `class_names`: of a classifier. Raises ModelError for an adapter that does
    not fit the model.
    """
    changes = Changes(adapter)
    mapped = load_mapped(base, task, classes=len(class_names) or 2, trains_head=bool(class_names))
    model = mapped.model
    changes.check_names(dict(model.named_parameters()))
    shards = _Shards(to, shard_bytes)
    # of what the file has more of, or transformers no class for, the names would be another model's
    as_in_file = loading_of(base, model) == "auto"
    for names in _units(mapped):
        merged = {name: _merged(model, name, changes, dtype) for name in names}
        shards.add(revert_weight_conversion(model, merged) if as_in_file else merged)
    shards.close()
    _write_config(mapped, task, base, to, class_names, dtype)


def _units(mapped: MappedModel) -> Iterator[list[str]]:
    """The names of the weights to be written: those of a block together, since a file may have its
    weights in another form; the others one by one. What is tied is written once."""
    model, blocks = mapped.model, f"{mapped.blocks}."
    left_out = {*model.all_tied_weights_keys, *(model._keys_to_ignore_on_save or ())}
    together: dict[str, list[str]] = {}
    for name in model.state_dict():
        if name not in left_out:
            block = name.removeprefix(blocks).partition(".")[0]
            unit = block if name.startswith(blocks) else name
            together.setdefault(unit, []).append(name)
    yield from together.values()


def _merged(model: PreTrainedModel, name: str, changes: Changes, dtype: torch.dtype) -> Tensor:
    module, _, attribute = name.rpartition(".")
    owner = model.get_submodule(module)
    weight: Tensor = getattr(owner, attribute).detach()
    change = changes.get(name)
    if change is not None:
        changed = change.of(weight, turned=isinstance(owner, Conv1D)).to(dtype)
        forget(weight)
        return changed
    if not weight.is_floating_point():
        return weight
    # a copy: the file that it is mapped from is not to be held
    plain = weight.to(dtype, copy=True).contiguous()
    forget(weight)
    return plain


@final
class _Shards:
    """Files of weights of at most so many bytes, unless one weight is larger, and their index."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._waiting: dict[str, Tensor] = {}
        self._written: list[list[str]] = []
        self._bytes = 0

    def add(self, weights: Mapping[str, Tensor]) -> None:
        """Take weights, by the names that the file has them under."""
        for name, weight in weights.items():
            if self._waiting and self._waiting_bytes + weight.nbytes > self._most_bytes:
                self._write()
            self._waiting[name] = weight.contiguous()
            self._bytes += weight.nbytes

    def close(self) -> None:
        """Write what waits, name all files, and list what is where."""
        self._write()
        count = len(self._written)
        if count == 1:
            self._part(1).rename(self._folder / "model.safetensors")
            return
        places = {}
        for number, names in enumerate(self._written, start=1):
            file = f"model-{number:05d}-of-{count:05d}.safetensors"
            self._part(number).rename(self._folder / file)
            places.update(dict.fromkeys(names, file))
        index = {"metadata": {"total_size": self._bytes}, "weight_map": places}
        path = self._folder / "model.safetensors.index.json"
        path.write_text(json_text(index, indent=1) + "\n", encoding="utf-8")

    @property
    def _waiting_bytes(self) -> int:
        return sum(weight.nbytes for weight in self._waiting.values())

    def _write(self) -> None:
        self._written.append(list(self._waiting))
        save_file(self._waiting, self._part(len(self._written)), {"format": "pt"})
        self._waiting = {}

    def _part(self, number: int) -> Path:
        return self._folder / f".part-{number}"


def _write_config(
    mapped: MappedModel,
    task: Task,
    base: Path,
    to: Path,
    class_names: Sequence[str],
    dtype: torch.dtype,
) -> None:
    """The base's own configuration, dropout and all, as that of what was trained."""
    config, trained = read_config(base), mapped.model.config
    if type(config) is not type(trained):  # of a part of a larger model
        config = trained
    config.architectures = [type(mapped.model).__name__]
    config.dtype = str(dtype).removeprefix("torch.")
    if class_names:
        config.id2label = dict(enumerate(class_names))
        config.label2id = {name: place for place, name in enumerate(class_names)}
        if task == "text-classification":
            # a decoder's classifier reads the last token that is not this
            config.pad_token_id = trained.pad_token_id
    config.save_pretrained(to)
    if (base / _GENERATION).is_file() and not class_names:
        shutil.copyfile(base / _GENERATION, to / _GENERATION)


def copy_model(folder: Path, to: Path) -> None:
    """The configuration and weights of a model, file by file. Raises ModelError where there are
    none."""
    names = [*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")]
    if not names or not (folder / "config.json").is_file():
        raise ModelError(f"{folder} is no model: it has no config.json, or no weights")
    for path in (*names, folder / "config.json", folder / _GENERATION):
        if path.is_file():
            shutil.copyfile(path, to / path.name)
