"""What a device and the server must hold to train, measured; and the whole model, for comparison.

Saved tensors are counted as autograd really keeps them for one mini-batch of the largest kind, held
as the run holds it. Evaluation holds less: its batches are no larger, and backward needs nothing.
"""

from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from cutlayer.data.samples import Batch
from cutlayer.model.placement import to_device
from cutlayer.model.split import (
    LiveBytes,
    SavedBytes,
    ServerPart,
    frozen_forward,
    measure_micro_batch,
)
from cutlayer.rounds.memory import (
    CODED_ROWS,
    PartMemory,
    ServerShape,
    device_memory,
    serving,
    spared_by_ranks,
)
from cutlayer.spec import ActivationPolicy, MiniBatch, MiniBatchPolicy, ModelSpec, Trained
from cutlayer.training.exchange import group_inputs, micro_batches
from cutlayer.training.state import RunState, Setup, Training

_FLOAT_BYTES = 4
# of a simulated pass, where nobody says how much memory there is: a common machine has it beside
# the weights, and larger passes are no faster
MOST_PASS_BYTES = 4 * 2**30


@dataclass(frozen=True)
class ServedMemory:
    """What a server needs, by how many devices share a pass: `kept` bytes of one micro-batch like
    `shape.batch` for backward, `received` of it that come up, and rows as `rounds.memory.serving`
    takes them; `cache`: of activations that it keeps in memory; `spared`: of rows and of optimiser
    states, where devices' ranks are lower."""

    part: ServerPart
    shape: ServerShape
    weights: int
    device_row: int
    server_row: int
    optimizer: int
    kept: int
    received: int
    codec: int
    cache: int = 0
    spared: tuple[int, int] = (0, 0)

    def of(self, together: int) -> PartMemory[int]:
        """With so many devices in a pass."""
        batch = self.shape.batch
        logits = self.part.logits_bytes(together * batch.samples * batch.tokens)
        found = serving(
            replace(self.shape, together=together),
            weights=self.weights,
            device_row=self.device_row,
            server_row=self.server_row,
            optimizer=self.optimizer,
            activations=together * self.kept + logits,
            received=together * self.received,
            codec=self.codec,
        )
        rows, states = self.spared
        return replace(
            found,
            adapters=found.adapters - rows,
            optimizer=found.optimizer - states,
            codec=found.codec + self.cache,
        )


@dataclass(frozen=True)
class Memory:
    """A device's part (or all, where the scheme leaves nothing to a server); the server, which has
    the device part too, since it evaluates and hands it out; and what one device would need for the
    whole model, everything kept. `served`: the server's for other passes (None: it has none).
    `tokens`: of a sample of the largest mini-batch, as blocks see it."""

    device: PartMemory[int]
    server: PartMemory[int]
    unsplit_bytes: int
    served: ServedMemory | None = None
    tokens: int = 0

    def fitting(self, together: int, server_bytes: int | None) -> int:
        """How many of `together` devices may share a simulated pass, at least one: as the server
        has memory for, or, without a limit, as many as `MOST_PASS_BYTES` is enough for."""
        while together > 1 and not self._fits(together, server_bytes):
            together -= 1
        return together

    def _fits(self, together: int, server_bytes: int | None) -> bool:
        of_server = self.with_passes_of(together).server
        if server_bytes is not None and self.served is not None:
            return of_server.total <= server_bytes
        # both sides' are in one process
        kept = together * self.device.activations + of_server.activations + of_server.input
        return kept <= MOST_PASS_BYTES

    def with_passes_of(self, together: int) -> "Memory":
        """The same with so many devices in a pass of the server."""
        return self if self.served is None else replace(self, server=self.served.of(together))


