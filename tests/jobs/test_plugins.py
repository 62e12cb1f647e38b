"""What other packages have: found by name, called with options, refused by one clear line."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import plugin
import pytest
import tiny
import yaml

import cutlayer
from cutlayer.cli.main import main
from cutlayer.config.read import config_yaml, read_config
from cutlayer.config.schema import Config
from cutlayer.config.section import CODECS, PluginSection
from cutlayer.errors import ConfigError, CutlayerError, RunError
from cutlayer.jobs.check import check
from cutlayer.jobs.plugins import check_registered, portable
from cutlayer.jobs.prepare import prepare
from cutlayer.jobs.train import resume, start

PIECES = "cutlayer_example.pieces"
EACH: dict[str, object] = {
    "codec": {"name": f"{PIECES}:Truncated", "options": {"kept": 3}},
    "channel": {"name": f"{PIECES}:Tide", "options": {"period": 3}},
    "planner": {"name": f"{PIECES}:ByDemand", "options": {"floor": 0.05}},
    "scheme": f"{PIECES}:SFT_TOGETHER",
    "partition": {"name": f"{PIECES}:by_label", "options": {"pieces": 1}},
    "aggregation": f"{PIECES}:Median",
}
REGISTERED = {
    "codec": "truncated",
    "channel": "tide",
    "planner": "by-demand",
    "scheme": "sft-together",
    "partition": "by-label",
    "aggregation": "middle",
}


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plugin.install(monkeypatch, tmp_path / "site")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tiny")
    return tiny.vision_model(folder / "model"), tiny.images(folder / "images")


def adapter(run: Path) -> bytes:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def test_one_of_each_trains_and_resumes_to_the_bit(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    config = tiny.config(*folders, **EACH)
    whole = start(config, tmp_path / "whole").path
    short = config.model_copy(update={"training": config.training.model_copy(update={"rounds": 1})})
    begun = start(short, tmp_path / "begun").path
    assert adapter(begun) != adapter(whole)
    assert adapter(resume(begun, changes={"training.rounds": "2"}).path) == adapter(whole)
    assert json.loads((whole / "summary.json").read_text())["scheme"] == "sft-together"
    assert yaml.safe_load((whole / "config.yaml").read_text())["codec"]["options"] == {"kept": 3}


def test_a_run_goes_on_with_its_own_options_alone(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    run = start(tiny.config(*folders, **EACH), tmp_path).path
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("period: 3", "period: 4"))
    with pytest.raises(RunError, match=r"channel\.options\.period was 3, config\.yaml says 4"):
        resume(run)


def test_registered_names_are_the_same(folders: tuple[Path, Path]) -> None:
    short = prepare(tiny.config(*folders, **REGISTERED)).setup
    plain = {key: f"{PIECES}:{name}" for key, name in zip(EACH, _names(), strict=True)}
    whole = prepare(tiny.config(*folders, **plain)).setup
    for name in ("codecs", "scheme"):
        assert getattr(short.training, name) == getattr(whole.training, name)
    for name in ("allocation", "channel"):
        assert getattr(short.simulation, name) == getattr(whole.simulation, name)
    assert short.server.aggregation == whole.server.aggregation


def _names() -> tuple[str, ...]:
    return ("Truncated", "Tide", "ByDemand", "SFT_TOGETHER", "by_label", "Median")


def test_it_stands_in_the_configuration_and_reads_back(tmp_path: Path) -> None:
    config = Config.model_validate({**EACH})
    path = tmp_path / "run.yaml"
    path.write_text(config_yaml(config), encoding="utf-8")
    assert read_config(path) == config != Config()
    typed = read_config(None, {"codec": "truncated", "codec.options": "{kept: 3}"})
    assert typed.codec == PluginSection(name="truncated", options={"kept": 3})


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"codec": "gzip"}, "codec.name: should be .* or 'package.module:Name', not 'gzip'"),
        ({"codec": "no_such_package.codecs:C"}, "no no_such_package here: install no_such_pack"),
        (
            {"codec": {"name": "no_such_package:C", "package": "such-codecs"}},
            "there is no no_such_package here: install such-codecs",
        ),
        ({"codec": f"{PIECES}:Truncate"}, "has no Truncate; did you mean Truncated"),
        ({"codec": {"name": "truncated", "options": {"keep": 2}}}, "takes no keep; .* kept"),
        ({"codec": {"name": "truncated", "options": {"kept": 9}}}, "truncated: kept 9: 2 or 3 of"),
        ({"codec": {"name": "truncated", "levels": 3}}, "codec.levels 3 is not read with"),
        ({"codec": "tide"}, "codec.name: should be"),
        ({"codec": "truncate"}, "not 'truncate'; did you mean truncated"),
        ({"codec": "bset"}, "not 'bset'; did you mean best"),
        ({"codec": "a:b:c"}, "codec.name: should be package.module:Name, with one colon, not"),
        ({"codec": {"name": f"{PIECES}:SFT_TOGETHER"}}, "which cannot be called: name a class"),
        ({"codec": {"name": "builtins:object", "options": {"a": 1}}}, "a; it has no options"),
        ({"codec": f"{PIECES}:Median"}, "makes Median\\(\\), which is no cutlayer.Codec"),
        ({"codec": f"{PIECES}:PIECES"}, "has no PIECES"),
        (
            {"scheme": {"name": "sft-together", "options": {"a": 1}}},
            "cannot be called with options",
        ),
        ({"scheme": "json:dumps"}, "json:dumps cannot be made with no options: TypeError"),
        ({"channel": {"name": "tide", "options": {"period": 0}}}, "tide: .* period 0: both above"),
        ({"planner": f"{PIECES}:Nobody"}, "has no Nobody"),
        ({"planner": {"name": "by-demand", "options": {"flor": 0.1}}}, "did you mean floor"),
        ({"aggregation": {"name": "middle", "options": {"trim": 1}}}, "takes no trim"),
        ({"aggregation": f"{PIECES}:by_label"}, "cannot be made with no options"),
        ({"partition": f"{PIECES}:by_labels"}, "did you mean by_label"),
        ({"partition": "no_such_module:deal"}, "there is no no_such_module here"),
        ({"partition": {"name": "by-label", "options": {"peaces": 1}}}, "did you mean pieces"),
        ({"partition": "json:__doc__"}, "which cannot be called: name a class or function"),
        ({"optimizer": f"{PIECES}:Median"}, "optimizer.name: should be 'adamw' or 'sgd'"),
    ],
)
def test_what_cannot_be_gets_one_line(sections: Mapping[str, object], message: str) -> None:
    with pytest.raises(CutlayerError, match=message) as caught:
        check(Config.model_validate(sections))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("[labels[:0]] * count", "device 0 no samples"),
        ("[range(3)] * count", "has a sample twice"),
        ("[[10**6 + n] for n in range(count)]", "not among the"),
        ("[[0]]", "the partition has 1 devices, there are 3"),
        ("[[0.5]] * count", "no samples, as their indices"),
        ("None", "an array of indices a device, not None"),
    ],
)
def test_a_partition_is_checked(
    returned: str,
    message: str,
    folders: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "dealing.py").write_text(f"def deal(labels, count):\n    return {returned}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "dealing", raising=False)
    with pytest.raises(CutlayerError, match=message):
        prepare(tiny.config(*folders, partition="dealing:deal"))


def test_a_module_that_fails_as_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing.py").write_text("import no_such_thing\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="failing:C needs no_such_thing, which is not installed"):
        check(Config.model_validate({"codec": "failing:C"}))
    with pytest.raises(ConfigError, match="broken cannot be imported: ZeroDivisionError: div"):
        check(Config.model_validate({"codec": "broken:C"}))


BROKEN = """
import numpy as np
import torch

