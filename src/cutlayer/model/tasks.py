"""The tasks: which Hugging Face class serves each; a head of ours where transformers has none.

transformers reads a checkpoint into what a model has, under the names of its base model, so that a
class here is the architecture's own with one linear layer more. Knows no cut, no adapter and no
weights.
"""

import copy
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, get_args

import transformers
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.modeling_outputs import CausalLMOutputWithPast, ImageClassifierOutput

from cutlayer.errors import CutlayerError, ModelError, UnsupportedModelError, reason
from cutlayer.spec import Loading, Task

_CLASSES = {
    "image-classification": MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    "text-classification": MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    "causal-lm": MODEL_FOR_CAUSAL_LM_MAPPING,
}
# what a base model is called in a model with a head, where the architecture says nothing
_BASE = "backbone"


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


# Heads of ours.


def model_with_head(config: PreTrainedConfig, task: Task) -> type[PreTrainedModel] | None:
    """A class with a linear head of ours, for an architecture that has none for the task; None
    where it reads something else, or has no tokens that see those before them alone."""
    found: Any = MODEL_MAPPING.get(type(config), None)
    base: Any = found[0] if isinstance(found, tuple) else found
    if base is None:
        return None
    if task == "image-classification":
        return _image_classifier(base) if base.main_input_name == "pixel_values" else None
    if base.main_input_name != "input_ids" or type(config) in MODEL_FOR_MASKED_LM_MAPPING:
        return None
    if task == "text-classification":
        decoder: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
        return _text_classifier(decoder or base)
    # an architecture for classes of texts alone is an encoder
    encoder = type(config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    return None if encoder else _language_model(base)


@cache
def _image_classifier(base: type[Any]) -> type[PreTrainedModel]:
    """Of the base model's pooled output; of the mean of its tokens, where it has none."""

    def init(self: Any, config: PreTrainedConfig) -> None:
        family.__init__(self, config)
        setattr(self, name, base(config))
        self.classifier = nn.Linear(config.hidden_size, int(config.num_labels or 0))
        self.post_init()

    def forward(self: Any, pixel_values: Tensor, **kwargs: Any) -> ImageClassifierOutput:
        outputs = getattr(self, name)(pixel_values, **kwargs)
        pooled = getattr(outputs, "pooler_output", None)
        if pooled is None:
            pooled = outputs.last_hidden_state.mean(1)
        return ImageClassifierOutput(logits=self.classifier(pooled))

    family, name = _family(base), _BASE
    return _made(base, "ForImageClassification", (family,), name, init, forward)


@cache
def _text_classifier(decoder: type[Any]) -> type[PreTrainedModel]:
    """Of the last token that is no padding, as transformers has it for other decoders."""
    family, name = _family(decoder), decoder.base_model_prefix or _BASE
    bases = (GenericForSequenceClassification, family)
    return _made(decoder, "ForSequenceClassification", bases, name, None, None)


@cache
def _language_model(base: type[Any]) -> type[PreTrainedModel]:
    """Tied to the embedding of words where the configuration says so."""

    def init(self: Any, config: PreTrainedConfig) -> None:
        family.__init__(self, config)
        inner = base(config)
        setattr(self, name, inner)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        words = inner.get_input_embeddings()
        (path,) = (path for path, module in inner.named_modules() if module is words)
        self._tied_weights_keys = {"lm_head.weight": f"{name}.{path}.weight"}
        self.post_init()

    def forward(self: Any, input_ids: Tensor, **kwargs: Any) -> CausalLMOutputWithPast:
        hidden = getattr(self, name)(input_ids=input_ids, **kwargs).last_hidden_state
        return CausalLMOutputWithPast(logits=self.lm_head(hidden))

    family, name = _family(base), base.base_model_prefix or _BASE
    return _made(base, "ForCausalLM", (family,), name, init, forward)


def _family(model: type[Any]) -> type[PreTrainedModel]:
    """The class that all models of the architecture extend."""
    found = (kind for kind in model.__mro__ if kind.__name__.endswith("PreTrainedModel"))
    family: type[PreTrainedModel] = next(found)
    return family


def _made(
    model: type[Any],
    ending: str,
    bases: tuple[type, ...],
    name: str,
    init: Any,
    forward: Any,
) -> type[PreTrainedModel]:
    stem = model.__name__.removesuffix("Model").removesuffix("ForCausalLM")
    namespace: dict[str, Any] = {"__module__": model.__module__, "base_model_prefix": name}
    if init is not None:
        namespace |= {"__init__": init, "forward": forward}
    made: type[PreTrainedModel] = type(f"{stem}{ending}", bases, namespace)
    return made
