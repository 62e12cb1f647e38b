"""Reads a checkpoint folder into a device part, a server part or a whole model.

A part reads only its own weights from the safetensors files. What was read can be made again of
these weights, in another process that shares their memory. Knows neither rows nor training.
"""

import copyreg
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from cutlayer.data.find import model_fault
from cutlayer.errors import ModelError, UnsupportedModelError, reason
from cutlayer.model.adapted import AdaptedModel, check_adapter, is_within
from cutlayer.model.base import (
    SCALES,
    base_of,
    named_tensors,
    pack_model,
    packed_names,
    restored,
)
from cutlayer.model.blocks import (
    Anatomy,
    Injection,
    empty_weight,
    keep_device,
    keep_server,
    strip,
)
from cutlayer.model.checkpoint import check_finite, check_weights
from cutlayer.model.described import AdapterSpec
from cutlayer.model.placement import ON_HOST, Placement
from cutlayer.model.positions import at_image_size, fit_positions
from cutlayer.model.proof import examine
from cutlayer.model.split import DevicePart, ServerPart, WholeModel
from cutlayer.model.tasks import read_config, task_class, task_config
from cutlayer.spec import ActivationPolicy, Base, Task, Trained

# as safetensors calls the types of weights
_TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


# a run that starts from no adapter
NOTHING: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class HeldWeights:
    """In place of a folder: a part's weights in memory, by their names in a file, and the
    configuration of the model. What is made of them reads them where they are."""

    config: PreTrainedConfig
    tensors: Mapping[str, Tensor]

    def __str__(self) -> str:
        return "memory"


Source: TypeAlias = Path | HeldWeights


def load_device_part(
    path: Source,
    task: Task,
    cut: int,
    adapter: AdapterSpec,
    *,
    classes: int,
    image_size: int | None = None,
    placement: Placement = ON_HOST,
    trained: Trained = Trained.ADAPTERS,
    start: Mapping[str, Tensor] = NOTHING,
) -> DevicePart:
    """The embedding and blocks 1..cut of the model in a folder that `save_pretrained` wrote.

    `classes`: labels of the head, which this side never holds; any value for a language model.
    `image_size` [pixel]: the side of the images, as `at_image_size` takes it; every part of a model
    is read with the same. `start`: what slots begin with, by name; those that are not named begin
    as new ones.
    Raises ModelError for a folder, cut or adapter that does not fit, UnsupportedModelError for an
    architecture that cannot be split.
    """
    plan = _plan(path, task, adapter, classes, trained, image_size)
    model, known = _read_device(plan, cut, placement)
    adapted = plan.adapted(model, {**known, **start}, placement, patches=True, head=False)
    return DevicePart(adapted, task, cut)


def device_tensors(
    path: Path,
    task: Task,
    cut: int,
    adapter: AdapterSpec,
    *,
    classes: int,
    image_size: int | None = None,
    placement: Placement = ON_HOST,
) -> dict[str, Tensor]:
    """The frozen weights of `load_device_part` by name: a folder that has these alone, beside the
    model's small files, gives the same part. Raises what it raises."""
    plan = _plan(path, task, adapter, classes, Trained.ADAPTERS, image_size)
    model, _ = _read_device(plan, cut, placement)
    return named_tensors(model)


def load_server_part(
    path: Source,
    task: Task,
    cut: int,
    adapter: AdapterSpec,
    *,
    classes: int,
    image_size: int | None = None,
    placement: Placement = ON_HOST,
    trained: Trained = Trained.ADAPTERS,
    activation_memory: ActivationPolicy = ActivationPolicy.KEEP,
    label_smoothing: float = 0.0,
    start: Mapping[str, Tensor] = NOTHING,
) -> ServerPart:
    """Blocks cut+1..L, final norm and head of the model in a folder.

    Embeddings that are tied to a language model's head are read once, as the head.
    `classes`: labels of the head; any value for a language model. A head that the checkpoint lacks
    must be trained (`AdapterSpec.head`), or ModelError is raised, as for all that
    `load_device_part` names.
    """
    plan = _plan(path, task, adapter, classes, trained, image_size)
    _check_cut(cut, plan.anatomy)
    injection = Injection()
    model, known = _read(
        plan,
        placement,
        lambda model: keep_server(model, plan.anatomy, cut, injection),
        unneeded=plan.anatomy.before,
    )
    adapted = plan.adapted(model, {**known, **start}, placement, patches=False, head=True)
    return ServerPart(adapted, task, cut, injection, activation_memory, label_smoothing)


def device_part_again(part: DevicePart) -> Callable[[], DevicePart]:
    """What makes the part of its own weights, and can be pickled. Rows are the caller's: those that
    it makes are new ones."""
    return partial(
        load_device_part, _held_weights(part.adapted), part.task, part.cut, **_made_by(part.adapted)
    )


