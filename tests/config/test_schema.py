"""The schema names what the package has, and takes nothing for what it is not."""

import pytest

from cutlayer.config.keys import choices_with
from cutlayer.config.read import read_config, read_values
from cutlayer.errors import ConfigError
from cutlayer.rounds.schemes import SCHEMES


def test_every_scheme_can_be_asked_for() -> None:
    assert choices_with("scheme", "name") == tuple(SCHEMES)


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