def measure_memory(setup: Setup, state: RunState) -> Memory:
    """Run one micro-batch of the device with most samples a step through both parts.

    The state is not changed. The unsplit figure is both parts on one machine, for the whole
    mini-batch: by its samples, so that measuring takes no more than training will.
    """
    training = setup.training
    batch, micro = _largest_batch(setup), _largest_batch(setup, training.micro_batches)
    times = len(batch.labels) / len(micro.labels)
    above, below = _server_bytes(setup, state, micro), _held_bytes(setup, state, micro, 1)
    received = _activation(setup, state, micro)
    tokens = len(micro.labels) * received.shape[1]
    logits = setup.server.part.logits_bytes(round(times * tokens))
    server = _part(setup, 1, state.server.row, round(times * above) + logits, None)
    kept = _part(setup, 0, state.device.row, round(times * below), batch)
    if not training.scheme.splits:
        whole = kept + server
        own = replace(whole, codec=_coded_rows(training, whole))
        return Memory(own, _merging(setup, whole), whole.total, tokens=received.shape[1])
    own = kept
    if training.activation_memory is not ActivationPolicy.KEEP or training.micro_batches > 1:
        most = training.in_flight or training.micro_batches
        in_flight = most if training.scheme.pipelined else 1
        held = _held_bytes(setup, state, micro, in_flight, training.activation_memory)
        own = _part(setup, 0, state.device.row, held, batch)
    samples, tokens, width = received.shape
    codec = training.codecs.device_bytes(width) + _coded_rows(training, own)
    own = replace(own, codec=codec)
    served = ServedMemory(
        part=setup.server.part,
        shape=ServerShape(
            devices=setup.per_round,
            batch=MiniBatch(samples, tokens),
            adapters=1 if training.scheme.shared_server else None,
        ),
        weights=own.weights + server.weights,
        device_row=own.adapters,
        server_row=server.adapters,
        optimizer=server.optimizer,
        kept=above,
        # with its gradient, where one goes back
        received=received.nbytes * (2 if training.scheme.trains_device else 1),
        codec=training.codecs.server_bytes(width),
        cache=0 if setup.server.cache is None else setup.server.cache.memory_bytes,
        spared=_spared(setup),
    )
    return Memory(own, served.of(setup.together), (kept + server).total, served, tokens)


def device_needs(setup: Setup, memory: Memory) -> list[PartMemory[int]]:
    """What each device needs: what was measured of the largest rank, without what its own rank
    spares it, by the memory model."""
    training, simulation = setup.training, setup.simulation
    if training.ranks is None:
        return [memory.device] * len(setup.devices)
    whole = _by_model(setup, memory, simulation.model)
    needs = {
        rank: _less(memory.device, whole, _by_model(setup, memory, model))
        for rank, model in simulation.of_rank.items()
    }
    return [needs[rank] for rank in training.ranks]


def _by_model(setup: Setup, memory: Memory, model: ModelSpec) -> PartMemory[float]:
    """What the memory model says of the largest mini-batch."""
    training = setup.training
    most = training.in_flight or training.micro_batches
    need = device_memory(
        model,
        setup.server.device_part.cut if training.scheme.splits else model.blocks,
        MiniBatch(len(_largest_batch(setup).labels), memory.tokens),
        MiniBatchPolicy(
            training.activation_memory,
            training.micro_batches,
            most if training.scheme.pipelined else 1,
        ),
        optimizer_slots=_slots(training),
    )
    coded = 0.0 if training.adapter_codec is None else CODED_ROWS * need.adapters
    return replace(need, codec=coded)


def _less(
    need: PartMemory[int], whole: PartMemory[float], own: PartMemory[float]
) -> PartMemory[int]:
    """`need` without what `own` lacks of `whole`."""
    before, more, less = asdict(need), asdict(whole), asdict(own)
    return PartMemory(**{kind: before[kind] - round(more[kind] - less[kind]) for kind in before})


def _slots(training: Training) -> int:
    """Values that the optimiser keeps for each trained one."""
    state = training.optimizer.init(torch.zeros(1, 1))
    return sum(value.ndim == 2 for value in state.values())


