"""Heads of ours on models that transformers has without: classes of images, or of texts, or words.

transformers reads a checkpoint into what a model has, under the names of its base model, so that a
class here is the architecture's own with one linear layer more. Knows no cut and no weights.
"""

from functools import cache
from typing import Any

from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.modeling_outputs import CausalLMOutputWithPast, ImageClassifierOutput

from cutlayer.spec import Task

# what a base model is called in a model with a head, where the architecture says nothing
_BASE = "backbone"


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