def server_part_again(part: ServerPart) -> Callable[[], ServerPart]:
    """As `device_part_again`."""
    return partial(
        load_server_part,
        _held_weights(part.adapted),
        part.task,
        part.cut,
        activation_memory=part.activation_memory,
        label_smoothing=part.label_smoothing,
        **_made_by(part.adapted),
    )


# so a part crosses to another process: its weights, and what makes it of them
copyreg.pickle(DevicePart, lambda part: (device_part_again(part), ()))
copyreg.pickle(ServerPart, lambda part: (server_part_again(part), ()))


def _held_weights(adapted: AdaptedModel) -> HeldWeights:
    tensors = {**adapted.frozen(), **adapted.trained_from}
    return HeldWeights(
        adapted.model.config, {name: value.detach() for name, value in tensors.items()}
    )


def _made_by(adapted: AdaptedModel) -> dict[str, Any]:
    return {
        "adapter": adapted.spec,
        "classes": adapted.model.config.num_labels,
        "placement": adapted.placement,
        "trained": adapted.trained,
    }


def load_whole(
    path: Path,
    task: Task,
    adapter: AdapterSpec | None,
    *,
    classes: int,
    image_size: int | None = None,
    placement: Placement = ON_HOST,
    below: tuple[int, Base] | None = None,
    trained: Trained = Trained.ADAPTERS,
) -> WholeModel:
    """The unsplit model in a folder, with the adapters of both sides, or, if that is None, with
    none. `below`: the embedding and so many blocks are held in these numbers.

    Raises what `load_server_part` raises.
    """
    plan = _plan(path, task, adapter, classes, trained, image_size)
    model, known = _read(plan, placement, lambda model: None, below=below)
    return WholeModel(plan.adapted(model, known, placement, patches=True, head=True), task)


@dataclass(frozen=True, eq=False)
class MappedModel:
    """A model whose weights are those of its file, in the file's numbers, and mapped from it where
    they can be. `blocks`: the name of its list of them."""

    model: PreTrainedModel
    blocks: str


def load_mapped(path: Path, task: Task, *, classes: int, trains_head: bool) -> MappedModel:
    """The unsplit model in a folder, to be read weight by weight; `trains_head`: the file may lack
    the classifier's head. Raises as `load_whole`."""
    plan = _plan(path, task, None, classes, Trained.ADAPTERS)
    stored = _stored(_checked(path))
    if stored.packed:
        raise ModelError(f"the weights in {path} are held as {base_of(stored.packed)}, not floats")

    def as_the_file_has_them(model: PreTrainedModel) -> None:
        for parameter in model.parameters():
            parameter.data = parameter.data.to(stored.dtype)

    model, info = _from_pretrained(plan, _pruned_class(plan.model_class, as_the_file_has_them))
    check_weights(path, plan.anatomy, info, plan.classes, trains_head)
    return MappedModel(model, plan.anatomy.blocks)


@dataclass(frozen=True)
class _Plan:
    """What is to be read of a folder. `classes`: None of a language model."""

    path: Source
    task: Task
    adapter: AdapterSpec | None
    trained: Trained
    config: PreTrainedConfig
    model_class: type[PreTrainedModel]
    anatomy: Anatomy
    classes: int | None
    trains_head: bool

    def bases(self, base: Base, below: tuple[int, Base] | None) -> Callable[[str], Base]:
        """The base of a weight by its name: `below` has how many blocks, with what comes before
        them, are held in other numbers."""
        if below is None:
            return lambda name: base
        count, other = below
        units = (*self.anatomy.before, *(f"{self.anatomy.blocks}.{n}" for n in range(count)))
        return lambda name: other if is_within(name, units) else base

    def adapted(
        self,
        model: PreTrainedModel,
        known: Mapping[str, Tensor],
        placement: Placement,
        *,
        patches: bool,
        head: bool,
    ) -> AdaptedModel:
        """The model that was read, with its adapters in place."""
        return AdaptedModel(
            model,
            self.anatomy,
            self.adapter,
            known,
            patches=patches,
            head=head,
            trained=self.trained,
            placement=placement,
        )


