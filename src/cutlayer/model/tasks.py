"""The tasks: which Hugging Face class serves each, and its losses.

Knows no cut, no adapter and no weights.
"""

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final, get_args

import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from cutlayer.errors import CutlayerError, ModelError, UnsupportedModelError, reason
from cutlayer.model.heads import model_with_head
from cutlayer.spec import IGNORED_LABEL, Loading, Task

_CLASSES = {
    "image-classification": MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    "text-classification": MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    "causal-lm": MODEL_FOR_CAUSAL_LM_MAPPING,
}
# logarithms of probabilities that are there at once: 8 MiB, little beside the logits of a large
# vocabulary, and enough for a processor to be busy with
_VALUES = 2**21
_MEAN = 1  # torch's number for that reduction


def read_config(source: Path | PreTrainedConfig) -> PreTrainedConfig:
    """The configuration in a model folder, or a copy of the one given; of a model of texts and
    images, that of the part which `cutlayer` can train: its language model, or its vision
    transformer where texts have no more than an encoder to be compared with.

    Raises ModelError for a folder without a `config.json` that transformers understands.
    """
    if isinstance(source, PreTrainedConfig):
        return _part(copy.deepcopy(source), {})
    if not (source / "config.json").is_file():
        raise ModelError(
            f"{source} is not a model folder: it has no config.json; name the folder that "
            "save_pretrained wrote"
        )
    try:
        config = AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # each architecture checks its sizes in its own way
        raise ModelError(f"{source}/config.json cannot be read: {_why(source, error)}") from error
    assert isinstance(config, PreTrainedConfig)
    return _part(config, json.loads((source / "config.json").read_text(encoding="utf-8")))


def _part(config: PreTrainedConfig, written: Mapping[str, Any]) -> PreTrainedConfig:
    """The part of a configuration that is trained, with what the whole says of it; `written`: what
    its file says."""
    if _class_of(config, "image-classification") is not None:
        return config  # with a class of its own for the part
    text, vision = (getattr(config, f"{kind}_config", None) for kind in ("text", "vision"))
    if isinstance(text, PreTrainedConfig) and _class_of(text, "causal-lm") is not None:
        inner = text
        tied = written.get("tie_word_embeddings", vars(config).get("tie_word_embeddings"))
        if "tie_word_embeddings" not in written:
            tied = dict(written.get("text_config") or {}).get("tie_word_embeddings", tied)
        if isinstance(tied, bool):
            inner.tie_word_embeddings = tied
    elif isinstance(vision, PreTrainedConfig) and _class_of(vision, "image-classification"):
        inner = vision
    else:
        return config
    inner.name_or_path = config.name_or_path
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if setting(inner, name) is None and setting(config, name) is not None:
            setattr(inner, name, setting(config, name))
    return inner


@contextmanager
def fault_of_config(config: PreTrainedConfig) -> Iterator[None]:
    """Turns whatever a model's own code raises over sizes that do not fit into a ModelError."""
    try:
        yield
    except (CutlayerError, MemoryError):
        raise
    except Exception as error:
        raise ModelError(
            f"config.json of {config.name_or_path or config.model_type} gives no model that can be"
            f" run: {reason(error)}; take the config.json that belongs to the weights"
        ) from error


def task_class(config: PreTrainedConfig, task: Task) -> type[PreTrainedModel]:
    """The Hugging Face class of this architecture for this task.

    Raises UnsupportedModelError, which says why, for one that has none, or whose kind cannot be
    split; whether its two parts are the whole is another question (`proof.examine`).
    """
    found = _class_of(config, task)
    why = _reason(config, task, found)
    if found is not None and why is None:
        return found
    name = type(config).__name__ if found is None else found.__name__
    raise UnsupportedModelError(
        f"{name} (model type {config.model_type!r}) cannot be split for {task}: {why}"
    )


def loading_of(folder: Path, model: PreTrainedModel) -> Loading:
    """How transformers loads a model whose weights are in `folder`."""
    if getattr(transformers, type(model).__name__, None) is None:
        return "own-head"
    whole = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return "auto" if type(whole) is type(model.config) else "part"


