"""A setting that the chosen names do not read is refused; what was written out reads back."""

from pathlib import Path

import pytest

from cutlayer.config.keys import find_field, keys
from cutlayer.config.read import config_yaml, read_config, read_written
from cutlayer.config.schema import Config
from cutlayer.config.unread import unread, without
from cutlayer.errors import ConfigError


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"codec": "paper", "codec.target_bits_up": "0.5"}, "codec.name paper, but with best"),
        ({"codec.keep_ratio": "0.2"}, "codec.name best, but with paper or paper-rans"),
        ({"codec.up.bits": "4"}, r"codec.up.bits 4 .* codec.name best, but with stages"),
        (
            {"codec": "stages", "codec.up.quantise": "int", "codec.up.levels": "3"},
            "codec.up.levels 3 is not read with codec.up.quantise int, but with levels",
        ),
        (
            {"codec.target_cosine_up": "0.9", "codec.target_bits_up": "0.5"},
            r"codec.target_bits_up 0.5 .* codec.target_cosine_up 0.9, but with null",
        ),
        ({"scheme": "sl", "codec": "paper"}, "scheme.name sl, but with sft or sft-overlap"),
        ({"scheme": "fl-lora", "model.cut": "3"}, "other than fl-lora or fl-full"),
        ({"optimizer.momentum": "0.5"}, "optimizer.name adamw, but with sgd"),
        ({"partition": "iid", "partition.alpha": "0.5"}, "partition.name iid, but with dirichlet"),
        ({"link.fading.k_db": "3"}, "link.fading.name none, but with rician or gauss-markov"),
        ({"link.cell.carrier_ghz": "5"}, "link.cell.name none, but with umi or uma"),
        ({"link.cell": "umi", "devices.uplink_snr_db": "3"}, "link.cell.name umi, but with none"),
        ({"link.traces": "a.csv", "link.bandwidth_hz": "1e6"}, r"link.traces \['a.csv'\]"),
        ({"link.trace_window_s": "2"}, r"link.traces \[\], but with other than \[\]"),
        ({"planner": "static", "link.shares": "[1]"}, "planner.name static, but with even"),
        ({"planner.most_share": "0.5"}, "planner.name even, but with static or two-timescale"),
        ({"training.in_flight": "2"}, "scheme.name sft, but with sft-overlap"),
        # the default is refused, too, where somebody asks for it by name
        ({"codec": "paper", "codec.target_bits_up": "0.7"}, "codec.target_bits_up 0.7"),
        ({"codec": "{name: none, levels: 31}"}, "codec.levels 31"),
        ({"training.local_steps": "10", "training.local_epochs": "1"}, "training.local_epochs 1"),
    ],
)
def test_what_nobody_reads_is_refused(overrides: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=f"is not read with .*{message}|{message}") as caught:
        read_config(None, overrides)
    assert "leave it out, or change" in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        {"codec": "paper", "codec.keep_ratio": "0.2", "partition": "iid", "optimizer": "sgd"},
        {"codec": "stages", "codec.up.quantise": "int", "codec.down.quantise": "float8"},
        {"link.fading": "rician", "link.fading.k_db": "3", "link.cell": "uma"},
        {"training.local_epochs": "2", "scheme": "sft-overlap", "training.in_flight": "2"},
        {"devices.preset": "[jetson-nano, pixel-6]", "devices.efficiency": "0.3"},
        # null is as good as nothing
        {"codec": "paper", "codec.target_cosine_up": "null", "codec.up": "null"},
    ],
)
def test_what_was_written_out_reads_back(overrides: dict[str, str], tmp_path: Path) -> None:
    config = read_config(None, overrides)
    (tmp_path / "config.yaml").write_text(config_yaml(config), encoding="utf-8")
    assert read_config(tmp_path / "config.yaml") == config


def test_a_run_that_has_begun_is_as_it_was(tmp_path: Path) -> None:
    config = Config.model_validate({"codec": {"name": "paper", "target_bits_up": 0.5}})
    (tmp_path / "config.yaml").write_text(config_yaml(config), encoding="utf-8")
    assert read_written(tmp_path / "config.yaml") == config
    with pytest.raises(ConfigError, match="target_bits_up"):
        read_config(tmp_path / "config.yaml")


def test_without_what_is_not_read_nothing_is_unread() -> None:
    values = {
        "codec": {"name": "none", "levels": 3, "up": {"bits": 4}},
        "link": {"fading": {"k_db": 3}},
    }
    config = Config.model_validate(values)
    keys = {each.key for each in unread(config)}
    assert keys == {"codec.levels", "codec.up.bits", "link.fading.k_db"}
    left = without(config, keys)
    assert not list(unread(left))
    assert (left.codec.name, left.codec.levels, left.link.fading.k_db) == ("none", 31, None)


def test_a_caller_may_read_more() -> None:
    overrides = {"planner.most_share": "0.5"}
    config = read_config(None, overrides, also_read=["planner.most_share"])
    assert config.planner.most_share == 0.5


def test_every_rule_names_a_setting_and_values_that_it_may_have() -> None:
    for each in keys():
        for rule in each.rules:
            section = each.key.rpartition(".")[0]
            field = find_field(rule.key if "." in rule.key else f"{section}.{rule.key}")
            assert field is not None, each.key
            known = str(field.annotation)
            assert all(repr(value) in known or value in (None, ()) for value in rule.values)
