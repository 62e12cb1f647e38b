"""Codecs on real tensors at the cut: what each makes of them."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from cutlayer.codec.codec import Codec
from cutlayer.codec.measure import fidelity, measure
from cutlayer.codec.presets import PRESETS, codec_pair
from cutlayer.config.schema import Config
from cutlayer.config.section import PluginSection
from cutlayer.data.find import find_model
from cutlayer.data.partition import BatchPlan
from cutlayer.data.samples import Batch
from cutlayer.jobs.build import make_adapter, make_codecs, start_folder
from cutlayer.jobs.dataset import prepare_data
from cutlayer.jobs.prepare import use_torch
from cutlayer.model.load import NOTHING, load_device_part, load_server_part
from cutlayer.model.optimizer import AdamW
from cutlayer.model.peft_format import check_slots, read_adapter
from cutlayer.model.split import DevicePart, ServerPart
from cutlayer.training.exchange import GroupInputs, group_inputs

# Real tensors at the cut, and what becomes of the adapters' gradients when they are sent.
#
# For judging a codec: mean squared error does not tell how well a model trains on decoded tensors,
# the angle between true and resulting gradients does. Knows no codec and no file.


@dataclass(frozen=True, eq=False)
class Parts:
    """A split model."""

    device: DevicePart
    server: ServerPart


@dataclass(frozen=True, eq=False)
class Crossing:
    """What one local step sends over the cut, with the mini-batch and adapters it comes from."""

    batch: Batch
    device_row: Float[Tensor, " device_parameter"]
    server_row: Float[Tensor, " server_parameter"]
    activation: Float32[np.ndarray, "batch token width"]
    gradient: Float32[np.ndarray, "batch token width"]


def crossings(
    parts: Parts, batches: Iterable[Batch], seed: int, learning_rate: float
) -> Iterator[Crossing]:
    """Train one device on the batches, nothing compressed, with AdamW; yield what each step sends.

    Fresh adapters have B = 0, which makes half of their gradient zero: take a later crossing.
    """
    optimizer = AdamW(weight_decay=0.0)
    rows = [part.adapted.initial_row(seed)[None] for part in (parts.device, parts.server)]
    states = [optimizer.init(row) for row in rows]
    for batch in batches:
        device_row, server_row = (row.detach().requires_grad_() for row in rows)
        group = group_inputs([batch])
        activation = parts.device.forward(device_row, group.sizes, group.inputs)
        received = activation.detach().requires_grad_()
        _server_backward(parts, group, batch, server_row, received)
        gradient = _grad(received)
        torch.autograd.backward(activation, gradient)
        yield Crossing(
            batch, rows[0][0], rows[1][0], received.detach().numpy(), gradient.numpy().copy()
        )
        for side, row in enumerate((device_row, server_row)):
            rows[side], states[side] = optimizer.step(
                row.detach(), _grad(row), states[side], learning_rate
            )


def server_gradient(
    parts: Parts, crossing: Crossing, activation: Float32[np.ndarray, "batch token width"]
) -> Float[Tensor, " parameter"]:
    """The server-side adapter's gradient when the server receives `activation`."""
    row = crossing.server_row[None].clone().requires_grad_()
    received = torch.from_numpy(activation.copy()).requires_grad_()
    _server_backward(parts, group_inputs([crossing.batch]), crossing.batch, row, received)
    return _grad(row)[0]


def device_gradient(
    parts: Parts, crossing: Crossing, gradient: Float32[np.ndarray, "batch token width"]
) -> Float[Tensor, " parameter"]:
    """The device-side adapter's gradient when the device receives `gradient`."""
    row = crossing.device_row[None].clone().requires_grad_()
    group = group_inputs([crossing.batch])
    activation = parts.device.forward(row, group.sizes, group.inputs)
    torch.autograd.backward(activation, torch.from_numpy(gradient.copy()))
    return _grad(row)[0]


def _server_backward(
    parts: Parts, group: GroupInputs, batch: Batch, row: Tensor, received: Tensor
) -> None:
    labels, weights = torch.from_numpy(batch.labels), [1.0] * len(group.sizes)
    losses = parts.server.losses(
        row, group.sizes, received, group.lengths, labels, weights, group.documents
    )
    torch.autograd.backward(losses.sum())