def _spared(setup: Setup) -> tuple[int, int]:
    """What rows and optimiser states on the server are less than if all were of the largest rank
    [bytes]."""
    if setup.training.ranks is None:
        return 0, 0
    models = [setup.model_of(device.number) for device in setup.devices]
    cut = setup.server.device_part.cut
    return spared_by_ranks(setup.simulation.model, models, cut, _slots(setup.training))


def _coded_rows(training: Training, device: PartMemory[int]) -> int:
    """What a device remembers of its adapters' packets [bytes]."""
    return 0 if training.adapter_codec is None else CODED_ROWS * device.adapters


def _merging(setup: Setup, device: PartMemory[int]) -> PartMemory[int]:
    """A server that only merges what the devices have trained, and evaluates."""
    return PartMemory(
        weights=device.weights,
        adapters=(1 + setup.per_round) * device.gradients - _spared(setup)[0],
        optimizer=0,
        gradients=0,
        activations=0,
        input=0,
        codec=0,
    )


def _held_bytes(
    setup: Setup,
    state: RunState,
    batch: Batch,
    in_flight: int,
    activation_memory: ActivationPolicy = ActivationPolicy.KEEP,
) -> int:
    """What backward needs of `in_flight` batches like this one on the device [bytes]; of a frozen
    part, what a forward has at a time."""
    group = group_inputs([batch])
    row = state.device.row[None]
    if not setup.training.scheme.trains_device:
        with LiveBytes([*setup.server.device_part.adapted.tensors, *group.inputs.values()]) as live:
            frozen_forward(setup.server.device_part, row, group.sizes, group.inputs)
        peak: int = live.peak
        return peak
    held = measure_micro_batch(
        setup.server.device_part,
        row,
        group.sizes,
        group.inputs,
        activation_memory,
        setup.training.draws(1, 0, 0, range(len(batch.labels))),
    )
    return held.in_flight(in_flight)


def _server_bytes(setup: Setup, state: RunState, batch: Batch) -> int:
    """What backward needs of this batch above the cut, logits apart [bytes]."""
    part, group = setup.server.part, group_inputs([batch])
    rows = to_device(state.server.row, part.adapted.device)[None].clone().requires_grad_()
    received = _activation(setup, state, batch)
    received.requires_grad_(setup.training.scheme.trains_device)
    forward = part.before_head if part.task == "causal-lm" else part.forward
    draws = setup.training.draws(1, 0, 0, range(len(batch.labels)))
    with SavedBytes([*part.adapted.tensors, rows]) as saved, part.adapted.dropping(draws):
        output = forward(rows, group.sizes, received, group.lengths, group.documents)
        if part.activation_memory is not ActivationPolicy.KEEP:  # a block at a time is there again
            torch.autograd.backward(output, torch.zeros_like(output))
    del output  # the graph lives until here
    return saved.peak


@torch.no_grad()
def _activation(setup: Setup, state: RunState, batch: Batch) -> Tensor:
    """What crosses the cut of this batch."""
    group = group_inputs([batch])
    row = state.device.row[None]
    return setup.server.device_part.forward(row, group.sizes, group.inputs).float()


def _largest_batch(setup: Setup, parts: int = 1) -> Batch:
    """The largest mini-batch, or the first of its micro-batches, of which none is larger."""
    size = setup.training.batch_size
    device = max(setup.devices, key=lambda device: min(device.samples, size))
    found = micro_batches(device, 1, 0, parts)
    assert found[0] is not None
    return found[0].sent


def _part(
    setup: Setup, part: int, row: Tensor, activations: int, batch: Batch | None
) -> PartMemory[int]:
    trained = row.numel() * _FLOAT_BYTES
    adapters = 0 if setup.training.scheme.trained is Trained.WEIGHTS else trained
    state = setup.training.optimizer.init(row[None])
    return PartMemory(
        weights=setup.parts[part].adapted.bytes + trained - adapters,
        adapters=adapters,
        optimizer=sum(value.nbytes for value in state.values()),
        gradients=trained,
        activations=activations,
        input=0 if batch is None else sum(array.nbytes for array in batch.inputs.values()),
        codec=0,
    )
