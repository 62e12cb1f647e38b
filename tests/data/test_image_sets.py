"""Image sets in every form that is read, and their files."""

import os
import shutil
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cutlayer.data.check import check_data, class_of, find_bad, folder_name
from cutlayer.data.image_sets import (
    ImageFiles,
    find_images,
    image_suffixes,
    read_arrays,
    read_image,
)
from cutlayer.data.left_out import left_out_sentence
from cutlayer.data.load import load_data
from cutlayer.data.samples import DataSet, write_arrays
from cutlayer.errors import DataError
from cutlayer.spec import LeftOut
from data.sets import cifar_records, class_images, picture, tiny_imagenet

ANIMALS = ("ant", "bee", "cat")


def test_a_tree_of_class_folders_gives_up_a_test_split(tmp_path: Path) -> None:
    class_images(tmp_path, ANIMALS, 10)
    data = load_data(str(tmp_path), test_fraction=0.3)
    assert data.task == "image-classification"
    assert data.class_names == ANIMALS
    assert (len(data.train), len(data.test)) == (21, 9)
    assert np.bincount(data.test.labels).tolist() == [3, 3, 3]
    assert data.source == "path"


@pytest.mark.parametrize("name", ["test", "val", "validation"])
def test_train_and_test_trees_are_kept(tmp_path: Path, name: str) -> None:
    class_images(tmp_path / "train", ANIMALS, 2)
    class_images(tmp_path / name, ANIMALS[1:], 1)
    data = load_data(str(tmp_path))
    assert data.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.test.labels.tolist() == [1, 2]
    assert np.array_equal(data.train.read(3), picture(101))
    assert data.train.where(3) == str(tmp_path / "train" / "bee" / "1.png")


def test_a_train_tree_alone_is_split(tmp_path: Path) -> None:
    class_images(tmp_path / "train", ANIMALS, 5)
    assert len(load_data(str(tmp_path)).test) == 3


def test_a_test_class_that_training_lacks_is_a_bad_label(tmp_path: Path) -> None:
    class_images(tmp_path / "train", ANIMALS[:2], 2)
    class_images(tmp_path / "test", ANIMALS, 1)
    with pytest.raises(DataError, match=r"1 of 7 .*cat/0\.png: its label is none of the 2"):
        check_data(load_data(str(tmp_path)))


def test_hidden_and_other_files_are_no_samples(tmp_path: Path) -> None:
    class_images(tmp_path, ANIMALS, 5)
    (tmp_path / "ant" / ".0.png").write_bytes(b"")
    (tmp_path / "ant" / "notes.txt").write_text("notes")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "empty").mkdir()
    data = load_data(str(tmp_path))
    assert len(data.train) + len(data.test) == 15
    assert data.class_names == ANIMALS


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    class_images(tmp_path, ("ant",), 5)
    with pytest.raises(DataError, match="has 1 class"):
        load_data(str(tmp_path))


def test_pictures_of_every_kind_are_read_as_rgb(tmp_path: Path) -> None:
    red = np.zeros((4, 6, 4), np.uint8)
    red[:, :3] = (255, 0, 0, 255)  # the right half is transparent
    Image.fromarray(red).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, 0].tolist() == [255, 0, 0]
    assert read_image(tmp_path / "a.png")[0, 5].tolist() == [255, 255, 255]
    Image.fromarray(red[:, :, 0]).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png").shape == (4, 6, 3)
    Image.fromarray(red).convert("P").save(tmp_path / "palette.gif")
    assert read_image(tmp_path / "palette.gif").shape == (4, 6, 3)


def test_a_camera_that_was_turned_is_turned_back(tmp_path: Path) -> None:
    image = Image.fromarray(picture(0)[:4])
    exif = image.getexif()
    exif[274] = 6  # orientation: turn by 90 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "turned.png"), np.rot90(picture(0)[:4], -1))


def test_cifar100_is_read_plane_by_plane(tmp_path: Path) -> None:
    (tmp_path / "train.bin").write_bytes(cifar_records([2, 0, 1]))
    (tmp_path / "test.bin").write_bytes(cifar_records([1]))
    (tmp_path / "fine_label_names.txt").write_text("apple\nbear\nclock\n")
    data = load_data(str(tmp_path))
    assert data.class_names == ("apple", "bear", "clock")
    assert data.train.labels.tolist() == [2, 0, 1]
    assert np.array_equal(data.train.read(2), picture(2, 32))
    assert len(data.test) == 1


def test_cifar100_without_names_has_its_hundred_classes(tmp_path: Path) -> None:
    (tmp_path / "train.bin").write_bytes(cifar_records([99, 100]))
    (tmp_path / "test.bin").write_bytes(cifar_records([1]))
    data = load_data(str(tmp_path))
    assert len(data.class_names) == 100
    kept, bad = check_data(data, "skip")
    assert [sample.where for sample in bad] == [f"{tmp_path}/train.bin index 1"]
    assert len(kept.train) == 1


