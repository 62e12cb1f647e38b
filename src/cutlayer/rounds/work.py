"""What a device's round is made of: how much each step takes, what is waited for, what is shared.

The trainer fills the amounts with the lengths of the packets it really made, `round_work` with
those of a cost model, for the planner and the analytic figures. Waits follow from the scheme's two
orders. Knows no clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from jaxtyping import Float, Int64

from cutlayer.channel.rates import LinkRates
from cutlayer.errors import ConfigError
from cutlayer.rounds.batching import ALONE, ServerBatching
from cutlayer.rounds.costs import CODED_SHARES, SchemeTraffic, StepFlops, recomputed_flops
from cutlayer.rounds.memory import Accounting
from cutlayer.rounds.schemes import (
    FEDAVG,
    DeviceOrder,
    Merging,
    Phase,
    Place,
    Scheme,
    ServerOrder,
    Step,
)
from cutlayer.spec import ActivationPolicy, Base, MiniBatch, ModelSpec, Trained
from cutlayer.units import BITS_PER_BYTE

_QUEUES = {
    Place.DEVICE: Phase.DEVICE_QUEUE,
    Place.SERVER: Phase.SERVER_QUEUE,
    Place.UPLINK: Phase.LINK_QUEUE,
    Place.DOWNLINK: Phase.LINK_QUEUE,
    Place.BROADCAST: Phase.LINK_QUEUE,
}


# bytes of an adapter that goes up, and of one that comes down, over those of float32
WHOLE_ADAPTERS = (1.0, 1.0)


class Sharing(StrEnum):
    """How transfers in one direction share the bandwidth.

    STATIC: each device sends in its own share, at that share's rate. IN_TURN: one transfer at a
    time has the whole bandwidth, first come first served. SHARED: all devices with something to
    send take time slots in turn, so a transfer of each of n goes at 1/n of its own full rate
    (processor sharing); a device sends its own in order.
    """

    STATIC = "static"
    IN_TURN = "in turn"
    SHARED = "shared"


class Duplex(StrEnum):
    """FULL: bandwidth for each direction. HALF: uplink and downlink share the same in time."""

    FULL = "full"
    HALF = "half"


@dataclass(frozen=True)
class SharingRules:
    """What a round's devices share: the server's workers, and the bandwidth each way.

    The defaults are the paper's: one server that computes one mini-batch at a time, static shares.
    `batching` is of a server that works in order of arrival. With half duplex one bandwidth serves
    both directions by one rule: with static shares each device's share is either up or down at a
    time, else the whole bandwidth is.
    Raises ConfigError without a worker, or for half duplex with two ways of sharing.
    Source: SFT Section IV (static shares, one server); the others are ours.
    """

    server_workers: int = 1
    uplink: Sharing = Sharing.STATIC
    downlink: Sharing = Sharing.STATIC
    duplex: Duplex = Duplex.FULL
    batching: ServerBatching = ALONE

    def __post_init__(self) -> None:
        if self.server_workers < 1:
            raise ConfigError(f"server_workers is {self.server_workers}: a round needs at least 1")
        if self.duplex is Duplex.HALF and self.uplink is not self.downlink:
            raise ConfigError(
                "half duplex is one bandwidth for both directions, but the uplink is"
                f" {self.uplink} and the downlink {self.downlink}: give both the same sharing"
            )

    def whole_bandwidth(self, place: Place) -> bool:
        """Whether a transfer at `place` goes at the rate of the whole bandwidth, not of a share."""
        match place:
            case Place.UPLINK:
                return self.uplink is not Sharing.STATIC
            case Place.DOWNLINK:
                return self.downlink is not Sharing.STATIC
            case _:
                return False


@dataclass(frozen=True)
class DeviceRates:
    """The rates that one device's steps run at, constant during a round.

    `server_floor_s`: what a pass of the server takes at least, however little there is to compute:
    launches, and reading the weights.
    """

    device_flops_per_s: float
    server_flops_per_s: float
    link: LinkRates
    server_floor_s: float = 0.0

    def seconds_per_unit(self, place: Place, whole_bandwidth: bool = False) -> float:
        """Seconds for one FLOP (compute) or one byte (send) at `place`.

        `whole_bandwidth`: a transfer has the bandwidth to itself, not the device's share of it.
        Raises ConfigError for a rate that is not positive.
        """
        match place:
            case Place.DEVICE:
                rate = self.device_flops_per_s
            case Place.SERVER:
                rate = self.server_flops_per_s
            case Place.BROADCAST:
                rate = self.link.broadcast_bit_per_s
            case Place.UPLINK if whole_bandwidth:
                rate = self.link.uplink_alone_bit_per_s
            case Place.UPLINK:
                rate = self.link.uplink_bit_per_s
            case Place.DOWNLINK if whole_bandwidth:
                rate = self.link.downlink_alone_bit_per_s
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
    scheme may have between the start of their forward and the end of their backward; None is all of
    a mini-batch. A scheme that streams has all of the round, any other has one. `served`: samples
    of each micro-batch, and tokens of its longest; None: nobody knows, so that they share passes as
    if they were equal and small.
    """

    amounts: Mapping[Phase, Float[np.ndarray, " repeat"]]
    rates: DeviceRates
    local_steps: int
    micro_batches: int = 1
    in_flight: int | None = None
    served: Int64[np.ndarray, "micro_batch 2"] | None = None

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

    def in_sequence(self, scheme: Scheme) -> int:
        """How many micro-batches follow each other before the device waits for all of them: those
        of a mini-batch, or, if `scheme` streams, of the round."""
        return max(self.repeats, 1) if scheme.streams else self.micro_batches

    def most_in_flight(self, scheme: Scheme) -> int:
        """How many micro-batches `scheme` lets this device have under way at a time."""
        if scheme.streams:
            return self.in_sequence(scheme)
        if not scheme.pipelined:
            return 1
        return min(self.in_flight or self.micro_batches, self.micro_batches)

    def seconds(
        self, step: Step, repeats: int, whole_bandwidth: bool = False
    ) -> Float[np.ndarray, " repeat"]:
        """Seconds of each of the `repeats` times that `step` happens, for this device alone.

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
        unit_s = self.rates.seconds_per_unit(step.place, whole_bandwidth)
        seconds = np.asarray(amount * unit_s, dtype=np.float64)
        if step.place is Place.SERVER and self.rates.server_floor_s:
            return np.where(seconds > 0, np.maximum(seconds, self.rates.server_floor_s), 0.0)
        return seconds

    def payload_bytes(self, step: Step) -> Float[np.ndarray, " repeat"]:
        """Bytes of each time `step` happens; zeros where it computes."""
        amount = self.amounts[step.phase]
        return amount if step.sends else np.zeros_like(amount)


@dataclass(frozen=True)
class AdapterBytes:
    """Of the adapters that a device holds: all of them, and those that are merged; and what they
    take where it begins the run with them."""

    held: float
    merged: float
    first: float = 0.0

    def up(self, evaluated: float) -> float:
        """What goes up in a round, on average, if so large a part of rounds is evaluated: what is
        not merged goes up in those alone."""
        return self.merged + evaluated * (self.held - self.merged)


def adapter_bytes(
    scheme: Scheme,
    model: ModelSpec,
    cut: int,
    batch: MiniBatch,
    accounting: Accounting,
    merging: Merging = FEDAVG,
) -> AdapterBytes:
    """The adapters of a device's own part, or, where it holds the whole model, of both parts. What
    devices hand on in turn is nobody's own."""

    def of(blocks: int) -> float:
        return float(accounting.traffic(model, blocks, batch, scheme.trained).adapter_bytes)

    if not scheme.trains_device:
        return AdapterBytes(0.0, 0.0)
    held = of(cut if scheme.splits else model.blocks)
    if scheme.devices is DeviceOrder.IN_TURN:
        return AdapterBytes(held, held)
    if scheme.splits:
        return AdapterBytes(held, held if merging.device else 0.0)
    below = of(cut)
    return AdapterBytes(held, merging.device * below + merging.server * (held - below))


