"""How much each step of a device's round takes: FLOPs or bytes, at which rate, hence seconds.

Knows no model: the trainer fills the amounts with the lengths of the packets it really made,
`amounts.py` with those of a cost model.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from cutlayer.channel.rates import LinkRates
from cutlayer.errors import ConfigError
from cutlayer.schemes.scheme import Phase, Place, Scheme, Step
from cutlayer.units import BITS_PER_BYTE


@dataclass(frozen=True)
class DeviceRates:
    """The rates that one device's steps run at, constant during a round."""

    device_flops_per_s: float
    server_flops_per_s: float
    link: LinkRates

    def seconds_per_unit(self, place: Place, whole_band: bool = False) -> float:
        """Seconds for one FLOP (compute) or one byte (send) at `place`.

        `whole_band`: a transfer has the band to itself, not the device's share of it. Raises
        ConfigError for a rate that is not positive.
        """
        match place:
            case Place.DEVICE:
                rate = self.device_flops_per_s
            case Place.SERVER:
                rate = self.server_flops_per_s
            case Place.BROADCAST:
                rate = self.link.broadcast_bit_per_s
            case Place.UPLINK if whole_band:
                rate = self.link.uplink_band_bit_per_s
            case Place.UPLINK:
                rate = self.link.uplink_bit_per_s
            case Place.DOWNLINK if whole_band:
                rate = self.link.downlink_band_bit_per_s
            case Place.DOWNLINK:
                rate = self.link.downlink_bit_per_s
        if not rate > 0:
            raise ConfigError(f"the rate of the {place} is {rate}: it must be positive")
        return (1.0 if place in (Place.DEVICE, Place.SERVER) else BITS_PER_BYTE) / rate


@dataclass(frozen=True)
class DeviceWork:
    """One device's amounts in a round by phase: FLOPs where it computes, bytes where it sends.

    A step of the opening or closing has one value; a local one has `local_steps * micro_batches`,
    the micro-batches of a local step together. `in_flight`: how many micro-batches a pipelined
    scheme may have between the start of their forward and the end of their backward; None is all
    of a mini-batch. Any other scheme has one.
    """

    amounts: Mapping[Phase, Float[np.ndarray, " repeat"]]
    rates: DeviceRates
    local_steps: int
    micro_batches: int = 1
    in_flight: int | None = None

    def __post_init__(self) -> None:
        if self.local_steps < 0:
            raise ConfigError(f"local_steps is {self.local_steps}: it cannot be negative")
        if self.micro_batches < 1:
            raise ConfigError(f"micro_batches is {self.micro_batches}: it must be at least 1")
        if self.in_flight is not None and self.in_flight < 1:
            raise ConfigError(f"in_flight is {self.in_flight}: give at least 1, or None for all")

    @property
    def repeats(self) -> int:
        """How often each local phase happens: once a micro-batch of each local step."""
        return self.local_steps * self.micro_batches

    def most_in_flight(self, scheme: Scheme) -> int:
        """How many micro-batches `scheme` lets this device have under way at a time."""
        if not scheme.pipelined:
            return 1
        return min(self.in_flight or self.micro_batches, self.micro_batches)

    def seconds(
        self, step: Step, repeats: int, whole_band: bool = False
    ) -> Float[np.ndarray, " repeat"]:
        """Seconds of each of the `repeats` times that `step` happens.

        Raises ConfigError if the amounts lack the phase, have another count, or are negative.
        """
        amount = self.amounts.get(step.phase)
        if amount is None:
            raise ConfigError(f"no amount of work is given for the phase {step.phase}")
        if amount.shape != (repeats,):
            raise ConfigError(f"{step.phase}: {amount.shape} amounts for {repeats} steps")
        # NaN is neither
        if repeats and not (amount.min() >= 0 and amount.max() < np.inf):
            raise ConfigError(f"{step.phase}: amounts must be finite and at least 0")
        unit_s = self.rates.seconds_per_unit(step.place, whole_band)
        return np.asarray(amount * unit_s, dtype=np.float64)

    def payload_bytes(self, step: Step) -> Float[np.ndarray, " repeat"]:
        """Bytes of each time `step` happens; zeros where it computes."""
        amount = self.amounts[step.phase]
        return amount if step.sends else np.zeros_like(amount)
