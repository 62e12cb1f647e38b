"""Who is which device."""

from pathlib import Path

import pytest

from cutlayer.errors import RunError
from cutlayer.net.identity.run_keys import DeviceRegistry


def test_numbers_go_by_arrival_and_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "devices.json"
    first = DeviceRegistry(path, 2, ())
    assert [first.number(name) for name in ("b", "a", "b", "c")] == [0, 1, 0, None]
    again = DeviceRegistry(path, 2, ())
    assert [again.number(name) for name in ("a", "b", "c")] == [1, 0, None]
    assert [again.name(number) for number in range(3)] == ["b", "a", None]


def test_pinned_names_have_their_places(tmp_path: Path) -> None:
    registry = DeviceRegistry(tmp_path / "devices.json", 2, ("a", "b"))
    assert [registry.number(name) for name in ("b", "c", "a")] == [1, None, 0]
    assert not (tmp_path / "devices.json").exists()


def test_the_number_of_a_device_that_is_gone_goes_to_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "devices.json"
    registry = DeviceRegistry(path, 2, ())
    assert [registry.number(name) for name in ("a", "b", "c")] == [0, 1, None]
    assert registry.succeed("c", lambda name: False) is None
    assert registry.succeed("c", lambda name: name == "b") == 1
    for one in (registry, DeviceRegistry(path, 2, ())):
        assert [one.number(name) for name in ("a", "b", "c")] == [0, None, 1]


def test_a_pinned_number_is_not_given_to_another(tmp_path: Path) -> None:
    registry = DeviceRegistry(tmp_path / "devices.json", 2, ("a", "b"))
    assert registry.succeed("c", lambda name: True) is None
    assert registry.number("b") == 1


@pytest.mark.parametrize("text", ["{", "3"])
def test_a_damaged_file_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "devices.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match=r"devices\.json"):
        DeviceRegistry(path, 2, ())
