"""A run goes on with what it began with, or says what differs; what may change is a list."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from cutlayer.channel.fading import SnrChannel
from cutlayer.cli.main import main
from cutlayer.codec.codec import Codec, CodecPair
from cutlayer.codec.kernels.native import load_kernels
from cutlayer.codec.presets import best, fast
from cutlayer.codec.raw import RawCodec
from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError, RunError
from cutlayer.jobs.check import MAY_CHANGE, may_change
from cutlayer.jobs.network import open_net
from cutlayer.jobs.prepare import Job, prepare
from cutlayer.jobs.resume import described, settle
from cutlayer.jobs.train import new_directory, resume, start
from cutlayer.jobs.trained import keep
from cutlayer.logs import lines_to
from cutlayer.net.wire.link import in_place
from cutlayer.planner.allocation import FixedAllocation
from cutlayer.training.records import Silent
from cutlayer.training.run import begin
from cutlayer.training.run_directory import RunDirectory
from cutlayer.training.run_log import RunLog

FILE = "fingerprint.json"


def _config(root: Path, **sections: object) -> Config:
    """A round of a tiny BERT on the reviews below `root`."""
    sections = {"training": {"rounds": 1, "local_steps": 1}, "codec": "none", **sections}
    return tiny.config(root / "model", root / "data", **sections)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, data, and a run in it of one round."""
    root = tmp_path_factory.mktemp("ended") / "all"
    root.mkdir()
    tiny.text_model(root / "model", "bert")
    tiny.reviews(root / "data")
    start(_config(root), root / "runs")
    return root


@pytest.fixture(scope="module")
def job(ended: Path) -> Job:
    """That run, made ready again."""
    return prepare(_config(ended))


