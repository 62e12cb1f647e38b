"""Rounds of some devices of a population: what each remembers, and who makes a round."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

from cutlayer.errors import RunError
from cutlayer.jobs.prepare import prepare
from cutlayer.jobs.train import resume, start
from cutlayer.rounds.schemes import Merging
from cutlayer.training.device_store import DeviceStore, empty_table
from cutlayer.training.exchange import streams_to_tensors
from cutlayer.training.expected import initial_state
from cutlayer.training.population import population_begins, round_begins, round_closed
from cutlayer.training.records import TrainedRound
from cutlayer.training.round import Round, RoundOutcome
from cutlayer.training.run import round_record
from cutlayer.training.run_directory import RunDirectory
from cutlayer.training.state import RunState, Setup

Folders = tuple[Path, Path]


def _setup(folders: Folders, **sections: object) -> Setup:
    devices = {"count": 6, "per_round": 2, **sections.pop("devices", {})}  # type: ignore[dict-item]
    return prepare(tiny.config(*folders, devices=devices, **sections)).setup


def _play(setup: Setup, where: Path, rounds: int) -> tuple[RunState, list[RoundOutcome]]:
    where.mkdir(exist_ok=True)
    state, store, outcomes = population_begins(setup), DeviceStore(where), []
    for _ in range(rounds):
        outcome = Round(setup, round_begins(setup, state, store)).play()
        state = round_closed(setup, state, outcome.state, outcome.made, store)
        outcomes.append(outcome)
    return state, outcomes


def _equal(one: RunState, other: RunState) -> bool:
    pairs = [(one.device, other.device), (one.server, other.server)]
    names = [(a.tensors("x"), b.tensors("x")) for a, b in pairs]
    return all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in names
    )


@pytest.mark.parametrize(
    "sections",
    [
        {"adapter_codec": "int8"},
        {"aggregation": "none", "adapter_codec": "int8"},
        {"aggregation": "device"},
        {"scheme": "sl", "adapter_codec": "int8"},
        {"scheme": "splitlora"},
        {"scheme": "fl-lora", "aggregation": "server"},
        {"device_part": {"name": "warm", "rounds": 1}, "codec": "none"},
    ],
    ids=lambda sections: "-".join(map(str, sections.values()))[:40],
)
def test_with_everybody_taking_part_a_run_is_what_it_is_without_a_population(
    sections: dict[str, object], vision: Folders, tmp_path: Path
) -> None:
    """To the bit: adapters, optimisers, streams, packets, the clock; though each round's state is
    taken apart into devices' records and read again."""
    training = {"rounds": 3, "local_steps": 1}
    plain = prepare(tiny.config(*vision, devices={"count": 3}, training=training, **sections)).setup
    some = _setup(vision, devices={"count": 3, "per_round": 3}, training=training, **sections)
    assert plain.simulation.population is None
    _, outcomes = _play(some, tmp_path / "run", 3)
    state = initial_state(plain)
    for outcome in outcomes:
        expected = Round(plain, state).play()
        state = expected.state
        assert _equal(state, outcome.state)
        assert state.virtual_time_s == outcome.state.virtual_time_s
        assert expected.train_loss == outcome.train_loss
        assert expected.round_costs.bytes_by_payload() == outcome.round_costs.bytes_by_payload()
        assert expected.round_costs.byte_counts() == outcome.round_costs.byte_counts()
        streams = [streams_to_tensors(own.streams) for own in (state, outcome.state)]
        assert streams[0].keys() == streams[1].keys()
        assert all(torch.equal(streams[0][name], streams[1][name]) for name in streams[0])


def test_a_device_goes_on_from_what_it_remembers_or_begins_afresh(
    vision: Folders, tmp_path: Path
) -> None:
    """Two of six a round: AdamW counts the steps of each device, over the rounds it was in."""
    steps: dict[str, list[int]] = {}
    for how in ("keep", "fresh"):
        setup = _setup(vision, devices={"state": how}, training={"local_steps": 2})
        state, outcomes = _play(setup, tmp_path / how, 5)
        taken = [device for outcome in outcomes for device in outcome.devices]
        last = outcomes[-1]
        steps[how] = last.state.device.optimizer["steps"].tolist()
        expected = [2 * taken.count(device) if how == "keep" else 2 for device in last.devices]
        assert steps[how] == expected
        assert state.devices == () and state.streams == {}
        assert state.device.row.ndim == 1 and state.device.optimizer == {}
        began = state.population["began"].tolist()
        assert began == [
            max((r for r, outcome in enumerate(outcomes, 1) if n in outcome.devices), default=0)
            for n in range(6)
        ]
    assert steps["keep"] != steps["fresh"]
    assert (tmp_path / "keep" / "devices.store").exists()
    assert not (tmp_path / "fresh" / "devices.store").exists()


def test_who_takes_part_for_the_first_time_gets_the_weights(
    vision: Folders, tmp_path: Path
) -> None:
    setup = _setup(vision, adapter_codec="int8", training={"local_steps": 1})
    _, outcomes = _play(setup, tmp_path / "run", 6)
    known: set[int] = set()
    for outcome in outcomes:
        paid = outcome.round_costs.bytes_by_payload()
        assert ("weights" in paid) == bool(set(outcome.devices) - known)
        assert paid["adapter_down"] > 0
        known |= set(outcome.devices)
    assert known != set(outcomes[0].devices)


