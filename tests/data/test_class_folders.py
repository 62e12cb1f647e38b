"""Class names as folders and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.data.export import class_of, folder_name
from cutlayer.errors import DataError

CLOTHES = ("T-shirt/top", "Trouser", "Ankle boot")


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("Trouser", "Trouser"),
        ("T-shirt/top", "T-shirt/top"),
        ("T-shirt_top", "T-shirt/top"),
        ("T-shirt%2Ftop", "T-shirt/top"),
        ("T-shirt%2ftop", "T-shirt/top"),
        ("Ankle_boot", None),  # `_` is for a slash alone
        ("T-shirt", None),
        ("trouser", None),
    ],
)
def test_a_folder_is_of_a_class(folder: str, expected: str | None) -> None:
    assert class_of(folder, CLOTHES) == expected


def test_the_name_itself_comes_first() -> None:
    assert class_of("a_b", ("a/b", "a_b")) == "a_b"
    assert class_of("a%2Fb", ("a/b", "a_b")) == "a/b"
    assert class_of("a%2Fb", ("a/b", "a%2Fb")) == "a%2Fb"


def test_two_classes_that_it_may_be_are_refused() -> None:
    names = ("a/b_c", "a_b/c")
    with pytest.raises(DataError, match=r"'a_b_c' may be 'a/b_c' or 'a_b/c': write %2F"):
        class_of("a_b_c", names)
    assert class_of("a_b%2Fc", names) == "a_b/c"


def test_folders_are_plain_where_they_can_be() -> None:
    assert [folder_name(name, CLOTHES) for name in CLOTHES] == [
        "T-shirt_top",
        "Trouser",
        "Ankle boot",
    ]


@given(st.lists(st.text("ab/_%.2F é", min_size=1), min_size=1, unique=True))
def test_every_class_gets_a_folder_of_its_own_and_is_found_by_it(names: list[str]) -> None:
    folders = [folder_name(name, names) for name in names]
    assert not any("/" in folder or folder.startswith(".") for folder in folders)
    assert [class_of(folder, names) for folder in folders] == names
