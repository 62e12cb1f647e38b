"""Every scheme's round, described once: steps at places, their order, and what is trained.

A scheme is a value, read by the timeline (seconds), the trainer (tensors) and the network runtime
(packets). Knows no sizes and no rates.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

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


BROADCAST_MODEL = Step(Phase.MODEL_DISTRIBUTION, Place.BROADCAST)
UPLOAD_ADAPTER = Step(Phase.ADAPTER_UP, Place.UPLINK)
SPLIT_STEP = (
    Step(Phase.DEVICE_FORWARD, Place.DEVICE),
    Step(Phase.ACTIVATION_UP, Place.UPLINK),
    Step(Phase.SERVER_COMPUTE, Place.SERVER),
    Step(Phase.GRADIENT_DOWN, Place.DOWNLINK),
    Step(Phase.DEVICE_BACKWARD, Place.DEVICE),
)
# nothing comes back: the device's part is not trained
FORWARD_STEP = SPLIT_STEP[:3]
WHOLE_STEP = (
    Step(Phase.DEVICE_FORWARD, Place.DEVICE),
    Step(Phase.UPPER_COMPUTE, Place.DEVICE),
    Step(Phase.DEVICE_BACKWARD, Place.DEVICE),
)


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
class Merging:
    """Whose adapters are merged as a round ends, those of the devices' part and those of the
    server's; where they are not, each device keeps its own from round to round, and they are sent
    only where the server evaluates them. `proximal_mu`: FedProx's, in every local step."""

    device: bool = True
    server: bool = True
    proximal_mu: float = 0.0

    @property
    def personal(self) -> bool:
        """Whether devices end with models of their own."""
        return not (self.device and self.server)


# all adapters are merged, and nothing holds devices near to what they begin with
FEDAVG = Merging()


@dataclass(frozen=True)
class Scheme:
    """A round: `opening` once, `local` once each micro-batch of each local step, `closing` once.

    `compressed`: activations and gradients pass the run's codec, else they go as float32.
    `shared_server`: the server steps one adapter for all devices, else one for each (FedAvg merges
    them). `pipelined`: a device starts its next micro-batch before the gradient of the last one has
    come; else one follows the other. With devices in turn, each takes over the adapters of the one
    before it, and FedAvg has nothing to do. Without a device's backward in `local` its part is
    frozen: it sends its mini-batches one after another and waits for nothing. `cached`: the server
    keeps what was sent of each sample, and a device forwards and sends only what it does not hold.
    """

    name: str
    title: str
    opening: tuple[Step, ...] = (BROADCAST_MODEL,)
    local: tuple[Step, ...] = SPLIT_STEP
    closing: tuple[Step, ...] = (UPLOAD_ADAPTER,)
    devices: DeviceOrder = DeviceOrder.PARALLEL
    server: ServerOrder = ServerOrder.ARRIVAL
    shared_server: bool = False
    compressed: bool = True
    pipelined: bool = False
    trained: Trained = Trained.ADAPTERS
    cached: bool = False

    @property
    def splits(self) -> bool:
        """Whether the model is cut between devices and server (else devices hold all of it)."""
        return any(step.place is Place.SERVER for step in self.local)

    @property
    def trains_device(self) -> bool:
        """Whether the devices' part is trained (else it is frozen: nothing comes back)."""
        return any(step.phase is Phase.DEVICE_BACKWARD for step in self.local)

    @property
    def apart(self) -> bool:
        """Whether nothing of a device depends on another, or on an order of them, until the round
        closes."""
        in_turn = self.devices is DeviceOrder.IN_TURN
        return not (in_turn or self.shared_server or self.cached)

    @property
    def streams(self) -> bool:
        """Whether a device works through its round without waiting for the server."""
        return self.splits and not self.trains_device

    @property
    def keeps_optimizer(self) -> bool:
        """Whether optimiser states last from round to round; those of all weights would be a
        multiple of the model for each device, and start anew, as in FedAvg."""
        return self.trained is Trained.ADAPTERS


# Federated learning of all weights: every device holds, trains and sends the whole model.
# Source: FedAvg (arXiv 1602.05629); SFT Table III ("FL-based FT").
FL_FULL = Scheme(
    "fl-full", "FL with full weights", local=WHOLE_STEP, compressed=False, trained=Trained.WEIGHTS
)

# Federated learning of LoRA adapters: every device holds the whole model and sends its adapters.
# Source: SFT Section VIII-A ("FL-based fine-tuning").
FL_LORA = Scheme("fl-lora", "FL with LoRA", local=WHOLE_STEP, compressed=False)

# SFT, the scheme of the paper: devices in parallel, one shared frozen server part. The server keeps
# an adapter for each device and works through mini-batches in the order in which their activations
# arrive. Source: SFT Algorithm 1.
SFT = Scheme("sft", "SFT")

# SFT with micro-batches that overlap: a device goes on computing while its link and the server work
# on the micro-batches before. The adapters step once a mini-batch, so without compression training
# is that of SFT. Source: ours.
SFT_OVERLAP = Scheme("sft-overlap", "SFT with overlap", pipelined=True)

# SFT with the devices' part frozen: activations and labels go up, and nothing comes back. Adapters
# are on the server's blocks alone; devices hear their part once. Source: ours.
SFT_FROZEN = Scheme("sft-frozen", "SFT, device part frozen", local=FORWARD_STEP, closing=())

# SFT with a frozen devices' part, whose activations do not change: each sample's is sent once, and
# later epochs are the server's alone. Source: ours.
SFT_CACHED = Scheme(
    "sft-cached", "SFT, activations cached", local=FORWARD_STEP, closing=(), cached=True
)

# SFT without compression: activations and gradients go as float32. Source: SFT Section VIII-A.
SFT_UNCOMPRESSED = Scheme("sft-uncompressed", "SFT without compression", compressed=False)

# Split learning: one device at a time with the whole bandwidth, handing its adapters to the next,
# through the server, up and down. Source: SFT Section VIII-A.
SL = Scheme(
    "sl",
    "SL",
    opening=(BROADCAST_MODEL, Step(Phase.ADAPTER_DOWN, Place.DOWNLINK)),
    devices=DeviceOrder.IN_TURN,
    shared_server=True,
    compressed=False,
)

# SplitLoRA as its authors published it: one server-side adapter, stepped by devices in turn; the
# devices' adapters are averaged at the end of the round.
# Source: SplitLoRA (arXiv 2407.00952) and its published code.
SPLITLORA = Scheme(
    "splitlora",
    "SplitLoRA (its own paper)",
    server=ServerOrder.TURNS,
    shared_server=True,
    compressed=False,
)

# SplitLoRA as the SFT paper describes it: the server waits for all devices, trains a model for each
# of them at once on its one processor, and devices wait for each other. Source: SFT Section VIII-A.
SPLITLORA_PAPER = Scheme(
    "splitlora-paper",
    "SplitLoRA (as the SFT paper describes it)",
    server=ServerOrder.TOGETHER,
    compressed=False,
)

# every scheme of the package by its name; `dataclasses.replace` makes others of them
SCHEMES: Mapping[str, Scheme] = MappingProxyType(
    {
        scheme.name: scheme
        for scheme in (
            SFT,
            SFT_UNCOMPRESSED,
            SFT_OVERLAP,
            SFT_FROZEN,
            SFT_CACHED,
            SPLITLORA_PAPER,
            SPLITLORA,
            SL,
            FL_LORA,
            FL_FULL,
        )
    }
)