@pytest.mark.parametrize("content", [b"", cifar_records([1])[:-1]])
def test_a_cut_cifar_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train.bin").write_bytes(cifar_records([1]))
    (tmp_path / "test.bin").write_bytes(content)
    with pytest.raises(DataError, match=r"test\.bin has \d+ bytes, not a multiple"):
        load_data(str(tmp_path))


def test_tiny_imagenet_is_read_from_its_folders(tmp_path: Path) -> None:
    tiny_imagenet(tmp_path, ("n02", "n01"), 3)
    data = load_data(str(tmp_path))
    assert data.class_names == ("name1", "name0")  # in the wnids' order
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test.labels.tolist() == [1, 0]
    assert data.test.where(0).endswith("val/images/val_0.JPEG")
    assert check_data(data)[1] == ()


def test_a_missing_validation_image_is_a_bad_sample(tmp_path: Path) -> None:
    tiny_imagenet(tmp_path, ("n01", "n02"), 1)
    (tmp_path / "val" / "images" / "val_1.JPEG").unlink()
    _, bad = check_data(load_data(str(tmp_path)), "skip")
    assert [sample.index for sample in bad] == [1]


def test_annotations_of_another_kind_are_refused(tmp_path: Path) -> None:
    tiny_imagenet(tmp_path, ("n01", "n02"), 1)
    (tmp_path / "val" / "val_annotations.txt").write_text("one column\n")
    with pytest.raises(DataError, match="two tab-separated columns"):
        load_data(str(tmp_path))


