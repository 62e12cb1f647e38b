"""What is asked of a model, its adapters included, and what `model.describe` counted of it once.

Knows values and the form of their file alone, no torch; `jobs.model_spec` says which file belongs
to which model.
"""

import hashlib
import json
import math
import re
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from cutlayer.errors import ConfigError, ModelError, UnsupportedModelError
from cutlayer.spec import ModelSpec, Task

FORMAT = 6


@dataclass(frozen=True)
class AdapterSpec:
    """What is trained: `y = base(x) + scale (x A^T) B^T` on the targets, with
    `scale = alpha / rank`, or with `rslora` alpha / sqrt(rank).

    `targets`: last components of module names inside the blocks, such as `("q_proj", "v_proj")` or
    `("attention.output.dense",)`; "all": every linear layer of every block; any other text is a
    regular expression that a linear layer's whole name matches. `layers`: numbers of the blocks
    that have adapters, from 0 (None: all). `rank_pattern`, `alpha_pattern`: other values for layers
    whose name ends with what a regular expression matches; the first that matches counts.
    `dropout`: the part of a layer's inputs that its adapter does not see in training, drawn anew
    for each sample and step; the others are scaled by `1 / (1 - dropout)`. `patch_embedding`: also
    the convolution that makes patches, on the devices. `head`: the classification head is trained
    as it is, on the server; refused for causal language models, whose head is the vocabulary.

    Source: LoRA (arXiv 2106.09685) eq. (3), rsLoRA (arXiv 2312.03732) eq. (4); names and patterns
    are PEFT's.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...] | str = "all"
    patch_embedding: bool = False
    head: bool = False
    layers: tuple[int, ...] | None = None
    rank_pattern: tuple[tuple[str, int], ...] = ()
    alpha_pattern: tuple[tuple[str, float], ...] = ()
    rslora: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for rank in (self.rank, *(value for _, value in self.rank_pattern)):
            if rank < 1:
                raise ModelError(f"the adapter's rank is {rank}; it must be at least 1")
        for alpha in (self.alpha, *(value for _, value in self.alpha_pattern)):
            if not math.isfinite(alpha) or alpha <= 0:
                raise ModelError(f"the adapter's alpha is {alpha}; it must be a positive number")
        if not 0.0 <= self.dropout < 1.0:
            raise ModelError(f"the adapter's dropout is {self.dropout}; it must be in [0, 1)")
        if not self.targets:
            raise ModelError('the adapter has no targets; name some layers, or "all"')
        for pattern in (
            *([self.targets] if isinstance(self.targets, str) else []),
            *(pattern for pattern, _ in (*self.rank_pattern, *self.alpha_pattern)),
        ):
            check_pattern(pattern)
        if self.layers is not None and not self.layers:
            raise ModelError("the adapter is on no blocks: number some, or leave layers out")

    @property
    def even(self) -> bool:
        """Whether it is the same on all blocks, whatever the model."""
        by_name = self.targets == "all" or isinstance(self.targets, tuple)
        return by_name and self.layers is None and not self.rank_pattern

    def adapts(self, block: int, path: str) -> bool:
        """Whether the linear layer of this whole name, in the block of this number, has one."""
        if self.layers is not None and block not in self.layers:
            return False
        if isinstance(self.targets, str):
            return self.targets == "all" or re.fullmatch(self.targets, path) is not None
        return any(ends_with(path, target) for target in self.targets)

    def rank_of(self, path: str) -> int:
        """The rank of the layer of this whole name, if it has an adapter."""
        return by_pattern(self.rank_pattern, path, self.rank)

    def scale_of(self, path: str) -> float:
        """The factor before `(x A^T) B^T` of the layer of this whole name."""
        rank, alpha = self.rank_of(path), by_pattern(self.alpha_pattern, path, self.alpha)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank

    def only(self, ranks: Mapping[str, int]) -> "AdapterSpec":
        """The same on these layers alone, of these ranks, by whole names."""
        names = {re.escape(path): rank for path, rank in ranks.items()}
        return replace(
            # a pattern that matches nothing, where there are none
            self,
            targets="|".join(names) or "(?!)",
            layers=None,
            rank_pattern=tuple(names.items()),
        )


Value = TypeVar("Value", int, float)


def by_pattern(patterns: tuple[tuple[str, Value], ...], path: str, other: Value) -> Value:
    """The value of the first pattern that matches the end of a name, as PEFT finds it."""
    for pattern, value in patterns:
        if re.match(rf"(.*\.)?({pattern})$", path):
            return value
    return other


def check_pattern(pattern: str) -> None:
    """Raises ModelError for a text that is no regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ModelError(f"the adapter's pattern {pattern!r} is no pattern: {error}") from error


