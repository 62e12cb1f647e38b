"""A run may begin with an adapter that is there, or says in what the two differ."""

import json
import shutil
from pathlib import Path

import pytest
import tiny
from safetensors.torch import load_file, save_file

from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError, ModelError, RunError
from cutlayer.jobs.build import make_adapter
from cutlayer.jobs.network import open_net
from cutlayer.jobs.prepare import prepare
from cutlayer.jobs.train import new_directory, resume, start
from cutlayer.model.peft_format import WEIGHTS_FILE, read_adapter
from cutlayer.net.wire.link import in_place
from cutlayer.training.expected import initial_state
from cutlayer.training.records import Silent

ADAPTER = {
    "rank": 3,
    "alpha": 2,
    "targets": r".*\.(query|value)",
    "rslora": True,
    "rank_pattern": {r"layer\.1\..*": 2},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its data, and a run of one round whose adapter others begin with."""
    folder = tmp_path_factory.mktemp("started") / "all"
    folder.mkdir()
    tiny.text_model(folder / "model", "bert")
    tiny.reviews(folder / "data")
    first = start(_config(folder, adapter=ADAPTER), folder / "runs")
    first.path.rename(folder / "first")
    return folder


def _config(root: Path, **sections: object) -> Config:
    sections = {"training": {"rounds": 1, "local_steps": 1}, "codec": "none", **sections}
    return tiny.config(root / "model", root / "data", **sections)


def _from(root: Path, **adapter: object) -> Config:
    chosen = {**ADAPTER, "start_from": str(root / "first"), **adapter}
    return _config(root, adapter=chosen, model={"cut": 1})


@pytest.mark.parametrize("folder", ["first", "first/adapter"])
def test_a_run_goes_on_from_another_ones_adapter_at_another_cut(root: Path, folder: str) -> None:
    """Head and all: what the other one ended with is what this one begins with, to the bit."""
    job = prepare(_from(root, start_from=str(root / folder)))
    state, named = initial_state(job.setup), read_adapter(root / "first" / "adapter")
    below, above = (part.adapted.layout for part in job.setup.parts)
    begun = {**below.named(state.device.row), **above.named(state.server.row)}
    assert begun.keys() == named.keys() and "classifier.weight" in named
    assert all(begun[name].equal(named[name]) for name in named)


def test_it_begins_as_well_as_the_other_ended(root: Path, tmp_path: Path) -> None:
    run = start(_from(root), tmp_path)
    ended = tiny.read_lines(root / "first" / "rounds.jsonl")[-1]
    begun = tiny.read_lines(run.path / "rounds.jsonl")[0]
    # the same sums over another cut
    assert begun["eval_loss"] == pytest.approx(ended["eval_loss"], rel=1e-5)


def test_a_run_goes_on_with_the_adapter_that_it_began_with(root: Path, tmp_path: Path) -> None:
    own = shutil.copytree(root / "first" / "adapter", tmp_path / "own")
    run = start(_from(root, start_from=str(own)), tmp_path / "runs")
    resume(run.path, changes={"training.rounds": 2})
    weights = load_file(own / WEIGHTS_FILE)
    name = sorted(weights)[0]
    save_file({**weights, name: weights[name] + 1}, own / WEIGHTS_FILE, {"format": "pt"})
    message = f"the model changed: adapter.start_from/{WEIGHTS_FILE}"
    with pytest.raises(RunError, match=message):
        resume(run.path, changes={"training.rounds": 3})


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"rank": 4}, r"rank 3, where 4 is asked for|rank 2, where"),
        ({"alpha": 5}, r"alpha 2\.0, where 5\.0"),
        ({"rslora": False}, "rslora True, where False"),
        ({"head": False}, "head True, where False"),
        ({"targets": ["query"]}, r"has an adapter on .*value"),
        (
            {"targets": r".*\.(query|value|key)"},
            r"has no values for .*\.key\.lora_A, which is trained here \(8 such in all\)",
        ),
        ({"layers": [0, 1, 2]}, r"layer\.3\..*, which nothing here is trained for"),
    ],
)
def test_what_differs_is_named(root: Path, adapter: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        prepare(_from(root, **adapter))


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("all", "all"),
        ("query", ("query",)),
        ("self.query", ("self.query",)),
        (["query"], ("query",)),
        (r".*\.query", r".*\.query"),
    ],
)
def test_a_name_alone_is_a_list_of_it(targets: object, expected: object) -> None:
    section = Config(adapter={"targets": targets}).adapter
    assert make_adapter(section, "text-classification").targets == expected


def test_a_folder_without_an_adapter_is_named(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"adapter\.start_from .*data is no folder of an adapter"):
        prepare(_from(root, start_from=str(root / "data")))


@pytest.mark.parametrize(
    ("cut", "adapter", "side"),
    [(1, {"layers": [1, 2]}, "a device"), (2, {"layers": [0, 1], "head": False}, "the server")],
)
def test_both_sides_have_something_to_train(
    tmp_path: Path, cut: int, adapter: dict[str, object], side: str
) -> None:
    llama = tiny.text_model(tmp_path / "model", "llama"), tiny.corpus(tmp_path / "data", 2)
    with pytest.raises(ConfigError, match=rf"model\.cut {cut}, adapter\.layers .* leave {side}"):
        prepare(tiny.config(*llama, model={"cut": cut}, adapter=adapter))


def test_devices_are_not_told_where_it_lies(root: Path, tmp_path: Path) -> None:
    """They begin with what the server broadcasts."""
    config = _from(root)
    job = prepare(config, dealt=False)
    net = open_net(job, new_directory(config, tmp_path), Silent(), in_place)
    told = json.dumps(net.plan.terms[0].settings)
    assert str(root) not in told and "rank_pattern" in told
    assert net.worker.state.device.row.equal(initial_state(job.setup).device.row)
