"""What a round asks of the band: seconds that no share changes, and bits that wait for a share.

Knows the steps of a scheme by their places; no model, no codec and no solver. One device's queueing
behind others is left out: it depends on all shares at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from cutlayer.channel.curves import Curves
from cutlayer.planner.bandwidth.share_problem import ShareProblem
from cutlayer.schemes.scheme import Place, Scheme, Step
from cutlayer.timeline.rules import Rules
from cutlayer.timeline.work import DeviceWork
from cutlayer.units import BITS_PER_BYTE

_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Observed:
    """What each device took in one round, whoever found out: a cost model, a trainer, a network.

    `compute_s`: its own computing and the server's for it, without waits. `broadcast_bits`: what it
    heard on the whole band. `uplink_bits`, `downlink_bits`: what it sent and was sent alone.
    """

    compute_s: Float64[np.ndarray, " device"]
    broadcast_bits: Float64[np.ndarray, " device"]
    uplink_bits: Float64[np.ndarray, " device"]
    downlink_bits: Float64[np.ndarray, " device"]


def observe(scheme: Scheme, work: Sequence[DeviceWork]) -> Observed:
    """The sums of each device's round.

    A scheme whose micro-batches overlap takes less than the sum of its steps, so there the seconds
    are a bound. Raises ConfigError for work that does not fit the scheme.
    """
    totals = np.array([_totals(scheme, device) for device in work])
    return Observed(*np.ascontiguousarray(totals.T))


def _totals(scheme: Scheme, work: DeviceWork) -> tuple[float, float, float, float]:
    """Seconds of computing; bits heard, sent, received."""
    compute_s, bits = 0.0, dict.fromkeys((Place.BROADCAST, Place.UPLINK, Place.DOWNLINK), 0.0)
    for step, repeats in _steps(scheme, work):
        if step.sends:
            bits[step.place] += BITS_PER_BYTE * float(work.payload_bytes(step).sum())
        else:
            compute_s += float(work.seconds(step, repeats).sum())
    return compute_s, bits[Place.BROADCAST], bits[Place.UPLINK], bits[Place.DOWNLINK]


def _steps(scheme: Scheme, work: DeviceWork) -> list[tuple[Step, int]]:
    """Every step of a round with how often it happens."""
    edges = [(step, 1) for step in (*scheme.opening, *scheme.closing)]
    return edges + [(step, work.repeats) for step in scheme.local]


def share_problem(
    observed: Observed,
    curves: Curves,
    rules: Rules,
    most: Float64[np.ndarray, " device"],
) -> ShareProblem:
    """The shares that a round like `observed` needs on this round's rates: a min-max problem.

    Without a queue a device's round is the broadcast, its computing, and its bits each way on its
    share. Bits in a direction that is not shared out statically go at the whole band's rate, so
    they count among the seconds that no share changes. `most`: the largest share of each device.
    Raises ConfigError as `ShareProblem` does.
    Source: SFT eqs. (19) to (27), (38).
    """
    up_band, down_band = (
        curve.rate_bit_per_s(np.ones(len(most))) for curve in (curves.uplink, curves.downlink)
    )
    up_bits, up_s = _on_share(observed.uplink_bits, up_band, rules.whole_band(Place.UPLINK))
    down_bits, down_s = _on_share(
        observed.downlink_bits, down_band, rules.whole_band(Place.DOWNLINK)
    )
    sent_s = observed.broadcast_bits / down_band.min() + up_s + down_s
    return ShareProblem(
        fixed_s=_unless_rounded(observed.compute_s + sent_s, sent_s),
        uplink_bits=up_bits,
        downlink_bits=down_bits,
        curves=curves,
        most=most,
        weights=np.ones(len(most)),
    )


def _unless_rounded(
    sum_s: Float64[np.ndarray, " device"], part_s: Float64[np.ndarray, " device"]
) -> Float64[np.ndarray, " device"]:
    """A sum without what is below zero by its rounding alone: a part may be as good as all of it.

    Only seconds that were moved to what a timeline saw can be so.
    """
    return np.where((sum_s < 0) & (sum_s > -_ROUNDING * part_s), 0.0, sum_s)


def _on_share(
    bits: Float64[np.ndarray, " device"],
    band_bit_per_s: Float64[np.ndarray, " device"],
    whole_band: bool,
) -> tuple[Float64[np.ndarray, " device"], Float64[np.ndarray, " device"]]:
    """The bits that go on a share, and the seconds of those that have the band to themselves."""
    nothing = np.zeros_like(bits)
    return (nothing, bits / band_bit_per_s) if whole_band else (bits, nothing)
