"""Strict reading: files, overrides, short forms, and the one line that each mistake gets."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.config.choices import SnrSection
from cutlayer.config.keys import keys
from cutlayer.config.read import config_sha256, config_yaml, read_config
from cutlayer.config.schema import Config, FixedPlanner
from cutlayer.errors import ConfigError


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_nothing_is_the_default() -> None:
    assert read_config(None) == Config()


def test_a_file_and_overrides_on_top(tmp_path: Path) -> None:
    path = _file(
        tmp_path, "codec: {name: paper, keep_ratio: 0.3}\ntraining:\n  rounds: 3\nseed: 7\n"
    )
    config = read_config(path, {"codec.levels": "7", "training.rounds": "5"})
    assert (config.codec.keep_ratio, config.codec.levels) == (0.3, 7)
    assert (config.training.rounds, config.seed) == (5, 7)


def test_a_section_given_as_a_word_is_its_name(tmp_path: Path) -> None:
    assert read_config(_file(tmp_path, "codec: none\n")).codec.name == "none"
    assert read_config(None, {"optimizer": "sgd"}).optimizer.name == "sgd"
    mixed = read_config(_file(tmp_path, "codec: paper\n"), {"codec.levels": "3"}).codec
    assert (mixed.name, mixed.levels) == ("paper", 3)


def test_lists_and_floats_without_a_sign_in_the_exponent() -> None:
    config = read_config(
        None,
        {
            "planner": "fixed",
            "planner.shares": "[0.5, 0.5]",
            "channel.bandwidth_hz": "5e6",
            "devices.memory_mib": "null",
        },
    )
    assert config.planner == FixedPlanner(shares=(0.5, 0.5))
    assert config.channel == SnrSection(bandwidth_hz=5e6)
    assert config.devices.memory_mib is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("codec: {keep_rato: 0.1}", "key codec.keep_rato; did you mean keep_ratio"),
        ("codek: none", "unknown configuration key codek; did you mean codec"),
        ("zzz: 1", "unknown configuration key zzz; known: scheme, model"),
        ("codec: {name: paper, keep_ratio: 0}", "codec.keep_ratio: should be above 0, not 0"),
        ("codec: {name: paper, keep_ratio: 1.5}", "codec.keep_ratio: should be at most 1, not 1.5"),
        ("codec: {name: paper, keep_ratio: .nan}", "codec.keep_ratio"),
        ("codec: gzip", "codec.name: should be 'none', 'paper', .*, not 'gzip'"),
        ("codec: {name: paper, levels: 7.5}", "codec.levels"),
        ("devices: {flops_per_s: [1, -1]}", "devices.flops_per_s"),
        ("channel: {bandwidth_hz: .inf}", "channel.bandwidth_hz"),
        ("training: 3", "training must hold keys and values, not 3"),
        ("link:", "link must hold keys and values, not None"),
        (
            "channel: {name: traces, uplink: a.csv}",
            r"channel.uplink must be a list, such as \[a, b\], not 'a.csv'",
        ),
        (
            "planner: {name: fixed, shares: [.nan]}",
            "planner.shares: should be a finite number, not",
        ),
        ("link: {duplex: odd}", "link.duplex: should be 'full' or 'half', not 'odd'"),
        ("seed: 1\nseed: 2", "line 2 gives seed again: leave out one"),
        ("link:\n  duplex: full\n  duplex: half", "line 3 gives duplex again"),
        ("channel: {fading: {k_db: 1, k_db: 2}}", "line 1 gives k_db again"),
        ("seed: &a [*a]", "seed"),
        ("? [a]\n: 1", "must hold keys and values|is not YAML"),
        (
            "channel.bandwidth_hz: 5",
            "key channel.bandwidth_hz; nest it: channel: {bandwidth_hz: ...}",
        ),
        ("codec.up.centre: 5", "key codec.up.centre; nest it: codec: {up: {centre: ...}"),
        ("codec: {up.centre: 5}", "key codec.up.centre; "),
        ("seed: 12:30", "seed: should be a valid integer.*, not '12:30'"),
        ("optimizer: {learning_rate: 1:30.5}", "optimizer.learning_rate: .*, not '1:30.5'"),
        ("- 1", "must hold keys and values"),
        ("codec: [", "is not YAML"),
    ],
)  # fmt: skip
def test_mistakes_get_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_config(_file(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["010", "1_0", "0x0a", "10", "+10", "10.0", "'10'"])
def test_a_number_in_a_file_is_what_it_looks_like(tmp_path: Path, text: str) -> None:
    assert read_config(_file(tmp_path, f"training: {{rounds: {text}}}")).training.rounds == 10


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration nowhere\.yaml: No such"):
        read_config(Path("nowhere.yaml"))


def test_an_override_that_is_not_known() -> None:
    with pytest.raises(ConfigError, match=r"unknown configuration key codec\.keepratio"):
        read_config(None, {"codec.keepratio": "0.1"})


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "seed": st.integers(0, 2**31 - 1),
            "threads": st.none() | st.integers(1, 64),
            "codec": st.sampled_from(["none", "paper"])
            | st.fixed_dictionaries({"basis_share": st.floats(0, 1, exclude_min=True)}),
            "devices": st.fixed_dictionaries(
                {"uplink_snr_db": st.floats(-30, 30) | st.lists(st.floats(-30, 30), min_size=1)}
            ),
        },
    )
)
def test_printed_and_read_again_it_is_the_same(values: dict[str, object]) -> None:
    config = Config.model_validate(
        {k: {"name": v} if k == "codec" and isinstance(v, str) else v for k, v in values.items()}
    )
    again = Config.model_validate(yaml.safe_load(config_yaml(config)))
    assert again == config
    assert config_sha256(again) == config_sha256(config)


def test_every_setting_is_described() -> None:
    listed = list(keys())
    assert len(listed) > 120
    assert all(len(each.description) > 10 for each in listed)
    assert all(each.key.replace(".", "").replace("_", "").isalnum() for each in listed)
    # also those of sections that are null unless given
    assert {"codec.up", "codec.up.centre", "codec.down.quantise.bits", "channel.fading.k_db"} < {
        each.key for each in listed
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "codec: {name: stages, up: {quantise: {name: int, bits: 99}}}",
            "codec.up.quantise.bits: should be at most 8, not 99",
        ),
        ("codec: {name: stages, up: {quantize: int}}", "codec.up.quantize; did you mean quantise"),
        (
            "channel: {fading: {name: gauss-markov, correlation: 2}}",
            "channel.fading.correlation: should be below 1, not 2",
        ),
        ("data: {label_field: no}", "data.label_field: should be text, not False: put it in quot"),
        ("data: {name: [a]}", r"data.name: should be text, not \['a'\]$"),
        ("data: {name: 2024}", "data.name: should be text, not 2024: put it in quotes"),
        ('data: {name: "a\\0b"}', "data.name: should be text without zero bytes"),
        ("seed: 0x" + "f" * 9000, "seed: should be at most 2,147,483,647, not a number of more"),
        ("seed: " + "9" * 9000, "is not YAML|seed: "),
        ("codec: " + "x" * 9000, "codec.name: should be 'none'"),
        ("? " + "x" * 900 + "\n: 1", "unknown configuration key xxx"),
        ("devices: {flops_per_s: " + "[" * 9000, "is not YAML"),
    ],
)
def test_messages_name_the_whole_key_and_stay_short(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_config(_file(tmp_path, text))
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_a_file_of_aliases_of_aliases_is_refused_at_once(tmp_path: Path) -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    with pytest.raises(ConfigError) as caught:
        read_config(_file(tmp_path, "\n".join([*lines, "seed: *i"])))
    assert len(str(caught.value)) < 300


def test_a_file_without_end_is_not_read() -> None:
    with pytest.raises(ConfigError, match="/dev/zero has more than 1048576 bytes"):
        read_config(Path("/dev/zero"))


def test_a_file_without_settings_says_so(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("# nothing yet\n", encoding="utf-8")
    with pytest.warns(UserWarning, match=r"run.yaml is empty: all settings are the defaults"):
        assert read_config(path) == Config()