def first_adapter_ratio(model: ModelSpec, blocks: int, adapter_ratio: tuple[float, float]) -> float:
    """Bytes of the adapter that a device begins a run with over those of float32. Where changes are
    coded it is coded without loss: B is zero and takes nothing, A is coded as weights are. Not of
    a run that begins with a given adapter."""
    values = model.device_adapter_parameters(blocks)
    if adapter_ratio == WHOLE_ADAPTERS or not values:
        return 1.0
    zeros = sum(
        kind.count * sum(linear.rank * linear.outputs for linear in kind.linears)
        for kind in model.kinds(0, blocks)
    )
    return CODED_SHARES[Base.FLOAT32] * (values - zeros) / values


def trained_model(model: ModelSpec, scheme: Scheme, cut: int) -> ModelSpec:
    """The model with the adapters that a scheme trains: of a frozen device part none."""
    return model if scheme.trains_device else model.frozen_below(cut)


def round_work(
    scheme: Scheme,
    model: ModelSpec,
    cut: int,
    batch: MiniBatch,
    local_steps: int,
    accounting: Accounting,
    rates: DeviceRates,
    *,
    compression_up: float = 1.0,
    compression_down: float = 1.0,
    adapter_ratio: tuple[float, float] = WHOLE_ADAPTERS,
    first_round: bool = True,
    micro_batches: int = 1,
    in_flight: int | None = None,
    activation_memory: ActivationPolicy = ActivationPolicy.KEEP,
    merging: Merging = FEDAVG,
    evaluated: float = 1.0,
    sent: float = 1.0,
) -> DeviceWork:
    """One device's work in a round of `local_steps` mini-batches like `batch`.

    `compression_up`, `compression_down`: bytes sent over bytes uncompressed (the paper's beta), of
    activations and gradients; a scheme without compression sends them all. `adapter_ratio`:
    the same of adapters that go up and down; in the first round they come down whole, coded without
    loss (`first_adapter_ratio`).
    Micro-batches differ by one sample at most, and a mini-batch's amounts are theirs by samples.
    What `activation_memory`
    makes a device compute twice is part of its backward. The broadcast is the frozen part in the
    first round and the merged adapters in each (none of a frozen part), unless each device is
    handed those of the one before it; the paper's Psi holds both, and with all weights trained they
    are the same. Where devices hold the whole model `cut` only divides it between two phases. Of
    the adapters that `merging` leaves to each device nothing is broadcast after the first round,
    and they go up in evaluated rounds alone, which are this part of rounds (`evaluated`). `sent`:
    the part of the samples that devices forward and send, of a server that holds the rest. Labels,
    frames and checksums are left out. Raises ConfigError for a cut that is not.
    """
    device_blocks = cut if scheme.splits else model.blocks
    model = trained_model(model, scheme, cut)
    flops = accounting.flops(model, cut, batch, scheme.trained)
    traffic = accounting.traffic(model, device_blocks, batch, scheme.trained)
    up, down = (compression_up, compression_down) if scheme.compressed else (1.0, 1.0)
    if accounting.weights is not None:
        weights = accounting.weights.bytes(model, device_blocks)
        traffic = replace(traffic, model_bytes=weights, adapters_in_model=False)
    adapters = adapter_bytes(scheme, model, cut, batch, accounting, merging)
    begun = first_adapter_ratio(model, device_blocks, adapter_ratio) if first_round else 1.0
    adapters = replace(adapters, first=begun * adapters.held)
    edge = _edge_bytes(scheme, traffic, adapters, first_round, adapter_ratio, evaluated)
    samples = _micro_batch_samples(batch.samples, micro_batches)
    shares = samples / batch.samples
    amounts = {
        step.phase: np.array([edge[step.phase]]) for step in (*scheme.opening, *scheme.closing)
    }
    local = _local_amounts(flops, traffic, up, down)
    local[Phase.DEVICE_BACKWARD] += recomputed_flops(model, batch, flops, activation_memory)
    for phase in (Phase.DEVICE_FORWARD, Phase.ACTIVATION_UP):
        local[phase] *= sent
    for step in scheme.local:
        amounts[step.phase] = np.tile(local[step.phase] * shares, local_steps)
    served = np.tile(np.stack([samples, np.full_like(samples, batch.tokens)], 1), (local_steps, 1))
    return DeviceWork(amounts, rates, local_steps, micro_batches, in_flight, served)


