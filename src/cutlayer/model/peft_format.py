"""Adapters in PEFT's file format: `adapter_config.json` and `adapter_model.safetensors`.

A slot name is PEFT's tensor name without its wrapping, so both directions are renamings. Needs no
PEFT; knows of a model the names and shapes of its layers.
"""

import json
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from cutlayer.errors import ModelError, reason
from cutlayer.model.described import AdapterSpec, Value, check_pattern, ends_with
from cutlayer.model.lora import Slot
from cutlayer.spec import Task

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."

# variants of LoRA that a PEFT configuration may ask for, with the value that means plain LoRA
_PLAIN: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "use_dora": (False, None),
    "lora_bias": (False, None),
}


def save_adapter(
    directory: Path,
    named: Mapping[str, Tensor],
    spec: AdapterSpec,
    base_model: str,
    task: Task,
    *,
    transposed: bool = False,
    revision: str | None = None,
) -> None:
    """Write slots of both sides, merged, as an adapter that `peft` loads over the unsplit model.

    `named`: the slots of a device's row and a server's, by `Layout.named`. `transposed`: what
    `AdaptedModel` says of it (GPT-2's linear layers). `revision`: the hub's commit of the base.
    The configuration is written last, so that a folder that has one is complete. Raises ModelError
    for slots that do not fit the spec.
    """
    _check_tensors(named, spec, "the adapter")
    weights = {
        f"{_PREFIX}{name}.weight" if _is_lora(name) else f"{_PREFIX}{name}": value.detach()
        .to(torch.float32)
        .clone(memory_format=torch.contiguous_format)
        for name, value in named.items()
    }
    directory.mkdir(parents=True, exist_ok=True)
    save_file(weights, directory / WEIGHTS_FILE, metadata={"format": "pt"})
    config = _config(named, spec, base_model, task, transposed) | {"revision": revision}
    (directory / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read_adapter(directory: Path, spec: AdapterSpec | None = None) -> dict[str, Tensor]:
    """The slots in such a folder, also one that `peft` wrote; `Layout.join` makes rows of them.

    Raises ModelError for a folder that is incomplete, contradicts itself or holds another kind of
    adapter than plain LoRA, and for one that differs from `spec` if that is given.
    """
    own = _read_spec(directory / CONFIG_FILE)
    try:
        weights = load_file(directory / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{directory / WEIGHTS_FILE} cannot be read: {reason(error)}") from error
    named = {_slot_name(name): value for name, value in weights.items()}
    _check_tensors(named, own, str(directory))
    if spec is not None:
        _check_spec(directory, own, named, spec)
    return named


@dataclass(frozen=True)
class Change:
    """What an adapter does to one weight of the unsplit model: `value` takes its place, or is
    `added` to it, float32. `name`: the weight's; GPT-2's layers have theirs the other way round.
    """

    name: str
    value: Tensor
    added: bool
    source: Path

    def of(self, weight: Tensor, *, turned: bool) -> Tensor:
        """The changed weight, float32, on the weight's device; `turned`: the layer is a `Conv1D`.

        Raises ModelError for a weight that it does not fit.
        """
        value = self.value.T if turned and self.added else self.value
        fits = value.shape == weight.shape or (self.added and _same_rows(value, weight))
        if not (fits and weight.is_floating_point()):
            raise ModelError(
                f"the adapter in {self.source} has {tuple(value.shape)} for {self.name}, the model"
                f" {tuple(weight.shape)} of {weight.dtype}: load the model that it was trained"
                " over, with as many classes, not quantised"
            )
        value = value.to(weight.device).view(weight.shape)
        return weight.float() + value if self.added else value


class Changes:
    """What the adapter in a folder does to the weights of a model, by their names: `W += scale B A`
    in float32, and a trained head in the place of its own. Each is made when it is asked for.

    Raises ModelError as `read_adapter` does.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._spec = _read_spec(directory / CONFIG_FILE)
        self._named = read_adapter(directory)
        self._slots = {
            f"{slot.removesuffix('.lora_A')}.weight" if _is_lora(slot) else slot: slot
            for slot in self._named
            if not slot.endswith(".lora_B")
        }

    @property
    def names(self) -> tuple[str, ...]:
        """The weights that it changes."""
        return tuple(self._slots)

    def get(self, name: str) -> Change | None:
        """What becomes of the weight of this name; None: it stays as it is."""
        slot = self._slots.get(name)
        if slot is None:
            return None
        value, added = self._named[slot], _is_lora(slot)
        if added:
            module = slot.removesuffix(".lora_A")
            b = self._named[f"{module}.lora_B"]
            value = self._spec.scale_of(module) * (b.flatten(1) @ value.flatten(1))
        return Change(name, value, added, self._directory)

    def check_names(self, known: Container[str]) -> None:
        """Raises ModelError where a model with weights of these names lacks one of them."""
        for name in self._slots:
            if name not in known:
                raise ModelError(
                    f"the adapter in {self._directory} is for {name}, which the model does not"
                    " have: load the model that it was trained over, with its head"
                )


def load_adapter(model: nn.Module, directory: Path) -> None:
    """Add the adapter in such a folder to the weights of a whole model, and put a trained head in
    the place of its own: `W += scale B A`, in float32.

    Raises ModelError as `read_adapter` does, and for a model that lacks a layer of the adapter or
    has another shape of it; the model is then as it was.
    """
    changes, own = Changes(directory), dict(model.named_parameters())
    changes.check_names(own)
    layers = dict(model.named_modules())
    changed = []
    for name in changes.names:
        change = changes.get(name)
        assert change is not None
        turned = isinstance(layers[name.rpartition(".")[0]], Conv1D)
        changed.append((own[name], change.of(own[name].detach(), turned=turned)))
    with torch.no_grad():
        for weight, value in changed:
            weight.copy_(value)


def _same_rows(value: Tensor, weight: Tensor) -> bool:
    """Whether a product of matrices fits a convolution's weight."""
    return value.numel() == weight.numel() and value.shape[0] == weight.shape[0]


def _config(
    named: Mapping[str, Tensor], spec: AdapterSpec, base_model: str, task: Task, transposed: bool
) -> dict[str, object]:
    head = sorted({name.split(".")[0] for name in named if not _is_lora(name)})
    return {
        "peft_type": "LORA",
        "task_type": _task_type(task, trains_head=bool(head)),
        "base_model_name_or_path": base_model,
        "r": spec.rank,
        "lora_alpha": spec.alpha,
        "lora_dropout": spec.dropout,
        "target_modules": _pattern(named, spec),
        "modules_to_save": head or None,
        "fan_in_fan_out": transposed,
        "bias": "none",
        "use_rslora": spec.rslora,
        "use_dora": False,
        "inference_mode": True,
        **({"rank_pattern": dict(spec.rank_pattern)} if spec.rank_pattern else {}),
        **({"alpha_pattern": dict(spec.alpha_pattern)} if spec.alpha_pattern else {}),
    }


def _task_type(task: Task, trains_head: bool) -> str | None:
    if task == "causal-lm":
        return "CAUSAL_LM"
    # with this type PEFT expects a trained head in the folder
    return "SEQ_CLS" if task == "text-classification" and trains_head else None


def _pattern(named: Mapping[str, Tensor], spec: AdapterSpec) -> str:
    """A regular expression of the adapted modules: a list of names would also match outside the
    blocks, such as BERT's `pooler.dense`. Where it is not the same in all blocks, they are named.
    """
    modules = _modules(named)
    even = spec.layers is None and (spec.targets == "all" or isinstance(spec.targets, tuple))
    if even:
        return "|".join(
            sorted({re.sub(r"\\\.\d+\\\.", r"\\.\\d+\\.", re.escape(m)) for m in modules})
        )
    numbers: dict[tuple[str, str], list[int]] = {}
    for module in modules:
        parts = re.fullmatch(r"(.*?\.)(\d+)(\..*)", module)
        if parts is None:  # the patches'
            numbers[re.escape(module), ""] = []
        else:
            key = re.escape(parts[1]), re.escape(parts[3])
            numbers.setdefault(key, []).append(int(parts[2]))
    return "|".join(
        f"{before}({'|'.join(map(str, sorted(found)))}){after}" if found else before
        for (before, after), found in sorted(numbers.items())
    )


def _modules(named: Mapping[str, Tensor]) -> list[str]:
    """The modules that have an A."""
    return [name.removesuffix(".lora_A") for name in named if name.endswith(".lora_A")]


def _read_spec(path: Path) -> AdapterSpec:
    """What a folder's configuration says of its tensors; which modules, they say themselves."""
    config = _read_config(path)
    try:
        return AdapterSpec(
            rank=config["r"],
            alpha=float(config.get("lora_alpha", config["r"])),
            rank_pattern=_patterns(config, "rank_pattern", int),
            alpha_pattern=_patterns(config, "alpha_pattern", float),
            rslora=bool(config.get("use_rslora")),
        )
    except (ValueError, TypeError, AttributeError, ModelError) as error:
        raise ModelError(f"{path} is not the configuration of an adapter: {error}") from error


def _patterns(
    config: Mapping[str, Any], key: str, kind: Callable[[Any], Value]
) -> tuple[tuple[str, Value], ...]:
    given = config.get(key) or {}
    for pattern in given:
        check_pattern(pattern)
    return tuple((str(pattern), kind(value)) for pattern, value in given.items())


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{path.parent} is no folder of an adapter: it has no {path.name}"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be read as an adapter's configuration: {reason(error)}"
        ) from error
    if not isinstance(config, dict) or not isinstance(config.get("r"), int):
        raise ModelError(f"{path} is not the configuration of a LoRA adapter: it names no rank r")
    for key, plain in _PLAIN.items():
        if key in config and config[key] not in plain:
            raise ModelError(
                f"{path} has {key} {config[key]!r}; only plain LoRA can be read, with {plain[0]!r}"
            )
    return config


def _slot_name(name: str) -> str:
    if not name.startswith(_PREFIX):
        raise ModelError(f"the adapter's tensor {name} does not start with {_PREFIX!r}")
    slot = name.removeprefix(_PREFIX)
    for kind in (".lora_A", ".lora_B"):
        if slot.endswith(f"{kind}.weight"):
            return slot.removesuffix(".weight")
    if "lora_" in slot:
        raise ModelError(f"the adapter's tensor {name} is not of plain LoRA on a linear layer")
    return slot


def _check_tensors(named: Mapping[str, Tensor], spec: AdapterSpec, source: str) -> None:
    """Refuse an A without B (or the reverse), and one that is not of its rank."""
    modules = {name.rpartition(".")[0] for name in named if _is_lora(name)}
    for module in sorted(modules):
        a, b = named.get(f"{module}.lora_A"), named.get(f"{module}.lora_B")
        if a is None or b is None:
            raise ModelError(f"{source} has only one of lora_A and lora_B for {module}")
        rank = spec.rank_of(module)
        if a.shape[0] != rank or b.shape[1] != rank:
            raise ModelError(
                f"{source} is of rank {rank}, but has lora_A {tuple(a.shape)} and lora_B "
                f"{tuple(b.shape)} for {module}"
            )
    if not modules:
        raise ModelError(f"{source} holds no LoRA tensors")


def _check_spec(
    directory: Path, own: AdapterSpec, named: Mapping[str, Tensor], spec: AdapterSpec
) -> None:
    for what, there, here in _differences(own, named, spec):
        if there != here:
            raise ModelError(
                f"the adapter in {directory} has {what} {there}, where {here} is asked for"
            )


def _differences(
    own: AdapterSpec, named: Mapping[str, Tensor], spec: AdapterSpec
) -> Iterator[tuple[str, object, object]]:
    """(what, in the folder, in the spec) of all that must be equal."""
    modules = _modules(named)
    linear = {module for module in modules if named[f"{module}.lora_A"].ndim == 2}
    if not (own.rank_pattern or spec.rank_pattern):
        yield "rank", own.rank, spec.rank
    yield "rslora", own.rslora, spec.rslora
    if not (own.alpha_pattern or spec.alpha_pattern):
        yield "alpha", own.alpha, float(spec.alpha)
    for module in modules:
        yield f"for {module} rank", own.rank_of(module), spec.rank_of(module)
        yield f"for {module} a scale of", own.scale_of(module), spec.scale_of(module)
    yield "patch_embedding", len(linear) < len(modules), spec.patch_embedding
    yield "head", any(not _is_lora(name) for name in named), spec.head
    if isinstance(spec.targets, tuple):
        matched = {(m, t) for m in linear for t in spec.targets if ends_with(m, t)}
        yield "an adapter on", linear - {module for module, _ in matched}, set()
        yield "no adapter on", set(spec.targets) - {target for _, target in matched}, set()


def check_slots(directory: Path, named: Mapping[str, Tensor], slots: Iterable[Slot]) -> None:
    """Raise ModelError where what was read of a folder is for other slots than these, of both
    sides, or of another shape."""
    wanted = {slot.name: slot for slot in slots}
    for found, expected, what in (
        (named.keys(), wanted.keys(), "has values for {}, which nothing here is trained for"),
        (wanted.keys(), named.keys(), "has no values for {}, which is trained here"),
    ):
        more = sorted(found - expected)
        if more:
            raise ModelError(
                f"the adapter in {directory} {what.format(more[0])} ({len(more)} such in all): give"
                " the settings of adapter that it was trained with"
            )
    for name, slot in wanted.items():
        if tuple(named[name].shape) != slot.shape:
            raise ModelError(
                f"the adapter in {directory} has {tuple(named[name].shape)} for {name}, this model"
                f" {slot.shape}: start from one of the same model, with as many classes"
            )


def _is_lora(name: str) -> bool:
    return name.endswith((".lora_A", ".lora_B"))
