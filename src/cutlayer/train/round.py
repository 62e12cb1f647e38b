"""One round in tensors: the scheme's steps, each played for a group of devices at a time.

The order of steps is the scheme's; what a step does is one method here. Devices keep their own
adapters on both sides until FedAvg closes the round, so the order among devices changes nothing
but rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from cutlayer.cost.flops import StepFlops
from cutlayer.model.loss import group_losses
from cutlayer.schemes.scheme import Phase, Step
from cutlayer.spec import IGNORED_LABEL, MiniBatch
from cutlayer.timeline.simulate import RoundTimeline, simulate
from cutlayer.train.exchange import Direction, Exchange, Load, send_adapter, send_labels
from cutlayer.train.inputs import group_inputs, stack
from cutlayer.train.ledger import Ledger, Sent
from cutlayer.train.local_step import LocalStep
from cutlayer.train.setup import Setup
from cutlayer.train.side import Side
from cutlayer.train.state import RunState, SideState

StepDone = Callable[[int, int], None]


@dataclass(frozen=True)
class RoundOutcome:
    """A closed round: the next state, its mean training loss [nat], its costs, its seconds."""

    state: RunState
    train_loss: float
    ledger: Ledger
    timeline: RoundTimeline


@final
class Round:
    """Plays round `index` (1, 2, ...) from `state`; the state itself is left as it was."""

    def __init__(self, setup: Setup, state: RunState) -> None:
        self._setup = setup
        self._index = state.round + 1
        self._learning_rate = setup.learning_rate * setup.decay**state.round
        self._state = state
        self._steps = tuple(device.local_steps for device in setup.devices)
        self._device_side = Side(state.device, len(setup.devices))
        self._server_side = Side(state.server, len(setup.devices))
        self._exchange = Exchange(setup.codecs, setup.seed, state.streams)
        self._ledger = Ledger(setup.scheme, self._steps)
        self._losses: list[float] = []
        self._actions: dict[Phase, Callable[[Step, LocalStep], None]] = {
            Phase.DEVICE_FORWARD: self._device_forward,
            Phase.ACTIVATION_UP: self._activation_up,
            Phase.SERVER_COMPUTE: self._server_compute,
            Phase.GRADIENT_DOWN: self._gradient_down,
            Phase.DEVICE_BACKWARD: self._device_backward,
        }
        self._edges: dict[Phase, Callable[[Step], None]] = {
            Phase.MODEL_DISTRIBUTION: self._distribute,
            Phase.ADAPTER_UP: self._upload,
        }

    def play(self, step_done: StepDone = lambda done, total: None) -> RoundOutcome:
        """Open, train, close. `step_done(done, total)` is called as local steps end."""
        for step in self._setup.scheme.opening:
            self._edges[step.phase](step)
        done, total = 0, sum(self._steps)
        for number in range(max(self._steps)):
            for devices in self._groups(number):
                self._local_step(number, devices)
                done += len(devices)
                step_done(done, total)
        for step in self._setup.scheme.closing:
            self._edges[step.phase](step)
        return self._close()

    def _groups(self, number: int) -> list[tuple[int, ...]]:
        """Devices that still have local step `number` to do, `group` at a time."""
        active = [n for n, steps in enumerate(self._steps) if number < steps]
        size = self._setup.group
        return [tuple(active[at : at + size]) for at in range(0, len(active), size)]

    def _local_step(self, number: int, devices: tuple[int, ...]) -> None:
        samples = [self._samples(n, number) for n in devices]
        setup = self._setup
        batches = [setup.batches.make(setup.train, np.array(indices)) for indices in samples]
        step = LocalStep(number, devices, batches, samples, group_inputs(batches))
        for part in self._setup.scheme.local:
            self._actions[part.phase](part, step)

    def _samples(self, device: int, number: int) -> tuple[int, ...]:
        work = self._setup.devices[device]
        indices = work.plan.indices((self._index - 1) * work.local_steps + number)
        return tuple(indices.tolist())

    def _distribute(self, step: Step) -> None:
        row, sent = send_adapter(self._state.device.row)
        self._device_side.rows[:] = row
        payloads = {"adapter_down": sent}
        if self._index == 1:
            size = self._setup.device_part.adapted.bytes
            payloads["model"] = Sent(size, size)
        self._ledger.broadcast(step, payloads)

    def _device_forward(self, step: Step, local: LocalStep) -> None:
        local.device_rows = self._device_side.gather(local.devices)
        local.activation = self._setup.device_part.forward(
            local.device_rows, local.group.sizes, local.group.inputs
        )
        for place, device in enumerate(local.devices):
            self._ledger.compute(device, step, self._flops(local, place).device_forward)

    def _activation_up(self, step: Step, local: LocalStep) -> None:
        assert local.activation is not None
        labels = []
        for place, device in enumerate(local.devices):
            batch = local.batches[place]
            key = (self._index, device, local.number, Direction.UP)
            own = local.rows_of(local.activation, place)
            received = self._exchange.send(Load(own, batch.lengths, local.samples[place]), key)
            known, sent = send_labels(batch.labels, received.lengths, self._setup.classes)
            labels.append(known)
            local.received.append(received)
            self._ledger.send(device, step, {"activation": received.sent, "labels": sent})
        local.labels = stack(labels, fill=IGNORED_LABEL)

    def _server_compute(self, step: Step, local: LocalStep) -> None:
        assert local.labels is not None
        setup, side = self._setup, self._server_side
        rows = side.gather(local.devices)
        activation = stack([part.tensor for part in local.received]).requires_grad_()
        logits = setup.server_part.forward(
            rows, local.group.sizes, activation, local.received_lengths
        )
        losses = group_losses(setup.task, logits, local.labels, local.group.sizes)
        torch.autograd.backward(losses.sum())
        local.gradient = activation.grad
        self._losses.extend(losses.tolist())
        self._step_side(side, local.devices, rows)
        for place, device in enumerate(local.devices):
            self._ledger.compute(device, step, self._flops(local, place).server)

    def _gradient_down(self, step: Step, local: LocalStep) -> None:
        assert local.gradient is not None
        received = []
        for place, device in enumerate(local.devices):
            key = (self._index, device, local.number, Direction.DOWN)
            own = local.rows_of(local.gradient, place)
            load = Load(own, local.batches[place].lengths, local.samples[place])
            part = self._exchange.send(load, key)
            self._ledger.send(device, step, {"gradient": part.sent})
            received.append(part.tensor)
        local.gradient = stack(received)

    def _device_backward(self, step: Step, local: LocalStep) -> None:
        assert local.activation is not None and local.device_rows is not None
        torch.autograd.backward(local.activation, local.gradient)
        self._step_side(self._device_side, local.devices, local.device_rows)
        for place, device in enumerate(local.devices):
            self._ledger.compute(device, step, self._flops(local, place).device_backward)

    def _step_side(self, side: Side, devices: tuple[int, ...], rows: Tensor) -> None:
        assert rows.grad is not None
        state = side.state_of(devices)
        stepped = self._setup.optimizer.step(rows.detach(), rows.grad, state, self._learning_rate)
        side.scatter(devices, *stepped)

    def _upload(self, step: Step) -> None:
        for device in range(len(self._setup.devices)):
            row, sent = send_adapter(self._device_side.rows[device])
            self._device_side.rows[device] = row
            self._ledger.send(device, step, {"adapter_up": sent})

    def _flops(self, local: LocalStep, place: int) -> StepFlops:
        assert local.activation is not None
        tokens = local.tokens(place, local.activation)
        shape = MiniBatch(local.group.sizes[place], tokens)
        return self._setup.accounting(self._setup.model, self._setup.device_part.cut, shape)

    def _close(self) -> RoundOutcome:
        setup = self._setup
        work = [self._ledger.work(n, device.rates) for n, device in enumerate(setup.devices)]
        timeline = simulate(setup.scheme, work)
        weights = [float(device.samples) for device in setup.devices]
        state = RunState(
            round=self._index,
            virtual_time_s=self._state.virtual_time_s + timeline.delay_s,
            device=self._device_side.merged(weights),
            server=self._server_side.merged(weights),
            streams=self._exchange.streams,
        )
        return RoundOutcome(state, sum(self._losses) / len(self._losses), self._ledger, timeline)


def initial_state(setup: Setup) -> RunState:
    """The state before round 1: seeded adapters, fresh optimisers for every device."""
    sides = []
    for part in (setup.device_part, setup.server_part):
        row = part.adapted.initial_row(setup.seed)
        fresh = setup.optimizer.init(row.expand(len(setup.devices), -1))
        sides.append(SideState(row, fresh))
    return RunState(round=0, virtual_time_s=0.0, device=sides[0], server=sides[1])
