"""Adapters that are not merged, and local steps that are held near the merged ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError, RunError
from cutlayer.jobs.check import check
from cutlayer.jobs.facts import open_trained
from cutlayer.jobs.plan import plan
from cutlayer.jobs.prepare import prepare
from cutlayer.jobs.train import resume, start
from cutlayer.jobs.workload import make_workload
from cutlayer.model.optimizer import FedAvg, Sgd
from cutlayer.model.peft_format import read_adapter
from cutlayer.model.placement import HOST
from cutlayer.report.run_reader import read_record, read_run
from cutlayer.rounds.schemes import SCHEMES
from cutlayer.rounds.work import adapter_bytes
from cutlayer.training.expected import initial_state
from cutlayer.training.round import Round, RoundOutcome
from cutlayer.training.run_directory import RunDirectory
from cutlayer.training.state import AdapterBank, AdapterState, EvaluationRule, Setup

Folders = tuple[Path, Path]


def test_a_local_step_of_fedprox_is_that_by_hand() -> None:
    """Two steps of gradient descent on g.w + mu / 2 |w - w_0|^2, of two devices apart."""
    begun, mu, rate = torch.tensor([1.0, -2.0]), 0.5, 0.1
    bank = AdapterBank(
        AdapterState(begun, {}), range(2), Sgd(), shared=False, device=HOST, proximal_mu=mu
    )
    slopes = [np.array([0.3, 0.7]), np.array([-1.1, 0.2])]
    rows = [begun.numpy().astype(np.float64) for _ in slopes]
    for _ in range(2):
        for device, slope in enumerate(slopes):
            bank.collect((device,), torch.tensor(slope, dtype=torch.float32)[None])
            rows[device] = rows[device] - rate * (slope + mu * (rows[device] - begun.numpy()))
        bank.step({0: rate, 1: rate})
    np.testing.assert_allclose(bank.rows.numpy(), np.stack(rows), rtol=1e-6)
    # who begins again is where nothing pulls
    bank.renew(0, begun)
    bank.collect((0,), torch.zeros(1, 2))
    bank.step({0: rate})
    assert torch.equal(bank.rows[0], begun)


def _setup(folders: Folders, aggregation: object, **sections: object) -> Setup:
    config = tiny.config(*folders, aggregation=aggregation, codec="none", **sections)
    setup = prepare(config).setup
    return replace(setup, simulation=replace(setup.simulation, group=1))


def _played(setup: Setup, rounds: int) -> list[RoundOutcome]:
    outcomes: list[RoundOutcome] = []
    state = initial_state(setup)
    for _ in range(rounds):
        outcomes.append(Round(setup, state).play())
        state = outcomes[-1].state
    return outcomes


def test_fedprox_holds_devices_near_what_they_began_with(vision: Folders) -> None:
    """In both parts; with next to no weight it is FedAvg, and its first step is, whatever mu."""
    plain, near, little = (
        _played(_setup(vision, aggregation, optimizer={"name": "sgd"}), 1)[0].state
        for aggregation in (
            "fedavg",
            {"name": "fedprox", "mu": 50.0},
            {"name": "fedprox", "mu": 1e-9},
        )
    )
    start = initial_state(_setup(vision, "fedavg"))
    for side in ("device", "server"):
        begun, free, held, barely = (
            getattr(state, side).row for state in (start, plain, near, little)
        )
        assert (held - begun).norm() < (free - begun).norm()
        torch.testing.assert_close(barely, free)


@pytest.mark.parametrize("aggregation", ["none", "device", "server"])
def test_what_is_not_merged_is_each_devices_own(vision: Folders, aggregation: str) -> None:
    """After a round from the same adapters: merged by hand, they are FedAvg's."""
    merged = _played(_setup(vision, "fedavg"), 1)[0].state
    setup = _setup(vision, aggregation)
    state = _played(setup, 1)[0].state
    weights = [float(device.samples) for device in setup.devices]
    for side, found, wanted in (
        ("device", state.device.row, merged.device.row),
        ("server", state.server.row, merged.server.row),
    ):
        if aggregation == side:
            assert torch.equal(found, wanted)
            continue
        assert len(found) == len(weights) and not torch.equal(found[0], found[1])
        assert torch.equal(FedAvg().merge(found, weights), wanted)


def test_without_aggregation_devices_know_nothing_of_each_other(vision: Folders) -> None:
    """Others' samples change nothing for a device, over rounds."""
    setup = _setup(vision, "none")
    first, *others = setup.devices
    less = [
        replace(other, plan=replace(other.plan, samples=other.plan.samples[:5])) for other in others
    ]
    changed = replace(setup, devices=(first, *less))
    states = [_played(own, 2)[-1].state for own in (setup, changed)]
    for side in ("device", "server"):
        one, other = (getattr(state, side).row for state in states)
        assert torch.equal(one[0], other[0]) and not torch.equal(one[1], other[1])


