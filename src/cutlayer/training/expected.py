"""What a run begins with: adapters, and what a round will take before any has been played, which an
allocation decides the first one on.

FLOPs by the run's accounting; bytes as they are sent, in packets as long as the codec expects.
Padding is computed and not sent; labels and frames are left out.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from cutlayer.channel.rates import LinkRates
from cutlayer.planner.allocation import ObservedRound, observed_work
from cutlayer.rounds.costs import ACTIVATION_BYTES, physical_traffic
from cutlayer.rounds.work import WHOLE_ADAPTERS, DeviceRates, DeviceWork, round_work
from cutlayer.spec import MiniBatch
from cutlayer.training.state import AdapterState, DeviceSide, RunState, Setup


@dataclass(frozen=True)
class _ExpectedBatch:
    """A mini-batch as its device computes it, and the part of its tokens that is not padding."""

    batch: MiniBatch
    filled: float


def initial_state(setup: Setup, devices: Sequence[int] | None = None) -> RunState:
    """The state before round 1, which these devices play (None: all): seeded adapters, and what the
    round is expected to take; optimisers start when they are first used."""
    seed = setup.training.seed
    device, server = (AdapterState(part.adapted.initial_row(seed), {}) for part in setup.parts)
    return RunState(
        round=0,
        virtual_time_s=0.0,
        device=device,
        server=server,
        observed=expected_round(setup, devices) if devices != () else nothing_observed(),
        devices=None if devices is None else tuple(devices),
    )


def expected_round(setup: Setup, devices: Sequence[int] | None = None) -> ObservedRound:
    """The amounts of the first round of these devices (None: of all), each one's mini-batches like
    its first one."""
    count = len(setup.devices if devices is None else devices)
    # any shares do: what is observed are amounts, and seconds of computing
    links = setup.simulation.channel.rates(1, 0.0, (1.0 / count,) * count, devices)
    work = expected_work(setup, links, first_round=True, devices=devices)
    return observed_work(setup.training.scheme_of(1), work)


def nothing_observed() -> ObservedRound:
    """The amounts of a round of nobody."""
    return ObservedRound(*np.zeros((4, 0)))


def expected_work(
    setup: Setup,
    links: Sequence[LinkRates],
    *,
    first_round: bool,
    devices: Sequence[int] | None = None,
) -> list[DeviceWork]:
    """The round over its link of each of these devices (None: of all), its mini-batches like its
    first one. `first_round`: the one that devices get their part in."""
    sides = setup.devices if devices is None else [setup.devices[n] for n in devices]
    return [
        _work(setup, device, shape, rates, first_round)
        for device, shape, rates in zip(
            sides, _shapes(setup, sides), setup.rates(links, devices), strict=True
        )
    ]


def _work(
    setup: Setup, device: DeviceSide, shape: _ExpectedBatch, rates: DeviceRates, first_round: bool
) -> DeviceWork:
    training, simulation = setup.training, setup.simulation
    adapters = training.adapter_codec
    values = (shape.batch.samples, shape.batch.tokens, simulation.model.width)
    sent = shape.filled / (ACTIVATION_BYTES * math.prod(values))
    return round_work(
        # a scheme that does not compress has codecs that do not either
        replace(training.scheme, compressed=True),
        setup.model_of(device.number),
        device.part.cut,
        shape.batch,
        device.local_steps,
        replace(simulation.accounting, traffic=physical_traffic),
        rates,
        compression_up=sent * training.codecs.up.expected_bytes(values),
        compression_down=sent * training.codecs.down.expected_bytes(values),
        adapter_ratio=WHOLE_ADAPTERS if adapters is None else adapters.expected_ratio,
        first_round=first_round,
        micro_batches=training.micro_batches,
        in_flight=training.in_flight,
        activation_memory=training.activation_memory,
        merging=training.merging,
    )


def _shapes(setup: Setup, sides: Sequence[DeviceSide]) -> Iterator[_ExpectedBatch]:
    """Each device's first mini-batch; images are all of one size, so one of them tells it."""
    tokens = _image_tokens(sides[0], setup.training.seed)
    for device in sides:
        first = device.plan.indices(0)
        if tokens is not None:
            yield _ExpectedBatch(MiniBatch(len(first), tokens), 1.0)
            continue
        lengths = device.batch(first).lengths
        assert lengths is not None
        longest = max(lengths)
        yield _ExpectedBatch(
            MiniBatch(len(first), longest), sum(lengths) / (len(lengths) * longest)
        )


def _image_tokens(device: DeviceSide, seed: int) -> int | None:
    """Tokens that blocks see of an image; None for texts."""
    one = device.batch(device.plan.indices(0)[:1])
    if one.lengths is not None:
        return None
    inputs = {name: torch.from_numpy(array) for name, array in one.inputs.items()}
    row = device.part.adapted.initial_row(seed)[None]
    with torch.no_grad():
        return int(device.part.forward(row, (1,), inputs).shape[1])