def _edge_bytes(
    scheme: Scheme,
    traffic: SchemeTraffic,
    adapters: AdapterBytes,
    first_round: bool,
    adapter_ratio: tuple[float, float],
    evaluated: float,
) -> dict[Phase, float]:
    """Bytes that open and close a round; all devices begin with the same adapters."""
    coded_up, coded_down = adapter_ratio
    frozen = float(traffic.model_bytes) if scheme.trained is Trained.ADAPTERS else 0.0
    heard = adapters.first if first_round else coded_down * adapters.merged
    if scheme.devices is DeviceOrder.IN_TURN:
        heard = 0.0
    if first_round:
        heard = frozen if frozen and traffic.adapters_in_model else frozen + heard
    return {
        Phase.MODEL_DISTRIBUTION: heard,
        Phase.ADAPTER_DOWN: adapters.first if first_round else coded_down * adapters.held,
        Phase.ADAPTER_UP: coded_up * adapters.up(1.0 if first_round else evaluated),
    }


def _local_amounts(
    flops: StepFlops, traffic: SchemeTraffic, up: float, down: float
) -> dict[Phase, float]:
    """FLOPs and bytes of one mini-batch."""
    return {
        Phase.DEVICE_FORWARD: flops.device_forward,
        Phase.ACTIVATION_UP: up * traffic.activation_bytes,
        Phase.SERVER_COMPUTE: flops.server,
        Phase.UPPER_COMPUTE: flops.server,
        Phase.GRADIENT_DOWN: down * traffic.gradient_bytes,
        Phase.DEVICE_BACKWARD: flops.device_backward,
    }


