"""What one of three devices may send in the place of what it computed: none of it ends the run.

What no device may send ends its own link, what no training can have made is not merged, and the
rest is an adapter of a usual size. A round closes without it when the deadline has passed.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from cutlayer.codec.codec import segments_of
from cutlayer.codec.packet import Packet, packet_to_bytes, read_packet
from cutlayer.jobs.prepare import prepare
from cutlayer.net.device.driver import DeviceDriver, Ready
from cutlayer.net.device.worker import DeviceWorker
from cutlayer.net.server import events
from cutlayer.net.server.worker import MergeRule, ServerWorker
from cutlayer.net.wire.link import Link, in_place
from cutlayer.net.wire.messages import Activation, Adapter, Micro, Position, Terms, Weight
from cutlayer.training.state import RunState, Setup
from net.harness import Run, Site, final

HOSTILE, ROUNDS, LINKS, DEADLINE_S = 1, 2, 4, 50.0
# what a row of the tiny model stays below, whoever trains it for two rounds
USUAL = 1.0


def full(value: float) -> Callable[[Tensor], Tensor]:
    return lambda honest: torch.full_like(honest, value)


def first(value: float) -> Callable[[Tensor], Tensor]:
    """One value alone."""
    return lambda honest: honest.flatten().index_fill(0, torch.tensor([0]), value).view_as(honest)


def packed(tensor: Tensor) -> bytes:
    """Whatever it holds: a codec would refuse what is not finite."""
    values = tensor.detach().numpy()
    known = segments_of(np.zeros_like(values), None)
    return packet_to_bytes(Packet("none", values.shape, known, {"values": values.tobytes()}))


@dataclass(frozen=True)
class Attack:
    """What a device changes in what it sends: its activations, their labels, the part of its
    mini-batch that each is, its adapters, and the samples that it says it has."""

    activation: Callable[[Tensor], Tensor] | None = None
    labels: Callable[[bytes], bytes] = lambda labels: labels
    micro: float | None = None
    adapter: Callable[[Tensor], Tensor] | None = None
    samples: int | None = None


ABSURD = (math.nan, math.inf, -math.inf, 1e38, -1e38, 1e30, 1e20, 1e10, 0.0, 1e-40)
ATTACKS = {
    **{f"activation {value}": Attack(activation=full(value)) for value in ABSURD},
    "activation, one nan": Attack(activation=first(math.nan)),
    "activation, one 3e38": Attack(activation=first(3e38)),
    "activation times 1e6": Attack(activation=lambda honest: honest * 1e6),
    "activation, signs": Attack(activation=lambda honest: -honest),
    "activation, short": Attack(activation=lambda honest: honest[:, 1:]),
    "labels of no class": Attack(labels=lambda labels: b"\xff" * len(labels)),
    "labels zeroed": Attack(labels=lambda labels: bytes(len(labels))),
    "no labels": Attack(labels=lambda labels: b""),
    "labels twice": Attack(labels=lambda labels: 2 * labels),
    "weightless": Attack(micro=0.0),
    "half of its weight": Attack(micro=0.5),
    **{f"adapter {value}": Attack(adapter=full(value)) for value in (*ABSURD, 3.0, -0.5)},
    "adapter, signs": Attack(adapter=lambda honest: -honest),
    "adapter times 100": Attack(adapter=lambda honest: honest * 100),
    "adapter, one nan": Attack(adapter=first(math.nan)),
    "adapter, one 3e38": Attack(adapter=first(3e38)),
    "adapter, short": Attack(adapter=lambda honest: honest[1:]),
    "adapter twice": Attack(adapter=lambda honest: torch.cat([honest, honest])),
    "no adapter": Attack(adapter=lambda honest: honest[:0]),
    **{f"{samples} samples": Attack(samples=samples) for samples in (1, 2**31, 2**32 - 1)},
}


class GaveUpError(Exception):
    """The attacker's end."""


