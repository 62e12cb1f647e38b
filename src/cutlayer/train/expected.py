"""What a round will take before any has been played: what an allocation decides the first one on.

FLOPs by the run's accounting; bytes as they are sent, with packets of the length that the codec
expects. Labels and frames are left out.
"""

from dataclasses import replace

import torch

from cutlayer.cost.traffic import ACTIVATION_BYTES, physical_traffic
from cutlayer.data.batches import Batch
from cutlayer.planner.observed import Observed, observe
from cutlayer.spec import MiniBatch
from cutlayer.timeline.amounts import round_work
from cutlayer.timeline.work import DeviceRates, DeviceWork
from cutlayer.train.inputs import group_inputs
from cutlayer.train.setup import LocalWork, Setup


def expected_round(setup: Setup) -> Observed:
    """The first round's amounts, each device's mini-batches like its first one."""
    count = len(setup.devices)
    # any shares do: what is observed are amounts, and seconds of computing
    links = setup.channel.rates(1, 0.0, (1.0 / count,) * count)
    first = _batch(setup, setup.devices[0], samples=1)
    tokens = _tokens(setup, first) if first.lengths is None else None
    work = [
        _work(
            setup,
            device,
            tokens or _longest(_batch(setup, device)),
            DeviceRates(device.flops_per_s, setup.server_flops_per_s, link),
        )
        for device, link in zip(setup.devices, links, strict=True)
    ]
    return observe(setup.scheme, work)


def _work(setup: Setup, device: LocalWork, tokens: int, rates: DeviceRates) -> DeviceWork:
    batch = MiniBatch(len(device.plan.indices(0)), tokens)
    shape = (batch.samples, batch.tokens, setup.model.width)
    plain = ACTIVATION_BYTES * batch.samples * batch.tokens * setup.model.width
    return round_work(
        setup.scheme,
        setup.model,
        setup.device_part.cut,
        batch,
        device.local_steps,
        replace(setup.accounting, traffic=physical_traffic),
        rates,
        compression_up=setup.codecs.up.expected_bytes(shape) / plain,
        compression_down=setup.codecs.down.expected_bytes(shape) / plain,
        micro_batches=setup.micro_batches,
        in_flight=setup.in_flight,
        holding=setup.holding,
    )


def _batch(setup: Setup, device: LocalWork, samples: int | None = None) -> Batch:
    """A device's first mini-batch, or its first samples."""
    return setup.batches.make(setup.train, device.plan.indices(0)[:samples])


def _longest(batch: Batch) -> int:
    """Tokens of a batch of texts."""
    assert batch.lengths is not None
    return max(batch.lengths)


def _tokens(setup: Setup, batch: Batch) -> int:
    """Tokens that blocks see of an image."""
    group = group_inputs([batch])
    row = setup.device_part.adapted.initial_row(setup.seed)[None]
    with torch.no_grad():
        return int(setup.device_part.forward(row, group.sizes, group.inputs).shape[1])
