"""What a workload refuses: counts and rates that no training has."""

import math
from dataclasses import replace

import numpy as np
import pytest

from cutlayer.channel.fading import SnrChannel
from cutlayer.errors import ConfigError
from cutlayer.planner.decision import Workload
from cutlayer.rounds.memory import PHYSICAL_ACCOUNTING
from cutlayer.rounds.work import SharingRules
from cutlayer.spec import Device, LinearShape, MiniBatch, ModelSpec

DEVICE = Device("device-0", 1e12, 17.0, 17.0, 2**20)


def workload(**changes: object) -> Workload:
    """Two devices, changed."""
    fields: dict[str, object] = {
        "model": ModelSpec("m", 2, 4, 2, 2, (LinearShape(4, 4, 1),), 16, 8, 8, 10),
        "devices": (DEVICE, replace(DEVICE, name="device-1", memory_bytes=None)),
        "batch": MiniBatch(4, 17),
        "local_steps": (3, 5),
        "rounds": 2,
        "server_flops_per_s": 1e12,
        "channel": channel(2),
        "rules": SharingRules(),
        "accounting": PHYSICAL_ACCOUNTING,
        "optimizer_slots": 0,
    }
    return Workload(**{**fields, **changes})  # type: ignore[arg-type]


def channel(devices: int) -> SnrChannel:
    """Equal links."""
    ratios_db = np.full(devices, 17.0)
    return SnrChannel(5e6, ratios_db, ratios_db)


def test_a_workload_may_be_small() -> None:
    one = workload(devices=(DEVICE,), local_steps=(1,), channel=channel(1), batch=MiniBatch(1, 1))
    assert one.devices == (DEVICE,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": ()}, "needs at least 1 device"),
        ({"local_steps": (3,)}, "1 local steps for 2 devices"),
        ({"channel": channel(3)}, "3 devices in the channel for 2 devices"),
        ({"local_steps": (3, 0)}, "a device's local steps: 0, which must be at least 1"),
        ({"rounds": 0}, "rounds: 0"),
        ({"batch": MiniBatch(0, 17)}, "samples in a mini-batch: 0"),
        ({"batch": MiniBatch(4, 0)}, "tokens in a sample: 0"),
        ({"optimizer_slots": -1}, "values that the optimiser keeps: -1, which must be at least 0"),
        ({"server_flops_per_s": 0.0}, "the server's compute rate is 0.0 FLOP/s"),
        ({"server_flops_per_s": math.nan}, "the server's compute rate is nan"),
    ],
)
def test_what_no_training_has_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        workload(**changes)


@pytest.mark.parametrize("rate", [0.0, -1e12, math.nan, math.inf])
def test_a_device_without_a_rate_is_refused(rate: float) -> None:
    slow = replace(DEVICE, name="device-1", flops_per_s=rate)
    with pytest.raises(ConfigError, match=f"device-1's compute rate is {rate}"):
        workload(devices=(DEVICE, slow))


def test_a_device_without_memory_is_refused() -> None:
    empty = replace(DEVICE, name="device-1", memory_bytes=0)
    with pytest.raises(ConfigError, match="device-1's memory is 0 bytes"):
        workload(devices=(DEVICE, empty))