class Attacker(DeviceWorker):
    """A device's computation, that sends something else."""

    attack = Attack()

    def forward(self, position: Position) -> Activation:
        honest, attack = super().forward(position), self.attack
        part = honest.micro.weight if attack.micro is None else attack.micro
        packet = honest.packet
        if attack.activation is not None:
            shape = read_packet(packet).shape
            usual = torch.randn(shape, generator=torch.Generator().manual_seed(position.step))
            packet = packed(attack.activation(usual))
        micro = Micro(part, honest.micro.last)
        return replace(honest, micro=micro, packet=packet, labels=attack.labels(honest.labels))

    def adapter(self, round_number: int) -> Adapter:
        honest, attack = super().adapter(round_number), self.attack
        if attack.adapter is not None:
            row = self._side.rows[0].detach().clone()  # type: ignore[attr-defined]
            honest = replace(honest, packet=packed(attack.adapter(row)))
        if attack.samples is not None:
            honest = replace(honest, weight=Weight(attack.samples))
        return honest


class AttackedRun(Run):
    """Two of three devices close a round. `train_loss`: of each."""

    def server_worker(self, state: RunState) -> ServerWorker:
        """As `cutlayer serve` has it by default."""
        worker = super().server_worker(state)
        worker._rule = MergeRule(times_median=10.0)
        return worker

    def attacker(self, attack: Attack) -> DeviceDriver:
        def prepared(terms: Terms) -> Ready:
            worker = Attacker(self.setup.training, self.setup.devices[HOSTILE])
            worker.attack = attack
            return Ready(terms, worker, self.bounds, "hostile")

        watch = self.device(HOSTILE)._watch
        return DeviceDriver(self.store(HOSTILE), prepared, in_place, watch, None)


async def attacked(run: AttackedRun, attack: Attack, *, alone: bool = False) -> None:
    """A run to its end, in which a round's deadline passes when a quorum has made it and the
    attacker has been hung up on often enough. `alone`: the honest ones come after round 1."""
    site, dialled = Site(run), 0
    session, server = run.server()
    site.server = server

    async def dial() -> Link:
        nonlocal dialled
        dialled += 1
        if dialled > LINKS:
            raise GaveUpError
        return await site.dial(HOSTILE)

    async def clock() -> None:
        while not session.finished:
            await asyncio.sleep(0)
            done = sum(own.done for own in session.progress)
            if done >= run.quorum and (hostile.done() or (alone and session.round == 1)):
                await server.handle(events.Tick(2 * DEADLINE_S))

    hostile = asyncio.create_task(run.attacker(attack).take_part(dial))
    ticks = asyncio.create_task(clock())
    while alone and session.round == 1:
        await asyncio.sleep(0)
    honest = [n for n in range(len(run.setup.devices)) if n != HOSTILE]
    await asyncio.gather(*(run.device(n).take_part(partial(site.dial, n)) for n in honest))
    await server.finished()
    await asyncio.gather(ticks, hostile, *site.calls, return_exceptions=True)


@pytest.fixture(scope="module")
def setup(vision: tuple[Path, Path]) -> Setup:
    training = {"rounds": ROUNDS, "local_steps": 2}
    return prepare(tiny.config(*vision, codec="none", training=training)).setup


@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_ends_the_run(name: str, setup: Setup, tmp_path: Path) -> None:
    run = AttackedRun(setup, tmp_path, rounds=ROUNDS, quorum=2, deadline_s=DEADLINE_S)
    asyncio.run(asyncio.wait_for(attacked(run, ATTACKS[name]), 60))
    state = final(run)
    assert state.round == ROUNDS
    for side in (state.device, state.server):
        assert side.row.abs().max() < USUAL
    for number in range(1, ROUNDS + 1):
        made = run.archive.made(number)
        assert made is not None and {0, 2} <= set(made)
    assert math.isfinite(run.worker.train_loss)


def test_alone_in_a_round_it_does_not_say_where_the_run_goes(setup: Setup, tmp_path: Path) -> None:
    run = AttackedRun(setup, tmp_path, rounds=ROUNDS, quorum=1, deadline_s=DEADLINE_S)
    asyncio.run(asyncio.wait_for(attacked(run, ATTACKS["adapter 1e+30"], alone=True), 60))
    assert run.archive.made(1) == () and final(run).round == ROUNDS
    assert final(run).device.row.abs().max() < USUAL
