"""What a run must have come to, found without the code that played it.

`replayed` goes through the server's journals with the codec, the model and the optimiser, and knows
no session, driver or worker. `absent` lets the workers of both ends take the same steps in a row,
with no links and nothing that breaks, the devices that missed a round away.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cutlayer.codec.codec import EMPTY, CodecState
from cutlayer.codec.packet import read_packet
from cutlayer.codec.raw import decode_targets
from cutlayer.net.device.driver import DeviceWorker
from cutlayer.net.server.driver import ServerWorker
from cutlayer.net.wire.messages import (
    Activation,
    Adapter,
    Gradient,
    Message,
    Open,
    Opening,
    Position,
    Restarted,
)
from cutlayer.training.exchange import unpack_adapter
from cutlayer.training.round import initial_state
from cutlayer.training.server_batch import server_pass
from cutlayer.training.state import Setup
from cutlayer.training.torch_codec import for_device
from net.harness import Run


@dataclass(frozen=True)
class Presence:
    """Who made a round, and who began it anew."""

    made: tuple[int, ...]
    fresh: frozenset[int]


@dataclass(frozen=True, eq=False)
class Adapters:
    """Both sides' adapters after the last round."""

    device: Tensor
    server: Tensor

    def same(self, other: "Adapters") -> bool:
        """Bit for bit."""
        return torch.equal(self.device, other.device) and torch.equal(self.server, other.server)


@dataclass
class _End:
    """What the server holds of one device from round to round."""

    optimizer: dict[str, Tensor] = field(default_factory=dict)
    stream: CodecState = field(default_factory=lambda: EMPTY)


def final(run: Run) -> Adapters:
    """Those of the last checkpoint."""
    state = run.directory.load()
    assert state is not None and state.round == run.rounds
    return Adapters(state.device.row, state.server.row)


def counted(run: Run, number: int, device: int) -> list[Message]:
    """What counts of a device in a round: all since it last began it."""
    own = [one.message for one in run.archive.entries(number) if one.device == device]
    begun = [at for at, message in enumerate(own) if isinstance(message, Restarted)]
    return own[begun[-1] + 1 :] if begun else own


def presence(run: Run) -> tuple[Presence, ...]:
    """Of every round, by the journals."""
    found: list[Presence] = []
    devices = range(len(run.setup.devices))
    missed: set[int] = set()
    for number in range(1, run.rounds + 1):
        entries = run.archive.entries(number)
        made = run.archive.made(number)
        assert made is not None, f"round {number} never closed"
        restarted = {
            one.device
            for one in entries
            if isinstance(one.message, Restarted) and one.device is not None
        }
        found.append(Presence(made, frozenset((missed | restarted) & set(made))))
        missed = set(devices) - set(made)
    return tuple(found)


def replayed(run: Run) -> Adapters:
    """What the journals of all rounds make of the first adapters."""
    setup, state = run.setup, initial_state(run.setup)
    device_row, server_row = state.device.row, state.server.row
    ends = [_End() for _ in setup.devices]
    for number, present in enumerate(presence(run), start=1):
        uploaded, stepped, weights = [], [], []
        for device in range(len(ends)):
            if device in present.fresh or device not in present.made:
                ends[device] = _End()
        for device in present.made:
            messages = counted(run, number, device)
            stepped.append(_steps(setup, server_row, number, messages, ends[device]))
            (adapter,) = [one for one in messages if isinstance(one, Adapter)]
            uploaded.append(unpack_adapter(adapter.packet, device_row.numel()))
            weights.append(float(adapter.weight.samples))
        device_row = setup.server.aggregation.merge(torch.stack(uploaded), weights)
        server_row = setup.server.aggregation.merge(torch.stack(stepped), weights)
    return Adapters(device_row, server_row)


def _steps(
    setup: Setup, row: Tensor, number: int, messages: Sequence[Message], end: _End
) -> Tensor:
    """A device's server-side adapter after these messages of a round that it began with `row`."""
    rows, gradients = row[None].clone(), torch.zeros_like(row[None])
    optimizer = end.optimizer or setup.training.optimizer.init(rows)
    for message in messages:
        if isinstance(message, Activation):
            gradients += _gradient(setup, rows, message, end)
            if message.micro.last:
                rate = setup.training.rate_of(number)
                rows, optimizer = setup.training.optimizer.step(rows, gradients, optimizer, rate)
                gradients = torch.zeros_like(gradients)
    end.optimizer = optimizer
    return rows[0]


def _gradient(setup: Setup, rows: Tensor, message: Activation, end: _End) -> Tensor:
    """Of the server-side adapter for one micro-batch."""
    leaf, shape = rows.clone().requires_grad_(), read_packet(message.packet).shape
    codec = for_device(setup.training.codecs.up, torch.device("cpu"))
    arrived = codec.decode(message.packet, shape, end.stream)
    end.stream = arrived.state
    labelled = shape[:2] if setup.training.task == "causal-lm" else shape[:1]
    labels = decode_targets(message.labels, labelled, arrived.lengths, setup.training.classes)
    server_pass(
        setup.server.part,
        leaf,
        (shape[0],),
        arrived.tensor,
        None if setup.training.task == "image-classification" else arrived.lengths,
        torch.from_numpy(labels),
        (message.micro.weight,),
    )
    assert leaf.grad is not None
    return leaf.grad


def absent(run: Run, rounds: Sequence[Presence]) -> Adapters:
    """A run in which nothing breaks, and these devices take part in its rounds."""
    server = run.server_worker(initial_state(run.setup))
    devices = [DeviceWorker(run.setup.training, own) for own in run.setup.devices]
    for number, present in enumerate(rounds, start=1):
        opening = server.adapter
        for device in present.made:
            fresh = device in present.fresh
            if fresh:
                server.renew(device)
            terms = Opening(run.setup.training.rate_of(number), 1.0 / len(devices), fresh)
            devices[device].begin(Open(number, terms, opening))
            _round(run, server, devices[device], device, number)
        server.merge(present.made)
    state = server.state
    return Adapters(state.device.row, state.server.row)


def _round(run: Run, server: ServerWorker, own: DeviceWorker, device: int, number: int) -> None:
    """All local steps of a device, and its adapter."""
    for place in every(run, number, device):
        message = own.forward(place)
        packet = server.train(device, message)
        own.backward(Gradient(place, packet), last=message.micro.last)
    server.store_adapter(device, own.adapter(number))


def every(run: Run, number: int, device: int) -> list[Position]:
    """The places of a round, in order."""
    setup = run.setup
    return [
        Position(number, step, micro)
        for step in range(setup.devices[device].local_steps)
        for micro in range(setup.training.micro_batches)
    ]


@dataclass(frozen=True)
class Steps:
    """The steps of the devices that made their rounds: all, those that are missing, and those that
    were trained more than once or where none belongs."""

    trained: int
    lost: int
    doubled: int


def steps(run: Run) -> Steps:
    """By the journals, of micro-batches."""
    trained = lost = doubled = 0
    for number, present in enumerate(presence(run), start=1):
        for device in present.made:
            places = [
                message.position
                for message in counted(run, number, device)
                if isinstance(message, Activation)
            ]
            whole = every(run, number, device)
            trained += len(places)
            lost += len(set(whole) - set(places))
            doubled += len(places) - len(set(places) & set(whole))
            assert lost or doubled or places == whole, "out of order"
    return Steps(trained, lost, doubled)