def ends_with(name: str, target: str) -> bool:
    """Whether the last components of a module's name are these."""
    return name == target or name.endswith(f".{target}")


@dataclass(frozen=True)
class ModelRequest:
    """All that decides a description: `settings` are the model's own configuration, `numbers` those
    of activations (float32 or bfloat16)."""

    settings: Mapping[str, Any]
    task: Task
    classes: int
    image_size: int | None
    numbers: str
    adapter: AdapterSpec

    @property
    def key(self) -> str:
        """The name that its description is kept under."""
        values = asdict(self)
        adapter = values.pop("adapter")
        for name in ("alpha", "alpha_pattern", "rslora"):  # which decide no dimension
            del adapter[name]
        for name in ("layers", "rank_pattern"):
            if not adapter[name]:
                del adapter[name]
        # how much is dropped decides no dimension, that it is does: masks are kept
        if not adapter.pop("dropout"):
            values |= adapter
        else:
            values |= {**adapter, "dropout": True}
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class DescribedModel:
    """A model's dimensions; `image_tokens` of an image of the size that they are for, or
    `most_tokens` that a text may have. The other is None. `documents_by`: what keeps the documents
    of a packed row apart (None: nothing does, or it is no language model)."""

    model: ModelSpec
    image_tokens: int | None
    most_tokens: int | None
    documents_by: str | None = None


def check_documents(model_type: str, documents_by: str | None) -> None:
    """Raise UnsupportedModelError for a model in whose rows documents would see each other."""
    if documents_by is None:
        raise UnsupportedModelError(
            f"a model of type {model_type!r} cannot train on packed rows: in a small copy of it the"
            " documents of a row see each other, whether it is given positions that begin anew or a"
            " mask of its own; set data.packing to none"
        )


def likely_tasks(settings: Mapping[str, Any]) -> tuple[Task, ...]:
    """The tasks that a `config.json` looks to be for, none where it does not say.

    A guess from the names in it, for what is done without torch: whether the model can be split
    for a task, only its own code says (`proof.examine`).
    """
    names = settings.get("architectures")
    name = str(names[0]) if isinstance(names, list) and names else ""
    of_texts: tuple[Task, ...] = ("text-classification", "causal-lm")
    if name.endswith("ForImageClassification"):
        return ("image-classification",)
    if name.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
        return of_texts
    if "vocab_size" not in settings:
        image = ("patch_size", "image_size", "num_channels", "vision_config")
        return ("image-classification",) if any(key in settings for key in image) else ()
    # segments of a text, and tokens to be guessed, are what encoders have
    encoder = name.endswith("ForMaskedLM") or "type_vocab_size" in settings
    return ("text-classification",) if encoder else of_texts


def described_text(described: DescribedModel) -> str:
    """What `read_described` reads."""
    return json.dumps({"format": FORMAT, **asdict(described)}, indent=1) + "\n"


def read_described(path: Path) -> DescribedModel:
    """A description from its file.

    Raises ConfigError for a file that is none: no JSON, of another format, with a key too many or
    too few, or a value of another type.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("format") != FORMAT:
            raise ValueError(f"a format other than {FORMAT}")
        described = _read(DescribedModel, values, "model file")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} describes no model ({error}): delete it") from error
    assert isinstance(described, DescribedModel)
    return described


def _read(kind: Any, value: Any, where: str) -> Any:
    """A value of this type, from what JSON made of it."""
    if is_dataclass(kind) and isinstance(kind, type):
        return _read_fields(kind, value, where)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where} is {value!r}, not a list")
        item = get_args(kind)[0]
        return tuple(_read(item, each, f"{where}[{n}]") for n, each in enumerate(value))
    if get_origin(kind) is types.UnionType:
        (present,) = (option for option in get_args(kind) if option is not type(None))
        return None if value is None else _read(present, value, where)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return kind(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"{where} is {value!r}, not of type {kind.__name__}")
    return value


def _read_fields(kind: type, value: Any, where: str) -> Any:
    known = {field.name for field in fields(kind)}
    if not isinstance(value, dict) or value.keys() != known:
        given = sorted(value) if isinstance(value, dict) else value
        raise ValueError(f"{where} has {given}, not {sorted(known)}")
    hints = get_type_hints(kind)
    return kind(**{name: _read(hints[name], value[name], f"{where}.{name}") for name in known})
