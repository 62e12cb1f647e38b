"""The configurations that come with cutlayer, against what is published of the models."""

import pytest

from cutlayer.data.assets.catalogue import CATALOGUE
from cutlayer.data.find import KNOWN_MODELS, known_config
from cutlayer.model.anatomy import meta_model
from cutlayer.model.tasks import read_config, task_config
from cutlayer.spec import Task

# parameters of the published checkpoints, with the head that their hub pages have (two labels
# where they have none for the task)
PARAMETERS: dict[str, tuple[Task, int, int]] = {
    "vit-b16": ("image-classification", 1000, 86_567_656),
    "vit-l16": ("image-classification", 1000, 304_326_632),
    # without head: 22,056,576, 86,580,480 and 304,368,640, a mask token among them
    "dinov2-small": ("image-classification", 2, 22_056_576 + 2 * (2 * 384 + 1)),
    "dinov2-base": ("image-classification", 2, 86_580_480 + 2 * (2 * 768 + 1)),
    "dinov2-large": ("image-classification", 2, 304_368_640 + 2 * (2 * 1024 + 1)),
    "minilm": ("text-classification", 2, 22_713_216 + 2 * (384 + 1)),
    "bert-base": ("text-classification", 2, 109_482_240 + 2 * (768 + 1)),
    "bert-large": ("text-classification", 2, 335_141_888 + 2 * (1024 + 1)),
    "gpt2": ("causal-lm", 2, 124_439_808),
    "opt-1.3b": ("causal-lm", 2, 1_315_758_080),
    "smollm2": ("causal-lm", 2, 134_515_008),
    "llama-2-7b": ("causal-lm", 2, 6_738_415_616),
    "llama-3.1-8b": ("causal-lm", 2, 8_030_261_248),
    "llama-3.2-1b": ("causal-lm", 2, 1_235_814_400),
    "mistral-7b": ("causal-lm", 2, 7_241_732_096),
    "qwen2.5-0.5b": ("causal-lm", 2, 494_032_768),
    "qwen3-0.6b": ("causal-lm", 2, 596_049_920),
}


def test_every_known_model_is_held_to_what_is_published() -> None:
    assert KNOWN_MODELS.keys() == PARAMETERS.keys()
    models = {name for name, asset in CATALOGUE.items() if asset.kind == "model"}
    assert models <= KNOWN_MODELS.keys()


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_configuration_makes_a_model_of_the_published_size(name: str) -> None:
    task, classes, parameters = PARAMETERS[name]
    folder = known_config(name)
    assert folder is not None
    assert folder == known_config(KNOWN_MODELS[name])
    model = meta_model(task_config(read_config(folder), task, classes), task)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_other_names_are_not_known() -> None:
    assert known_config("owner/other") is None
