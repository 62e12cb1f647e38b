"""A device that keeps its adapter, or is held near the one with which its round began."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

from cutlayer.errors import PacketError
from cutlayer.jobs.prepare import prepare
from cutlayer.net.device.worker import DeviceWorker
from cutlayer.net.wire.messages import Gradient, Open, Opening, Position
from cutlayer.rounds.schemes import Merging
from cutlayer.training.adapter_rows import pack_adapter, unpack_adapter
from cutlayer.training.expected import initial_state
from cutlayer.training.state import Setup


@pytest.fixture(scope="module")
def setup(vision: tuple[Path, Path]) -> Setup:
    return prepare(tiny.config(*vision, codec="none")).setup


def _worker(setup: Setup, merging: Merging) -> DeviceWorker:
    return DeviceWorker(replace(setup.training, merging=merging), setup.devices[0])


def _step(worker: DeviceWorker, place: Position) -> None:
    activation = worker.forward(place)
    # any gradient will do, such as the activation
    worker.backward(Gradient(place, activation.packet), last=True)


@pytest.mark.parametrize("merging", [Merging(device=False), Merging(proximal_mu=5.0)])
def test_a_device_that_is_started_again_steps_as_it_would_have(
    setup: Setup, merging: Merging
) -> None:
    """Within a round, from what it has on its disk."""
    row = initial_state(setup).device.row
    opened = Open(1, Opening(1.0, False), pack_adapter(row))
    whole, stopped, again = (_worker(setup, merging) for _ in range(3))
    for worker in (whole, stopped):
        worker.begin(opened)
        _step(worker, Position(1, 0, 0))
    again.restore(stopped.tensors())
    for worker in (whole, again):
        _step(worker, Position(1, 1, 0))
    assert whole.adapter(1) == again.adapter(1)


def test_a_device_goes_on_from_its_own_adapter_and_keeps_it(setup: Setup) -> None:
    row = initial_state(setup).device.row
    worker = _worker(setup, Merging(device=False))
    worker.begin(Open(1, Opening(1.0, False), pack_adapter(row)))
    _step(worker, Position(1, 0, 0))
    own = unpack_adapter(worker.adapter(1).packet, row.numel())
    worker.begin(Open(2, Opening(1.0, False, keeps=True), b""))
    assert worker.adapter(2).packet == b""
    again = _worker(setup, Merging(device=False))
    again.restore(worker.tensors())
    assert again.adapter(2).packet == b""
    again.begin(Open(3, Opening(1.0, False), b""))
    assert torch.equal(unpack_adapter(again.adapter(3).packet, row.numel()), own)


@pytest.mark.parametrize(("merging", "fresh"), [(Merging(), False), (Merging(device=False), True)])
def test_where_an_adapter_has_to_come_none_is_refused(
    setup: Setup, merging: Merging, fresh: bool
) -> None:
    with pytest.raises(PacketError):
        _worker(setup, merging).begin(Open(2, Opening(1.0, fresh), b""))