@pytest.fixture
def own(ended: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The same to spoil, with its run set on one round more; and the run."""
    root = shutil.copytree(ended, tmp_path / "own")
    (run,) = (root / "runs").iterdir()
    _set(run, "training.rounds", 2)
    _set(run, "model.name", str(root / "model"))
    _set(run, "data.name", str(root / "data"))
    return root, run


def _set(run: Path, key: str, value: object) -> None:
    """Edit `config.yaml`."""
    values = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    *sections, name = key.split(".")
    section = values
    for each in sections:
        section = section[each]
    section[name] = value
    (run / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def _in_tables(data: Path, change: Callable[[str], str]) -> None:
    for path in data.iterdir():
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


def _backwards(text: str) -> str:
    first, *rows = text.splitlines(keepends=True)
    return "".join([first, *reversed(rows)])


def _other_weights(root: Path) -> None:
    path = root / "model" / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("query.weight"))
    tensors[name] = tensors[name] + 1e-3
    save_file(tensors, path, {"format": "pt"})


def _other_words(root: Path) -> None:
    path = root / "model" / "tokenizer.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("film", "tmp").replace("plot", "film").replace("tmp", "plot"))


SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {
    "class names in another order": (
        lambda root: _in_tables(root / "data", lambda text: text.replace(",neg", ",zneg")),
        "since round 1 the data changed: class names were neg, pos and are pos, zneg",
    ),
    "fewer samples": (
        lambda root: _in_tables(root / "data", lambda text: "".join(text.splitlines(True)[:41])),
        "the data changed: 60 training samples were there and 40 are; 60 test",
    ),
    "a word": (
        lambda root: _in_tables(root / "data", lambda text: text.replace(",pos", " the,pos", 1)),
        "the data changed: the 60 training samples have different content or order",
    ),
    "another order": (
        lambda root: _in_tables(root / "data", _backwards),
        "the data changed: the 60",
    ),
    "weights": (_other_weights, "the model changed: model.safetensors"),
    "tokenizer": (_other_words, "the model changed: tokenizer.json"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_other_inputs_are_refused_by_name(what: str, own: tuple[Path, Path]) -> None:
    root, run = own
    spoil, message = SPOILT[what]
    spoil(root)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(RunError) as caught:
        resume(run)
    assert message in str(caught.value)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed", 7, "seed was 0, config.yaml says 7"),
        ("optimizer.learning_rate", 0.1, "optimizer.learning_rate was 0.01, config.yaml says 0.1"),
        ("codec.name", "fast", "codec.name was none, config.yaml says fast"),
        (
            "channel.bandwidth_hz",
            1e6,
            "channel.bandwidth_hz was 5000000.0, config.yaml says 1000",
        ),
        ("training.local_steps", 3, "training.local_steps was 1, config.yaml says 3"),
        ("scheme.name", "splitlora", "scheme.name was sft, config.yaml says splitlora"),
        ("data.max_tokens", 6, "data.max_tokens was 12, config.yaml says 6"),
        ("partition.alpha", 0.5, "partition.alpha was 1.0, config.yaml says 0.5"),
    ],
)
def test_other_settings_are_refused_by_name(
    key: str, value: object, message: str, own: tuple[Path, Path]
) -> None:
    _set(own[1], key, value)
    with pytest.raises(RunError, match="cannot be resumed: since round 1") as caught:
        resume(own[1])
    assert message in str(caught.value)


class Halved(Codec):
    """A codec of a user's own."""

    name = "halved"
    expected_bytes = RawCodec.expected_bytes

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.inner = RawCodec()

    def encode(self, *values: Any, **named: Any) -> Any:
        return self.inner.encode(*values, **named)

    def decode(self, *values: Any) -> Any:
        return self.inner.decode(*values)


@pytest.mark.parametrize(
    ("bundle", "parts", "message"),
    [
        ("training", {"codecs": fast()}, "the codec was CodecPair("),
        (
            "training",
            {"codecs": CodecPair(Halved(0.5), Halved(0.5))},
            "was CodecPair(up=Halved(factor=0.5",
        ),
        (
            "simulation",
            {"channel": SnrChannel(1e6, np.full(3, 17.0), np.full(3, 17.0))},
            "bandwidth_hz=1000000,",
        ),
        (
            "simulation",
            {"allocation": FixedAllocation((0.5, 0.3, 0.2))},
            "allocation was FixedAllocation(value=(0.5, 0.3, 0.2))",
        ),
    ],
)
def test_what_a_caller_put_in_is_not_gone_on_without(
    bundle: str, parts: dict[str, Any], message: str, job: Job, own: tuple[Path, Path]
) -> None:
    """Objects that no setting names."""
    directory = RunDirectory(own[1])
    changed = replace(getattr(job.setup, bundle), **parts)
    other = replace(job, setup=replace(job.setup, **{bundle: changed}))
    (directory.path / FILE).unlink()
    for _ in range(2):
        settle(other, directory)
    with pytest.raises(RunError, match="cannot be resumed: since round 1") as caught:
        settle(job, directory)
    assert message in str(caught.value)


def test_of_a_group_only_those_that_are_there_count(job: Job, own: tuple[Path, Path]) -> None:
    """A profile of more memory lets more share a pass than there are."""
    directory, count = RunDirectory(own[1]), len(job.setup.devices)
    for group, refused in ((count, False), (1000, False), (count - 1, True)):
        simulation = replace(job.setup.simulation, group=group)
        other = replace(job, setup=replace(job.setup, simulation=simulation))
        if refused:
            with pytest.raises(RunError, match=r"devices that share a pass .* was 3 and is 2"):
                settle(other, directory)
        else:
            settle(other, directory)


def test_another_template_in_the_same_file_is_told(tmp_path: Path) -> None:
    model = tiny.text_model(tmp_path / "model", "llama")
    template = tmp_path / "chat.jinja"
    template.write_text(tiny.CHAT_TEMPLATE, encoding="utf-8")
    config = tiny.config(
        model,
        tiny.chats(tmp_path / "chats.jsonl"),
        data={"chat_template": str(template), "max_tokens": 40},
        training={"rounds": 1, "local_steps": 1},
    )
    run = start(config, tmp_path / "runs")
    template.write_text(f"the {tiny.CHAT_TEMPLATE}", encoding="utf-8")
    with pytest.raises(RunError, match=r"the data changed: .*training samples"):
        resume(run.path, changes={"training.rounds": "2"})


def test_a_run_goes_on_longer(own: tuple[Path, Path], tmp_path: Path) -> None:
    """As if it had been that long from the start, where the codec plans for no number of rounds."""
    root, run = own
    whole = start(_config(root, training={"rounds": 3, "local_steps": 1}), tmp_path).path
    resume(run, changes={"training.rounds": "3", "net.patience_s": "5"})
    values = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert (values["training"]["rounds"], values["net"]["patience_s"]) == (3, 5.0)
    assert json.loads((run / "summary.json").read_text(encoding="utf-8"))["rounds"] == 3
    assert [line["round"] for line in tiny.read_lines(run / "rounds.jsonl")] == [0, 1, 2, 3]
    for name in ("adapter/adapter_model.safetensors", "checkpoint.safetensors", "trace.jsonl"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    said: list[str] = []
    expected = pytest.raises(ConfigError, match=r"training\.rounds is 2, but .* has finished 3")
    with expected, lines_to(said.append):
        resume(run, changes={"training.rounds": "2"})
    assert not any("already finished" in line for line in said)


def test_the_length_that_a_codec_plans_for_is_none_of_its_own(
    own: tuple[Path, Path], job: Job
) -> None:
    directory = RunDirectory(own[1])
    (directory.path / FILE).unlink()
    noted = set()
    for packets in (10, 20):
        training = replace(job.setup.training, codecs=best(packets=packets))
        setup = replace(job.setup, training=training)
        settle(replace(job, setup=setup), directory)
        noted.add((directory.path / FILE).read_text(encoding="utf-8"))
    assert len(noted) == 1


def test_the_command_trains_longer_and_refuses_the_rest(
    own: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(own[1])
    words = ["train", "--quiet", "--resume", run]
    assert main([*words, "--codec.levels", "3", "--seed", "1"]) == 2
    line = capsys.readouterr().err
    assert "leave out codec.levels, seed; allowed are training.rounds, " in line
    assert "Traceback" not in line and line.count("\n") == 1
    assert main([*words, "--output", "elsewhere"]) == 2
    assert "continues in its run directory: leave out --output elsewhere" in capsys.readouterr().err
    assert main([*words, "--training.rounds", "2", "--threads", "1"]) == 0
    assert RunDirectory(own[1]).finished() == 2


def test_model_and_data_may_lie_elsewhere(own: tuple[Path, Path], tmp_path: Path) -> None:
    root, run = own
    for name in ("model", "data"):
        (root / name).rename(tmp_path / f"moved-{name}")
    moved = {f"{name}.name": str(tmp_path / f"moved-{name}") for name in ("model", "data")}
    assert resume(run, changes=moved).finished() == 2


def test_a_run_of_relative_paths_goes_on_from_another_folder(
    ended: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ended)
    config = _config(ended).model_copy(
        update={
            "model": _config(ended).model.model_copy(update={"name": "model"}),
            "data": _config(ended).data.model_copy(update={"name": "../all/data"}),
        }
    )
    run = start(config, tmp_path).path
    monkeypatch.chdir(tmp_path)
    assert resume(run, changes={"training.rounds": "2"}).finished() == 2


def test_a_run_of_an_older_version_is_taken_as_it_is(own: tuple[Path, Path]) -> None:
    (own[1] / FILE).unlink()
    said: list[str] = []
    with lines_to(said.append):
        resume(own[1])
    assert any(line.startswith("warning: ") and "older version" in line for line in said)
    _set(own[1], "seed", 1)
    with pytest.raises(RunError, match="since round 2 seed was 0"):
        resume(own[1])


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"settings": {}}', "\ud800"])
def test_a_note_that_cannot_be_read_is_named(text: str, own: tuple[Path, Path], job: Job) -> None:
    (own[1] / FILE).write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(RunError, match=r"fingerprint\.json cannot be read: .*; delete it to go on"):
        settle(job, RunDirectory(own[1]))


def test_pictures_in_files_are_compared(tmp_path: Path) -> None:
    model = tiny.vision_model(tmp_path / "model")
    for name in ("train/red", "train/green", "test/red", "test/green"):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for number in range(6):
            colour = (200, number, 0) if name.endswith("red") else (0, 200, number)
            Image.new("RGB", (28, 28), colour).save(folder / f"{number}.png")
    training = {"rounds": 1, "local_steps": 1}
    config = tiny.config(model, tmp_path / "data", training=training, codec="none")
    directory = new_directory(config, tmp_path / "runs")
    job = prepare(config)
    settle(job, directory)
    begin(job.setup, RunLog(directory, keep(job, directory), Silent()), 1)
    settle(prepare(config), directory)
    Image.new("RGB", (28, 28), (1, 2, 3)).save(tmp_path / "data" / "test" / "red" / "3.png")
    with pytest.raises(RunError, match="the 12 test samples have different content or order"):
        settle(prepare(config), directory)


def test_a_server_compares_too(own: tuple[Path, Path]) -> None:
    root, run = own
    config = _config(root, training={"rounds": 2, "local_steps": 1})
    directory = RunDirectory(run)
    with pytest.raises(RunError, match="is a run of train, not of serve: resume it by train"):
        open_net(prepare(config), directory, Silent(), in_place)
    (run / FILE).unlink()
    open_net(prepare(config), directory, Silent(), in_place)
    _in_tables(root / "data", lambda text: text.replace(",neg", ",zneg"))
    with pytest.raises(RunError, match="class names were neg, pos and are pos, zneg"):
        open_net(prepare(config), directory, Silent(), in_place)


def test_what_may_change_is_a_setting() -> None:
    known = set(MAY_CHANGE) - {"net.*"}
    assert all(may_change(key) for key in [*known, "net.quorum"])
    assert not any(
        may_change(key) for key in ("network", "seed", "training", "training.batch_size")
    )


def test_objects_are_described_by_what_they_are() -> None:
    quick = Halved(1.0)
    quick.inner = load_kernels(2)  # type: ignore[assignment]
    assert described(quick) == "Halved(factor=1, inner=Kernels)"
    assert described({2, 1}) == "set(1, 2)"
    knot = Halved(1.0)
    knot.inner = knot  # type: ignore[assignment]
    assert described(knot).startswith("Halved(factor=1, inner=Halved(factor=1, ")
    assert described(torch.ones(2, dtype=torch.bfloat16)) == "tensor array(1, 1)"
    assert described(FixedAllocation((0.1 + 0.2, 1.0))) == "FixedAllocation(value=(0.3, 1))"
    assert described(Halved(2.0)) == "Halved(factor=2, inner=RawCodec())"
    assert described(np.arange(3)) == "array(0, 1, 2)"
    one, other = (described(np.arange(50) + shift) for shift in (0.0, 1.0))
    assert one != other and one.startswith("array(50 values, ")


@pytest.mark.parametrize(
    ("file", "spoil", "said"),
    [
        ("rounds.jsonl", lambda text: text[:-9], "has no line of round 1, which has finished"),
        ("rounds.jsonl", lambda text: b"", "has no line of round 0"),
        ("rounds.jsonl", lambda text: text[text.index(b"\n") + 1 :], "has no line of round 0"),
        ("checkpoint.safetensors", lambda _: None, "checkpoint.safetensors is missing"),
        (
            "checkpoint.safetensors",
            lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
            "its bytes have changed",
        ),
    ],
)
def test_a_run_whose_files_were_spoilt_does_not_go_on(
    file: str,
    spoil: Callable[[bytes], bytes | None],
    said: str,
    own: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, run = own
    spoilt = spoil((run / file).read_bytes())
    (run / file).unlink()
    if spoilt is not None:
        (run / file).write_bytes(spoilt)
    assert main(["train", "--resume", str(run), "--quiet"]) == 2
    assert said in capsys.readouterr().err
    assert ((run / file).read_bytes() if (run / file).exists() else None) == spoilt