def test_own_adapters_lie_in_the_store_until_their_device_takes_part_again(
    vision: Folders, tmp_path: Path
) -> None:
    setup = _setup(vision, aggregation="none", training={"local_steps": 1})
    state, store = population_begins(setup), DeviceStore(tmp_path)
    own: dict[int, torch.Tensor] = {}
    begin = state.server.row
    for _ in range(5):
        opened = round_begins(setup, state, store)
        rows = opened.server.row.expand(len(opened.devices), -1)
        for device, row in zip(opened.devices, rows, strict=True):
            assert torch.equal(row, own.get(device, begin))
        outcome = Round(setup, opened).play()
        own |= dict(zip(outcome.devices, outcome.state.server.row, strict=True))
        state = round_closed(setup, state, outcome.state, outcome.made, store)
    assert len(own) > 2 and torch.equal(state.server.row, begin)


def test_who_is_killed_after_the_store_was_written_plays_the_round_again(
    vision: Folders, tmp_path: Path
) -> None:
    """Until its checkpoint is there a round has changed nothing that the one before knows."""
    setup = _setup(vision, aggregation="none", training={"local_steps": 1})
    before, _ = _play(setup, tmp_path, 3)
    store = DeviceStore(tmp_path)
    played = []
    for _ in range(2):
        outcome = Round(setup, round_begins(setup, before, store)).play()
        after = round_closed(setup, before, outcome.state, outcome.made, store)
        played.append((outcome.state, after.population["records"]))
    (first, one), (second, other) = played
    assert _equal(first, second) and torch.equal(one, other)


def test_a_record_that_somebody_has_changed_is_refused(tmp_path: Path) -> None:
    store = DeviceStore(tmp_path)
    table = store.write(empty_table(3), {1: {"x": torch.arange(2000)}, 2: {"x": torch.ones(1)}})
    assert torch.equal(store.read(table, 1)["x"], torch.arange(2000)) and store.read(table, 0) == {}
    again = store.write(table, {1: {"x": torch.zeros(3)}})
    assert torch.equal(store.read(table, 1)["x"], torch.arange(2000))
    assert torch.equal(store.read(again, 1)["x"], torch.zeros(3))
    # what only the older table knew is room again
    third = store.write(again, {0: {"x": torch.arange(1, 2001)}})
    assert third[0, 0] == table[1, 0]
    with pytest.raises(RunError, match="device 1 remembers cannot be read"):
        store.read(table, 1)
    (tmp_path / "devices.store").unlink()
    with pytest.raises(RunError, match="restore the file"):
        store.read(third, 2)


def test_a_run_that_is_resumed_ends_with_the_same_bytes(vision: Folders, tmp_path: Path) -> None:
    runs = []
    for name, rounds in (("whole", 3), ("resumed", 1)):
        config = tiny.config(
            *vision,
            devices={"count": 6, "per_round": 2},
            training={"rounds": rounds, "local_steps": 1},
            aggregation="none",
            optimizer={"schedule": "constant"},
        )
        runs.append(start(config, tmp_path / name).path)
    whole, resumed = runs
    resume(resumed, changes={"training.rounds": 3})
    checkpoints = [(run / "checkpoint.safetensors").read_bytes() for run in runs]
    assert checkpoints[0] == checkpoints[1]
    record = RunDirectory(whole).records()[-1]
    assert isinstance(record, TrainedRound) and len(record.participants) == len(record.shares) == 2
    for run in runs:
        folders = {path.name for path in (run / "adapter").iterdir()}
        assert folders == {f"device-{n}" for n in record.participants}


def test_who_misses_the_deadline_or_leaves_is_merged_with_nobody(vision: Folders) -> None:
    """The rows of those who made it are what they are without a deadline; what the late ones had
    not begun to send when the round closed is not counted."""
    setup = _setup(vision, devices={"count": 6, "per_round": 6}, codec="none")
    everyone = tuple(range(6))
    start_state = initial_state(setup, everyone)

    def played(**rules: object) -> RoundOutcome:
        assert setup.simulation.population is not None
        population = replace(setup.simulation.population, **rules)
        simulation = replace(setup.simulation, population=population)
        return Round(replace(setup, simulation=simulation), start_state).play()

    apart = replace(setup, training=replace(setup.training, merging=Merging(False, False)))
    rows = Round(apart, start_state).play().state.server.row
    whole = played()
    ends = sorted(line.delay_s for line in whole.timeline.devices)
    late = played(deadline_s=(ends[3] + ends[4]) / 2, quorum=3)
    left = played(deadline_s=10 * ends[-1], quorum=1, dropout=0.8)
    assert len(late.made) == 4 and late.left == () and late.delay_s == (ends[3] + ends[4]) / 2
    assert 0 < len(left.left) < 6 and set(left.made) == set(everyone) - set(left.left)
    assert left.delay_s == 10 * ends[-1]
    for outcome in (late, left):
        places = list(outcome.made)
        weights = torch.tensor([float(setup.devices[n].samples) for n in places])
        mean = (weights[:, None] * rows[places]).sum(0) / weights.sum()
        assert torch.allclose(outcome.state.server.row, mean, atol=1e-6)
        assert not torch.allclose(outcome.state.server.row, whole.state.server.row, atol=1e-6)
        sent, all_sent = (own.round_costs.byte_counts() for own in (outcome, whole))
        # who is late here was sending its adapter already
        fewer = sent["uplink_bytes"] < all_sent["uplink_bytes"]
        assert sent["uplink_bytes"] > 0 and fewer == bool(outcome.left)
        record = round_record(outcome, 6, {"accuracy": 0.5, "eval_loss": 1.0}, 0.0)
        assert sum(record.delay_by_phase_s.values()) == pytest.approx(outcome.delay_s)
        assert len(record.late) + len(record.left) == 6 - len(outcome.made)
    with pytest.raises(RunError, match="of the 6 adapters that it needs"):
        played(deadline_s=1.0, quorum=6, dropout=0.8)