def _class_of(config: PreTrainedConfig, task: Task) -> type[PreTrainedModel] | None:
    known: Any = _CLASSES[task].get(type(config), None)
    found: type[PreTrainedModel] | None = known[0] if isinstance(known, tuple) else known
    if found is not None and _takes(found, config):
        return found
    return model_with_head(config, task)


def _takes(model: type[PreTrainedModel], config: PreTrainedConfig) -> bool:
    """Whether a class is of this configuration, and not of a part of it."""
    return model.config_class in (None, type(config)) or not isinstance(
        getattr(config, "text_config", None), PreTrainedConfig
    )


def text_or_vision(config: PreTrainedConfig) -> PreTrainedConfig:
    """Where a configuration says the sizes of the blocks: in that of images, where it is of an
    image model made of one for texts and one for images."""
    inner = getattr(config, "vision_config", None)
    return inner if isinstance(inner, PreTrainedConfig) else config


def setting(config: PreTrainedConfig, name: str) -> Any:
    """What a configuration has under this name, for all blocks alike; None where it has nothing, or
    computes it."""
    return vars(config).get(config.attribute_map.get(name, name))


def task_config(config: PreTrainedConfig, task: Task, classes: int) -> PreTrainedConfig:
    """A copy set for training in parts: `classes` labels, no dropout, no cache of keys and values,
    named outputs, and an attention that every machine has.

    Dropout draws random numbers in the order of execution, so a split model could never equal the
    unsplit one; with LoRA on a frozen base it is off everywhere.
    """
    config = copy.deepcopy(config)
    for key, value in config.to_dict().items():
        if "drop" in key and isinstance(value, float):
            setattr(config, key, 0.0)
    config.use_cache = False
    config.return_dict = True
    if config._attn_implementation not in (None, "eager", "sdpa"):
        config._attn_implementation = None
    if task == "causal-lm":
        return config
    if classes < 2:
        raise ModelError(f"classes is {classes}; a classifier needs at least 2")
    config.num_labels = classes
    if is_decoder(config) and padding_id(config) is None:
        config.pad_token_id = _stand_in_padding(config)
    return config


def is_decoder(config: PreTrainedConfig) -> bool:
    """True where each token sees only those before it (so a classifier reads the last one).

    A type that transformers has a masked language model of too is one only if it says so.
    """
    if _class_of(config, "causal-lm") is None:
        return False
    masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING
    return not masked or bool(getattr(config, "is_decoder", False))


def unread_padding(config: PreTrainedConfig) -> int | None:
    """The id that a decoder's classifier passes over at the end of a text; None for encoders."""
    if not is_decoder(config):
        return None
    return padding_id(task_config(config, "text-classification", 2))


def padding_id(config: PreTrainedConfig) -> int | None:
    """The id of the padding token, if the configuration names one."""
    padding = getattr(config, "pad_token_id", None)
    return padding if isinstance(padding, int) else None


def _stand_in_padding(config: PreTrainedConfig) -> int:
    end = getattr(config, "eos_token_id", None)
    candidates: Iterable[int | None] = end if isinstance(end, list) else (end,)
    return next((token for token in candidates if token is not None), 0)


def _reason(
    config: PreTrainedConfig, task: Task, found: type[PreTrainedModel] | None
) -> str | None:
    """Why the kind cannot be split; None where nothing is known against it."""
    if getattr(config, "is_encoder_decoder", False):
        return "an encoder-decoder has two stacks of blocks, and every decoder block reads both"
    if config.model_type == "albert":
        return "all its blocks share one set of weights, so no part could leave any out"
    encoder = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not is_decoder(config)
    if task == "causal-lm" and encoder:
        return "each token of it sees the tokens it is to predict"
    if found is None:
        others: list[Task] = [other for other in get_args(Task) if _class_of(config, other)]
        known = f" (only for {' and '.join(others)})" if others else ""
        return f"transformers has no model of this type for it{known}"
    return None


