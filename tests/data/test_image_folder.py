"""Class folders: what is a sample, what is left out, and what is refused."""

import os
import shutil
from pathlib import Path

import pytest

from cutlayer.data.check import check_data
from cutlayer.data.left_out import left_out_sentence
from cutlayer.data.load import load_data
from cutlayer.data.samples import DataSet
from cutlayer.errors import DataError
from cutlayer.spec import LeftOut
from data.sets import class_images

CLASSES = ("green", "red")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        class_images(tmp_path / split, CLASSES, 6)
    return tmp_path


def left_out(data: DataSet) -> dict[str, int]:
    return {item.why: item.count for item in data.left_out}


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    source = sorted(folder.parents[1].rglob("0.png"))[0]
    for number in range(count):
        shutil.copy(source, folder / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    "name",
    [
        *(".thumbnails", ".ipynb_checkpoints", "@eaDir", "__MACOSX", "__pycache__"),
        *(".cache/deep", "#recycle", "$RECYCLE.BIN"),
    ],
)
@pytest.mark.parametrize("parent", ["train/red", "train", "."])
def test_hidden_folders_are_left_out_and_counted(folder: Path, parent: str, name: str) -> None:
    pictures(folder / parent / name, 5)
    data, bad = check_data(load_data(str(folder)))
    assert (len(data.train), len(data.test), bad) == (12, 12, ())
    assert data.class_names == CLASSES
    assert left_out(data) == {"hidden": 5}


def test_a_hidden_folder_that_is_the_systems_alone_is_no_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "lost+found").mkdir()
    access = os.access
    monkeypatch.setattr(
        "cutlayer.data.left_out.os.access",
        lambda path, mode: Path(path).name != "lost+found" and access(path, mode),
    )
    assert left_out(load_data(str(folder))) == {"hidden": 1}


def test_other_files_are_counted_by_their_kind(folder: Path) -> None:
    red = folder / "train" / "red"
    for name in ("._0.png", ".DS_Store", "Thumbs.db", "a.heic", "b.HEIC", "notes.txt", "plain"):
        (red / name).write_bytes(b"")
    shutil.copy(red / "0.png", folder / "train" / "stray.png")
    (folder / "README.md").write_text("")
    (folder / "labels.csv").write_text("")
    data = load_data(str(folder))
    assert len(data.train) == 12
    assert left_out(data) == {
        "hidden": 3,
        ".heic": 1,
        ".HEIC": 1,
        ".txt": 1,
        "without a suffix": 1,
        "stray.png": 1,
        "README.md": 1,
        "labels.csv": 1,
    }


def test_a_third_tree_is_counted(folder: Path) -> None:
    shutil.copytree(folder / "test", folder / "val")
    assert left_out(load_data(str(folder))) == {"in val/": 12}


@pytest.mark.parametrize("name", ["a.heic", "a.npy", "a.pdf", "a"])
def test_a_class_of_files_that_cannot_be_read_does_not_vanish(folder: Path, name: str) -> None:
    (folder / "train" / "blue").mkdir()
    (folder / "train" / "blue" / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"train/blue: the class has no image that can be read"):
        load_data(str(folder))


def test_an_empty_class_is_counted(folder: Path) -> None:
    (folder / "train" / "blue").mkdir()
    data = load_data(str(folder))
    assert data.class_names == CLASSES
    assert data.left_out == (LeftOut("class folders", "empty (blue)", 1),)


def test_suffixes_in_capitals_and_nested_folders_are_read(folder: Path) -> None:
    deep = folder / "train" / "red" / "sub" / "deep"
    deep.mkdir(parents=True)
    for suffix in (".PNG", ".Jpe", ".jfif"):
        shutil.copy(folder / "train" / "red" / "0.png", deep / f"x{suffix}")
    assert len(load_data(str(folder)).train) == 15


def test_linked_folders_are_read_and_a_loop_ends(folder: Path) -> None:
    red = folder / "train" / "red"
    (red / "loop").symlink_to(folder / "train", target_is_directory=True)
    (red / "self").symlink_to(red, target_is_directory=True)
    outside = pictures(folder / "elsewhere" / "more", 4)
    (folder / "train" / "blue").symlink_to(outside, target_is_directory=True)
    data = load_data(str(folder))
    assert data.class_names == ("blue", "green", "red")
    found = left_out(data)
    assert found["a link to a folder above it"] >= 2
    assert len({data.train.where(index) for index in range(len(data.train))}) == len(data.train)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    class_images(tmp_path, ("car", "plane", "train"), 4)
    data = load_data(str(tmp_path))
    assert data.class_names == ("car", "plane", "train")
    assert len(data.train) + len(data.test) == 12


@pytest.mark.parametrize("names", [("Train", "Test"), ("training", "testing"), ("test", "val")])
def test_splits_of_other_names_are_no_classes(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        class_images(tmp_path / name, CLASSES, 2)
    with pytest.raises(DataError, match=f"class folders in {', '.join(sorted(names))}, and none"):
        load_data(str(tmp_path))


def test_names_that_differ_in_what_cannot_be_seen_are_one_class(tmp_path: Path) -> None:
    class_images(tmp_path, ("caf\u00e9", "cafe\u0301", "red", "red "), 3)
    data = load_data(str(tmp_path))
    assert data.class_names == ("caf\u00e9", "red")
    assert len(data.train) + len(data.test) == 12


def test_a_folder_of_no_form_says_what_it_holds(tmp_path: Path) -> None:
    for place in range(3):
        (tmp_path / f"{place}.heic").write_bytes(b"")
    with pytest.raises(DataError, match=r"recognises \(it holds 3 \.heic\)"):
        load_data(str(tmp_path))


def test_what_is_left_out_is_one_sentence() -> None:
    assert left_out_sentence(()) == "nothing left out"
    some = (LeftOut("files", ".heic", 1), LeftOut("files", "hidden", 3), LeftOut("rows", "x", 1))
    assert left_out_sentence(some) == "left out 4 files: 3 hidden, 1 .heic; 1 row: 1 x"
    many = tuple(LeftOut("files", f".{place}", 1) for place in range(9))
    assert left_out_sentence(many) == "left out 9 files: 1 .0, 1 .1, 1 .2, 1 .3, 5 of other kinds"
