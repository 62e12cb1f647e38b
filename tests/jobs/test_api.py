"""What programs call: it gives values, raises what is wrong, and says nothing of itself."""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from transformers import AutoModelForSequenceClassification

import cutlayer
from cutlayer.errors import AssetError, ConfigError, CutlayerError, ModelError, RunError
from cutlayer.jobs.check import as_run
from cutlayer.training.records import TrainedRound

# the wrong type is what these tests are of, and where calls are checked it never arrives
unchecked = pytest.mark.skipif(
    os.environ.get("CUTLAYER_TESTS") in ("typed", "all"), reason="types are checked at the call"
)


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("assets")
    return tiny.text_model(root / "model", "bert"), tiny.reviews(root / "data", 20)


@pytest.fixture(scope="module")
def config(assets: tuple[Path, Path]) -> cutlayer.Config:
    return tiny.config(*assets, training={"rounds": 1, "local_steps": 1, "batch_size": 4})


@pytest.fixture(scope="module")
def ended(config: cutlayer.Config, tmp_path_factory: pytest.TempPathFactory) -> cutlayer.Run:
    return cutlayer.train(config, output=tmp_path_factory.mktemp("ended") / "runs")


@pytest.fixture
def run(ended: cutlayer.Run, tmp_path: Path) -> cutlayer.Run:
    """The same to change."""
    return cutlayer.read_run(shutil.copytree(ended.path, tmp_path / "run"))