from cutlayer import Aggregation, Allocation, Channel, Codec, Decoded, Encoded


class Signature(Codec):
    name = "other"

    def encode(self, tensor):
        ...

    def decode(self, packet, shape, state):
        return Decoded(np.frombuffer(packet, "f4").reshape(shape), (shape[1],) * shape[0], state)

    def expected_bytes(self, shape):
        return 4.0 * np.prod(shape)


class Plain(Signature):
    "Right, but that its tensors are views of the packet."

    def encode(self, tensor, state, rng, *, lengths=None, samples=None):
        return Encoded(np.asarray(tensor).tobytes(), state)


class NoPacket(Plain):
    def encode(self, tensor, state, rng, *, lengths=None, samples=None):
        return b"x"


class NoDecoded(Plain):
    def decode(self, packet, shape, state):
        return np.zeros(shape, "f4")


class Flat(Plain):
    def decode(self, packet, shape, state):
        return Decoded(np.frombuffer(packet, "f4"), (shape[1],) * shape[0], state)


class Lengths(Plain):
    def decode(self, packet, shape, state):
        return Decoded(np.frombuffer(packet, "f4").reshape(shape), (1,), state)


class Half(Aggregation):
    def merge(self, rows, weights):
        return rows[0][:2]


class Nan(Aggregation):
    def merge(self, rows, weights):
        return rows[0] * float("nan")


class Rows(Aggregation):
    def merge(self, rows):
        return rows[0]


class Raises(Codec):
    name = "raises"

    def encode(self, tensor, state, rng, *, lengths=None, samples=None):
        raise KeyError("one\\ntwo")

    def decode(self, packet, shape, state):
        ...

    def expected_bytes(self, shape):
        return 4.0 * np.prod(shape)


class Merging(Aggregation):
    def merge(self, rows, weights):
        return rows + None


class Sharing(Allocation):
    def shares(self, round_number, observed, curves):
        return observed.speed


class Curving(Channel):
    devices = 3

    def curves(self, round_number, start_s):
        raise ValueError("no tide")

    def mean_curves(self):
        return 1e6


class Greedy(Allocation):
    def shares(self, round_number, observed, curves):
        return [0.5] * len(observed.compute_s)


class Nobody(Allocation):
    def shares(self, round_number, observed, curves):
        pass


