"""Pictures of odd depths and damaged ones: scaled, or a fault of their own."""

import os
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cutlayer.data.check import find_bad
from cutlayer.data.image_sets import ImageFiles, find_images, image_suffixes, read_image
from cutlayer.errors import DataError
from data.sets import picture

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
