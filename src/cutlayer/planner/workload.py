"""What is planned: everything about a training that is given, and nothing that is decided.

Knows no configuration and no files: `config.workload` makes one.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64

from cutlayer.channel.rates import Channel
from cutlayer.cost.accounting import Accounting
from cutlayer.errors import ConfigError
from cutlayer.spec import Device, MiniBatch, ModelSpec
from cutlayer.timeline.rules import Rules


@dataclass(frozen=True, eq=False)
class Workload:
    """A training as a planner sees it.

    `local_steps[n]` mini-batches like `batch` are device n's in each of `rounds` rounds. `rules`
    are those configured; a plan may change the downlink's. `optimizer_slots`: values that the
    optimiser keeps for each trained one (0 SGD, 1 with momentum, 2 Adam). A limit on memory that no
    cut meets is not refused here: a planner says so, with what would.
    Raises ConfigError: no device, counts that differ, a rate that is not positive and finite, a
    batch or a count below 1.
    """

    model: ModelSpec
    devices: tuple[Device, ...]
    batch: MiniBatch
    local_steps: tuple[int, ...]
    rounds: int
    server_flops_per_s: float
    channel: Channel
    rules: Rules
    accounting: Accounting
    optimizer_slots: int

    def __post_init__(self) -> None:
        self._check_counts()
        for device in self.devices:
            _check_rate(f"{device.name}'s compute rate", device.flops_per_s)
            if device.memory_bytes is not None and device.memory_bytes <= 0:
                raise ConfigError(
                    f"{device.name}'s memory is {device.memory_bytes} bytes: give more than 0, or"
                    " null for no limit"
                )
        _check_rate("the server's compute rate", self.server_flops_per_s)

    @cached_property
    def flops_per_s(self) -> Float64[np.ndarray, " device"]:
        """Each device's rate."""
        return np.array([device.flops_per_s for device in self.devices])

    @cached_property
    def steps(self) -> Float64[np.ndarray, " device"]:
        """Each device's local steps, to multiply with."""
        return np.array(self.local_steps, dtype=np.float64)

    def _check_counts(self) -> None:
        if not self.devices:
            raise ConfigError("a plan needs at least 1 device, there are 0")
        for what, count in (
            ("local steps", len(self.local_steps)),
            ("devices in the channel", self.channel.devices),
        ):
            if count != len(self.devices):
                raise ConfigError(f"{count} {what} for {len(self.devices)} devices: give one each")
        least = {
            "rounds": (self.rounds, 1),
            "samples in a mini-batch": (self.batch.samples, 1),
            "tokens in a sample": (self.batch.tokens, 1),
            "a device's local steps": (min(self.local_steps), 1),
            "values that the optimiser keeps": (self.optimizer_slots, 0),
        }
        for what, (count, bound) in least.items():
            if count < bound:
                raise ConfigError(f"{what}: {count}, which must be at least {bound}")


def _check_rate(what: str, flops_per_s: float) -> None:
    if not 0 < flops_per_s < math.inf:  # NaN is neither
        raise ConfigError(f"{what} is {flops_per_s} FLOP/s: it must be positive and finite")
