"""Reads a checkpoint folder into a device part, a server part or a whole model.

A part reads only its own weights from the safetensors files. Knows neither rows nor training.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from cutlayer.data.faults import reason
from cutlayer.data.model_folder import fault
from cutlayer.errors import ModelError, UnsupportedModelError
from cutlayer.model.adapted import AdaptedModel, check_adapter
from cutlayer.model.anatomy import Anatomy, examine, meta_model
from cutlayer.model.hollow import Injection, answer, inject_at, pass_through, stop_at, strip
from cutlayer.model.inputs import example_inputs
from cutlayer.model.lora import AdapterSpec
from cutlayer.model.split import DevicePart, ServerPart, WholeModel
from cutlayer.model.tasks import read_config, task_class, task_config
from cutlayer.model.weights import check_finite, check_weights, within
from cutlayer.spec import Task, Trained


def load_device_part(
    path: Path,
    task: Task,
    cut: int,
    adapter: AdapterSpec,
    *,
    classes: int,
    dtype: torch.dtype = torch.float32,
    trained: Trained = Trained.ADAPTERS,
) -> DevicePart:
    """The embedding and blocks 1..cut of the model in a folder that `save_pretrained` wrote.

    `classes`: labels of the head, which this side never holds; any value for a language model.
    Raises ModelError for a folder, cut or adapter that does not fit, UnsupportedModelError for an
    architecture that cannot be split.
    """
    plan = _plan(path, task, adapter, classes, trained)
    _check_cut(cut, plan.anatomy)
    model, known = _read(path, plan, dtype, lambda model: _keep_device(model, plan.anatomy, cut))
    adapted = AdaptedModel(
        model, plan.anatomy, adapter, known, patches=True, head=False, trained=trained
    )
    return DevicePart(adapted, task, cut)


def device_tensors(
    path: Path,
    task: Task,
    cut: int,
    adapter: AdapterSpec,
    *,
    classes: int,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """The frozen weights of `load_device_part` by name: a folder that has these alone, beside the
    model's small files, gives the same part. Raises what it raises."""
    plan = _plan(path, task, adapter, classes, Trained.ADAPTERS)
    _check_cut(cut, plan.anatomy)
    model, _ = _read(path, plan, dtype, lambda model: _keep_device(model, plan.anatomy, cut))
    return dict(model.state_dict())


def load_server_part(
    path: Path,
    task: Task,
    cut: int,
    adapter: AdapterSpec,
    *,
    classes: int,
    dtype: torch.dtype = torch.float32,
    trained: Trained = Trained.ADAPTERS,
) -> ServerPart:
    """Blocks cut+1..L, final norm and head of the model in a folder.

    Embeddings that are tied to a language model's head are read once, as the head.
    `classes`: labels of the head; any value for a language model. A head that the checkpoint lacks
    must be trained (`AdapterSpec.head`), or ModelError is raised, as for all that
    `load_device_part` names.
    """
    plan = _plan(path, task, adapter, classes, trained)
    _check_cut(cut, plan.anatomy)
    injection = Injection()
    model, known = _read(
        path, plan, dtype, lambda model: _keep_server(model, plan.anatomy, cut, injection)
    )
    for unit in plan.anatomy.before:  # what was read as the head is there already
        strip(model.get_submodule(unit))
    adapted = AdaptedModel(
        model, plan.anatomy, adapter, known, patches=False, head=True, trained=trained
    )
    return ServerPart(adapted, task, cut, injection)


def load_whole(
    path: Path,
    task: Task,
    adapter: AdapterSpec,
    *,
    classes: int,
    dtype: torch.dtype = torch.float32,
    trained: Trained = Trained.ADAPTERS,
) -> WholeModel:
    """The unsplit model in a folder, with the adapters of both sides.

    Raises what `load_server_part` raises.
    """
    plan = _plan(path, task, adapter, classes, trained)
    model, known = _read(path, plan, dtype, lambda model: None)
    adapted = AdaptedModel(
        model, plan.anatomy, adapter, known, patches=True, head=True, trained=trained
    )
    return WholeModel(adapted, task)