def test_what_is_not_merged_is_sent_where_it_is_evaluated_alone(vision: Folders) -> None:
    """The first round gives all devices the same adapters; then none go down, and those of
    evaluated rounds go up. The timeline has it."""
    for scheme in ("sft", "fl-lora"):
        sent = {}
        for aggregation in ("fedavg", "server", "none"):
            setup = _setup(vision, aggregation, scheme=scheme)
            rule = EvaluationRule(every=3, rounds=3)
            setup = replace(setup, server=replace(setup.server, evaluation=rule))
            sent[aggregation] = _played(setup, 3)
        costs = {
            name: [outcome.round_costs.bytes_by_payload() for outcome in outcomes]
            for name, outcomes in sent.items()
        }
        whole = costs["fedavg"][1]
        assert [one.get("adapter_down", 0) for one in costs["none"]] == [
            whole["adapter_down"],
            0,
            0,
        ]
        assert [one["adapter_up"] for one in costs["none"]] == [
            whole["adapter_up"],
            0,
            whole["adapter_up"],
        ]
        partly = costs["server"][1]
        if scheme == "sft":
            assert partly["adapter_up"] == partly.get("adapter_down", 0) == 0
        else:  # devices hold both parts
            assert 0 < partly["adapter_up"] < whole["adapter_up"]
            assert 0 < partly["adapter_down"] < whole["adapter_down"]
        assert sent["none"][1].timeline.delay_s < sent["fedavg"][1].timeline.delay_s


def _config(vision: Folders, **sections: object) -> Config:
    return tiny.config(
        *vision, aggregation="none", codec="none", optimizer={"learning_rate": 0.05}, **sections
    )


def test_a_run_of_personal_adapters_resumes_and_leaves_one_a_device(
    vision: Folders, tmp_path: Path
) -> None:
    whole = start(_config(vision, training={"rounds": 3}), tmp_path).path
    split = start(_config(vision, training={"rounds": 2}), tmp_path).path
    resume(split, changes={"training.rounds": "3"})
    for name in ("checkpoint.safetensors", "trace.jsonl"):
        assert (whole / name).read_bytes() == (split / name).read_bytes(), name
    run = read_run(whole)
    state = RunDirectory(whole).load()
    assert state is not None
    folders = run.device_adapters
    assert [folder.name for folder in folders] == ["device-0", "device-1", "device-2"]
    setup = prepare(_config(vision)).setup
    for number, folder in enumerate(folders):
        named = read_adapter(folder)
        for part, side in zip(setup.parts, (state.device, state.server), strict=True):
            assert torch.equal(part.adapted.layout.join(named), side.of(number))
    with pytest.raises(RunError, match=r"an adapter for each device: .*device-0"):
        _ = run.adapter
    with pytest.raises(RunError, match=r"for itself: name one of them, such as .*device-0"):
        open_trained(whole)
    assert open_trained(folders[1]).facts.round == 3
    # the score is the mean of the devices', by samples, each weighted by its own labels
    record = read_record(whole)
    summary = record.summary
    last = record.trained[-1]
    weights = np.array(summary.samples_per_device) / sum(summary.samples_per_device)
    assert last.accuracy == pytest.approx((weights * last.device_scores).sum())
    assert summary.device_scores_final == last.device_scores
    assert record.evaluation is not None and record.evaluation.last.macro_f1 is not None
    assert (
        "Devices&#39; scores" in run.report.read_text()
        or "Devices' scores" in run.report.read_text()
    )


def test_the_best_rounds_personal_adapters_are_read_back(vision: Folders, tmp_path: Path) -> None:
    config = _config(vision, evaluation={"samples": 20}, training={"rounds": 1})
    summary = read_run(start(config, tmp_path).path).summary
    assert summary.test_scores is not None
    assert summary.test_scores[0] == summary.test_scores[1]


@pytest.mark.parametrize("aggregation", ["none", "device"])
def test_one_server_adapter_for_all_cannot_be_each_devices_own(
    vision: Folders, aggregation: str
) -> None:
    with pytest.raises(ConfigError, match="splitlora has one adapter in the server's part for all"):
        check(tiny.config(*vision, aggregation=aggregation, scheme="splitlora"))
    with pytest.raises(ConfigError, match="set aggregation to server or fedavg"):
        _setup(vision, aggregation, scheme="splitlora")
    own = _played(_setup(vision, "server", scheme="splitlora"), 1)[0].state
    assert own.device.row.ndim == 2 and own.server.row.ndim == 1


@pytest.mark.parametrize("scheme", ["sft", "fl-lora"])
def test_a_plan_counts_what_is_sent(vision: Folders, scheme: str) -> None:
    """Of adapters that are not merged, what evaluated rounds send up, over all after the first."""
    planned, sent, forecast = {}, {}, {}
    sections: dict[str, Any] = {"scheme": scheme, "evaluation": {"every": 3}}
    sections["training"] = {"rounds": 4, "local_steps": 1}
    for aggregation in ("fedavg", "device", "server", "none"):
        config = tiny.config(*vision, aggregation=aggregation, codec="none", **sections)
        work = make_workload(config)
        found = adapter_bytes(
            SCHEMES[scheme], work.model, 2, work.batch, work.accounting, work.merging
        )
        planned[aggregation] = [len(work.devices) * found.up(work.evaluated), found.merged]
        later = [
            outcome.round_costs.bytes_by_payload()
            for outcome in _played(_setup(vision, aggregation, **sections), 4)[1:]
        ]
        sent[aggregation] = [
            float(np.mean([one.get(way, 0) for one in later]))
            for way in ("adapter_up", "adapter_down")
        ]
        if scheme == "sft":
            chosen = plan(config, fixed=True).chosen
            assert chosen is not None
            forecast[aggregation] = [chosen.later.uplink_bytes, chosen.later.downlink_bytes]
    for aggregation, amounts in sent.items():
        assert planned[aggregation] == pytest.approx(amounts, abs=1500)  # packets have heads
        for told, whole, own, all_own in zip(
            forecast.get(aggregation, ()),
            forecast.get("fedavg", ()),
            planned[aggregation],
            planned["fedavg"],
            strict=False,
        ):
            assert whole - told == pytest.approx(all_own - own)
