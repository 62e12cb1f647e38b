"""How long a round takes, from its steps' sums alone: quick enough to try thousands of decisions.

Knows no queue but its bound: nobody is served faster than the server, or the shared bandwidth, can
work. What is chosen by it is played on the timeline afterwards.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from cutlayer.channel.rates import RateCurve, RateCurves
from cutlayer.planner.allocation import ObservedRound, Shares, best_shares
from cutlayer.planner.decision import Decision, PlanLimits, Workload, mean_of, round_kinds
from cutlayer.rounds.costs import recomputed_flops
from cutlayer.rounds.schemes import DeviceOrder, Place
from cutlayer.rounds.work import Duplex, SharingRules, adapter_bytes, trained_model
from cutlayer.units import BITS_PER_BYTE

PerDevice = Float64[np.ndarray, " device"]


@dataclass(frozen=True, eq=False)
class Amounts:
    """What each device's local step takes, and its round besides: seconds of computing, bits.

    `server_s`: of arithmetic; `floor_s`: of a pass of the server at least; `batch_tokens`: of each
    mini-batch; `adapter_bits`: of adapters that go up or are handed on; `broadcast_bits`: of those
    that are broadcast.
    """

    local_steps: PerDevice
    device_s: PerDevice
    server_s: PerDevice
    floor_s: PerDevice
    batch_tokens: int
    up_bits: PerDevice
    down_bits: PerDevice
    adapter_bits: PerDevice
    broadcast_bits: PerDevice

    def observed(self) -> ObservedRound:
        """The sums of a later round."""
        return ObservedRound(
            compute_s=self.local_steps * (self.device_s + np.maximum(self.server_s, self.floor_s)),
            broadcast_bits=np.full_like(self.broadcast_bits, self.broadcast_bits.max()),
            uplink_bits=self.local_steps * self.up_bits + self.adapter_bits,
            downlink_bits=self.local_steps * self.down_bits,
        )

    def step_s(self, decision: Decision) -> PerDevice:
        """What each device's local step takes the server, if nobody else has one [s]."""
        return np.asarray(np.maximum(self.server_s, _least_passes(decision) * self.floor_s))

    def busy_s(self, decision: Decision) -> PerDevice:
        """What each device's round asks of the server [s]: its passes, or, where arrivals share
        them, its arithmetic, and more of it if as few passes as there can be take longer."""
        if not decision.shares_passes:
            return np.asarray(self.local_steps * self.step_s(decision))
        tokens = float(self.local_steps.sum()) * self.batch_tokens
        passes = max(
            float(self.local_steps.max()) * _least_passes(decision),
            tokens / decision.rules.batching.most_tokens,
        )
        sums_s = self.local_steps * self.server_s
        least_s = passes * float(self.floor_s.max())
        return np.asarray(sums_s * max(1.0, least_s / float(sums_s.sum())))


def _least_passes(decision: Decision) -> int:
    """Of a device's local step: one a micro-batch, unless several wait to share one."""
    shared = decision.shares_passes and decision.scheme.pipelined
    return 1 if shared else decision.policy.micro_batches


def shares_within(
    limits: PlanLimits, observed: ObservedRound, curves: RateCurves, rules: SharingRules
) -> Shares:
    """The shares that are fixed, else the best."""
    return limits.fixed.shares or best_shares(observed, curves, rules, limits.most_share)


def amounts_of(workload: Workload, decision: Decision) -> Amounts:
    """From the cost models. Where nothing is split, the device computes it all."""
    kinds = list(zip(decision.cuts, workload.own_ranks, strict=True))
    known = {kind: _step(workload, decision, *kind) for kind in set(kinds)}
    own = np.array([known[kind] for kind in kinds])
    return Amounts(
        local_steps=workload.steps,
        device_s=own[:, 0] / workload.flops_per_s,
        server_s=own[:, 1] / workload.server_flops_per_s,
        floor_s=own[:, 6],
        batch_tokens=workload.batch.samples * workload.batch.tokens,
        up_bits=own[:, 2],
        down_bits=own[:, 3],
        adapter_bits=own[:, 4],
        broadcast_bits=own[:, 5],
    )


def _step(workload: Workload, decision: Decision, cut: int, rank: int | None) -> tuple[float, ...]:
    """FLOPs of the device and of the server, bits up and down, the adapters' bits up and those that
    are broadcast, and the seconds of a pass of the server at least."""
    batch, scheme = workload.batch, decision.scheme
    model = trained_model(workload.model_of(rank), scheme, cut)
    flops = workload.accounting.flops(model, cut, batch, scheme.trained)
    again = recomputed_flops(model, batch, flops, decision.policy.activation_memory)
    own = flops.device_forward
    if scheme.trains_device:
        own += flops.device_backward + again
    device_blocks = cut if scheme.splits else model.blocks
    traffic = workload.accounting.traffic(model, device_blocks, batch, scheme.trained)
    merging, (coded_up, coded_down) = workload.merging_in(scheme), workload.adapter_ratio_of(scheme)
    adapters = adapter_bytes(scheme, model, cut, batch, workload.accounting, merging)
    adapter_bits = BITS_PER_BYTE * coded_up * adapters.up(workload.evaluated)
    broadcast_bits = BITS_PER_BYTE * coded_down * adapters.merged
    if not scheme.splits:
        return own + flops.server, 0.0, 0.0, 0.0, adapter_bits, broadcast_bits, 0.0
    up, down = (decision.codec.up, decision.codec.down) if scheme.compressed else (1.0, 1.0)
    sent = workload.sent_again(decision, cut)
    return (
        sent * own,
        flops.server,
        BITS_PER_BYTE * sent * up * traffic.activation_bytes,
        BITS_PER_BYTE * down * traffic.gradient_bytes if scheme.trains_device else 0.0,
        adapter_bits,
        broadcast_bits,
        workload.server_floor_s(cut),
    )


