"""A device's file: what was saved is loaded, a damaged one is told, and a full disk too."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import RunError
from cutlayer.net.device.driver import DeviceStore, Stored
from cutlayer.net.wire.messages import Position
from net.chaos import room
from net.server.test_server_session import terms_of


def state(step: int) -> Stored:
    tensors = {
        "device.row": torch.arange(3.0) + step,
        "rates": torch.tensor(0.1, dtype=torch.float64),
        "none": torch.zeros(0, dtype=torch.int64),
    }
    return Stored(Position(1, step, 0), terms_of(0), tensors, "27 samples")


def same(one: Stored | None, other: Stored) -> bool:
    return (
        one is not None
        and (one.position, one.terms) == (other.position, other.terms)
        and one.samples == other.samples
        and one.tensors.keys() == other.tensors.keys()
        and all(torch.equal(one.tensors[name], other.tensors[name]) for name in other.tensors)
    )


def test_round_trip(tmp_path: Path) -> None:
    store = DeviceStore(tmp_path / "device.safetensors")
    assert store.load() is None
    for step in range(2):
        store.save(state(step))
    assert same(store.load(), state(1))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A file, and what is in it."""
    path = tmp_path_factory.mktemp("store") / "device.safetensors"
    DeviceStore(path).save(state(0))
    return path, path.read_bytes()


@given(place=st.floats(0, 1, exclude_max=True), flipped=st.integers(0, 255))
def test_a_damaged_file_is_told_or_does_not_matter(
    place: float, flipped: int, saved: tuple[Path, bytes]
) -> None:
    """Any byte changed, or the file cut there: never another state, never another error."""
    path, data = saved
    at = int(place * len(data))
    path.write_bytes(data[:at] + (bytes([data[at] ^ flipped]) + data[at + 1 :] if flipped else b""))
    try:
        assert same(DeviceStore(path).load(), state(0))
    except RunError as error:
        assert "cannot be read" in str(error) and "delete it" in str(error)


def test_a_full_disk_leaves_the_state_before_and_is_told(tmp_path: Path) -> None:
    """At every length: and with room again, the device goes on."""
    store = DeviceStore(tmp_path / "device.safetensors")
    store.save(state(0))
    size = (tmp_path / "device.safetensors").stat().st_size
    for free in (0, 1, size // 2, size - 1):
        with room(free), pytest.raises(RunError, match="free some space; join again"):
            store.save(state(1))
        assert same(store.load(), state(0))
        assert [file.name for file in tmp_path.iterdir()] == ["device.safetensors"]
    with room(size):
        store.save(state(1))
    assert same(store.load(), state(1))


def test_a_place_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="written as identity"):
        DeviceStore(tmp_path / "nowhere" / "device.safetensors").save(state(0))