def _why(folder: Path, error: Exception) -> str:
    if '"auto_map"' in (folder / "config.json").read_text(encoding="utf-8", errors="replace"):
        return (
            "the model is code of its own (auto_map), which cutlayer does not run; take one whose"
            " type transformers knows"
        )
    return reason(error)


def group_losses(
    task: Task,
    logits: Float[Tensor, "batch *rest"],
    labels: Int[Tensor, "batch *token"],
    sizes: Sequence[int],
    smoothing: float = 0.0,
) -> Float[Tensor, "group"]:
    """Mean cross entropy of each device's own samples [nat], in float32.

    `sum().backward()` gives each device the gradient that it would have alone. Classification:
    logits [batch, class], labels [batch]. Language modelling: logits [batch, token, vocabulary],
    labels [batch, token] as transformers takes them: not shifted, -100 where nothing is to be
    predicted; the mean is over that device's tokens, and 0 if it has none. `smoothing`: the part of
    each label that is spread evenly over all classes, in [0, 1].

    Values and gradients are those of `functional.cross_entropy` to the bit (with smoothing but for
    rounding). It would hold four times the logits at its peak; this holds them and their gradient.
    Source of smoothing: arXiv 1512.00567, section 7.
    """
    if sum(sizes) != len(labels):
        raise ModelError(f"sizes {list(sizes)} do not divide {len(labels)} labels")
    if task == "causal-lm":
        labels = next_tokens(labels)
    rows = logits.float().flatten(0, -2)
    counts = [size * labels[0].numel() for size in sizes]
    losses: Tensor = _CrossEntropy.apply(  # type: ignore[no-untyped-call]
        rows, labels.flatten().long(), counts, smoothing
    )
    return losses


def head_losses(
    hidden: Float[Tensor, "batch token width"],
    labels: Int[Tensor, "batch token"],
    sizes: Sequence[int],
    weights: Sequence[float],
    head: Callable[[Tensor], Tensor],
    most: int,
    smoothing: float = 0.0,
) -> Float[Tensor, "group"]:
    """`group_losses` of a language model, each times its weight, from what its head is given.

    `head`: from hidden states [token, width] to logits [token, vocabulary]; nothing in it is
    trained. It runs on `most` tokens at a time, and its backward at once, so that of all logits
    there are never more; what is kept for backward is the gradient of `hidden`. Equal to
    `weights * group_losses(...)` and its gradient but for rounding: products have other sizes.
    Source: the fused linear cross entropy of Liger Kernel (arXiv:2410.10989), without its kernels.
    """
    if sum(sizes) != len(labels):
        raise ModelError(f"sizes {list(sizes)} do not divide {len(labels)} labels")
    wanted = next_tokens(labels).flatten().long()
    counts = [size * labels.shape[1] for size in sizes]
    losses: Tensor = _HeadCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden.flatten(0, 1), wanted, counts, weights, head, most, smoothing
    )
    return losses


def next_tokens(labels: Int[Tensor, "batch token"]) -> Int[Tensor, "batch token"]:
    """What each token is to predict; moving labels instead of logits saves a copy of the larger."""
    return functional.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL)