@pytest.mark.parametrize("shape", [(4, 5, 5), (4, 5, 5, 3)])
def test_arrays_are_read_as_they_were_written(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    labels = np.array([0, 1, 1, 0])
    write_arrays(tmp_path, (images, labels), (images[:2], labels[:2]), ("no", "yes"))
    data = load_data(str(tmp_path))
    assert data.class_names == ("no", "yes")
    assert np.array_equal(data.train.labels, labels)
    read = data.train.read(3)
    assert np.array_equal(read[:, :, 0], images[3] if images.ndim == 3 else images[3, :, :, 0])
    assert data.test.where(1) == "images.npz test index 1"


def test_an_array_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    images, labels = np.zeros((4, 5, 5), np.uint8), np.zeros(3, np.int64)
    write_arrays(tmp_path, (images, labels), (images, labels), ("a",))
    with pytest.raises(DataError, match="expected uint8"):
        read_arrays(tmp_path)
    (tmp_path / "images.npz").write_bytes(b"PK no archive")
    with pytest.raises(DataError, match="not a readable image array file"):
        read_arrays(tmp_path)


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", class_names=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="allow_pickle"):
        read_arrays(tmp_path)


def test_what_lies_beside_arrays_and_records_is_counted(tmp_path: Path) -> None:
    (tmp_path / "train.bin").write_bytes(cifar_records([1]))
    (tmp_path / "test.bin").write_bytes(cifar_records([1]))
    (tmp_path / "batches.meta").write_text("")
    assert load_data(str(tmp_path)).left_out == (LeftOut("files", "batches.meta", 1),)
    images, labels = np.zeros((4, 5, 5), np.uint8), np.arange(4)
    write_arrays(tmp_path, (images, labels), (images, labels), ("a", "b", "c", "d"))
    (tmp_path / "asset.json").write_text("{}")
    found = load_data(str(tmp_path)).left_out
    assert {(item.why, item.count) for item in found} == {
        (".bin beside them", 2),
        ("batches.meta", 1),
    }


def test_labels_that_are_no_whole_numbers_are_refused(tmp_path: Path) -> None:
    images, labels = np.zeros((2, 5, 5), np.uint8), np.array([0, 1])
    write_arrays(tmp_path, (images, labels), (images, labels), ("a", "b"))
    with np.load(tmp_path / "images.npz") as file:
        arrays = {**file, "train_labels": labels + 0.5}
    np.savez(tmp_path / "images.npz", **arrays)
    with pytest.raises(DataError, match="train_labels are not whole numbers"):
        load_data(str(tmp_path))


def test_hidden_and_unlabelled_pictures_of_tiny_imagenet_are_counted(tmp_path: Path) -> None:
    tiny_imagenet(tmp_path, ("n01", "n02"), 2)
    (tmp_path / "train" / "n01" / "images" / ".thumbs").mkdir()
    for place in ("train/n01/images/.thumbs/a.JPEG", "val/images/more.JPEG", "train/n01/a.txt"):
        (tmp_path / place).write_bytes(b"")
    (tmp_path / "test" / "images").mkdir(parents=True)
    (tmp_path / "test" / "images" / "0.JPEG").write_bytes(b"")
    data = load_data(str(tmp_path))
    assert (len(data.train), len(data.test)) == (4, 2)
    assert {(item.why, item.count) for item in data.left_out} == {
        ("hidden", 1),
        (".txt", 1),
        ("in test/", 1),
        ("of val without an annotation", 1),
    }


def test_a_class_is_named_once(tmp_path: Path) -> None:
    split = (np.zeros((4, 8, 8), np.uint8), np.arange(4) % 2)
    write_arrays(tmp_path, split, split, ("red", "red "))
    with pytest.raises(DataError, match="the class 'red' twice"):
        load_data(str(tmp_path))


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


LEVELS = np.array([[0, 128, 257], [3000, 32896, 65535]])
# v / 257, rounded
EIGHT_BITS = [[0, 0, 1], [12, 128, 255]]


def levels(path: Path) -> list[list[int]]:
    """The grey of a picture whose channels are equal."""
    image = read_image(path)
    assert image.dtype == np.uint8
    assert np.array_equal(image[:, :, 0], image[:, :, 2])
    grey: list[list[int]] = image[:, :, 0].tolist()
    return grey


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm", "a.jp2"])
def test_grey_of_16_bits_keeps_its_levels(tmp_path: Path, name: str) -> None:
    Image.fromarray(LEVELS.astype(np.uint16)).save(tmp_path / name)
    assert levels(tmp_path / name) == EIGHT_BITS


@pytest.mark.parametrize("kind", [">u2", np.int32, np.float32])
def test_tiff_of_any_number_is_scaled_by_its_range(tmp_path: Path, kind: str | type) -> None:
    Image.fromarray(LEVELS.astype(kind)).save(tmp_path / "a.tif")
    assert levels(tmp_path / "a.tif") == EIGHT_BITS


def test_floats_up_to_1_are_scaled(tmp_path: Path) -> None:
    values = np.array([[0.0, 0.25], [0.5, 1.0]], np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert levels(tmp_path / "a.tif") == [[0, 64], [128, 255]]


def test_a_dark_picture_whose_format_tells_its_depth_stays_dark(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 200, np.uint16)).save(tmp_path / "a.pgm")
    assert levels(tmp_path / "a.pgm") == [[1, 1], [1, 1]]


@pytest.mark.parametrize(
    "values",
    [
        np.array([[0, 200]], np.int32),  # 8 or 16 bits
        np.array([[0.0, 200.0]], np.float32),
        np.array([[-1, 3000]], np.int32),
        np.array([[0, 70000]], np.int32),
        np.array([[-0.5, 0.5]], np.float32),
        np.array([[0.0, np.nan]], np.float32),
        np.array([[0.0, np.inf]], np.float32),
    ],
)
def test_a_range_that_says_nothing_is_refused(tmp_path: Path, values: np.ndarray) -> None:
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif .*values of 32 bits reach from .*8 or 16 bits"):
        read_image(tmp_path / "a.tif")


def test_a_clear_grey_of_16_bits_lies_on_white(tmp_path: Path) -> None:
    values = np.array([[3000, 60000]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png", transparency=3000)
    assert levels(tmp_path / "a.png") == [[255, 233]]


@pytest.mark.parametrize(
    "error",
    [
        struct.error("unpack"),
        RecursionError("deep"),
        OverflowError(),
        TypeError("bytes"),
        KeyError(274),
        ZeroDivisionError(),
        AssertionError(),
        UserWarning("truncated"),
    ],
)
def test_whatever_a_library_raises_is_the_samples_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    Image.fromarray(picture(0)).save(tmp_path / "a.png")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("cutlayer.data.image_sets.ImageOps.exif_transpose", fail)
    with pytest.raises(DataError, match=r"a\.png is not a readable image: \S"):
        read_image(tmp_path / "a.png")


def test_lack_of_memory_is_no_samples_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(picture(0)).save(tmp_path / "a.png")

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("cutlayer.data.image_sets.ImageOps.exif_transpose", fail)
    with pytest.raises(MemoryError):
        read_image(tmp_path / "a.png")


def test_an_odd_exif_costs_no_more_than_its_picture(tmp_path: Path) -> None:
    paths = []
    for number, exif in enumerate([b"", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0rubbish"]):
        path = tmp_path / f"{number}.jpg"
        Image.fromarray(picture(number)).save(path, exif=exif)
        paths.append(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bad = find_bad(ImageFiles(tuple(paths), np.zeros(3, np.int64)), 1)
    assert {sample.index for sample in bad} <= {1, 2}


def test_suffixes_are_those_that_pillow_reads_as_pictures() -> None:
    known = {".png", ".jpg", ".jfif", ".jpe", ".webp", ".tif", ".pgm", ".mpo", ".tga", ".bmp"}
    assert known <= image_suffixes()
    assert not {".pdf", ".eps", ".ps", ".mpg", ".h5", ".wmf", ".npy", ".heic"} & image_suffixes()


def test_a_broken_link_is_a_bad_sample_and_a_pipe_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "nowhere.png")
    (bad,) = find_bad(ImageFiles((tmp_path / "a.png",), np.zeros(1, np.int64)), 1)
    assert "No such file" in bad.why
    os.mkfifo(tmp_path / "b.png")
    tree = find_images(tmp_path)
    assert [path.name for path in tree.paths] == ["a.png"]
    assert tree.others == {"no regular file": 1}


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
