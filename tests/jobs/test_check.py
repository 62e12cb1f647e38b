"""What can be told without torch: the same for every command that would find out later."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import tiny

from cutlayer.config.read import read_config
from cutlayer.config.schema import Config
from cutlayer.errors import AssetError, ConfigError, CutlayerError, RunError
from cutlayer.jobs.check import check, check_file, check_folder, check_limits, write_together


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that is a model as far as its `config.json` goes."""
    settings = {"model_type": "vit", "num_hidden_layers": 4, "hidden_size": 24, "patch_size": 14}
    (tmp_path / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.cut": "4"}, r"model\.cut is 4; .*, of 4 blocks, can be cut after block 1\.\.3"),
        ({"adapter.rank": "25"}, "adapter.rank 25 is above 24, the width of"),
        ({"codec": "stages"}, "codec.name stages needs codec.up"),
        ({"training.micro_batches": "17"}, "training.micro_batches 17 of training.batch_size 16"),
        (
            {"scheme": "splitlora", "training.micro_batches": "2"},
            "training.micro_batches 2: the server",
        ),
        ({"training.local_steps": "null"}, "both are null"),
        (
            {"planner": "fixed", "planner.shares": "[0.5, 0.5]"},
            "planner.shares lists 2 shares for devices.count 8",
        ),
        ({"channel": "traces", "channel.uplink": "nowhere.csv"}, "nowhere.csv"),
        (
            {"data.format": "alpaca", "data.task": "text-classification"},
            "data.format alpaca is for language models, but data.task is text-classification",
        ),
        (
            {"data.format": "text", "data.loss_on": "assistant"},
            "data.loss_on is assistant, but data.format is text, which has no turns",
        ),
        ({"partition": "column"}, "partition.name column needs partition.column: it has no def"),
        ({"data.chat_template": "chatml"}, "data.chat_template is 'chatml': no such file"),
        ({"data.chat_template": "{% if %}"}, "data.chat_template is no template .*: line 1"),
        ({"devices.memory_mib": "[1, 2]"}, "devices.memory_mib lists 2 values"),
        ({"devices.count": "2000"}, "data.train_samples 1600 are too few for 2000 devices"),
        (
            {"planner": "fixed", "planner.shares": "[0.5, 0.5]", "devices.count": "2"}
            | dict.fromkeys(("link.uplink", "link.downlink"), "shared"),
            "planner.shares lists 2 shares, but with link.uplink shared and",
        ),
        (
            {"devices.flops_per_s": "[1e9, 1e9]", "devices.count": "2"}
            | {"devices.flops_spread": "0.2"},
            "devices.flops_spread 0.2 is not read",
        ),
    ],
)
def test_what_cannot_be_is_told(model: Path, overrides: Mapping[str, str], message: str) -> None:
    usual = {"model.name": str(model), "model.cut": "2"}
    with pytest.raises(ConfigError, match=message):
        check(read_config(None, {**usual, **overrides}))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"planner": {"name": "static", "most_share": 0.2}, "devices": {"count": 2}},
            r"most_share of 2 devices comes to 0\.4 .*: let each have at least 0\.5",
        ),
        ({"data": {"name": "/nope/x"}}, "no data set '/nope/x': no such path from"),
        ({"data": {"image_size": 27}}, "cuts images into patches of 14 pixels: .* 14 or 28"),
        ({"data": {"task": "causal-lm"}}, "is for image-classification, .* for causal-lm"),
        ({"data": {"name": "brown"}}, "is for image-classification, .* a model such as"),
        ({"net": {"quorum": 9}}, r"net\.quorum 9 for 8 devices"),
        ({"net": {"deadline_s": 9, "give_up_s": 3}}, r"net\.give_up_s 3\.0 is before"),
        ({"net": {"devices": ["a", "b"]}}, r"net\.devices lists 2 names for devices\.count 8"),
        ({"net": {"devices": ["a", "a"]}, "devices": {"count": 2}}, "one of its own"),
        ({"net": {"devices": ["a b/.."]}, "devices": {"count": 1}}, "no name for a device: 'a b"),
        ({"adapter": {"targets": []}}, r"adapter\.targets: is an empty list"),
        (
            {"scheme": "sft-overlap", "training": {"micro_batches": 2, "in_flight": 9}},
            r"training\.in_flight 9 of 2 micro-batches: lower it",
        ),
    ],
)
def test_what_another_command_would_refuse_is_told(
    model: Path, sections: dict[str, object], message: str
) -> None:
    with pytest.raises(CutlayerError, match=message):
        check(Config(**{"model": {"name": str(model), "cut": 2}, **sections}))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"planner": {"profile": "/nope.json"}}, "no profile /nope.json"),
        (
            {"planner": {"least_cut": 9}},
            r"planner\.least_cut is 9, .* block 1\.\.3: lower it",
        ),
        ({"adapter": {"targets": ["nope"]}}, "no linear layer named 'nope'"),
    ],
)
def test_what_no_run_asks_a_plan_does(
    tmp_path: Path, sections: dict[str, dict[str, object]], message: str
) -> None:
    model = tiny.vision_model(tmp_path / "model")
    config = Config(**{"scheme": "sft", "model": {"name": str(model), "cut": 2}, **sections})
    check(config)
    with pytest.raises(CutlayerError, match=message):
        check_limits(config)


def test_layers_that_the_model_has_may_be_adapted(tmp_path: Path) -> None:
    model = tiny.vision_model(tmp_path / "model")
    check_limits(Config(model={"name": str(model)}, adapter={"targets": ["mlp.fc1"]}))


def test_a_cut_that_nobody_makes_may_be_any(model: Path) -> None:
    config = read_config(None, {"model.name": str(model)})  # its cut is 4, of as many blocks
    check(config, cut=False)
    check(read_config(None, {"model.name": str(model), "scheme": "fl-lora"}))
    with pytest.raises(ConfigError, match=r"model\.cut is 4"):
        check(config)


def test_a_model_that_may_be_on_the_hub_is_left_to_whoever_loads_it() -> None:
    check(read_config(None, {"model.name": "owner/unheard-of"}))
    with pytest.raises(AssetError, match="no model 'no such thing'"):
        check(read_config(None, {"model.name": "no such thing"}))


@pytest.mark.parametrize("text", ["not JSON", "[]", '{"n_layer": true, "n_embd": -1}', "[" * 9000])
def test_a_broken_description_is_left_to_whoever_reads_it(model: Path, text: str) -> None:
    (model / "config.json").write_text(text, encoding="utf-8")
    check(read_config(None, {"model.name": str(model)}))


def test_a_place_to_write_to_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    check_folder(tmp_path / "a" / "b")
    check_file(tmp_path / "a" / "b.json")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for path in (Path("/proc/x"), Path("/dev/null"), tmp_path / "file" / "a"):
        with pytest.raises(RunError, match=r"cannot write .*; choose another output"):
            check_folder(path)
    with pytest.raises(RunError, match="is a directory"):
        check_file(tmp_path)


def test_files_are_written_together_and_old_ones_go(tmp_path: Path) -> None:
    write_together(tmp_path, {"a": "1", "b": "2"})
    write_together(tmp_path, {"a": "3", "b": None})
    (left,) = tmp_path.iterdir()
    assert (left.name, left.read_text(encoding="utf-8")) == ("a", "3")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "full").touch()
    with pytest.raises(RunError, match="cannot write"):
        write_together(tmp_path, {"a": "4", "b": "5"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
