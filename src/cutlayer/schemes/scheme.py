"""What a round is made of: steps at places, the order they happen in, and what is trained.

A scheme is a value, read by the timeline (seconds), the trainer (tensors) and the network runtime
(packets). It knows no sizes and no rates.
"""

from dataclasses import dataclass
from enum import StrEnum

from cutlayer.spec import Trained


class Place(StrEnum):
    """Where a step spends its time."""

    DEVICE = "device"
    SERVER = "server"
    UPLINK = "uplink"
    DOWNLINK = "downlink"
    BROADCAST = "broadcast"


class Phase(StrEnum):
    """What a step does or what a device waits for: the names under which seconds are reported."""

    MODEL_DISTRIBUTION = "model_distribution"
    ADAPTER_DOWN = "adapter_down"
    DEVICE_QUEUE = "device_queue"
    DEVICE_FORWARD = "device_forward"
    LINK_QUEUE = "link_queue"
    ACTIVATION_UP = "activation_up"
    SERVER_QUEUE = "server_queue"
    SERVER_COMPUTE = "server_compute"
    UPPER_COMPUTE = "upper_compute"
    GRADIENT_DOWN = "gradient_down"
    DEVICE_BACKWARD = "device_backward"
    BARRIER = "barrier"
    ADAPTER_UP = "adapter_up"
    TURN = "turn"


@dataclass(frozen=True)
class Step:
    """One thing done at one place; a device's steps follow each other."""

    phase: Phase
    place: Place

    @property
    def sends(self) -> bool:
        """Whether the step moves bytes (else it computes)."""
        return self.place in (Place.UPLINK, Place.DOWNLINK, Place.BROADCAST)


class DeviceOrder(StrEnum):
    """How devices share a round: all of them at once, or one after another."""

    PARALLEL = "parallel"
    IN_TURN = "in turn"


class ServerOrder(StrEnum):
    """Whose mini-batch the server takes next.

    ARRIVAL: whichever came first. TURNS: device 0, 1, 2, ..., local step by local step. TOGETHER:
    it waits for a local step of all devices, works on all at once on a model each (so all end
    together), and the next local step begins when the last device has ended this one.
    """

    ARRIVAL = "arrival"
    TURNS = "turns"
    TOGETHER = "together"


@dataclass(frozen=True)
class Scheme:
    """A round: `opening` once, `local` once each micro-batch of each local step, `closing` once.

    `compressed`: activations and gradients pass the run's codec, else they go as float32.
    `shared_server`: the server steps one adapter for all devices, else one for each (FedAvg merges
    them). `pipelined`: a device starts its next micro-batch before the gradient of the last one has
    come; else one follows the other. With devices in turn, each takes over the adapters of the one
    before it, and FedAvg has nothing to do.
    """

    name: str
    title: str
    opening: tuple[Step, ...]
    local: tuple[Step, ...]
    closing: tuple[Step, ...]
    devices: DeviceOrder = DeviceOrder.PARALLEL
    server: ServerOrder = ServerOrder.ARRIVAL
    shared_server: bool = False
    compressed: bool = True
    pipelined: bool = False
    trained: Trained = Trained.ADAPTERS

    @property
    def splits(self) -> bool:
        """Whether the model is cut between devices and server (else devices hold all of it)."""
        return any(step.place is Place.SERVER for step in self.local)

    @property
    def keeps_optimizer(self) -> bool:
        """Whether optimiser states last from round to round; those of all weights would be a
        multiple of the model for each device, and start anew, as in FedAvg."""
        return self.trained is Trained.ADAPTERS


BROADCAST_MODEL = Step(Phase.MODEL_DISTRIBUTION, Place.BROADCAST)
UPLOAD_ADAPTER = Step(Phase.ADAPTER_UP, Place.UPLINK)
SPLIT_STEP = (
    Step(Phase.DEVICE_FORWARD, Place.DEVICE),
    Step(Phase.ACTIVATION_UP, Place.UPLINK),
    Step(Phase.SERVER_COMPUTE, Place.SERVER),
    Step(Phase.GRADIENT_DOWN, Place.DOWNLINK),
    Step(Phase.DEVICE_BACKWARD, Place.DEVICE),
)
WHOLE_STEP = (
    Step(Phase.DEVICE_FORWARD, Place.DEVICE),
    Step(Phase.UPPER_COMPUTE, Place.DEVICE),
    Step(Phase.DEVICE_BACKWARD, Place.DEVICE),
)
