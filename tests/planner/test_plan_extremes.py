"""A plan at the ends of every bound: an answer or a refusal, without a warning or a number that is
none."""

import json
from collections.abc import Mapping

import pytest

from cutlayer.config.read import read_config
from cutlayer.jobs.plan import plan
from cutlayer.report.plan_page import plan_record
from cutlayer.report.tables import plan_tables

FEW = {
    "devices.count": "3",
    "training.local_steps": "2",
    "training.batch_size": "4",
    "training.rounds": "2",
    "devices.memory_mib": "null",
}
SLOWEST = {"devices.flops_per_s": "1", "server.flops_per_s": "1", "channel.bandwidth_hz": "1"}
FASTEST = {
    "devices.flops_per_s": "1e21",
    "server.flops_per_s": "1e21",
    "channel.bandwidth_hz": "1e12",
}
DEAF = {"devices.uplink_snr_db": "-100", "devices.downlink_snr_db": "-100"}
MIXED = {"devices.uplink_snr_db": "[-100, 0, 100]", "devices.flops_per_s": "[1, 1e9, 1e21]"}
CELL = {
    "channel.cell": "umi",
    "channel.cell.device_power_dbm": "-100",
    "channel.cell.device_noise_db": "100",
}


@pytest.mark.parametrize(
    "overrides",
    [
        SLOWEST,
        FASTEST,
        {**SLOWEST, **DEAF},
        {**FASTEST, **DEAF},
        MIXED,
        {**MIXED, "channel.rate": "constant-power", "planner.cuts": "per-device"},
        {**CELL, "channel.bandwidth_hz": "1e12"},
        {"devices.flops_spread": "0.9999999999999999"},
        {"channel.fading": "rician", "channel.fading.k_db": "-100"},
        {"channel.fading": "rician", "channel.fading.k_db": "100", "devices.uplink_snr_db": "-100"},
        {"training.local_steps": "2000", "training.rounds": "1000000", **SLOWEST},
        {"server.workers": "1000000"},
        {"devices.memory_mib": "0.001"},
    ],
)
def test_there_is_an_answer(overrides: Mapping[str, str]) -> None:
    made = plan(read_config(None, {**FEW, **overrides})).plan
    assert (made.chosen is None) == ("devices.memory_mib" in overrides)
    assert json.dumps(plan_record(made), allow_nan=False)
    assert plan_tables(made)


def test_a_rounding_below_zero_is_no_mistake_of_the_user() -> None:
    made = plan(read_config(None, {**FEW, "devices.flops_spread": "0.999999999"})).plan
    assert made.chosen is not None