def test_a_run_has_its_numbers_and_its_adapter(
    ended: cutlayer.Run, config: cutlayer.Config, assets: tuple[Path, Path]
) -> None:
    assert ended.finished
    assert ended.config == as_run(config)
    assert ended.summary.rounds == 1
    assert ended.summary.accuracy_final == ended.rounds[-1].score.value
    assert {event.device for event in ended.trace[1]} == {0, 1, 2}
    model = AutoModelForSequenceClassification.from_pretrained(assets[0], num_labels=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert cutlayer.load_adapter(model, ended) is model
    changed = [n for n, value in model.state_dict().items() if not torch.equal(value, before[n])]
    assert "classifier.weight" in changed
    assert any("query" in name for name in changed)


def test_it_says_nothing_and_logs_what_it_does(
    config: cutlayer.Config,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, logger="cutlayer"):
        cutlayer.train(config, output=tmp_path)
    assert any(line.startswith("round 1 of 1: accuracy") for line in caplog.messages)
    # libraries may speak, on a slow machine of their progress
    shown = "".join(capsys.readouterr())
    assert [line for line in caplog.messages if line in shown] == []


class _Rounds(cutlayer.Observer):
    def __init__(self) -> None:
        self.numbers: list[int] = []

    def round_begins(self, number: int, rounds: int) -> None:
        """Nothing."""

    def step_done(self, round_number: int, done: int, total: int) -> None:
        """Nothing."""

    def round_done(self, record: cutlayer.FirstRound | cutlayer.TrainedRound) -> None:
        """Its number."""
        self.numbers.append(record.round)


def test_a_run_goes_on_longer(run: cutlayer.Run) -> None:
    seen, before = _Rounds(), run.rounds
    longer = cutlayer.resume(run, changes={"training.rounds": 2}, observer=seen)
    assert seen.numbers == [2]
    assert longer.summary.rounds == 2
    assert [isinstance(record, TrainedRound) for record in longer.rounds] == [False, True, True]
    assert longer.rounds[:2] == before


def test_what_a_run_cannot_go_on_with(run: cutlayer.Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"leave out seed; allowed are training"):
        cutlayer.resume(run.path, changes={"seed": 1})
    with pytest.raises(ConfigError, match=r"training\.rounds: should be"):
        cutlayer.resume(str(run.path), changes={"training.rounds": 0})
    with pytest.raises(RunError, match="not a run directory"):
        cutlayer.resume(tmp_path)


def test_a_plan_is_a_value_with_a_configuration_to_train_by() -> None:
    planned = cutlayer.plan(cutlayer.Config(devices={"count": 2}))
    assert planned.chosen is not None
    assert planned.config.model.cut == planned.chosen.decision.common_cut
    assert planned.to_dict()["forecast"]["later_round"]["delay_s"] == planned.chosen.delay_s


def test_a_plan_where_nothing_fits_says_why() -> None:
    planned = cutlayer.plan(cutlayer.Config(devices={"memory_mib": 1}))
    assert planned.chosen is None
    with pytest.raises(ConfigError, match=r"nothing fits, .*with: .*memory"):
        _ = planned.config


def test_runs_side_by_side(ended: cutlayer.Run, config: cutlayer.Config, tmp_path: Path) -> None:
    other = config.model_copy(update={"codec": cutlayer.Config(codec="none").codec})
    compared = cutlayer.compare({"ours": ended, "plain": other}, output=tmp_path / "out")
    assert list(compared.runs) == ["ours", "plain"]
    assert compared.runs["ours"] == ended
    assert compared.runs["plain"].config.codec.name == "none"
    first, second = compared.to_dicts()
    assert first["run"] == "ours"
    assert float(str(first["uplink_bytes"])) < float(str(second["uplink_bytes"]))
    assert compared.to_pandas()["run"].tolist() == ["ours", "plain"]
    assert compared.report == tmp_path / "out" / "compare.html"
    assert compared.report.is_file()
    again = cutlayer.compare([ended.path, str(compared.runs["plain"].path)], output=tmp_path / "2")
    assert again.comparison.target == compared.comparison.target
    assert (
        list(again.runs) == [ended.path.name, compared.runs["plain"].path.name]
        or len(again.runs) == 2
    )


UNKNOWN: list[tuple[Any, str]] = [
    ("run.yaml", r"takes a cutlayer\.Config, not 'run.yaml': read it by read_config"),
    (Path("run.yaml"), r"takes a cutlayer\.Config, not PosixPath\('run\.yaml'\): read it"),
    ({"codec": "none"}, r"takes a cutlayer\.Config, not {'codec': 'none'}: make it by Config"),
]


@unchecked
@pytest.mark.parametrize("name", ["train", "plan", "serve"])
@pytest.mark.parametrize(("given", "message"), UNKNOWN)
def test_what_is_no_configuration(name: str, given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} {message}"):
        getattr(cutlayer, name)(given)


@pytest.mark.parametrize("name", ["train", "plan", "serve"])
def test_a_setting_that_nobody_reads_is_told_at_once(name: str) -> None:
    config = cutlayer.Config(scheme="fl-lora", model={"cut": 3})
    with pytest.raises(ConfigError, match=r"model\.cut 3 is not read with scheme\.name fl-lora"):
        getattr(cutlayer, name)(config)


@pytest.mark.parametrize("name", ["train", "plan", "serve"])
@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"training": 3}, "training must hold keys and values, not 3"),
        ({"seed": "x"}, "seed: should be a valid integer"),
        ({"training": {"rounds": 0}}, r"training\.rounds: should be at least 1, not 0"),
    ],
)
def test_values_that_were_put_in_unread(name: str, update: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        getattr(cutlayer, name)(cutlayer.Config().model_copy(update=update))
    with pytest.raises(ConfigError, match=message):
        getattr(cutlayer, name)(cutlayer.Config.model_construct(**update))


def test_what_was_put_in_unread_is_read() -> None:
    config = cutlayer.Config().model_copy(update={"devices": {"count": 2}, "codec": "none"})
    planned = cutlayer.plan(config, fixed=True)
    given = planned.given
    assert (given.devices.count, given.codec.name) == (2, "none")


def test_mistakes_leave_nothing_behind(config: cutlayer.Config, tmp_path: Path) -> None:
    short = config.model_copy(
        update={"devices": config.devices.model_copy(update={"memory_mib": 0.001})}
    )
    with pytest.raises(ConfigError, match=r"devices\.memory_mib"):
        cutlayer.train(short, output=tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([cutlayer.Config()], "give two runs or more"),
        ({"a": cutlayer.Config(), "b": cutlayer.Config()}, "a and b are the same run"),
        ([cutlayer.Config(), "absent.yaml"], r"cannot read the configuration absent\.yaml"),
    ],
)
def test_what_cannot_be_compared(runs: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cutlayer.compare(runs)


@unchecked
@pytest.mark.parametrize("runs", ["runs", cutlayer.Config(), [cutlayer.Config(), 3], 3])
def test_what_is_no_list_of_runs(runs: Any) -> None:
    with pytest.raises(ConfigError, match="compare takes "):
        cutlayer.compare(runs)


def test_a_server_is_given_one_thing_to_serve(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give a config to begin with, or resume"):
        cutlayer.serve()
    with pytest.raises(ConfigError, match="leave out config and go_on"):
        cutlayer.serve(cutlayer.Config(), resume=tmp_path)
    with pytest.raises(ConfigError, match="leave out config and go_on"):
        cutlayer.serve(go_on=True, resume=tmp_path)
    with pytest.raises(ConfigError, match="with its changes"):
        cutlayer.serve(cutlayer.Config(), changes={"training.rounds": 2})
    with pytest.raises(ConfigError, match="'7700' is not HOST:PORT"):
        cutlayer.serve(cutlayer.Config(), listen="7700")


def test_a_device_says_what_is_wrong_before_it_dials(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'server' is not HOST:PORT"):
        cutlayer.join("server", tmp_path)
    with pytest.raises(ConfigError, match="patience_s should be a number above 0, not -1"):
        cutlayer.join("server:1", tmp_path, patience_s=-1)
    with pytest.raises(ConfigError, match="threads should be a whole number from 1 on, not -1"):
        cutlayer.join("server:1", tmp_path, threads=-1)
    with pytest.raises(ConfigError, match="most_disk_gib should be a number above 0, not 0"):
        cutlayer.join("server:1", tmp_path, most_disk_gib=0)
    with pytest.raises(AssetError, match="not on this machine"):
        cutlayer.join("server:1", tmp_path, model="no-model")


@unchecked
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda config: cutlayer.read_config(3), "path should be a path, not 3"),
        (
            lambda config: cutlayer.read_config(None, ["a"]),
            r"by dotted key, .* \['a'\]",
        ),
        (lambda config: cutlayer.read_config(None, {3: 1}), "settings go by dotted key"),
        (lambda config: cutlayer.read_run(3), "a run should be a path, not 3"),
        (lambda config: cutlayer.resume(None), "a run should be a path, not None"),
        (lambda config: cutlayer.train(config, output=3), "output should be a path, not 3"),
        (lambda config: cutlayer.train(config, observer=print), "a cutlayer.Observer, not <built"),
        (lambda config: cutlayer.serve(config, listen=7700), "7700 is not HOST:PORT"),
        (lambda config: cutlayer.Run(3), "a run should be a path, not 3"),
        (
            lambda config: cutlayer.resume("r", changes=[("seed", 1)]),
            r"by dotted key, .*\[\('seed'",
        ),
        (lambda config: cutlayer.resume("r", changes={1: 3}), r"by dotted key, .*{1: 3}"),
        (lambda config: cutlayer.resume("r", changes="seed"), "by dotted key, .*'seed'"),
        (lambda config: cutlayer.resume("r", changes=[]), r"by dotted key, .*\[\]"),
        (lambda config: cutlayer.serve(resume="r", changes=[1]), r"by dotted key, .*\[1\]"),
        (lambda config: cutlayer.read_config(None, []), r"by dotted key, .*\[\]"),
        (lambda config: cutlayer.join("a:1", 3), "data should be a path, not 3"),
        (lambda config: cutlayer.join("a:1", ".", patience_s="1"), "a number above 0, not '1'"),
        (lambda config: cutlayer.join("a:1", ".", token=3), "token should be the text"),
        (lambda config: cutlayer.join("a:1", ".", text_field=3), "text_field should be a column's"),
        (lambda config: cutlayer.join("a:1", ".", skip_bad="no"), "skip_bad should be True or"),
        (lambda config: cutlayer.join("a:1", ".", patience_s=True), "a number above 0, not True"),
        (lambda config: cutlayer.join("a:1", ".", threads="2"), "threads should be a whole number"),
        (lambda config: cutlayer.serve(config, go_on="no"), "go_on should be True or False, not"),
        (lambda config: cutlayer.plan(config, fixed="no"), "fixed should be True or False, not"),
    ],
)
def test_what_is_of_another_type_is_named(
    call: Callable[[Any], object], message: str, config: cutlayer.Config
) -> None:
    with pytest.raises(CutlayerError, match=message):
        call(config)


