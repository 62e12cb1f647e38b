"""What is typed for a setting: text as it is, numbers, null, and lists in brackets."""

from typing import Any

import pytest

from cutlayer.config.read import override_value, read_config
from cutlayer.errors import ConfigError


@pytest.mark.parametrize(
    "text",
    [
        "photos #2",
        "d/a: b",
        "no",
        "2024",
        "null",
        "Unnamed: 0",
        "[a]",
        "{a: b}",
        "~",
        "'a'",
        "1:30",
    ],
)
def test_text_stays_as_it_is_typed(text: str) -> None:
    config = read_config(None, {"data.name": text, "data.label_field": text, "model.name": text})
    assert config.data.name == config.data.label_field == config.model.name == text


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("training.rounds", "010", 10),
        ("channel.bandwidth_hz", "5e6", 5e6),
        ("devices.memory_mib", "null", None),
        ("planner.profile", "null", None),
        ("planner.fix", "cut", ["cut"]),
        ("planner.fix", "[cut, codec]", ["cut", "codec"]),
        ("planner.profile", "no #1.json", "no #1.json"),
        ("devices.flops_per_s", "[1e9, 2.0e+9]", ["1e9", 2e9]),
        ("devices.activation_memory", "keep", "keep"),
        ("channel.uplink", "a #1.csv", ["a #1.csv"]),
        ("channel.uplink", "[a, no, 1]", ["a", "no", "1"]),
        ("net.devices", "[1, 02]", ["1", "02"]),
        ("adapter.targets", "all", "all"),
        ("adapter.targets", "q_proj", "q_proj"),
        ("devices.preset", "jetson-nano", "jetson-nano"),
        ("codec", "none", "none"),
        ("codec", "{name: paper, levels: 3}", {"name": "paper", "levels": 3}),
        ("codec.down", "null", None),
    ],
)
def test_each_setting_takes_what_it_may_be(key: str, text: str, value: Any) -> None:
    assert override_value(key, text) == value


@pytest.mark.parametrize("text", ["[" * 5000, "[a", "[&a [*a]"])
def test_brackets_that_yaml_cannot_read(text: str) -> None:
    with pytest.raises(ConfigError, match=r"devices\.flops_per_s: ") as caught:
        read_config(None, {"devices.flops_per_s": text})
    assert len(str(caught.value)) < 300


def test_names_may_be_written_with_underscores() -> None:
    config = read_config(None, {"codec": "paper_rans", "planner": "two_timescale"})
    assert (config.codec.name, config.planner.name) == ("paper-rans", "two-timescale")
    text = read_config(None, {"data.task": "text_classification", "data.name": "a_b"}).data
    assert (text.task, text.name) == ("text-classification", "a_b")
