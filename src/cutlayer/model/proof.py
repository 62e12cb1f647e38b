"""Whether a model's two parts are the whole: tried on a tiny copy of it, before anything trains.

A path around the cut layer (a state that blocks hand on, the embedding read again) would give
plausible but wrong training. So a random copy of the very configuration, a few narrow blocks of it,
runs whole and split, and logits and the gradient of every adapter must be equal to the bit, padded
and not, at each cut between different blocks. What was found is kept in the cache.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from cutlayer.data.assets.catalogue import cache_root
from cutlayer.errors import CutlayerError, UnsupportedModelError, reason
from cutlayer.files import write_whole
from cutlayer.model.adapted import AdaptedModel
from cutlayer.model.blocks import (
    Anatomy,
    Injection,
    block_input,
    block_list,
    examine_model,
    keep_device,
    keep_server,
    meta_model,
    strip,
)
from cutlayer.model.described import AdapterSpec
from cutlayer.model.inputs import (
    DOCUMENTS_BY,
    channels,
    document_positions,
    example_inputs,
    image_sides,
    patch_count,
    patch_sides,
)
from cutlayer.model.reduced import block_kinds, outer_kinds, reduced_configs
from cutlayer.model.split import DevicePart, ServerPart, WholeModel
from cutlayer.model.tasks import fault_of_config, padding_id, task_class
from cutlayer.spec import Task
from cutlayer.version import __version__

_LOG = logging.getLogger(__name__)

# beyond it a copy is too large to be tried in seconds
_MOST_PARAMETERS = 10**8
_SAMPLES, _TOKENS = 3, 7
_LENGTHS = (7, 2, 5)
_MOST_CUTS = 5
_ADAPTER = AdapterSpec(rank=2, alpha=4.0)
# how far rounding may move a logit that another order of sums gives, in parts of the largest
_ROUNDING = 1e-3
# documents of packed rows, longer than a copy's windows; how far a logit may be from that alone
_DOCUMENTS = ((2, 5), (1, 4), (3, 2, 2))
_LEAK = 1e-4
_PROVEN: dict[str, Anatomy] = {}


def examine(
    config: PreTrainedConfig, task: Task, image_size: int | None = None
) -> tuple[PreTrainedModel, Anatomy]:
    """The task's model on the meta device, and its anatomy, once its split is proven.

    `image_size` [pixel]: the side of the images whose tokens are counted (None: as it was trained).
    Raises UnsupportedModelError, which says why, for a model whose parts are not the whole, and
    ModelError for a configuration that no model can be made of.
    """
    model = meta_model(config, task)
    return model, at_full_size(model, task, _proven(config, task, model), image_size)


def at_full_size(
    model: PreTrainedModel, task: Task, proven: Anatomy, image_size: int | None = None
) -> Anatomy:
    """The anatomy of a model on the meta device, from that of its small copy. Raises as `examine`
    does."""
    config, (_, blocks) = model.config, block_list(model)
    example = example_inputs(model, task, image_size)
    _, tokens, width = block_input(model, proven.blocks, example)
    whole = replace(proven, count=len(blocks), width=width, tokens=tokens)
    if task == "image-classification":
        sides = None if image_size is None else (image_size, image_size)
        whole = replace(whole, free_tokens=max(0, tokens - patch_count(config, sides)))
    return whole


def _proven(config: PreTrainedConfig, task: Task, model: PreTrainedModel) -> Anatomy:
    """What was found of this configuration before, else now."""
    key = _key(config, task)
    if key in _PROVEN:
        return _PROVEN[key]
    kept = cache_root() / "splits-proven" / __version__ / f"{key}.json"
    anatomy = _read(kept)
    if anatomy is None:
        began = time.monotonic()
        anatomy = prove(config, task, model)
        _LOG.debug(
            f"model type {config.model_type}: its two parts equal the whole in a small copy"
            f" ({time.monotonic() - began:.1f} s, once)"
        )
        _keep(kept, anatomy)
    _PROVEN[key] = anatomy
    return anatomy


def prove(config: PreTrainedConfig, task: Task, model: PreTrainedModel) -> Anatomy:
    """The anatomy of a small copy whose two parts are the whole; `model`: the task's, of this
    configuration, without values.

    Raises UnsupportedModelError if they are not, and for a model of which no copy can be made.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # for a model that draws, which is refused
            return _proven_copy(config, task, model)
    except (CutlayerError, MemoryError):
        raise
    except Exception as error:  # an architecture's own code may do anything
        raise UnsupportedModelError(
            f"{type(config).__name__} with this configuration cannot be examined: {reason(error)}"
        ) from error


