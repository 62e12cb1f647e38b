"""A configuration made into a plan, and the plan into a configuration that trains as planned."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import tiny
from planner.profiles import profile

from cutlayer.cli.main import main
from cutlayer.config.read import config_yaml, read_config
from cutlayer.config.schema import Choice, Config
from cutlayer.errors import ConfigError
from cutlayer.jobs.plan import Planned, plan
from cutlayer.planner.explain import CutInfeasibility
from cutlayer.planner.profile import (
    CurvePoint,
    DevicePartPoint,
    packaged_profile,
    profile_text,
)
from cutlayer.units import BITS_PER_BYTE

SMALL = {
    "devices": {"count": 2},
    "training": {"rounds": 2, "local_steps": 2, "batch_size": 4},
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A profile's file."""
    path = tmp_path_factory.mktemp("profile") / "profile.json"
    path.write_text(profile_text(profile()), encoding="utf-8")
    return str(path)


def planned(**sections: object) -> Planned:
    """The plan of the default model on two devices, sections on top."""
    return plan(Config.model_validate({**SMALL, **sections}))


def test_a_profile_by_its_path_chooses_the_codec(measured: str) -> None:
    made = planned(planner={"profile": measured})
    assert made.profile == profile()
    chosen = made.plan.chosen
    assert chosen is not None
    # of what loses two points at most, `best` at 0.7 and 0.4 bits sends least
    assert chosen.decision.codec.settings == {"target_bits_up": 0.7, "target_bits_down": 0.4}
    assert chosen.decision.codec.accuracy_loss == pytest.approx(0.012)
    finer = planned(planner={"profile": measured, "accuracy_loss": 0.005}).plan.chosen
    assert finer is not None
    assert finer.decision.codec.settings == {"target_bits_up": 1.0, "target_bits_down": 0.6}


def test_cuts_leave_both_sides_something_to_train() -> None:
    """The head is the server's, so that one adapted block is enough; a plan tries no other cut."""
    chosen = planned(adapter={"layers": [3]}, server={"flops_per_s": 1e18}).plan.chosen
    assert chosen is not None and min(chosen.decision.cuts) >= 4
    for sections, message in (
        (
            {"planner": {"fix": ["cut"]}, "model": {"cut": 2}},
            r"with model\.cut 2, .* nothing to train: cut after block 4 to 11",
        ),
        ({"adapter": {"layers": [3], "head": False}}, r"with any model\.cut, .*adapt more blocks"),
    ):
        with pytest.raises(ConfigError, match=message):
            planned(**{"adapter": {"layers": [3]}, **sections})


def test_a_profile_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no profile .*absent\.json"):
        planned(planner={"profile": str(tmp_path / "absent.json")})


def test_the_packaged_profile_is_that_of_model_and_data() -> None:
    assert planned().profile == packaged_profile("dinov2-small", "fashion-mnist")
    unmeasured = planned(
        model="vit-l16",
        data={"name": "icons-200", "image_size": 224},
        adapter={"rank": 16, "alpha": 16},
        devices={"count": 2, "memory_mib": None},
    )
    assert unmeasured.profile is None
    (only,) = unmeasured.plan.codecs.accurate
    assert (only.codec, only.accuracy_loss) == (unmeasured.config.codec.name, None)


def test_an_uncompressed_scheme_asks_for_no_accuracy(measured: str) -> None:
    made = planned(
        scheme="fl-lora",
        devices={"count": 2, "memory_mib": None},
        planner={"profile": measured, "accuracy_loss": 0.0},
    )
    assert made.plan.chosen is not None
    assert made.plan.infeasibilities == ()


