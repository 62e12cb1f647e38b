"""What a round is made of: steps at places, in an order that every device follows.

A scheme is a value. A device opens the round, repeats the local steps, and closes it; between
devices only the server is shared.
"""

from dataclasses import dataclass
from enum import StrEnum


class Place(StrEnum):
    """Where a step spends its time."""

    DEVICE = "device"
    SERVER = "server"
    UPLINK = "uplink"
    DOWNLINK = "downlink"
    BROADCAST = "broadcast"


class Phase(StrEnum):
    """What a step does, and the name under which its seconds are reported."""

    MODEL_DISTRIBUTION = "model_distribution"
    DEVICE_FORWARD = "device_forward"
    ACTIVATION_UP = "activation_up"
    SERVER_QUEUE = "server_queue"
    SERVER_COMPUTE = "server_compute"
    GRADIENT_DOWN = "gradient_down"
    DEVICE_BACKWARD = "device_backward"
    ADAPTER_UP = "adapter_up"


@dataclass(frozen=True)
class Step:
    """One thing done at one place; a device's steps follow each other."""

    phase: Phase
    place: Place

    @property
    def sends(self) -> bool:
        """Whether the step moves bytes (else it computes)."""
        return self.place in (Place.UPLINK, Place.DOWNLINK, Place.BROADCAST)


@dataclass(frozen=True)
class Scheme:
    """A round: `opening` once, `local` once each local step, `closing` once."""

    name: str
    opening: tuple[Step, ...]
    local: tuple[Step, ...]
    closing: tuple[Step, ...]
