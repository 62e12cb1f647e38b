"""The schema names what the package has, and takes nothing for what it is not."""

import copy
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from cutlayer.config.choices import PaperCodec
from cutlayer.config.read import read_config, read_values
from cutlayer.config.schema import Config, FixedPlanner, Sl
from cutlayer.config.section import PLUGIN, choices_with
from cutlayer.errors import ConfigError
from cutlayer.rounds.schemes import SCHEMES


def test_every_scheme_can_be_asked_for() -> None:
    assert choices_with(Config, "scheme", "name") == ("auto", *SCHEMES, PLUGIN)


@pytest.mark.parametrize(
    "values",
    [
        {"devices": {"count": True}},
        {"devices": {"memory_mib": True}},
        {"devices": {"flops_per_s": [1.0e9, True]}},
        {"training": {"local_epochs": False}},
        {"optimizer": {"learning_rate": True}},
        {"threads": True},
    ],
)
def test_a_truth_is_no_number(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"[a-z_.]+: should be a number, not (True|False)"):
        read_values(values)


def test_numbers_that_yaml_takes_for_text_are_numbers() -> None:
    # YAML 1.1 has no 1e-3 without a point
    assert read_config(None, {"optimizer.learning_rate": "1e-3"}).optimizer.learning_rate == 0.001


def test_a_configuration_is_a_value_of_python() -> None:
    config = Config(codec={"name": "paper", "levels": 7}, training={"rounds": 2}, scheme="sl")
    assert config == Config.model_validate(
        {"codec": {"name": "paper", "levels": 7}, "training": {"rounds": 2}, "scheme": "sl"}
    )
    assert Config(codec=PaperCodec(levels=7), training=config.training, scheme=Sl()) == config
    assert Config(codec="best") == Config()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"codec": {"name": "best", "levels": 7}}, "codec.levels 7 is not read with codec.name"),
        ({"codek": "best"}, "unknown configuration key codek; did you mean codec"),
        ({"training": {"rounds": 0}}, "training.rounds: should be at least 1, not 0"),
    ],
)
def test_a_wrong_value_says_what_is_wrong(sections: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config(**sections)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Config.model_validate_json("{broken"), "cannot be read as JSON: invalid JSON"),
        pytest.param(
            lambda: Config.model_validate_json(None),
            "as JSON: JSON should be string",
            marks=pytest.mark.skipif(
                os.environ.get("CUTLAYER_TESTS") in ("typed", "all"),
                reason="types are checked at the call",
            ),
        ),
        (lambda: Config.model_validate_json('{"seed": -3}'), "seed: should be at least 0, not -3"),
        (lambda: Config.model_validate({1: 2}), "a configuration: keys should be strings"),
        (lambda: setattr(Config(), "seed", 3), "seed: a configuration does not change; make"),
        (lambda: delattr(Config(), "seed"), "seed: a configuration does not change; make"),
        (lambda: setattr(Config().training, "rounds", 3), "rounds: a configuration does not"),
        (lambda: PaperCodec(levels=0), "levels: should be at least 1, not 0"),
        (lambda: PaperCodec(lvels=1), "unknown configuration key lvels; did you mean levels"),
        (lambda: FixedPlanner(), "FixedPlanner needs shares: it has no default"),
        (lambda: Config(planner="fixed"), r"planner\.name fixed needs planner\.shares"),
        (lambda: Config(codec=None), "codec should be none, which is a text, not None"),
        (lambda: Config(model=None), "model must hold keys and values, not None"),
        (lambda: Config(adapter={"targets": []}), r"adapter\.targets: is an empty list"),
        (lambda: Config(adapter={"targets": "("}), r"adapter\.targets: should be a regular expr"),
    ],
)
def test_nothing_speaks_as_pydantic_does(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        call()
    assert "pydantic" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_path_is_a_text() -> None:
    config = Config(model={"name": Path("a") / "b"}, data={"name": Path("c")})
    assert (config.model.name, config.data.name) == (str(Path("a") / "b"), "c")


def test_a_configuration_can_be_copied_and_sent() -> None:
    config = Config(codec="paper", training={"rounds": 3})
    assert copy.deepcopy(config) == config == pickle.loads(pickle.dumps(config))