def _proven_copy(config: PreTrainedConfig, task: Task, large: PreTrainedModel) -> Anatomy:
    model, example = _small_copy(config, task, large)
    anatomy = examine_model(model, example)
    anatomy = _without_unread(model, anatomy, example)
    anatomy = replace(anatomy, apart=_apart(model, anatomy, example))
    if task == "image-classification":
        free = max(0, anatomy.tokens - patch_count(model.config))
        anatomy = replace(anatomy, free_tokens=free)
    _check_cuts(model, anatomy, task, _cuts(block_kinds(block_list(model)[1])))
    if task == "causal-lm":
        anatomy = replace(anatomy, documents_by=_documents_by(model, anatomy))
    return anatomy


def _key(config: PreTrainedConfig, task: Task) -> str:
    settings = config.to_dict()
    for name in ("_name_or_path", "name_or_path", "id2label", "label2id", "transformers_version"):
        settings.pop(name, None)
    known = [settings, task, transformers.__version__, torch.__version__, _own_code()]
    text = json.dumps(known, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@cache
def _own_code() -> str:
    """A hash of what decides a proof here; a release has one, a checkout one a change."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _read(path: Path) -> Anatomy | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        lists = {name: tuple(v) for name, v in values.items() if isinstance(v, list)}
        return Anatomy(**{**values, **lists})
    except (OSError, ValueError, TypeError):
        return None


def _keep(path: Path, anatomy: Anatomy) -> None:
    text = json.dumps(asdict(anatomy), indent=1) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda new: new.write_text(text, encoding="utf-8"))
    except OSError as error:
        _LOG.info(f"{path.parent}: not kept there, {error.strerror}")


def _small_copy(
    config: PreTrainedConfig, task: Task, large: PreTrainedModel
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A random model of the smallest copy that runs and is made of the same modules as `large`,
    with an example for it."""
    last: Exception | None = None
    path, blocks = block_list(large)
    kinds, outside = block_kinds(blocks), outer_kinds(large, path)
    for small in reduced_configs(config, kinds):
        try:
            meta = meta_model(small, task)
            if sum(weight.numel() for weight in meta.parameters()) > _MOST_PARAMETERS:
                last = ValueError(last or "it is too large")
                continue
            found = block_kinds(block_list(meta)[1])
            if set(found) != set(kinds) or found != kinds[: len(found)]:
                last = ValueError("its blocks are others than the model's")
                continue
            if outer_kinds(meta, path) != outside:
                last = ValueError("what is around its blocks is other than the model's")
                continue
            model = _random_model(small, task)
            example = _on_host(example_inputs(model, task))
            with torch.no_grad():
                model(**example)
        except UnsupportedModelError:
            raise
        except Exception as error:  # each architecture checks its sizes in its own way
            last = error
            continue
        return model, example
    assert last is not None
    raise UnsupportedModelError(
        f"no small copy of {type(config).__name__} can be made to try its split on: {reason(last)}"
    ) from last


def _random_model(config: PreTrainedConfig, task: Task) -> PreTrainedModel:
    """Every weight random, norms and biases too, and of such a size that values stay."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]), fault_of_config(config):
        model = task_class(config, task)(deepcopy(config))
    model.train(False)
    with torch.no_grad():
        for weight in model.parameters():
            drawn = torch.randn(weight.shape, generator=generator)
            if weight.ndim > 1:
                weight.copy_(drawn * weight.shape[-1] ** -0.5)
            else:
                weight.add_(0.1 * drawn)
    return model


def _on_host(example: Mapping[str, Any]) -> dict[str, Any]:
    """Zeros in the place of an example's tensors without values; a mask of ones."""
    return {
        name: (torch.ones_like if name.endswith("mask") else torch.zeros_like)(value, device="cpu")
        if isinstance(value, Tensor) and value.is_meta
        else value
        for name, value in example.items()
    }


def _without_unread(
    model: PreTrainedModel, anatomy: Anatomy, example: Mapping[str, Any]
) -> Anatomy:
    """Tell modules that are read without being called from those that nothing reads: values that
    are no numbers show in the logits of the one."""
    unread = []
    for unit in anatomy.shared:
        module = dict(model.named_modules()).get(unit)
        if module is None:
            continue
        before = [weight.clone() for weight in module.parameters()]
        with torch.no_grad():
            for weight in module.parameters():
                weight.fill_(torch.nan)
            if torch.isfinite(model(**example).logits).all():
                unread.append(unit)
            for weight, value in zip(module.parameters(), before, strict=True):
                weight.copy_(value)
    shared = tuple(unit for unit in anatomy.shared if unit not in unread)
    return replace(anatomy, shared=shared, unread=tuple(unread))


def _apart(model: PreTrainedModel, anatomy: Anatomy, example: Mapping[str, Any]) -> tuple[str, ...]:
    """The linear layers of blocks that do not see twice as much of two samples as of one."""
    counted: list[dict[str, int]] = []
    for samples in (1, 2):
        rows: dict[str, int] = {}
        handles = [
            layer.register_forward_pre_hook(_count_rows(rows, name), with_kwargs=True)
            for block in model.get_submodule(anatomy.blocks).children()
            for name, layer in block.named_modules()
            if isinstance(layer, nn.Linear | Conv1D)
        ]
        given = {
            name: torch.cat([value] * samples) if isinstance(value, Tensor) else value
            for name, value in example.items()
        }
        try:
            with torch.no_grad():
                model(**given)
        finally:
            for handle in handles:
                handle.remove()
        counted.append(rows)
    one, two = counted
    return tuple(sorted(name for name, rows in two.items() if rows != 2 * one.get(name, 0)))


def _count_rows(rows: dict[str, int], name: str) -> Callable[..., None]:
    def enter(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else next(iter(kwargs.values()))
        rows[name] = rows.get(name, 0) + given.numel() // given.shape[-1]

    return enter


def _cuts(kinds: Sequence[Hashable]) -> list[int]:
    """The first and the last cut, and the first between each two kinds of blocks."""
    between = {(kinds[cut - 1], kinds[cut]): cut for cut in range(len(kinds) - 1, 0, -1)}
    ends = [1, len(kinds) - 1]
    return list(dict.fromkeys([*ends, *sorted(between.values())]))[:_MOST_CUTS]


def _check_cuts(model: PreTrainedModel, anatomy: Anatomy, task: Task, cuts: Sequence[int]) -> None:
    name = type(model).__name__
    spec = replace(_ADAPTER, head=task != "causal-lm")
    whole = WholeModel(_adapted(deepcopy(model), anatomy, spec, True, True), task)
    row = whole.adapted.initial_row(0)
    row += 0.1 * torch.randn(row.shape, generator=torch.Generator().manual_seed(1))
    named = whole.adapted.layout.named(row)
    batches = list(_batches(model.config, task))
    if not any(slot.name.startswith(f"{anatomy.blocks}.") for slot in whole.adapted.layout.slots):
        raise UnsupportedModelError(f"{name}'s blocks have no linear layers that adapters fit")
    try:
        expected = [_run_whole(whole, row, *batches[0])]
        # images of another size than it was trained on are not for every model
        with suppress(*((RuntimeError, ValueError) if task == "image-classification" else ())):
            expected += [_run_whole(whole, row, *batch) for batch in batches[1:]]
    except CutlayerError:
        raise
    except Exception as error:
        raise UnsupportedModelError(
            f"{name} does not run with adapters on its linear layers: {reason(error)}"
        ) from error
    _check_samples(name, whole, row, batches[0][0], expected[0][0], task)
    for cut in cuts:
        device, server = _parts(model, anatomy, spec, task, cut)
        for (inputs, lengths), (logits, gradients) in zip(batches, expected, strict=False):
            try:
                found = _run_parts(device, server, named, inputs, lengths)
            except CutlayerError:
                raise
            except Exception as error:
                raise UnsupportedModelError(
                    f"{name} cannot be split after block {cut}: the part behind it reads more than"
                    f" the hidden states ({reason(error)})"
                ) from error
            differing = _difference(found, (logits, gradients))
            if differing is not None:
                raise UnsupportedModelError(
                    f"{name} cannot be split after block {cut}: its blocks read more than the"
                    f" hidden states of the block before, so {differing} of the two parts differ"
                    " from those of the whole"
                )


def _documents_by(model: PreTrainedModel, anatomy: Anatomy) -> str | None:
    """The first of `DOCUMENTS_BY` with which packed documents have the logits that each has alone,
    in the whole model and over a cut."""
    for by in DOCUMENTS_BY:
        packing = replace(anatomy, documents_by=by)
        try:
            if _documents_apart(model, packing):
                return by
        except Exception as error:  # it takes no such input, or does not run with it
            _LOG.debug(f"{type(model).__name__}: no documents by {by}: {reason(error)}")
    return None


def _documents_apart(model: PreTrainedModel, anatomy: Anatomy) -> bool:
    (inputs, _), *_ = _batches(model.config, "causal-lm")
    packed = {**inputs, "position_ids": document_positions(_DOCUMENTS, _TOKENS)}
    whole = WholeModel(_adapted(deepcopy(model), anatomy, _ADAPTER, True, True), "causal-lm")
    row = whole.adapted.initial_row(0)
    expected = _run_whole(whole, row, packed, None)
    allowed = _LEAK * float(expected[0].abs().max())
    for number, lengths in enumerate(_DOCUMENTS):
        ids = torch.split(inputs["input_ids"][number, : sum(lengths)], list(lengths))
        logits = torch.split(expected[0][number, : sum(lengths)], list(lengths))
        for own, together in zip(ids, logits, strict=True):
            with torch.no_grad():
                alone = whole.forward(row[None], [1], {"input_ids": own[None]})[0]
            if float((alone - together).abs().max()) > allowed:
                return False
    device, server = _parts(model, anatomy, _ADAPTER, "causal-lm", 1)
    named = whole.adapted.layout.named(row)
    found = _run_parts(device, server, named, packed, None, _DOCUMENTS)
    return _difference(found, expected) is None


def _difference(
    found: tuple[Tensor, dict[str, Tensor]], expected: tuple[Tensor, dict[str, Tensor]]
) -> str | None:
    if not torch.equal(found[0], expected[0]):
        return "the logits"
    if found[1].keys() != expected[1].keys():
        return "the adapters"
    for name, gradient in expected[1].items():
        if not torch.equal(found[1][name], gradient):
            return f"the gradients of {name}"
    return None


def _check_samples(
    name: str,
    whole: WholeModel,
    row: Tensor,
    inputs: Mapping[str, Tensor],
    logits: Tensor,
    task: Task,
) -> None:
    """A sample's logits are its own, whoever else is in the pass; and a token's those of what is
    before it, where it is to predict the next."""
    if not torch.isfinite(logits).all():
        raise UnsupportedModelError(f"{name} gives logits that are no numbers in a small copy")
    allowed = _ROUNDING * float(logits.abs().max())
    first = {key: value[:1] for key, value in inputs.items()}
    with torch.no_grad():
        if not torch.equal(whole.forward(row[None], [_SAMPLES], inputs), logits):
            raise UnsupportedModelError(
                f"{name} gives other logits each time: it draws random numbers as it runs"
            )
        alone = whole.forward(row[None], [1], first)
        if float((alone - logits[:1]).abs().max()) > allowed:
            raise UnsupportedModelError(
                f"{name} gives a sample other logits where others are in the mini-batch, which"
                " devices' samples must not see"
            )
        if task == "causal-lm":
            changed = inputs["input_ids"].clone()
            changed[:, -1] = (changed[:, -1] + 1) % int(whole.adapted.model.config.vocab_size)
            other = whole.forward(row[None], [_SAMPLES], {"input_ids": changed})
            if float((other - logits)[:, :-1].abs().max()) > allowed:
                raise UnsupportedModelError(
                    f"{name} cannot be trained for {task}: each token of it sees the tokens it is"
                    " to predict"
                )


def _adapted(
    model: PreTrainedModel, anatomy: Anatomy, spec: AdapterSpec, patches: bool, head: bool
) -> AdaptedModel:
    return AdaptedModel(model, anatomy, spec, {}, patches=patches, head=head)


def _parts(
    model: PreTrainedModel, anatomy: Anatomy, spec: AdapterSpec, task: Task, cut: int
) -> tuple[DevicePart, ServerPart]:
    """Both parts as they are loaded, but from the model that is there."""
    device, server, injection = deepcopy(model), deepcopy(model), Injection()
    keep_device(device, anatomy, cut)
    keep_server(server, anatomy, cut, injection)
    for unit in anatomy.before:
        strip(server.get_submodule(unit))
    return (
        DevicePart(_adapted(device, anatomy, spec, True, False), task, cut),
        ServerPart(_adapted(server, anatomy, spec, False, True), task, cut, injection),
    )


def _sides(config: PreTrainedConfig) -> list[tuple[int, int]]:
    """Of the images that a model is for, and of larger ones."""
    height, width = image_sides(config)
    high, wide = patch_sides(config)
    return [(height, width), (height + high, width + wide)]


def _batches(
    config: PreTrainedConfig, task: Task
) -> Iterator[tuple[dict[str, Tensor], list[int] | None]]:
    """Random images, or texts that are unpadded and padded."""
    generator = torch.Generator().manual_seed(2)
    if task == "image-classification":
        for height, width in _sides(config):
            sides = (_SAMPLES, channels(config), height, width)
            yield {"pixel_values": torch.randn(sides, generator=generator)}, None
        return
    ids = torch.randint(2, config.vocab_size // 2, (_SAMPLES, _TOKENS), generator=generator)
    padding = padding_id(config) or 0
    ids = ids.where(ids != padding, padding + 1)
    yield {"input_ids": ids}, None
    mask = torch.arange(_TOKENS) < torch.tensor(_LENGTHS).unsqueeze(1)
    yield {"input_ids": ids.where(mask, padding), "attention_mask": mask.long()}, list(_LENGTHS)


def _run_whole(
    whole: WholeModel, row: Tensor, inputs: Mapping[str, Tensor], lengths: Sequence[int] | None
) -> tuple[Tensor, dict[str, Tensor]]:
    rows = row[None].clone().requires_grad_()
    logits = whole.forward(rows, [_SAMPLES], inputs, lengths)
    torch.autograd.backward(_number(logits))
    return logits.detach(), whole.adapted.layout.named(_gradient(rows)[0])


def _run_parts(
    device: DevicePart,
    server: ServerPart,
    named: Mapping[str, Tensor],
    inputs: Mapping[str, Tensor],
    lengths: Sequence[int] | None,
    documents: Sequence[Sequence[int]] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    device_rows, server_rows = (
        part.adapted.layout.join(named)[None].requires_grad_() for part in (device, server)
    )
    activation = device.forward(device_rows, [_SAMPLES], inputs)
    received = activation.detach().requires_grad_()
    logits = server.forward(server_rows, [_SAMPLES], received, lengths, documents)
    torch.autograd.backward(_number(logits))
    torch.autograd.backward(activation, _gradient(received))
    return logits.detach(), {
        **device.adapted.layout.named(_gradient(device_rows)[0]),
        **server.adapted.layout.named(_gradient(server_rows)[0]),
    }


def _number(logits: Tensor) -> Tensor:
    """Depends on every logit, and on each in another way."""
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3))
    return (logits * weights).sum()


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