@final
class _CrossEntropy(torch.autograd.Function):
    """Each device's mean over its `counts[g]` rows, a few rows at a time."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, counts: list[int], smoothing: float
    ) -> Tensor:
        ctx.save_for_backward(logits, labels)
        ctx.counts, ctx.smoothing = counts, smoothing
        true = logits.new_empty(len(labels), 1)
        for rows in _pieces(logits):
            wanted = labels[rows].clamp(min=0)[:, None]
            known = logits[rows].log_softmax(-1)
            true[rows] = _smoothed(known.gather(1, wanted), known, smoothing)
        ignored = torch.where(labels == IGNORED_LABEL, IGNORED_LABEL, 0)
        parts = zip(torch.split(true, counts), torch.split(ignored, counts), strict=True)
        return torch.stack([_mean(own, place) for own, place in parts])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        logits, labels = ctx.saved_tensors
        found = torch.empty_like(logits)
        parts = zip(
            gradients[0],
            *(torch.split(each, ctx.counts) for each in (logits, labels, found)),
            strict=True,
        )
        for gradient, own, wanted, into in parts:
            _write_gradient(gradient, own, wanted, into, ctx.smoothing)
        return found, None, None, None


@final
class _HeadCrossEntropy(torch.autograd.Function):
    """Each device's weighted mean over its `counts[g]` rows, with the gradient of what the head is
    given, piece by piece."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        labels: Tensor,
        counts: list[int],
        weights: Sequence[float],
        head: Callable[[Tensor], Tensor],
        most: int,
        smoothing: float,
    ) -> Tensor:
        known = labels != IGNORED_LABEL
        counted = [own.sum().clamp(min=1) for own in torch.split(known, counts)]
        shares = known * torch.cat(
            [
                (weight / own).expand(count)
                for weight, own, count in zip(weights, counted, counts, strict=True)
            ]
        )
        true = hidden.new_empty(len(labels), dtype=torch.float32)
        found = torch.empty_like(hidden)
        for rows in _even_pieces(len(labels), most):
            given = hidden[rows].detach().requires_grad_()
            with torch.enable_grad():
                logits = head(given)
            wanted = labels[rows].clamp(min=0)[:, None]
            of_logits = logits.detach().float().log_softmax(-1)
            true[rows] = _smoothed(of_logits.gather(1, wanted), of_logits, smoothing)[:, 0]
            own = shares[rows, None]
            of_logits.exp_().mul_(own).scatter_add_(1, wanted, -(1.0 - smoothing) * own)
            if smoothing:
                of_logits.sub_(own, alpha=smoothing / of_logits.shape[1])
            torch.autograd.backward(logits, of_logits.to(logits.dtype))
            del logits, of_logits  # before the next ones are there
            assert given.grad is not None
            found[rows] = given.grad
        ctx.save_for_backward(found)
        ctx.counts = counts
        return torch.stack([-own.sum() for own in torch.split(true * shares, counts)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (found,) = ctx.saved_tensors
        parts = torch.split(found, ctx.counts)
        scaled = [own * gradient for own, gradient in zip(parts, gradients[0], strict=True)]
        return torch.cat(scaled), None, None, None, None, None, None


def _even_pieces(count: int, most: int) -> Iterator[slice]:
    """As few as there can be of at most so many, of nearly one size: the last is no small one."""
    pieces = -(-count // most)
    for number in range(pieces):
        yield slice(number * count // pieces, (number + 1) * count // pieces)


def _mean(true: Tensor, ignored: Tensor) -> Tensor:
    """0 where there is none, which the host need not know."""
    mean = functional.nll_loss(true, ignored, ignore_index=IGNORED_LABEL)
    return torch.where((ignored == IGNORED_LABEL).all(), 0.0, mean)


def _smoothed(true: Tensor, known: Tensor, smoothing: float) -> Tensor:
    """The logarithm that a row's loss is made of: of its label's probability, and of all."""
    if not smoothing:
        return true
    return (1.0 - smoothing) * true + smoothing * known.mean(-1, keepdim=True)


def _write_gradient(
    gradient: Tensor, logits: Tensor, labels: Tensor, into: Tensor, smoothing: float
) -> None:
    """One device's, as autograd has it for `functional.cross_entropy`; 0 where nothing counts."""
    count = (labels != IGNORED_LABEL).sum().float()
    ops = torch.ops.aten
    for rows in _pieces(logits):
        known = logits[rows].log_softmax(-1)
        of_known = ops.nll_loss_backward(
            gradient, known, labels[rows], None, _MEAN, IGNORED_LABEL, count
        )
        if smoothing:
            spread = gradient / count.clamp(min=1) * (labels[rows] != IGNORED_LABEL)
            of_known.mul_(1.0 - smoothing)
            of_known.sub_(spread[:, None], alpha=smoothing / logits.shape[-1])
        ops._log_softmax_backward_data.out(of_known, known, -1, torch.float32, out=into[rows])


def _pieces(logits: Tensor) -> Iterator[slice]:
    """A few rows at a time."""
    step = max(1, _VALUES // logits.shape[-1])
    for first in range(0, len(logits), step):
        yield slice(first, first + step)
