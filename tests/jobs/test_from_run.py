"""Plans with the seconds of a networked run: rates come back that the run was made of."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report.fake_run import FakeRun, write_fake_run

from cutlayer.config.read import config_yaml
from cutlayer.config.schema import Config, SftFrozen
from cutlayer.errors import ConfigError, RunError
from cutlayer.jobs.from_run import learned_rates
from cutlayer.jobs.plan import plan
from cutlayer.jobs.workload import make_workload
from cutlayer.planner.forecast import PlayedRounds
from cutlayer.rounds.result import TimelineEvent
from cutlayer.rounds.schemes import Phase
from cutlayer.rounds.simulate import simulate
from cutlayer.training.records import TraceLine

CONFIG = Config(
    scheme="sft",
    devices={"count": 2, "flops_per_s": [2e9, 5e9], "uplink_snr_db": [17.0, 7.0]},
    server={"flops_per_s": 2e10},
    training={"local_steps": 3, "batch_size": 4},
)
ROUNDS = 3


def events_of(config: Config) -> list[TimelineEvent]:
    """A round as the configuration says; what is broadcast is left out, which a network sends to
    each."""
    made = plan(config, fixed=True)
    assert made.chosen is not None
    workload, decision = made.plan.workload, made.chosen.decision
    played = PlayedRounds(workload, decision, workload.channel.mean_curves())
    line = simulate(decision.scheme, played.works(), decision.rules)
    return [
        replace(one, payload_bytes=0) if one.phase is Phase.MODEL_DISTRIBUTION else one
        for one in line.events()
    ]


def written(
    folder: Path,
    config: Config = CONFIG,
    command: str = "serve",
    left_out: Sequence[int] = (),
) -> Path:
    """A run of it, whose first round took twice as long; devices that are left out were not
    seen."""
    count = config.devices.count
    write_fake_run(folder, FakeRun(devices=count, rounds=ROUNDS))
    (folder / "config.yaml").write_text(config_yaml(config), encoding="utf-8")
    (folder / "fingerprint.json").write_text(json.dumps({"command": command}), encoding="utf-8")
    events = [one for one in events_of(config) if one.device not in left_out]
    lines = [
        TraceLine(
            round=number,
            event=replace(one, start_s=slow * one.start_s, end_s=slow * one.end_s),
        ).model_dump_json()
        for number in range(1, ROUNDS + 1)
        for slow in [2.0 if number == 1 else 1.0]
        for one in events
    ]
    (folder / "trace.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A networked run, and nothing of it that is not written down."""
    return written(tmp_path_factory.mktemp("runs") / "one")


def test_the_rates_are_those_that_the_run_had(run: Path) -> None:
    found, own = learned_rates(CONFIG, run), make_workload(CONFIG)
    assert found.rounds == (2, 3)  # the first warms up
    assert found.device_flops_per_s == pytest.approx(own.flops_per_s, rel=1e-9)
    assert found.server_flops_per_s == pytest.approx(own.server_flops_per_s, rel=1e-9)
    curves = own.channel.mean_curves()
    whole = np.ones(2)
    for rates, curve in (
        (found.uplink_bit_per_s, curves.uplink),
        (found.downlink_bit_per_s, curves.downlink),
    ):
        # a trace has whole bytes, of packets of hundreds
        assert rates == pytest.approx(curve.rate_bit_per_s(whole), rel=1e-3)


def test_devices_that_train_nothing_have_computed_forward_alone(tmp_path: Path) -> None:
    frozen = CONFIG.model_copy(update={"scheme": SftFrozen()})
    found, own = learned_rates(frozen, written(tmp_path / "frozen", frozen)), make_workload(frozen)
    assert found.device_flops_per_s == pytest.approx(own.flops_per_s, rel=1e-9)
    assert found.server_flops_per_s == pytest.approx(2e10)


def test_a_plan_with_them_takes_the_runs_seconds(run: Path) -> None:
    """Though its own configuration knows none of them."""
    ignorant = Config(
        scheme="sft", devices={"count": 2}, training={"local_steps": 3, "batch_size": 4}
    )
    known, learned = plan(CONFIG, fixed=True), plan(ignorant, fixed=True, from_run=run)
    assert known.chosen is not None and learned.chosen is not None
    assert learned.chosen.delay_s == pytest.approx(known.chosen.delay_s, rel=1e-4)
    (line, *_) = learned.notes
    assert line.startswith(f"learned from rounds 2 to 3 of {run}: devices reach 2 to 5 GFLOP/s,")
    assert line.endswith("in place of the configured rates and channel")
    assert learned.to_dict()["notes"] == learned.notes
    # what is planned with it is trained with it
    chosen = plan(ignorant, from_run=str(run)).config
    assert chosen.devices.flops_per_s == pytest.approx((2e9, 5e9))


def test_one_round_is_better_than_none(run: Path, tmp_path: Path) -> None:
    short = written(tmp_path / "short")
    for name in ("rounds.jsonl", "trace.jsonl"):
        lines = (short / name).read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)["round"] < 2]
        (short / name).write_text("".join(kept), encoding="utf-8")
    found = learned_rates(CONFIG, short)
    assert found.rounds == (1,)
    assert found.server_flops_per_s == pytest.approx(1e10)
    assert "round 1 of" in str(found) and "which warms up" in str(found)


def test_a_simulated_run_is_refused(tmp_path: Path) -> None:
    simulated = written(tmp_path / "simulated", command="train")
    with pytest.raises(RunError, match=r"simulated was simulated: .*`cutlayer serve`"):
        plan(CONFIG, from_run=simulated)
    (simulated / "fingerprint.json").unlink()
    with pytest.raises(RunError, match=r"fingerprint\.json cannot be read, so nobody knows"):
        plan(CONFIG, from_run=simulated)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"model": "vit-b16"},
            r"trained dinov2-small on fashion-mnist, and the plan is for vit-b16 on fashion-mnist",
        ),
        ({"data": "cifar-100"}, r"and the plan is for dinov2-small on cifar-100: .*bench-device"),
        ({"devices": {"count": 3}}, r"had 2 devices, and devices\.count is 3: plan for as many"),
        (
            {"devices": {"count": 2, "profile": "nano.yaml"}},
            r"devices\.profile and a run to learn from both say",
        ),
        (
            {"server": {"base": "bfloat16"}},
            r"held server\.base float32, and the plan is for bfloat16: rates of one do not hold",
        ),
        ({"server": {"profile": "nano.yaml"}}, r"server\.profile and a run to learn from both say"),
    ],
)
def test_a_run_of_something_else_is_refused(
    sections: dict[str, object], message: str, run: Path
) -> None:
    values = CONFIG.model_dump(mode="json", exclude_unset=True) | sections
    with pytest.raises(ConfigError, match=message):
        learned_rates(Config.model_validate(values), run)


def test_what_is_no_run_or_saw_too_little(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"absent: no such run directory"):
        plan(CONFIG, from_run=tmp_path / "absent")
    unseen = written(tmp_path / "unseen", left_out=[1])
    with pytest.raises(RunError, match=r"in rounds 2 to 3 devices \[1\] were not observed"):
        plan(CONFIG, from_run=unseen)
    first = (unseen / "rounds.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[0]
    (unseen / "rounds.jsonl").write_text(first, encoding="utf-8")
    with pytest.raises(RunError, match=r"has not finished a round yet"):
        plan(CONFIG, from_run=unseen)
