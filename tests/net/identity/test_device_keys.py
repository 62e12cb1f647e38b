"""A device's identity on its disk: read back, or said what to do with what is there instead."""

import resource
from pathlib import Path

import pytest

from cutlayer.errors import IdentityError
from cutlayer.net.identity.credentials import DeviceKeys, read_device_keys, write_device_keys
from net.ends import enrolled, run_keys

FILES = ("device.key", "device.crt", "authority.crt")


@pytest.fixture
def device(tmp_path: Path) -> DeviceKeys:
    return enrolled(run_keys(tmp_path / "keys"), "pi")


@pytest.fixture
def folder(device: DeviceKeys, tmp_path: Path) -> Path:
    folder = tmp_path / "identity"
    folder.mkdir(mode=0o700)
    write_device_keys(folder, device)
    return folder


def test_what_was_written_is_read(device: DeviceKeys, folder: Path) -> None:
    assert read_device_keys(folder) == device


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [None, b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nx\n"])
def test_a_part_of_an_identity_is_none(name: str, content: bytes | None, folder: Path) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(IdentityError, match="delete it and ask for another invitation") as raised:
        read_device_keys(folder)
    assert str(folder) in str(raised.value) and "keys init" not in str(raised.value)


def test_a_folder_that_is_none_of_ours(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="name another folder as identity"):
        read_device_keys(tmp_path / "photos")


def test_a_disk_that_refuses_leaves_nothing(device: DeviceKeys, tmp_path: Path) -> None:
    """The next invitation finds an empty folder, and not half of an identity."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # the first file, .gitignore, is smaller, and no key is
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_device_keys(tmp_path, device)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]
