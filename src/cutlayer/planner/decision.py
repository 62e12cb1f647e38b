"""What a planner decides, and within which limits.

Knows no search and no seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cutlayer.errors import ConfigError
from cutlayer.schemes.scheme import Scheme
from cutlayer.spec import Holding
from cutlayer.timeline.rules import Rules

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
class Held:
    """How devices hold a mini-batch: what of it, in how many parts, how many of them at a time."""

    holding: Holding = Holding.KEEP
    micro_batches: int = 1
    in_flight: int = 1

    def __str__(self) -> str:
        if self.micro_batches == 1:
            return str(self.holding)
        return f"{self.holding}, {self.micro_batches} micro-batches, {self.in_flight} in flight"


@dataclass(frozen=True)
class Decision:
    """Everything that is chosen. `cuts` and `shares` have a value for each device."""

    scheme: Scheme
    cuts: tuple[int, ...]
    codec: CodecChoice
    held: Held
    rules: Rules
    shares: tuple[float, ...]

    @property
    def common_cut(self) -> int | None:
        """The cut of all devices; None where they differ."""
        return self.cuts[0] if len(set(self.cuts)) == 1 else None

    def on_even_shares(self) -> "Decision":
        """The same with as much of the band for each device."""
        count = len(self.cuts)
        return replace(self, shares=(1.0 / count,) * count)


@dataclass(frozen=True)
class Limits:
    """What a plan must keep to, besides each device's memory.

    `least_cut`: blocks that stay on the devices at least, so that activations tell less of the
    data. `most_share`: of each device, of the band (SFT eq. 36f). `server_busy`: part of a round
    that the server may compute. `per_device_cuts`: whether devices may be cut differently.
    Raises ConfigError for a part outside (0, 1], largest shares that sum below the band, and a
    least cut below 1.
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
            raise ConfigError(f"least_cut is {self.least_cut}: devices hold at least 1 block")
