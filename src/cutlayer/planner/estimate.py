"""How long a round takes, from its steps' sums alone: quick enough to try thousands of decisions.

Knows no queue but its bound: nobody is served faster than the server, or the shared band, can work.
What is chosen by it is played on the timeline afterwards.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from cutlayer.channel.curves import Curves
from cutlayer.cost.flops import recomputed_flops
from cutlayer.planner.decision import Decision
from cutlayer.planner.observed import Observed
from cutlayer.planner.workload import Workload
from cutlayer.schemes.scheme import DeviceOrder, Place
from cutlayer.timeline.rules import Duplex, Rules
from cutlayer.units import BITS_PER_BYTE

PerDevice = Float64[np.ndarray, " device"]


@dataclass(frozen=True, eq=False)
class Amounts:
    """What each device's local step takes, and its round besides: seconds of computing, bits."""

    local_steps: PerDevice
    device_s: PerDevice
    server_s: PerDevice
    up_bits: PerDevice
    down_bits: PerDevice
    adapter_bits: PerDevice

    def observed(self) -> Observed:
        """The sums of a later round."""
        return Observed(
            compute_s=self.local_steps * (self.device_s + self.server_s),
            broadcast_bits=np.full_like(self.adapter_bits, self.adapter_bits.max()),
            uplink_bits=self.local_steps * self.up_bits + self.adapter_bits,
            downlink_bits=self.local_steps * self.down_bits,
        )


def amounts_of(workload: Workload, decision: Decision) -> Amounts:
    """From the cost models. Where nothing is split, the device computes it all."""
    kinds = sorted(set(decision.cuts))
    rows = np.array([_step(workload, decision, cut) for cut in kinds])
    own = rows[np.searchsorted(kinds, decision.cuts)]
    rates = np.array([device.flops_per_s for device in workload.devices])
    return Amounts(
        local_steps=np.array(workload.local_steps, dtype=np.float64),
        device_s=own[:, 0] / rates,
        server_s=own[:, 1] / workload.server_flops_per_s,
        up_bits=own[:, 2],
        down_bits=own[:, 3],
        adapter_bits=own[:, 4],
    )


def _step(workload: Workload, decision: Decision, cut: int) -> tuple[float, ...]:
    """FLOPs of the device and of the server, bits up and down, the adapters' bits."""
    model, batch, scheme = workload.model, workload.batch, decision.scheme
    flops = workload.accounting.flops(model, cut, batch, scheme.trained)
    again = recomputed_flops(model, batch, flops, decision.held.holding)
    own = flops.device_forward + flops.device_backward + again
    held = cut if scheme.splits else model.blocks
    traffic = workload.accounting.traffic(model, held, batch, scheme.trained)
    adapter_bits = BITS_PER_BYTE * traffic.adapter_bytes
    if not scheme.splits:
        return own + flops.server, 0.0, 0.0, 0.0, adapter_bits
    up, down = (decision.codec.up, decision.codec.down) if scheme.compressed else (1.0, 1.0)
    return (
        own,
        flops.server,
        BITS_PER_BYTE * up * traffic.activation_bytes,
        BITS_PER_BYTE * down * traffic.gradient_bytes,
        adapter_bits,
    )


def estimated_s(amounts: Amounts, decision: Decision, curves: Curves) -> float:
    """A later round's delay [s], queues by their bound alone.

    A local step takes the sum of its parts; of M micro-batches that overlap, F at a time, the
    longest part, an M-th of the others, and at least an F-th of all. The round takes no less than
    server and shared bands need for everyone's. Devices in turn have the band to themselves.
    """
    up, down = _transfer_s(amounts, decision, curves)
    parts = np.stack([amounts.device_s, amounts.server_s, *_links(up, down, decision.rules)])
    together = parts.sum(axis=0)
    if decision.scheme.pipelined:
        longest = parts.max(axis=0)
        step_s = longest + (together - longest) / decision.held.micro_batches
        step_s = np.maximum(step_s, together / decision.held.in_flight)
    else:
        step_s = together
    observed = amounts.observed()
    broadcast = curves.downlink.rate_bit_per_s(np.ones(len(step_s))).min()
    adapter_s = amounts.adapter_bits / _rate(Place.UPLINK, decision, curves)
    own_s = amounts.local_steps * step_s + adapter_s
    heard_s = float(observed.broadcast_bits[0]) / float(broadcast)
    if decision.scheme.devices is DeviceOrder.IN_TURN:
        return heard_s + float(own_s.sum())
    # whoever comes last through what is shared has its adapters still to send
    shared_s = _shared_s(amounts, decision.rules, up, down) + float(adapter_s.min())
    return heard_s + max(float(own_s.max()), shared_s)


def server_part(amounts: Amounts, decision: Decision, curves: Curves) -> float:
    """The part of a round that the server's workers compute, by the estimate."""
    busy_s = float((amounts.local_steps * amounts.server_s).sum())
    whole_s = estimated_s(amounts, decision, curves)
    return busy_s / (decision.rules.server_workers * whole_s)


def _transfer_s(
    amounts: Amounts, decision: Decision, curves: Curves
) -> tuple[PerDevice, PerDevice]:
    """Of one local step, up and down."""
    return (
        amounts.up_bits / _rate(Place.UPLINK, decision, curves),
        amounts.down_bits / _rate(Place.DOWNLINK, decision, curves),
    )


def _rate(place: Place, decision: Decision, curves: Curves) -> PerDevice:
    curve = curves.uplink if place is Place.UPLINK else curves.downlink
    shares = np.array(decision.shares)
    alone = decision.scheme.devices is DeviceOrder.IN_TURN
    whole = alone or decision.rules.whole_band(place)
    return curve.rate_bit_per_s(np.ones_like(shares) if whole else shares)


def _links(up: PerDevice, down: PerDevice, rules: Rules) -> list[PerDevice]:
    """Transfers that can go on at once."""
    return [up + down] if rules.duplex is Duplex.HALF else [up, down]


def _shared_s(amounts: Amounts, rules: Rules, up: PerDevice, down: PerDevice) -> float:
    """Seconds that what is shared is busy for all local steps of all devices."""
    steps = amounts.local_steps
    busy = [float((steps * amounts.server_s).sum()) / rules.server_workers]
    bands = [
        float((steps * own).sum())
        for own, place in ((up, Place.UPLINK), (down, Place.DOWNLINK))
        if rules.whole_band(place)
    ]
    return max(*busy, sum(bands) if rules.duplex is Duplex.HALF else max(bands, default=0.0))
