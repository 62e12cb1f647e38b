"""The forms that hold images: class folders, CIFAR-100's binary, Tiny-ImageNet, arrays."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cutlayer.data.check import check_data
from cutlayer.data.image_sets import read_arrays, read_image
from cutlayer.data.load import load_data
from cutlayer.data.samples import write_arrays
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
