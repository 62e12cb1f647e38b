"""What is said of settings: by section, in comments, and as a schema for editors."""

from pathlib import Path

import jsonschema
import pytest
import yaml
from jsonschema.protocols import Validator

from cutlayer.cli.settings import all_examples
from cutlayer.config.keys import commented_yaml, json_schema, keys, overview, section_help
from cutlayer.config.read import PlainLoader, config_yaml, read_config, read_values
from cutlayer.config.schema import Config
from cutlayer.config.section import choices_with
from cutlayer.errors import ConfigError
from cutlayer.jobs.sweep import SweepFile, planned_cells, which_seeds

OVERRIDES: list[dict[str, str]] = [
    {},
    {"codec": "stages", "codec.up.quantise": "int", "codec.up.quantise.bits": "4"},
    {"channel": "traces", "channel.uplink": "a: #1.csv", "data.name": "'no', [x]"},
    {"planner": "fixed", "planner.shares": "[0.25, 1e-5]", "devices.count": "2"},
    {"devices.preset": "[jetson-nano, pixel-6]", "devices.efficiency": "0.3"},
    {"adapter.targets": "[q_proj, v_proj]", "data.text_field": "a\nb  c\td", "data.name": "ü"},
]


@pytest.fixture(scope="module")
def validator() -> Validator:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("overrides", OVERRIDES)
def test_comments_change_nothing(overrides: dict[str, str], tmp_path: Path) -> None:
    config = read_config(None, overrides)
    path = tmp_path / "run.yaml"
    path.write_text(commented_yaml(config), encoding="utf-8")
    assert read_config(path) == config
    assert config_yaml(read_config(path)) == config_yaml(config)


def test_every_setting_of_a_configuration_has_its_meaning_above_it() -> None:
    lines = commented_yaml(Config()).splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        if ":" in line and not line.lstrip().startswith("#"):
            assert before.lstrip().startswith("# "), line
    assert "  # bits per value of activations (number, 0.001 to 16)" in lines
    assert max(map(len, lines)) <= 100


def test_a_section_shows_every_choice_with_what_it_reads() -> None:
    text = section_help("codec")
    for words in (
        "best (default): ",
        "--codec.target-bits-up: number, 0.001 to 16 (0.7)",
        "--codec.target-cosine-up: number, 0.1 to 0.9999 or null (null)",
        "--codec.up: The stages of activations. See --help codec.up.",
    ):
        assert words in text
    none, paper = text.index("\nnone: "), text.index("\npaper: ")
    assert "--codec" not in text[none:paper]


def test_all_settings_are_in_the_help_of_a_section() -> None:
    sections = {each.key.rpartition(".")[0] for each in keys()}
    told = "\n".join(section_help(section) for section in sections if section)
    told += "".join(section_help(key) for key in ("seed", "threads"))
    for each in keys():
        section, _, name = each.key.rpartition(".")
        if not (choices_with(Config, section, name) and name == "name"):
            assert f"--{each.key.replace('_', '-')}: " in told
    assert all(f"  {name} " in overview().replace("--", "") for name in Config.model_fields)


def test_a_setting_alone_and_names_as_options_are_written() -> None:
    assert section_help("training.rounds") == (
        "  --training.rounds: whole number, 1 to 1,000,000 (5)\n"
        "      rounds; each ends with the aggregation of the adapters"
    )
    assert section_help("--devices.memory-mib") == section_help("devices.memory_mib")


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("codek", "codek; did you mean codec"),
        ("channel.fadin", "did you mean channel.fading"),
        ("xyzzy", "known: scheme, model, data"),
    ],
)
def test_no_such_section(word: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"no settings are called {word}|{hint}"):
        section_help(word)


@pytest.mark.parametrize("name", list(all_examples()))
def test_the_schema_takes_the_examples(name: str, validator: Validator) -> None:
    values = yaml.load(all_examples()[name].read_text(encoding="utf-8"), Loader=PlainLoader)
    if "grid" in values:  # a sweep, of the default job
        sweep = SweepFile.model_validate(values)
        assert planned_cells({}, sweep.settings, sweep.grid, which_seeds(sweep.seeds))
        return
    validator.validate(values)


@pytest.mark.parametrize("overrides", OVERRIDES)
def test_the_schema_takes_what_is_written(overrides: dict[str, str], validator: Validator) -> None:
    validator.validate(yaml.safe_load(config_yaml(read_config(None, overrides))))


@pytest.mark.parametrize(
    ("values", "right"),
    [
        ({"codec": "best", "model": "gpt2"}, True),
        ({"codec": {"target_bits_up": 0.5}}, True),
        ({"codec": {"name": "paper", "levels": 7}}, True),
        ({"channel": {"fading": {"name": "rician", "k_db": 3}}}, True),
        ({"codec": {"name": "a.b:C", "options": {"x": [1]}}, "channel": "a:b"}, True),
        ({"codec": {"name": "best", "options": {}}}, False),
        ({"optimizer": "a.b:C"}, False),
        ({"codec": "gzip"}, False),
        ({"codec": {"levels": 7}}, False),
        ({"codec": {"name": "paper", "target_bits_up": 0.5}}, False),
        ({"codec": {"name": "stages"}}, False),
        ({"training": {"local_steps": 0}}, False),
        ({"channel": {"name": "traces", "bandwidth_hz": 1}}, False),
        ({"codek": "best"}, False),
    ],
)
def test_the_schema_says_what_the_reader_says(
    values: dict[str, object], right: bool, validator: Validator
) -> None:
    assert validator.is_valid(values) is right
    if right:
        read_values(values)
    else:
        with pytest.raises(ConfigError):
            read_values(values)


def test_the_schema_tells_choices_apart_and_says_what_each_key_means() -> None:
    schema = json_schema()
    *_, chosen = schema["properties"]["codec"]["anyOf"]
    assert chosen["discriminator"]["propertyName"] == "name"
    assert chosen["discriminator"]["mapping"]["best"] == "#/$defs/BestCodec"
    for section in schema["$defs"].values():
        for name, setting in section.get("properties", {}).items():
            assert "const" in setting or "$ref" in setting or setting.get("description"), name