class Curveless(Channel):
    devices = 3

    def curves(self, round_number, start_s):
        return 1e6

    def mean_curves(self):
        return 1e6


def lines():
    raise ValueError("one\\ntwo")
"""


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_pieces.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "broken_pieces", raising=False)


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize(
    ("key", "name", "message"),
    [
        (
            "codec",
            "Signature",
            r"its encode should take \(tensor, state, rng, \*, lengths",
        ),
        ("codec", "NoPacket", r"NoPacket\.encode should give an Encoded with the bytes"),
        ("codec", "NoDecoded", r"NoDecoded\.decode should give a Decoded"),
        ("codec", "Flat", r"Flat\.decode should give a tensor of float32 of \[4, 5, 24\]"),
        ("codec", "Lengths", r"Lengths\.decode should give the lengths of 4 samples, not \(1,\)"),
        ("codec", "lines", "lines cannot be made with no options: ValueError: one two"),
        (
            "aggregation",
            "Half",
            r"Half merges rows of \d+ values of .* into .* of \[2\]",
        ),
        ("aggregation", "Nan", "Nan merges finite rows into one with NaN"),
        ("aggregation", "Rows", r"its merge should take \(rows, weights\): too many"),
        ("planner", "Greedy", "bandwidth shares sum to 1.5, more than"),
        ("planner", "Nobody", "bandwidth shares are a number a device, not None"),
        ("codec", "Raises", "broken_pieces:Raises: encode failed: KeyError: 'one.*two'"),
        ("aggregation", "Merging", "broken_pieces:Merging: merge failed: TypeError: unsupported"),
        ("planner", "Sharing", "broken_pieces:Sharing: shares failed: AttributeError: 'Observed"),
        ("channel", "Curving", "broken_pieces:Curving: curves failed: ValueError: no tide"),
        ("channel", "Curveless", "the curves of the channel Curveless should be RateCurves"),
    ],
)
def test_what_breaks_its_contract_is_named(
    key: str, name: str, message: str, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    config = tiny.config(*folders, **{key: f"broken_pieces:{name}"})
    with pytest.raises(CutlayerError, match=message) as caught:
        cutlayer.train(config, output=tmp_path / "runs")
    assert "\n" not in str(caught.value)
    # what a codec makes of a tensor is known once there is one
    assert key == "codec" or not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("broken")
def test_a_tensor_may_be_a_view_of_its_packet(folders: tuple[Path, Path], tmp_path: Path) -> None:
    plain = cutlayer.train(
        tiny.config(*folders, codec="broken_pieces:Plain"), output=tmp_path / "plain"
    )
    raw = cutlayer.train(tiny.config(*folders, codec="none"), output=tmp_path / "raw")
    assert adapter(plain.path) == adapter(raw.path)


def test_an_entry_point_that_is_gone_is_named_as_a_run_goes_on(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    run = start(tiny.config(*folders, codec="truncated"), tmp_path / "runs").path
    shutil.rmtree(tmp_path / "site")
    with pytest.raises(ConfigError, match="not 'truncated'"):
        resume(run, changes={"training.rounds": "3"})


def test_another_machine_is_told_the_whole_name_and_what_to_install() -> None:
    section = portable(PluginSection(name="truncated"), CODECS)
    assert section.name == f"{PIECES}:Truncated"
    check_registered("codec", section, CODECS)


def test_what_another_machine_names_is_not_imported_for_the_naming() -> None:
    section = PluginSection(name="subprocess:run", options={"args": "x"}, package="such-codecs")
    with pytest.raises(ConfigError, match="by no package here: install the package such-codecs"):
        check_registered("codec", section, CODECS)


def test_planning_comparing_and_checking_know_them(
    folders: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny.config(*folders, **{**EACH, "planner": {"name": "by-demand", "least_cut": 2}})
    path = tmp_path / "run.yaml"
    path.write_text(config_yaml(config), encoding="utf-8")
    assert main(["config", "check", str(path)]) == 0
    assert f"is valid: {PIECES}:SFT_TOGETHER of" in capsys.readouterr().out
    given = ["--data.train-samples", "60", "--planner.least-cut", "2"]
    assert main(["plan", str(path), *given]) == 0
    planned = read_config(tmp_path / "plan" / "plan.yaml")
    assert planned.codec == config.codec
    assert planned.scheme == config.scheme
    assert planned.planner.name in ("static", "two-timescale")
    words = ["compare", str(path), "--schemes", "sft,sft-together", "--quiet"]
    assert main(words) == 0
    assert main(words) == 0  # found finished
    assert len(list((tmp_path / "comparison" / "runs").glob("*/*/summary.json"))) == 2


@pytest.mark.slow("builds and installs a package")
def test_it_installs_as_an_outsider_would(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "alone"
    shutil.copytree(plugin.FOLDER, source)
    pip = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([sys.executable, *pip, "--target", str(site), str(source)], check=True)
    (tmp_path / "run.yaml").write_text("".join(f"{k}: {v}\n" for k, v in REGISTERED.items()))
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "cutlayer", "config", "check", "run.yaml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("run.yaml is valid: sft-together of dinov2-small"), done.stderr
