"""What a round will take before any has been played: what an allocation decides the first one on.

FLOPs by the run's accounting; bytes as they are sent, in packets as long as the codec expects.
Padding is computed and not sent; labels and frames are left out.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from cutlayer.channel.rates import LinkRates
from cutlayer.cost.traffic import ACTIVATION_BYTES, physical_traffic
from cutlayer.planner.observed import Observed, observe
from cutlayer.spec import MiniBatch
from cutlayer.timeline.amounts import round_work
from cutlayer.timeline.work import DeviceRates, DeviceWork
from cutlayer.train.inputs import group_inputs
from cutlayer.train.setup import LocalWork, Setup


@dataclass(frozen=True)
class _Shape:
    """A mini-batch as its device computes it, and the part of its tokens that is not padding."""

    batch: MiniBatch
    filled: float


def expected_round(setup: Setup) -> Observed:
    """The first round's amounts, each device's mini-batches like its first one."""
    count = len(setup.devices)
    # any shares do: what is observed are amounts, and seconds of computing
    links = setup.channel.rates(1, 0.0, (1.0 / count,) * count)
    return observe(setup.scheme, expected_work(setup, links, first_round=True))


def expected_work(
    setup: Setup, links: Sequence[LinkRates], *, first_round: bool
) -> list[DeviceWork]:
    """Each device's round over its link, its mini-batches like its first one. `first_round`: the
    one that devices get their part in."""
    return [
        _work(
            setup,
            device,
            shape,
            DeviceRates(device.flops_per_s, setup.server_flops_per_s, link),
            first_round,
        )
        for device, shape, link in zip(setup.devices, _shapes(setup), links, strict=True)
    ]


def _work(
    setup: Setup, device: LocalWork, shape: _Shape, rates: DeviceRates, first_round: bool
) -> DeviceWork:
    values = (shape.batch.samples, shape.batch.tokens, setup.model.width)
    sent = shape.filled / (ACTIVATION_BYTES * math.prod(values))
    return round_work(
        # a scheme that does not compress has codecs that do not either
        replace(setup.scheme, compressed=True),
        setup.model,
        setup.device_part.cut,
        shape.batch,
        device.local_steps,
        replace(setup.accounting, traffic=physical_traffic),
        rates,
        compression_up=sent * setup.codecs.up.expected_bytes(values),
        compression_down=sent * setup.codecs.down.expected_bytes(values),
        first_round=first_round,
        micro_batches=setup.micro_batches,
        in_flight=setup.in_flight,
        holding=setup.holding,
    )


def _shapes(setup: Setup) -> Iterator[_Shape]:
    """Each device's first mini-batch; images are all of one size, so one of them tells it."""
    tokens = _image_tokens(setup)
    for device in setup.devices:
        first = device.plan.indices(0)
        if tokens is not None:
            yield _Shape(MiniBatch(len(first), tokens), 1.0)
            continue
        lengths = setup.batches.make(setup.train, first).lengths
        assert lengths is not None
        longest = max(lengths)
        yield _Shape(MiniBatch(len(first), longest), sum(lengths) / (len(lengths) * longest))


def _image_tokens(setup: Setup) -> int | None:
    """Tokens that blocks see of an image; None for texts."""
    one = setup.batches.make(setup.train, setup.devices[0].plan.indices(0)[:1])
    if one.lengths is not None:
        return None
    group = group_inputs([one])
    row = setup.device_part.adapted.initial_row(setup.seed)[None]
    with torch.no_grad():
        return int(setup.device_part.forward(row, group.sizes, group.inputs).shape[1])
