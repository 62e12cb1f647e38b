"""What a run must have come to, found without the code that played it.

`replayed` goes through the server's journals with the codec, the model and the optimiser, and knows
no session, driver or worker. `relived` lets the workers of both ends go through them. `absent` lets
the workers of both ends take the same steps in a row, with no links and nothing that breaks, the
devices that missed a round away.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from cutlayer.codec.codec import EMPTY, CodecState
from cutlayer.codec.packet import read_packet
from cutlayer.codec.raw import decode_targets
from cutlayer.net.device.worker import DeviceWorker
from cutlayer.net.server.journal import Entry
from cutlayer.net.server.worker import ServerWorker
from cutlayer.net.wire.messages import (
    Activation,
    Adapter,
    Gradient,
    Message,
    Open,
    Opening,
    Position,
    Restarted,
    RoundClosed,
)
from cutlayer.training.adapter_rows import RowCodec
from cutlayer.training.expected import initial_state
from cutlayer.training.server_batch import ServerLoad, server_batch
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
    """What the server holds of one device: its row of the round, the gradient of a mini-batch that
    has not ended, and from round to round its optimiser and stream."""

    row: Tensor
    collected: Tensor
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    stream: CodecState = field(default_factory=lambda: EMPTY)
    adapter: Adapter | None = None


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
    """What the journals of all rounds make of the first adapters, pass by pass."""
    setup, state = run.setup, initial_state(run.setup)
    device_row, server_row = state.device.row, state.server.row
    ends = [_begun(server_row) for _ in setup.devices]
    rows = RowCodec(setup.training.adapter_codec, setup.server.device_part.adapted.layout)
    held: Tensor | None = None
    for number, present in enumerate(presence(run), start=1):
        for passed in passes(run.archive.entries(number)):
            match passed:
                case [Entry(int(device), Restarted())]:
                    ends[device] = _begun(server_row)
                case [Entry(int(device), Adapter() as adapter)]:
                    ends[device].adapter = adapter
                case [Entry(_, Activation()), *_]:
                    _pass(setup, passed, ends)
        uploads = [ends[device].adapter for device in present.made]
        trains = setup.training.scheme_of(number).trains_device
        weights = [float(own.weight.samples) for own in uploads if own]
        stepped = [ends[device].row for device in present.made]
        opened = rows.opening(device_row, held).received
        if trains:
            uploaded = [rows.decode(own.packet, device_row) for own in uploads if own]
            device_row, held = (
                setup.server.aggregation.merge(torch.stack(uploaded), weights),
                opened,
            )
        else:  # what devices have
            device_row, held = opened, None
        server_row = setup.server.aggregation.merge(torch.stack(stepped), weights)
        for device, end in enumerate(ends):
            kept = (end.optimizer, end.stream) if device in present.made else ()
            ends[device] = _begun(server_row, *kept)
    return Adapters(device_row, server_row)


def passes(entries: Sequence[Entry]) -> list[list[Entry]]:
    """A round's entries, those together that were computed together."""
    found: list[list[Entry]] = [[]]
    for entry in entries:
        found[-1].append(entry)
        if not entry.more:
            found.append([])
    return found[:-1]


def _begun(row: Tensor, *kept: Any) -> _End:
    return _End(row, torch.zeros_like(row), *kept)


def _pass(setup: Setup, passed: Sequence[Entry], ends: Sequence[_End]) -> None:
    """What a pass makes of the server's ends."""
    batch = [
        (own.device, ends[own.device], own.message)
        for own in passed
        if own.device is not None and isinstance(own.message, Activation)
    ]
    replies = server_batch(setup.server.part, [_load(setup, *own) for own in batch])
    for (_, end, message), reply in zip(batch, replies, strict=True):
        end.collected = end.collected + reply.row_gradient
        if message.micro.last:
            training, place = setup.training, message.position
            optimizer = training.rule(setup.server.part.adapted.layout)
            rate = training.rate_of(place.round, place.step, setup.devices[0].local_steps)
            state = end.optimizer or optimizer.init(end.row[None])
            gradients = end.collected[None]
            (end.row,), end.optimizer = optimizer.step(end.row[None], gradients, state, rate)
            end.collected = torch.zeros_like(end.row)


def _load(setup: Setup, device: int, end: _End, message: Activation) -> ServerLoad:
    """A micro-batch as the server reads it."""
    place = message.position
    shape, task = read_packet(message.packet).shape, setup.training.task
    codec = for_device(setup.training.codecs.up, torch.device("cpu"))
    arrived = codec.decode(message.packet, shape, end.stream)
    end.stream = arrived.state
    labelled = shape[:2] if task == "causal-lm" else shape[:1]
    targets = decode_targets(message.labels, labelled, arrived.lengths, setup.training.classes)
    return ServerLoad(
        row=end.row,
        activation=arrived.tensor,
        lengths=None if task == "image-classification" else arrived.lengths,
        labels=torch.from_numpy(targets.labels),
        weight=message.micro.weight,
        draws=setup.training.draws(place.round, device, place.step, message.samples),
        documents=targets.documents,
    )


def relived(run: Run) -> Adapters:
    """Workers of both ends, in the passes of the journals; each device must make of the gradients
    what it has sent."""
    server = run.server_worker(initial_state(run.setup))
    devices = [DeviceWorker(run.setup.training, own) for own in run.setup.devices]
    missed: set[int] = set()
    for number in range(1, run.rounds + 1):
        adapter = server.adapter
        first = Open(number, Opening(1.0 / len(devices), fresh=False), adapter)
        again = _again(first, server)
        for device in range(len(devices)):
            devices[device].begin(again if device in missed else first)
        for passed in passes(run.archive.entries(number)):
            match passed:
                case [Entry(int(device), Restarted())]:
                    server.renew(device)
                    devices[device].begin(again)
                case [Entry(int(device), Adapter() as message)]:
                    assert devices[device].adapter(number).packet == message.packet
                    server.store_adapter(device, message)
                case [Entry(None, RoundClosed() as closed)]:
                    server.merge(closed.made.devices)
                    missed = set(range(len(devices))) - set(closed.made.devices)
                case _:
                    _relive(server, devices, passed)
    state = server.state
    return Adapters(state.device.row, state.server.row)


def _again(opened: Open, server: ServerWorker) -> Open:
    """The same for a device that begins anew."""
    fresh = replace(opened.opening, fresh=True)
    return replace(opened, opening=fresh, adapter=server.whole_adapter or opened.adapter)


def _relive(server: ServerWorker, devices: Sequence[DeviceWorker], passed: Sequence[Entry]) -> None:
    batch = [
        (own.device, own.message)
        for own in passed
        if own.device is not None and isinstance(own.message, Activation)
    ]
    for device, message in batch:
        assert devices[device].forward(message.position) == message
    for (device, message), packet in zip(batch, server.train(batch), strict=True):
        devices[device].backward(Gradient(message.position, packet), last=message.micro.last)


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
            first = Open(number, Opening(1.0 / len(devices), fresh=False), opening)
            devices[device].begin(_again(first, server) if fresh else first)
            _round(run, server, devices[device], device, number)
        server.merge(present.made)
    state = server.state
    return Adapters(state.device.row, state.server.row)


def _round(run: Run, server: ServerWorker, own: DeviceWorker, device: int, number: int) -> None:
    """All local steps of a device, and its adapter."""
    for place in every(run, number, device):
        message = own.forward(place)
        (packet,) = server.train([(device, message)])
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
