"""How much each step of a device's round takes: FLOPs or bytes, at which rate, hence seconds.

Knows no model: the trainer fills the amounts with the lengths of the packets it really made.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from cutlayer.channel.shannon import LinkRates
from cutlayer.errors import ConfigError
from cutlayer.schemes.scheme import Phase, Place, Scheme, Step
from cutlayer.units import BITS_PER_BYTE


@dataclass(frozen=True)
class DeviceRates:
    """The rates that one device's steps run at, constant during a round."""

    device_flops_per_s: float
    server_flops_per_s: float
    link: LinkRates

    def seconds_per_unit(self, place: Place) -> float:
        """Seconds for one FLOP (compute) or one byte (send) at `place`."""
        match place:
            case Place.DEVICE:
                return 1.0 / self.device_flops_per_s
            case Place.SERVER:
                return 1.0 / self.server_flops_per_s
            case Place.UPLINK:
                return BITS_PER_BYTE / self.link.uplink_bit_per_s
            case Place.DOWNLINK:
                return BITS_PER_BYTE / self.link.downlink_bit_per_s
            case Place.BROADCAST:
                return BITS_PER_BYTE / self.link.broadcast_bit_per_s


@dataclass(frozen=True)
class DeviceWork:
    """One device's amounts in a round by phase: FLOPs where it computes, bytes where it sends.

    An entry has one value per local step, or one value for a step of the opening or closing.
    """

    amounts: Mapping[Phase, Float[np.ndarray, " repeat"]]
    rates: DeviceRates
    local_steps: int

    def seconds(self, step: Step, repeats: int) -> Float[np.ndarray, " repeat"]:
        """Seconds of each of the `repeats` times that `step` happens.

        Raises ConfigError if the amounts lack the phase, have another count, or are negative.
        """
        amount = self.amounts.get(step.phase)
        if amount is None:
            raise ConfigError(f"no amount of work is given for the phase {step.phase}")
        if amount.shape != (repeats,):
            raise ConfigError(f"{step.phase}: {amount.shape} amounts for {repeats} steps")
        if not (np.isfinite(amount).all() and (amount >= 0).all()):
            raise ConfigError(f"{step.phase}: amounts must be finite and at least 0")
        return np.asarray(amount * self.rates.seconds_per_unit(step.place), dtype=np.float64)

    def payload_bytes(self, step: Step) -> Float[np.ndarray, " repeat"]:
        """Bytes of each time `step` happens; zeros where it computes."""
        amount = self.amounts[step.phase]
        return amount if step.sends else np.zeros_like(amount)


def chain_seconds(
    scheme: Scheme, work: DeviceWork
) -> tuple[
    Float[np.ndarray, " opening"],
    Float[np.ndarray, "local_step step"],
    Float[np.ndarray, " closing"],
]:
    """A device's steps in seconds: opening, local (a row each local step), closing."""
    opening = [work.seconds(step, 1)[0] for step in scheme.opening]
    closing = [work.seconds(step, 1)[0] for step in scheme.closing]
    columns = [work.seconds(step, work.local_steps) for step in scheme.local]
    return np.array(opening), np.stack(columns, axis=1), np.array(closing)