def _plan(
    path: Source,
    task: Task,
    adapter: AdapterSpec | None,
    classes: int,
    trained: Trained,
    image_size: int | None = None,
) -> _Plan:
    """Everything that can be known, and refused, before any weight is read."""
    config = path.config if isinstance(path, HeldWeights) else path
    config = at_image_size(task_config(read_config(config), task, classes), task, image_size)
    model, anatomy = examine(config, task)
    if adapter is not None:
        check_adapter(model, anatomy, adapter, task)
    if trained is Trained.WEIGHTS and (model.all_tied_weights_keys or anatomy.shared):
        what = "embedding is its head" if model.all_tied_weights_keys else "parts share weights"
        raise UnsupportedModelError(
            f"{type(model).__name__}'s {what}, and a cut would train two copies of them: train"
            " adapters (fl-lora), or take a model that does not share them"
        )
    head = adapter is not None and adapter.head
    trains_head = head or (trained is Trained.WEIGHTS and task != "causal-lm")
    known = None if task == "causal-lm" else classes
    return _Plan(
        path, task, adapter, trained, config, task_class(config, task), anatomy, known, trains_head
    )


def _check_cut(cut: int, anatomy: Anatomy) -> None:
    if not 1 <= cut < anatomy.count:
        raise ModelError(
            f"cut is {cut}; a model of {anatomy.count} blocks can be cut after block "
            f"1..{anatomy.count - 1}"
        )


def _read_device(
    plan: _Plan, cut: int, placement: Placement
) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    _check_cut(cut, plan.anatomy)
    return _read(plan, placement, lambda model: keep_device(model, plan.anatomy, cut))


def _read(
    plan: _Plan,
    placement: Placement,
    prune: Callable[[PreTrainedModel], None],
    unneeded: Sequence[str] = (),
    below: tuple[int, Base] | None = None,
) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """The pruned model with its weights; and of what starts as it is in the checkpoint (a head to
    be trained, or all weights), what the checkpoint has. `unneeded`: modules that are read for
    others that share their weights. `below`: as of `load_whole`."""
    path = _checked(plan.path)
    stored = _stored(path)
    if stored.packed and base_of(stored.packed) is not placement.base:
        raise ModelError(
            f"the weights in {path} are held as {base_of(stored.packed)}, {placement.base} is asked"
            " for: they cannot be made into other numbers"
        )
    shapes: dict[str, tuple[int, ...]] = {}

    def cut_off(model: PreTrainedModel) -> None:
        for parameter in model.parameters():
            parameter.data = parameter.data.to(placement.dtype)
        prune(model)
        shapes.update(_leave_packed(model, stored.packed))
        for parameter in model.parameters():  # as the file has them, so that they stay mapped
            parameter.data = parameter.data.to(stored.dtype)

    model, info = _from_pretrained(plan, _pruned_class(plan.model_class, cut_off))
    for tensors in _by_file(path):
        info = fit_positions(model, info, tensors, placement.dtype)
    absent = check_weights(path, plan.anatomy, info, plan.classes, plan.trains_head)
    trained = {
        name
        for name, _ in model.named_parameters()
        if plan.trained is Trained.WEIGHTS
        or (plan.trains_head and is_within(name, plan.anatomy.head))
    }
    for unit in unneeded:
        strip(model.get_submodule(unit))
    base_of_place = plan.bases(placement.base, below)
    bad = pack_model(model, plan.anatomy.blocks, base_of_place, placement.dtype, trained)
    check_finite(path, [name for name in bad if name not in absent])
    _put_packed(path, model, stored.packed, shapes, placement.dtype)
    return model, {
        name: parameter.detach().float().clone()
        for name, parameter in model.named_parameters()
        if name in trained - absent
    }


def _checked(path: Source) -> Source:
    """The same. Raises ModelError for a folder whose weights cannot be read."""
    why = None if isinstance(path, HeldWeights) else model_fault(path)
    if why is not None:
        raise ModelError(f"the weights in {path} cannot be read: {why}")
    return path