@dataclass(frozen=True)
class _Plan:
    config: PreTrainedConfig
    model_class: type[PreTrainedModel]
    anatomy: Anatomy
    classes: int | None
    trains_head: bool
    trained: Trained


def _plan(path: Path, task: Task, adapter: AdapterSpec, classes: int, trained: Trained) -> _Plan:
    """Everything that can be known, and refused, before any weight is read."""
    config = task_config(read_config(path), task, classes)
    model = meta_model(config, task)
    anatomy = examine(model, example_inputs(model, task))
    check_adapter(model, anatomy, adapter, task)
    if trained is Trained.WEIGHTS and model.all_tied_weights_keys:
        raise UnsupportedModelError(
            f"{type(model).__name__}'s embedding is its head, and a cut would train two copies of"
            " it: train adapters (fl-lora), or take a model that does not tie them"
        )
    trains_head = adapter.head or (trained is Trained.WEIGHTS and task != "causal-lm")
    known = None if task == "causal-lm" else classes
    return _Plan(config, task_class(config, task), anatomy, known, trains_head, trained)


def _check_cut(cut: int, anatomy: Anatomy) -> None:
    if not 1 <= cut < anatomy.count:
        raise ModelError(
            f"cut is {cut}; a model of {anatomy.count} blocks can be cut after block "
            f"1..{anatomy.count - 1}"
        )


def _keep_device(model: PreTrainedModel, anatomy: Anatomy, cut: int) -> None:
    blocks = _blocks(model, anatomy)
    stop_at(blocks[cut])
    for block in blocks[cut + 1 :]:
        pass_through(block, anatomy.output_length)
    for unit in anatomy.after:
        strip(model.get_submodule(unit))
    model.all_tied_weights_keys = {}


def _keep_server(model: PreTrainedModel, anatomy: Anatomy, cut: int, injection: Injection) -> None:
    blocks = _blocks(model, anatomy)
    inject_at(blocks[0], injection, anatomy.output_length)
    for block in blocks[1:cut]:
        pass_through(block, anatomy.output_length)
    tied = set(model.all_tied_weights_keys.values())
    for unit in anatomy.before:
        answer(model.get_submodule(unit), injection.zeros)
        if not any(source.startswith(f"{unit}.") for source in tied):
            strip(model.get_submodule(unit))


def _blocks(model: PreTrainedModel, anatomy: Anatomy) -> nn.ModuleList:
    blocks = model.get_submodule(anatomy.blocks)
    assert isinstance(blocks, nn.ModuleList)
    return blocks


def _read(
    path: Path, plan: _Plan, dtype: torch.dtype, prune: Callable[[PreTrainedModel], None]
) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """The pruned model with its weights; and of what starts as it is in the checkpoint (a head to
    be trained, or all weights), what the checkpoint has."""
    why = fault(path)
    if why is not None:
        raise ModelError(f"the weights in {path} cannot be read: {why}")
    pruned = _pruned_class(plan.model_class, prune)
    # transformers draws initial values for a missing head from torch's global generator
    with _quiet(), torch.random.fork_rng(devices=[]):
        try:
            loaded: Any = pruned.from_pretrained(
                path,
                config=plan.config,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except MemoryError:
            raise
        except Exception as error:  # what the library raises over damaged weights is open
            why = reason(error)
            raise ModelError(f"the weights in {path} cannot be read: {why}") from error
    model, info = loaded
    absent = check_weights(path, plan.anatomy, info, plan.classes, plan.trains_head)
    check_finite(path, model, absent)
    return model, {
        name: parameter.detach().float().clone()
        for name, parameter in model.named_parameters()
        if name not in absent
        and (
            plan.trained is Trained.WEIGHTS
            or (plan.trains_head and within(name, plan.anatomy.head))
        )
    }


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