def estimated_s(amounts: Amounts, decision: Decision, curves: RateCurves) -> float:
    """A later round's delay [s], queues by their bound alone.

    The round takes no less than server and shared bandwidth need for everyone's local steps, after
    which somebody still sends its adapters. Devices in turn have the bandwidth to themselves.
    """
    begin_s = heard_s(amounts, curves)
    links = _links(amounts, decision, curves)
    own_s = _own_s(amounts, decision, links)
    if decision.scheme.devices is DeviceOrder.IN_TURN:
        return begin_s + float(own_s.sum())
    last_s = float(links.adapter_s.min())
    return begin_s + max(float(own_s.max()), _shared_s(amounts, decision, links) + last_s)


def mean_estimate_s(workload: Workload, decision: Decision, curves: RateCurves) -> float:
    """The mean delay of the rounds after the first [s], queues by their bound alone."""
    return mean_of(
        [
            (
                kind.rounds,
                estimated_s(amounts_of(kind.workload, kind.decision), kind.decision, curves),
            )
            for kind in round_kinds(workload, decision)
        ]
    )


def device_seconds(amounts: Amounts, decision: Decision, curves: RateCurves) -> PerDevice:
    """What each device's round takes if nobody else has one [s]."""
    links = _links(amounts, decision, curves)
    return np.asarray(heard_s(amounts, curves) + _own_s(amounts, decision, links))


def server_part(amounts: Amounts, decision: Decision, delay_s: float) -> float:
    """The part of a round of so many seconds that the server's workers compute; where passes are
    shared, at least."""
    busy_s = float(amounts.busy_s(decision).sum())
    return busy_s / (decision.rules.server_workers * delay_s)


def mean_server_part(workload: Workload, decision: Decision, delay_s: float) -> float:
    """The same of the rounds after the first, of so many seconds in the mean."""
    return mean_of(
        [
            (
                kind.rounds,
                server_part(amounts_of(kind.workload, kind.decision), kind.decision, delay_s),
            )
            for kind in round_kinds(workload, decision)
        ]
    )


@dataclass(frozen=True, eq=False)
class _Links:
    """Seconds of a local step's transfers, up and down, and of the adapters at the end."""

    up_s: PerDevice
    down_s: PerDevice
    adapter_s: PerDevice


def _links(amounts: Amounts, decision: Decision, curves: RateCurves) -> _Links:
    shares = np.array(decision.shares)
    up = _rate(curves.uplink, shares, Place.UPLINK, decision)
    down = _rate(curves.downlink, shares, Place.DOWNLINK, decision)
    return _Links(amounts.up_bits / up, amounts.down_bits / down, amounts.adapter_bits / up)


def _rate(curve: RateCurve, shares: PerDevice, place: Place, decision: Decision) -> PerDevice:
    alone = decision.scheme.devices is DeviceOrder.IN_TURN
    whole = alone or decision.rules.whole_bandwidth(place)
    return curve.rate_bit_per_s(np.ones_like(shares) if whole else shares)


def heard_s(amounts: Amounts, curves: RateCurves) -> float:
    """The broadcast's of adapters, at the weakest device's rate [s]."""
    whole = np.ones_like(amounts.broadcast_bits)
    slowest = float(curves.downlink.rate_bit_per_s(whole).min())
    return float(amounts.broadcast_bits.max()) / slowest


def _own_s(amounts: Amounts, decision: Decision, links: _Links) -> PerDevice:
    """Each device's local steps and adapters, without a queue.

    A local step takes the sum of its parts; of M micro-batches that overlap, F at a time, the
    longest part, an M-th of the others, and at least an F-th of all. Of a device that waits for
    nothing the others count once a round.
    """
    up_s, down_s = links.up_s, links.down_s
    at_once = [up_s + down_s] if decision.rules.duplex is Duplex.HALF else [up_s, down_s]
    server_s = amounts.step_s(decision)
    together = amounts.device_s + server_s + up_s + down_s
    if decision.scheme.streams:
        longest = np.max([amounts.device_s, up_s, server_s], axis=0)
        rest = (together - longest) / decision.policy.micro_batches
        return np.asarray(amounts.local_steps * longest + rest)
    if not decision.scheme.pipelined:
        return np.asarray(amounts.local_steps * together + links.adapter_s)
    longest = np.max([amounts.device_s, server_s, *at_once], axis=0)
    policy = decision.policy
    step_s = longest + (together - longest) / policy.micro_batches
    step_s = np.maximum(step_s, together / policy.in_flight)
    return np.asarray(amounts.local_steps * step_s + links.adapter_s)


def _shared_s(amounts: Amounts, decision: Decision, links: _Links) -> float:
    """Seconds that what is shared is busy for all local steps of all devices."""
    steps, rules = amounts.local_steps, decision.rules
    busy_s = float(amounts.busy_s(decision).sum()) / rules.server_workers
    bands_s = [
        float((steps * own_s).sum())
        for own_s, place in ((links.up_s, Place.UPLINK), (links.down_s, Place.DOWNLINK))
        if rules.whole_bandwidth(place)
    ]
    band_s = sum(bands_s) if rules.duplex is Duplex.HALF else max(bands_s, default=0.0)
    return max(busy_s, band_s)
