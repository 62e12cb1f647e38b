"""A setting that the chosen names do not read is refused; what was written out reads back."""

from pathlib import Path

import pytest

from cutlayer.config.keys import keys, unread, without
from cutlayer.config.read import config_yaml, read_config, read_written
from cutlayer.config.schema import Config
from cutlayer.config.section import choices_with, find_field, names_of
from cutlayer.errors import ConfigError


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"codec": "paper", "codec.target_bits_up": "0.5"}, "codec.name paper, but with best"),
        ({"codec.keep_ratio": "0.2"}, "codec.name best, but with paper or paper-rans"),
        ({"codec.up.centre": "true"}, r"codec.up .* codec.name best, but with stages"),
        (
            {"codec": "stages", "codec.up.quantise": "int", "codec.up.quantise.levels": "3"},
            "3 is not read with codec.up.quantise.name int, but with levels",
        ),
        (
            {"codec.target_cosine_up": "0.9", "codec.target_bits_up": "0.5"},
            r"codec.target_bits_up 0.5 .* codec.target_cosine_up 0.9, but with null",
        ),
        ({"scheme": "sl", "codec": "paper"}, "scheme.name sl, but with auto or sft or sft-overlap"),
        ({"scheme": "fl-lora", "model.cut": "3"}, "other than fl-lora or fl-full"),
        ({"optimizer.momentum": "0.5"}, "optimizer.name adamw, but with sgd"),
        ({"partition": "iid", "partition.alpha": "0.5"}, "partition.name iid, but with dirichlet"),
        ({"channel.fading.k_db": "3"}, "channel.fading.name none, but with rician or gauss-markov"),
        ({"channel.cell.carrier_ghz": "5"}, "channel.cell.name none, but with umi or uma"),
        (
            {"channel.cell": "umi", "devices.uplink_snr_db": "3"},
            "channel.cell.name umi, but with none",
        ),
        (
            {"channel": "traces", "channel.uplink": "a", "devices.uplink_snr_db": "3"},
            "channel.name traces, but with snr",
        ),
        (
            {"channel": "traces", "channel.uplink": "a", "channel.bandwidth_hz": "1e6"},
            "channel.name traces, but with snr",
        ),
        ({"channel.window_s": "2"}, "channel.name snr, but with traces"),
        ({"planner": "static", "planner.shares": "[1]"}, "planner.name static, but with fixed"),
        ({"planner.most_share": "0.5"}, "planner.name even, but with static or two-timescale"),
        ({"training.in_flight": "2"}, "scheme.name auto, but with sft-overlap"),
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
        {"channel.fading": "rician", "channel.fading.k_db": "3", "channel.cell": "uma"},
        {"training.local_epochs": "2", "scheme": "sft-overlap", "training.in_flight": "2"},
        {"devices.preset": "[jetson-nano, pixel-6]", "devices.efficiency": "0.3"},
        # null is as good as nothing
        {"codec": "best", "codec.target_cosine_up": "null", "training.local_epochs": "null"},
    ],
)
def test_what_was_written_out_reads_back(overrides: dict[str, str], tmp_path: Path) -> None:
    config = read_config(None, overrides)
    (tmp_path / "config.yaml").write_text(config_yaml(config), encoding="utf-8")
    assert read_config(tmp_path / "config.yaml") == config


def test_a_run_that_has_begun_is_as_it_was(tmp_path: Path) -> None:
    config = Config.model_validate({"scheme": "sl", "codec": "paper"})
    (tmp_path / "config.yaml").write_text(config_yaml(config), encoding="utf-8")
    assert read_written(tmp_path / "config.yaml") == config
    with pytest.raises(ConfigError, match=r"codec\.name paper is not read"):
        read_config(tmp_path / "config.yaml")


def test_what_is_read_by_what_is_left_out_goes_too() -> None:
    config = Config.model_validate(
        {"scheme": "sl", "server": {"batch": "arrivals", "coalesce_ms": 2.0, "batch_tokens": 64}}
    )
    left = without(config, {each.key for each in unread(config)})
    assert left == Config.model_validate({"scheme": "sl", "server": {}})


def test_without_what_is_not_read_nothing_is_unread() -> None:
    values = {
        "scheme": "fl-lora",
        "codec": {"name": "paper", "levels": 3, "keep_ratio": 0.5},
        "model": {"cut": 3},
        "server": {"workers": 2, "group": 2},
    }
    config = Config.model_validate(values)
    keys = {each.key for each in unread(config)}
    assert keys == {"codec.name", "codec.levels", "model.cut", "server.workers"}
    left = without(config, keys)
    assert not list(unread(left))
    assert (left.codec, left.model.cut, left.server.group) == (Config().codec, 4, 2)


def test_a_caller_may_read_more() -> None:
    overrides = {"planner.most_share": "0.5"}
    config = read_config(None, overrides, also_read=["planner.most_share"])
    assert config.planner.most_share == 0.5


def test_every_rule_names_a_setting_and_values_that_it_may_have() -> None:
    for each in keys():
        for rule in each.rules:
            section = each.key.rpartition(".")[0]
            key = rule.key if "." in rule.key else f"{section}.{rule.key}"
            field = find_field(Config, key)
            assert field is not None, each.key
            names = choices_with(Config, key.removesuffix(".name"), "name")
            known = names or names_of(field.annotation)
            assert all(value in known or value is None for value in rule.values)