@unchecked
def test_a_target_is_a_number(ended: cutlayer.Run, config: cutlayer.Config) -> None:
    with pytest.raises(ConfigError, match="target should be a number, not 'best'"):
        cutlayer.compare([ended, config], target="best")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="target should be a number, not True"):
        cutlayer.compare([ended, config], target=True)


def test_a_runs_directory_has_its_adapter(ended: cutlayer.Run, assets: tuple[Path, Path]) -> None:
    one, other = (
        AutoModelForSequenceClassification.from_pretrained(assets[0], num_labels=2) for _ in "ab"
    )
    cutlayer.load_adapter(one, ended)
    cutlayer.load_adapter(other, str(ended.path))
    same = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in same)


@unchecked
def test_an_adapter_is_for_a_model(ended: cutlayer.Run) -> None:
    with pytest.raises(ModelError, match="takes a Hugging Face model, not 3"):
        cutlayer.load_adapter(3, ended)


def test_a_folder_that_is_no_adapters(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nope is no folder .*: it has no adapter_config\.json$"):
        cutlayer.load_adapter(torch.nn.Linear(2, 2), tmp_path / "nope")


@unchecked
def test_what_is_no_run(ended: cutlayer.Run, tmp_path: Path) -> None:
    assert cutlayer.Run(str(ended.path)) == ended  # type: ignore[arg-type]
    with pytest.raises(RunError, match=r"rounds\.jsonl: missing"):
        _ = cutlayer.Run(tmp_path / "nope").rounds
    with pytest.raises(RunError, match=r"config\.yaml is a file: give the run's directory"):
        cutlayer.read_run(ended.path / "config.yaml")
    with pytest.raises(ConfigError, match="which has no zero bytes"):
        cutlayer.read_run("a\0b")
    with pytest.raises(KeyError, match="no round 99: the run has rounds 1 to 1"):
        _ = ended.trace[99]
    assert 99 not in ended.trace


def test_settings_on_top_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("codec: {name: best, target_bits_up: 0.5}\n", encoding="utf-8")
    config = cutlayer.read_config(str(path), {"codec.target_bits_down": 0.25, "seed": "7"})
    assert config == cutlayer.Config(
        codec={"name": "best", "target_bits_up": 0.5, "target_bits_down": 0.25}, seed=7
    )
    assert cutlayer.read_config() == cutlayer.Config()
    with pytest.raises(ConfigError, match=r"codec\.target_bits_down: should be a valid number"):
        cutlayer.read_config(path, {"codec.target_bits_down": [1]})


@pytest.fixture(scope="module")
def speaking(tmp_path_factory: pytest.TempPathFactory) -> cutlayer.Run:
    """A language model with a chat template, trained on conversations."""
    folder = tmp_path_factory.mktemp("speaking")
    model = tiny.text_model(folder / "model", "llama")
    (model / "chat_template.jinja").write_text(tiny.CHAT_TEMPLATE, encoding="utf-8")
    data = tiny.chats(folder / "chats.jsonl")
    config = tiny.config(model, data, data={"max_tokens": 32}, adapter={"alpha": 64})
    return cutlayer.train(config, output=folder / "runs")


def test_what_was_trained_is_used_by_functions(
    speaking: cutlayer.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They do what the commands of the same names do, and print nothing."""
    turns = [{"role": "user", "content": "good film"}]
    answers = cutlayer.generate(speaking, ["good film", turns, "a"], max_new_tokens=4)
    assert len(answers) == 3 and answers[0] == answers[1] != ""
    assert cutlayer.generate(speaking, "a", max_new_tokens=4) == answers[2:]
    raw = cutlayer.generate(str(speaking.path), "a", max_new_tokens=4, raw=True, which="best")
    assert len(raw) == 1
    talk = cutlayer.chat(speaking, max_new_tokens=4)
    assert [talk.answer("good film")] == answers[:1] and len(talk.turns) == 2
    found = cutlayer.evaluate(speaking, samples=5, pattern="[a-z]+", base=True)
    assert found.samples == 5 and found.answers >= 5
    assert found.base is not None and found.base.exact_match is not None
    assert found.trained.loss < found.base.loss
    assert cutlayer.evaluate(speaking, answers=False).trained.loss == pytest.approx(
        speaking.rounds[-1].eval_loss, rel=1e-6
    )
    copied = cutlayer.export(speaking, tmp_path / "adapter")
    assert (copied / "adapter_model.safetensors").read_bytes() == (
        speaking.adapter / "adapter_model.safetensors"
    ).read_bytes()
    merged = cutlayer.merge(speaking, str(tmp_path / "whole"))
    assert cutlayer.generate(merged, ["good film"], max_new_tokens=4) == answers[:1]
    assert capsys.readouterr().out == ""


_Use = Callable[[cutlayer.Run], Any]


@pytest.mark.parametrize(
    ("use", "told"),
    [
        (lambda run: cutlayer.generate(run, ["a", [{"role": "user"}]]), "role and content"),
        (lambda run: cutlayer.generate(run, "", raw=True), "the prompt has no token"),
        (lambda run: cutlayer.generate(run, "a", raw=True, system="b"), "no system: give texts"),
        (lambda run: cutlayer.generate(run, "a", seed=-1), "seed is -1"),
        (lambda run: cutlayer.generate(run, "a", numbers="int3"), "nf4, not 'int3'"),
        (lambda run: cutlayer.chat(run, device="abacus"), "device is 'abacus'"),
        (lambda run: cutlayer.evaluate(run, samples=0), "samples should be a whole number"),
        (lambda run: cutlayer.evaluate(run, pattern="("), "no regular expression"),
        (lambda run: cutlayer.export(run, run.path), "is there already"),
        (lambda run: cutlayer.merge(run, run.path), "is there already"),
        (lambda run: cutlayer.push(run, "a b"), "is no name on the hub"),
        (lambda run: cutlayer.export(run.path / "nothing", "new"), "no such run directory"),
    ],
)
def test_a_mistake_in_using_what_was_trained_is_told(
    speaking: cutlayer.Run, use: _Use, told: str
) -> None:
    with pytest.raises(CutlayerError, match=told):
        use(speaking)


@unchecked
@pytest.mark.parametrize(
    ("use", "told"),
    [
        (lambda run: cutlayer.generate(run, [3]), "a text, or a list of turns with role"),
        (lambda run: cutlayer.generate(run, 3), "should be texts or conversations, not 3"),
        (lambda run: cutlayer.generate(run, "a", which="first"), "which should be last or best"),
        (lambda run: cutlayer.generate(run, "a", max_new_tokens="3"), "max_new_tokens is '3'"),
        (lambda run: cutlayer.generate(run, "a", temperature="hot"), "temperature is 'hot'"),
        (lambda run: cutlayer.merge(run, "new", dtype="int8"), "dtype should be float32"),
        (lambda run: cutlayer.push(run, "me/mine", private="no"), "True or False, not 'no'"),
    ],
)
def test_another_type_is_told_too(speaking: cutlayer.Run, use: _Use, told: str) -> None:
    with pytest.raises(CutlayerError, match=told):
        use(speaking)


def test_a_classifier_writes_no_text(ended: cutlayer.Run) -> None:
    for use in (cutlayer.chat, lambda run: cutlayer.generate(run, "a")):
        with pytest.raises(ConfigError, match="and writes no text"):
            use(ended)


@pytest.mark.parametrize("scheme", ["sft-frozen", "sft-cached"])
def test_a_run_whose_device_part_was_frozen_is_used_as_any_other(
    scheme: str, config: cutlayer.Config, tmp_path: Path
) -> None:
    """It is as accurate as it was, by itself and merged into a model."""
    frozen = cutlayer.Config.model_validate({**dict(config), "scheme": scheme})
    run = cutlayer.train(frozen, output=tmp_path / "runs")
    found = cutlayer.evaluate(run, base=True)
    assert found.base is not None
    assert found.base.accuracy == pytest.approx(run.summary.accuracy_first)
    assert found.trained.accuracy == pytest.approx(run.summary.accuracy_final)
    again = cutlayer.evaluate(cutlayer.merge(run, tmp_path / "merged"))
    assert again.trained.accuracy == pytest.approx(run.summary.accuracy_final)