def test_what_is_fixed_stays_and_the_rest_is_chosen(measured: str) -> None:
    own = {"model": {"cut": 7}, "codec": "fast", "training": {**SMALL["training"], "batch_size": 4}}
    made = planned(planner={"profile": measured, "fix": ["cut", "codec"]}, **own)
    assert made.chosen is not None
    decision = made.chosen.decision
    assert (decision.common_cut, decision.codec.codec) == (7, "fast")
    assert (made.config.model.cut, made.config.codec.name) == (7, "fast")
    free = planned(planner={"profile": measured}, **own)
    assert free.chosen is not None
    assert (free.chosen.decision.common_cut, free.config.codec.name) != (7, "fast")
    assert free.chosen.delay_s < made.chosen.delay_s
    shares = planned(planner={"name": "fixed", "shares": [0.3, 0.7], "fix": ["shares"]})
    assert shares.chosen is not None
    assert shares.chosen.decision.shares == (0.3, 0.7)
    assert shares.config.planner == shares.given.planner


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"planner": {"fix": ["cutt"]}}, r"planner\.fix: should be 'scheme', 'cut', .*not 'cutt'"),
        ({"planner": {"fix": "cut"}}, r"planner\.fix must be a list, such as \[a, b\], not 'cut'"),
        (
            {"planner": {"fix": list(get_args(Choice))}},
            r"planner\.fix \[scheme, cut, .*\] leaves nothing to choose: .* fixed",
        ),
        (
            {
                "planner": {
                    "fix": ["activation_memory", "micro_batches", "downlink", "shares"],
                },
                "scheme": "fl-lora",
            },
            "leaves nothing to choose",
        ),
        (
            {"planner": {"fix": ["cut"], "least_cut": 5}},
            r"planner\.fix keeps model\.cut 4, and planner\.least_cut is 5",
        ),
        (
            {"planner": {"fix": ["cut"], "cuts": "per-device"}},
            r"planner\.fix keeps the cut, and planner\.cuts is per-device",
        ),
        (
            {"planner": {"name": "static", "fix": ["shares"]}},
            r"planner\.fix keeps the shares, and planner static has none",
        ),
        ({"planner": {"fix": ["cut"]}, "model": {"cut": 12}}, r"model\.cut is 12"),
    ],
)
def test_what_cannot_be_fixed(sections: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        planned(**sections)


def test_limits_are_those_of_the_section(measured: str) -> None:
    made = planned(
        planner={
            "profile": measured,
            "most_share": [0.4, 0.7],
            "least_cut": 3,
            "server_busy": 0.9,
            "cuts": "per-device",
            "accuracy_loss": 0.03,
        }
    )
    limits = made.plan.limits
    assert limits.most_share == (0.4, 0.7)
    assert (limits.least_cut, limits.server_busy, limits.per_device_cuts) == (3, 0.9, True)
    assert made.plan.most_loss == 0.03
    assert made.plan.chosen is not None
    assert min(made.plan.chosen.decision.cuts) >= 3
    assert made.plan.chosen.decision.shares[0] <= 0.4
    deep = planned(planner={"profile": measured, "least_cut": 12}).plan
    assert deep.infeasibilities[0] == CutInfeasibility(12, 11)


def test_the_planned_configuration_keeps_the_decision(measured: str, tmp_path: Path) -> None:
    made = planned(planner={"profile": measured, "least_cut": 2})
    config = made.config
    path = tmp_path / "plan.yaml"
    path.write_text(config_yaml(config), encoding="utf-8")
    assert read_config(path) == config
    assert made.plan.chosen is not None
    decision = made.plan.chosen.decision
    assert config.scheme.name == decision.scheme.name
    assert config.model.cut == decision.common_cut
    assert config.training.micro_batches == decision.policy.micro_batches
    assert config.devices.activation_memory == decision.policy.activation_memory
    assert config.link.downlink == decision.rules.downlink.value.replace(" ", "-")
    assert config.codec.name == decision.codec.codec
    for name, value in decision.codec.settings.items():
        assert getattr(config.codec, name) == pytest.approx(value)
    assert config.planner.name == "static"
    assert config.planner.least_cut == 2
    # planned again it comes to the same, as nothing else has changed
    again = plan(config).plan.chosen
    assert again is not None
    assert (again.decision.cuts, again.decision.codec) == (decision.cuts, decision.codec)


def test_settings_of_another_codec_are_left_behind(measured: str) -> None:
    made = planned(
        codec={"name": "paper-rans", "keep_ratio": 0.1, "levels": 3},
        planner={"profile": measured},
    )
    config = made.config
    assert config.codec.name == "best"
    assert config.codec.target_bits_up == 0.7


def test_a_channel_that_changes_is_solved_anew_each_round(measured: str) -> None:
    made = planned(channel={"fading": "rayleigh"}, planner={"profile": measured})
    assert made.config.planner.name == "two-timescale"
    shared = planned(link={"uplink": "shared"}, planner={"profile": measured})
    assert shared.config.planner.name == "even"


def test_what_there_is_nothing_to_train_by(measured: str) -> None:
    nothing = planned(planner={"profile": measured, "least_cut": 12})
    with pytest.raises(ConfigError, match="nothing fits"):
        _ = nothing.config


@pytest.mark.parametrize("rate", ["constant-snr", "constant-power"])
def test_training_by_the_plan_takes_the_planned_seconds(tmp_path: Path, rate: str) -> None:
    config = tiny.config(
        tiny.vision_model(tmp_path / "model"),
        tiny.images(tmp_path / "images"),
        codec="none",
        partition="iid",
        devices={"count": 3, "uplink_snr_db": [17, 9, 3], "downlink_snr_db": 12},
        channel={"bandwidth_hz": 1e5, "rate": rate},
    )
    made = plan(config)
    chosen = made.plan.chosen
    assert chosen is not None
    file, output = tmp_path / "plan.yaml", tmp_path / "runs"
    file.write_text(config_yaml(made.config), encoding="utf-8")
    assert main(["train", str(file), "--quiet", "--output", str(output)]) == 0
    (run,) = output.iterdir()
    curves = made.plan.workload.channel.mean_curves()
    rates = [
        curve.rate_bit_per_s(np.array(chosen.decision.shares)).min()
        for curve in (curves.uplink, curves.downlink)
    ]
    records = tiny.read_lines(run / "rounds.jsonl")[1:]
    for record, forecast in zip(records, (chosen.first, chosen.later), strict=True):
        up = float(str(record["uplink_bytes"])) - forecast.uplink_bytes
        down = float(str(record["downlink_bytes"])) - forecast.downlink_bytes
        # frames, checksums and labels: the plan leaves them out
        assert 0 < up < 0.2 * forecast.uplink_bytes
        assert 0 < down < 0.2 * forecast.downlink_bytes
        # whoever waits for whom: no longer than all of them one after another at the slowest rate
        most_s = BITS_PER_BYTE * float(up + down) / float(min(rates))
        assert abs(float(str(record["delay_s"])) - forecast.delay_s) <= most_s
        assert most_s < forecast.delay_s


def test_a_run_of_a_warm_device_part_takes_the_planned_seconds(tmp_path: Path) -> None:
    config = tiny.config(
        tiny.vision_model(tmp_path / "model"),
        tiny.images(tmp_path / "images"),
        codec="none",
        partition="iid",
        devices={"count": 3, "uplink_snr_db": [17, 9, 3], "downlink_snr_db": 12},
        channel={"bandwidth_hz": 1e5},
        training={"rounds": 5, "local_steps": 2, "batch_size": 2},
        device_part={"name": "warm", "rounds": 2},
        evaluation={"every": 5},
    )
    chosen = plan(config, fixed=True).chosen
    assert chosen is not None and chosen.early is not None
    output = tmp_path / "runs"
    (tmp_path / "job.yaml").write_text(config_yaml(config), encoding="utf-8")
    options = ["--quiet", "--output", str(output)]
    assert main(["train", str(tmp_path / "job.yaml"), *options]) == 0
    (run,) = output.iterdir()
    measured = [float(str(r["delay_s"])) for r in tiny.read_lines(run / "rounds.jsonl")[1:]]
    later_s = chosen.later.delay_s
    turn_s = later_s + chosen.turn_s
    planned_s = [chosen.first.delay_s, chosen.early.delay_s, turn_s, later_s, later_s]
    # frames, checksums and labels: the plan leaves them out
    assert measured == pytest.approx(planned_s, rel=0.1)
    assert chosen.training_s == pytest.approx(sum(planned_s), rel=1e-12)


def test_a_plan_to_a_target_accuracy_trains_as_many_rounds_as_it_needs(tmp_path: Path) -> None:
    curve = tuple(CurvePoint(n, 2 * n, (0.4 + 0.12 * n,)) for n in range(1, 5))
    parts = (
        DevicePartPoint(1, "trained", None, (0.86,)),
        DevicePartPoint(1, "frozen", None, (0.86,)),
        DevicePartPoint(8, "trained", None, (0.86,)),
        DevicePartPoint(8, "frozen", None, (0.86,)),
    )
    path = tmp_path / "profile.json"
    measured = replace(profile(), curve=curve, device_parts=parts)
    path.write_text(profile_text(measured), encoding="utf-8")
    config = Config.model_validate({**SMALL, "planner": {"profile": str(path)}})
    made = plan(config, target_accuracy=0.7)
    assert made.target is not None and made.target.chosen is not None
    way = made.target.chosen
    # the curve is there after 5 of 8 steps, two a round; the codec's loss takes its part
    assert 3 <= way.rounds.likely <= 4
    assert made.config.training.rounds == way.rounds.likely
    assert made.config.scheme.name == "sft-frozen"
    assert made.chosen is not None
    assert made.chosen.training_s <= way.seconds * (1 + 1e-9)
    assert made.plan.workload.rounds == way.rounds.likely
    unmeasured = {reason for each in made.target.ways for reason in each.unmeasured}
    assert {"4 local steps a round", "a base in nf4"} <= unmeasured
    record = made.to_dict()["target"]
    assert record["accuracy"] == 0.7
    assert sum(each["chosen"] for each in record["ways"]) == 1
    assert any(note.startswith("70 % accuracy after") for note in made.notes)
    # what is given stays: the device part's own setting, a scheme that is fixed
    own = Config.model_validate({**config.model_dump(exclude_unset=True), "device_part": "trained"})
    kept = plan(own, target_accuracy=0.7)
    assert kept.chosen is not None and kept.chosen.decision.scheme.trains_device


def test_a_target_accuracy_that_cannot_be_planned_for(measured: str) -> None:
    config = Config.model_validate({**SMALL, "planner": {"profile": measured}})
    for options, message in (
        ({"target_accuracy": 0.99}, "nothing that was measured gets there"),
        ({"target_accuracy": 78}, "give a share"),
        ({"target_accuracy": 0.5, "fixed": True}, "chooses nothing"),
        ({"device_energy_j": 5.0}, "until a target accuracy"),
    ):
        with pytest.raises(ConfigError, match=message):
            plan(config, **options)
    fixed = {**SMALL, "planner": {"profile": measured, "fix": ["codec"]}}
    with pytest.raises(ConfigError, match=r"planner\.fix without codec"):
        plan(Config.model_validate(fixed), target_accuracy=0.5)


def test_a_population_is_planned_by_those_of_a_round() -> None:
    """A hundred of ten thousand: the round is a hundred devices' and the plan trains all."""
    few = Config(devices={"count": 100}, data={"train_samples": 1600})
    many = Config(
        devices={"count": 10_000, "per_round": 100, "availability": 0.5},
        data={"train_samples": 160_000},
    )
    planned = plan(many)
    assert planned.chosen is not None
    assert planned.chosen.delay_s == plan(few).chosen.delay_s  # type: ignore[union-attr]
    assert "planned for the 100 of 10000 devices" in planned.notes[0]
    trained = planned.config
    assert (trained.devices.count, trained.devices.per_round) == (10_000, 100)
    assert trained.planner.name == "two-timescale"


def test_a_population_of_devices_by_name_is_not_planned() -> None:
    own = {"count": 3, "per_round": 2, "memory_mib": (72.0, 80.0, 90.0)}
    with pytest.raises(ConfigError, match=r"devices\.memory_mib gives each of 3 devices"):
        plan(Config(devices=own))


def test_a_plan_freezes_the_device_part_where_that_was_measured_to_lose_little() -> None:
    planned = plan(Config())
    assert planned.profile is not None and planned.chosen is not None
    cut = planned.chosen.decision.common_cut
    assert cut is not None
    lost = planned.profile.frozen_loss(cut)
    assert lost is not None and lost.loss <= Config().planner.accuracy_loss
    assert planned.config.scheme.name == "sft-frozen"
    assert any(note.startswith("device part frozen: training it brings") for note in planned.notes)
    slower = plan(Config(scheme="sft"))
    assert slower.chosen is not None and slower.chosen.delay_s > planned.chosen.delay_s
    assert slower.config.scheme.name in ("sft", "sft-overlap")
    nothing = plan(Config(planner={"accuracy_loss": 0.0}))
    assert nothing.chosen is not None and nothing.chosen.decision.scheme.trains_device