def _micro_batch_samples(samples: int, parts: int) -> Int64[np.ndarray, " part"]:
    """How many of a mini-batch's samples are in each of its micro-batches, the larger first."""
    each, more = divmod(samples, parts)
    return each + (np.arange(parts) < more)


@dataclass(frozen=True)
class Leg:
    """One step and the wait before it; without a step, a wait for other devices alone."""

    step: Step | None
    wait: Phase


TURN = Leg(None, Phase.TURN)
BARRIER = Leg(None, Phase.BARRIER)


@dataclass(frozen=True)
class Legs:
    """`opening` once, `local` once each micro-batch of each local step, `closing` once."""

    opening: tuple[Leg, ...]
    local: tuple[Leg, ...]
    closing: tuple[Leg, ...]


def legs_of(scheme: Scheme) -> Legs:
    """The legs of each device's round.

    Devices in turn hear the broadcasts that open the round all at once, then wait for their turn.
    A server that works on all devices together ends every local step with a barrier.
    """
    opening = [_leg(step) for step in scheme.opening]
    if scheme.devices is DeviceOrder.IN_TURN:
        heard = [step.place is Place.BROADCAST for step in scheme.opening]
        opening.insert(heard.index(False) if False in heard else len(heard), TURN)
    local = [_leg(step) for step in scheme.local]
    if scheme.server is ServerOrder.TOGETHER:
        local.append(BARRIER)
    return Legs(tuple(opening), tuple(local), tuple(_leg(step) for step in scheme.closing))


def _leg(step: Step) -> Leg:
    return Leg(step, _QUEUES[step.place])
