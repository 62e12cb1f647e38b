"""What is planned, and what is decided, within which limits.

Knows no search, no seconds, no configuration and no file: `jobs.plan` makes a workload.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float64

from cutlayer.channel.rates import Channel
from cutlayer.errors import ConfigError
from cutlayer.rounds.memory import Accounting
from cutlayer.rounds.schemes import Scheme
from cutlayer.rounds.work import SharingRules
from cutlayer.spec import Device, MiniBatch, MiniBatchPolicy, ModelSpec

# one part in 10^9 forgives largest shares such as ten times 0.1
_ROUNDING = 1e-9


@dataclass(frozen=True)
class CodecChoice:
    """A codec with its settings, as the configuration names them, and what it does.

    `up`, `down`: bytes sent over bytes uncompressed, of activations and gradients (the paper's
    beta). `accuracy_loss`: share of the test samples that it costs against no codec; None where
    nobody has measured it.
    """

    codec: str
    settings: Mapping[str, float]
    up: float
    down: float
    accuracy_loss: float | None = None

    def __str__(self) -> str:
        settings = ", ".join(f"{key} {value:.3g}" for key, value in self.settings.items())
        return f"{self.codec} ({settings})" if settings else self.codec


@dataclass(frozen=True)
class Decision:
    """Everything that is chosen. `cuts` and `shares` have a value for each device."""

    scheme: Scheme
    cuts: tuple[int, ...]
    codec: CodecChoice
    policy: MiniBatchPolicy
    rules: SharingRules
    shares: tuple[float, ...]

    @property
    def common_cut(self) -> int | None:
        """The cut of all devices; None where they differ."""
        return self.cuts[0] if len(set(self.cuts)) == 1 else None

    def on_even_shares(self) -> "Decision":
        """The same with as much bandwidth for each device."""
        count = len(self.cuts)
        return replace(self, shares=(1.0 / count,) * count)


@dataclass(frozen=True)
class PlanLimits:
    """What a plan must keep to, besides each device's memory.

    `least_cut`: blocks that stay on the devices at least, so that activations tell less of the
    data. `most_share`: of each device, of the bandwidth (SFT eq. 36f). `server_busy`: part of a
    round that the server may compute. `per_device_cuts`: whether devices may be cut differently.
    Raises ConfigError for a part outside (0, 1], largest shares that sum below 1, and a least cut
    below 1.
    """

    most_share: tuple[float, ...]
    least_cut: int = 1
    server_busy: float = 1.0
    per_device_cuts: bool = False

    def __post_init__(self) -> None:
        for share in self.most_share:
            if not 0 < share <= 1:
                raise ConfigError(
                    f"a device's largest share is {share}: give more than 0, at most 1"
                )
        together, count = sum(self.most_share), len(self.most_share)
        if together < 1 - _ROUNDING:
            raise ConfigError(
                f"most_share of {count} devices comes to {together:.3g} of the bandwidth, which"
                f" would leave some of it unused: let each have at least {1 / count:.3g}"
            )
        if not 0 < self.server_busy <= 1:
            raise ConfigError(f"server_busy is {self.server_busy}: give more than 0, at most 1")
        if self.least_cut < 1:
            raise ConfigError(f"least_cut is {self.least_cut}: a device part has at least 1 block")


@dataclass(frozen=True, eq=False)
class Workload:
    """A training run as a planner sees it: what is given, and nothing that is decided.

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
    rules: SharingRules
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
