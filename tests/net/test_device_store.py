"""A device's file: what was saved is loaded, and a damaged one is told."""

from pathlib import Path

import pytest
import torch

from cutlayer.errors import RunError
from cutlayer.net.device_store import DeviceStore, Stored
from cutlayer.net.frames import Position
from net.test_server_session import terms_of


def test_round_trip_and_damage(tmp_path: Path) -> None:
    store = DeviceStore(tmp_path / "device.safetensors")
    assert store.load() is None
    for step in range(2):
        tensors = {"device.row": torch.arange(3.0) + step, "learning_rate": torch.tensor(0.1)}
        store.save(Stored(Position(1, step, 0), terms_of(0), tensors))
    found = store.load()
    assert found is not None
    assert (found.position, found.terms) == (Position(1, 1, 0), terms_of(0))
    assert torch.equal(found.tensors["device.row"], torch.arange(3.0) + 1)
    data = (tmp_path / "device.safetensors").read_bytes()
    (tmp_path / "device.safetensors").write_bytes(data[:-5])
    with pytest.raises(RunError, match="cannot be read"):
        store.load()