def _grad(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


# A configuration made into a split model and a few mini-batches, for judging codecs.
#
# Finds and loads what a run would, but for one device and without a codec.


_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class CutProbe:
    """A split model and what its local steps send, oldest first; `source`: what it was made of."""

    parts: Parts
    crossings: tuple[Crossing, ...]
    source: str


def probe(config: Config, warm_steps: int, kept_steps: int) -> CutProbe:
    """Train one device of `config` for `warm_steps`, then keep what `kept_steps` more send.

    Raises CutlayerError for a model, data set or cut that cannot be.
    """
    found = find_model(config.model.name)
    prepared = prepare_data(config, found.path)
    adapter = make_adapter(config.adapter, prepared.task)
    part = (found.path, prepared.task, config.model.cut, adapter)
    classes, size = len(prepared.data.class_names), config.data.image_size
    folder = start_folder(config.adapter)
    start = NOTHING if folder is None else read_adapter(folder, adapter)
    smoothing = config.training.label_smoothing
    parts = Parts(
        load_device_part(*part, classes=classes, image_size=size, start=start),
        load_server_part(
            *part, classes=classes, image_size=size, label_smoothing=smoothing, start=start
        ),
    )
    begun = ""
    if folder is not None:
        slots = (side.adapted.layout.slots for side in (parts.device, parts.server))
        check_slots(folder, start, tuple(chain(*slots)))
        begun = f" from {folder}"
    if config.adapter.dropout:
        _LOG.warning(
            f"adapter.dropout {config.adapter.dropout:g} is left out: codecs are judged by"
            " gradients in which nothing is drawn"
        )
    samples = prepared.data.train
    plan = BatchPlan(prepared.parts[0], config.training.batch_size, config.seed, 0)

    def batches() -> Iterator[Batch]:
        for step in range(warm_steps + kept_steps):
            _LOG.info(f"step {step + 1} of {warm_steps + kept_steps}")
            yield prepared.batches.make(samples, plan.indices(step))

    made = crossings(parts, batches(), config.seed, config.optimizer.learning_rate)
    kept = [crossing for step, crossing in enumerate(made) if step >= warm_steps]
    return CutProbe(
        parts,
        tuple(kept),
        f"{config.model.name} cut after block {config.model.cut}, {config.data.name}, "
        f"{warm_steps} local steps trained{begun}",
    )


# The rows of `cutlayer codec bench`. Imports torch, which the other actions do without.


Row = tuple[str, ...]
Judge = Callable[[Float32[np.ndarray, "batch token width"]], float]
_REPEATS = 5


def bench_rows(config: Config, warm_steps: int, packets: int) -> tuple[str, list[Row]]:
    """What was measured on, and a row for each preset and direction, and for a configured codec of
    another package.

    Raises CutlayerError for a configuration that cannot be.
    """
    use_torch(config)
    made = probe(config, warm_steps, packets)
    up, down = _judges(made)
    pairs = {name: codec_pair(name) for name in PRESETS}
    if isinstance(config.codec, PluginSection):
        pairs[config.codec.name] = make_codecs(config.codec, packets)
    activations = [crossing.activation for crossing in made.crossings]
    gradients = [crossing.gradient for crossing in made.crossings]
    rows = []
    for name, pair in pairs.items():
        _LOG.info(f"codec {name}")
        rows.append(_row(name, "activation", pair.up, activations, made, up))
        rows.append(_row("", "gradient", pair.down, gradients, made, down))
    return made.source, rows


def _judges(made: CutProbe) -> tuple[Judge, Judge]:
    """The cosine of the adapter's gradient, of a decoded activation and of a decoded gradient."""
    last = made.crossings[-1]
    server = server_gradient(made.parts, last, last.activation).numpy()
    device = device_gradient(made.parts, last, last.gradient).numpy()
    return (
        lambda y: fidelity(server, server_gradient(made.parts, last, y).numpy()).cosine,
        lambda y: fidelity(device, device_gradient(made.parts, last, y).numpy()).cosine,
    )


def _row(
    name: str,
    what: str,
    codec: Codec,
    tensors: list[Float32[np.ndarray, "batch token width"]],
    made: CutProbe,
    judge: Judge,
) -> Row:
    done = measure(
        codec,
        tensors,
        0,
        time.perf_counter,
        lengths=[crossing.batch.lengths for crossing in made.crossings],
        repeats=_REPEATS,
    )
    megabytes = tensors[-1].nbytes / 1e6
    return (
        name,
        what,
        f"{done.bits:.3f}",
        f"{done.ratio:.1f}",
        f"{megabytes / done.encode_s:.0f} MB/s",
        f"{megabytes / done.decode_s:.0f} MB/s",
        f"{done.fidelity.error:.4f}",
        f"{done.fidelity.cosine:.4f}",
        f"{judge(done.decoded):.4f}",
    )