def _from_pretrained(
    plan: _Plan, pruned: type[PreTrainedModel]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model as transformers reads it, and what it says of that."""
    # transformers draws initial values for a missing head from torch's global generator
    with _quiet(), torch.random.fork_rng(devices=[]):
        try:
            path = plan.path
            loaded: Any = pruned.from_pretrained(
                None if isinstance(path, HeldWeights) else path,
                state_dict=dict(path.tensors) if isinstance(path, HeldWeights) else None,
                config=plan.config,
                dtype=torch.float32,  # of what its code makes itself
                local_files_only=True,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                key_mapping=_renamed(plan),
            )
        except MemoryError:
            raise
        except Exception as error:  # what the library raises over damaged weights is open
            why = reason(error)
            raise ModelError(f"the weights in {plan.path} cannot be read: {why}") from error
    model, info = loaded
    return model, info


def _renamed(plan: _Plan) -> dict[str, str] | None:
    """Patterns of names in the files of a model of which this is a part, and the part's own names;
    None where the names are its own, or transformers knows them."""
    names = [name for name, _ in _stored_parts(plan.path)]
    own, _, inner = plan.anatomy.blocks.rpartition(".")
    found = {
        match[1]
        for name in names
        if (match := re.fullmatch(rf"(?:(.*)\.)?{re.escape(inner)}\.0\..*", name))
    }
    outer = {prefix or "" for prefix in found}
    base = own.split(".")[0] if own else ""
    if outer & {own, own.removeprefix(base).removeprefix(".")} or not outer:
        return None
    language = sorted(prefix for prefix in outer if re.search(r"language_model|text_model", prefix))
    vision = sorted(prefix for prefix in outer if "vision" in prefix)
    chosen = vision if plan.task == "image-classification" else language
    if len(chosen) != 1:
        return None
    # what follows the name of the base model may be the same on both sides
    tail = own.removeprefix(base).removeprefix(".")
    prefix = chosen[0].removesuffix(tail).removesuffix(".")
    mapping = {rf"^{re.escape(prefix)}\.": f"{base}."}
    stem = prefix.rpartition(".")[0]
    for unit in plan.anatomy.head:
        if any(name.startswith(f"{stem}.{unit}.") for name in names):
            mapping[rf"^{re.escape(stem)}\.{re.escape(unit)}\."] = f"{unit}."
    return mapping


@dataclass(frozen=True)
class _Stored:
    """What is said of a source's weights: the type of most of their values, and those that are
    packed."""

    dtype: torch.dtype
    packed: Mapping[str, Base]


def _stored(path: Source) -> _Stored:
    sizes: dict[torch.dtype, int] = {}
    names = []
    for name, part in _stored_parts(path):
        names.append(name)
        kind = _TYPES.get(part.get_dtype()) if not isinstance(part, Tensor) else part.dtype
        shape = part.shape if isinstance(part, Tensor) else part.get_shape()
        if kind is not None:
            sizes[kind] = sizes.get(kind, 0) + math.prod(shape)
    packed = packed_names(names)
    kind = max(_TYPES.values(), key=lambda kind: sizes.get(kind, 0))
    return _Stored(torch.float32 if packed else kind, packed)


def _stored_parts(path: Source) -> Iterator[tuple[str, Any]]:
    """Every stored tensor by name: itself, or a safetensors slice, which knows type and shape."""
    if isinstance(path, HeldWeights):
        yield from path.tensors.items()
        return
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (no mapping)
                yield name, opened.get_slice(name)


def _leave_packed(model: nn.Module, packed: Mapping[str, Base]) -> dict[str, tuple[int, ...]]:
    """Take the weights that a file has packed out of a model, which transformers cannot read; their
    shapes."""
    shapes = {}
    for name, parameter in list(model.named_parameters()):
        if name in packed:
            module, _, attribute = name.rpartition(".")
            shapes[name] = tuple(parameter.shape)
            empty_weight(model.get_submodule(module), attribute)
    return shapes


def _put_packed(
    path: Source,
    model: nn.Module,
    packed: Mapping[str, Base],
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
) -> None:
    """Put these weights in their places, as they are stored."""
    for tensors in _by_file(path) if packed else ():
        for name in shapes.keys() & packed_names(tensors).keys():
            base, scales = packed[name], f"{name}.{SCALES}"
            weight = restored(
                base,
                shapes[name],
                tensors[f"{name}.{base}"](),
                tensors[scales]() if scales in tensors else None,
                dtype,
            )
            module, _, attribute = name.rpartition(".")
            frozen = nn.Parameter(weight, requires_grad=False)
            setattr(model.get_submodule(module), attribute, frozen)


def _by_file(path: Source) -> Iterator[Mapping[str, Callable[[], Tensor]]]:
    """What gives each stored tensor by name, file by file, while that is open."""
    if isinstance(path, HeldWeights):
        yield {name: partial(lambda value: value, value) for name, value in path.tensors.items()}
        return
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            yield {name: partial(opened.get_tensor, name) for name in opened.keys()}  # noqa: SIM118


def _pruned_class(
    model_class: type[PreTrainedModel], prune: Callable[[PreTrainedModel], None]
) -> type[PreTrainedModel]:
    """The class whose instances drop what they do not own before `from_pretrained` reads weights.

    The one place where we inherit an implementation: transformers reads exactly the weights that
    an instance has after `__init__`, so this is how a part never touches the others' bytes. Name
    and module stay, since transformers looks conversions of old weight names up by them.
    """

    def init(self: PreTrainedModel, config: PreTrainedConfig) -> None:
        model_class.__init__(self, config)
        prune(self)

    namespace: dict[str, Any] = {"__init__": init, "__module__": model_class.__module__}
    return type(model_class.__name__, (model_class,), namespace)


@contextmanager
def _quiet() -> Iterator[None]:
    """No report of the weights that a part leaves out on purpose, and no progress bar."""
    logging: Any = transformers_logging  # untyped
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
