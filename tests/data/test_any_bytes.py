"""Files of any content: a data set that can be used, or an error that says why. Nothing else."""

import io
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cutlayer.data.batches import read_preprocessing
from cutlayer.data.check import check_data
from cutlayer.data.load import load_data
from cutlayer.data.samples import write_arrays
from cutlayer.errors import AssetError, DataError
from cutlayer.spec import Task
from data.sets import class_images, picture, tiny_imagenet

# what parsers stumble over, and plain letters between
PIECES = st.sampled_from(
    [
        *(
            '"',
            '""',
            ",",
            "\n",
            "\r",
            "\r\n",
            "\n\n",
            "\0",
            "\ufeff",
            " ",
            "\\",
            "{",
            "}",
            "[",
            "]",
        ),
        *(
            "]",
            ":",
            "text",
            "label",
            '"text"',
            '"label"',
            "null",
            "NaN",
            "1",
            "1.0",
            "true",
            "-1e999",
        ),
        *("a", "red", "caf\u00e9", "\u200b", "\u2028", '{"text": "a", "label": 1}\n', "a,red\n"),
        *('{"text": "a", "label": "\\ud800"}\n', '"a\nb",red\n', "[[[[", "text,label\n"),
    ]
)
CONTENTS = st.one_of(
    st.binary(max_size=200),
    st.lists(PIECES, max_size=30).map(lambda pieces: "".join(pieces).encode()),
    st.lists(PIECES, max_size=30).map(lambda pieces: "".join(["text,label\n", *pieces]).encode()),
    st.lists(PIECES, max_size=9).map(lambda pieces: "".join(pieces).encode("utf-16")),
)
Spot = tuple[float, bytes]
SPOTS = st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8))


@contextmanager
def folder() -> Iterator[Path]:
    """One for each example: a fixture would be shared by all."""
    path = Path(tempfile.mkdtemp())
    try:
        yield path
    finally:
        shutil.rmtree(path)


def use(path: Path, task: Task | None = None) -> int:
    """How many samples can be read, 0 for data that are refused; anything else is an error."""
    try:
        data, bad = check_data(load_data(str(path), task=task, test_fraction=0.4), "skip")
    except DataError as error:
        assert str(error)
        assert "\n" not in str(error)
        return 0
    assert all(sample.why for sample in bad)
    for split in (data.train, data.test):
        assert all(0 <= label < len(data.class_names) for label in split.labels)
        for index in range(len(split)):
            content = split.read(index)
            if isinstance(content, str):
                content.encode()
    return len(data.train) + len(data.test)


def damaged(content: bytes, spot: Spot) -> bytes:
    """The same with other bytes in one place."""
    place = int(spot[0] * len(content))
    return content[:place] + spot[1] + content[place + len(spot[1]) :]


@pytest.mark.parametrize("task", [None, "causal-lm"])
@pytest.mark.parametrize("name", ["d.csv", "d.jsonl", "d.json", "d.txt"])
@given(content=CONTENTS)
def test_texts_of_any_bytes(name: str, task: Task | None, content: bytes) -> None:
    with folder() as here:
        (here / name).write_bytes(content)
        use(here / name, task)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "ICO", "TGA"])
@given(spot=SPOTS)
@pytest.mark.filterwarnings("ignore")
def test_pictures_with_damage(kind: str, spot: Spot) -> None:
    raw = io.BytesIO()
    Image.fromarray(picture(0)).save(raw, kind)
    with folder() as here:
        class_images(here, ("ant", "bee"), 2)
        (here / "ant" / f"x.{kind.lower()}").write_bytes(damaged(raw.getvalue(), spot))
        assert use(here) in (4, 5)


@given(content=st.binary(max_size=100), suffix=st.sampled_from([".png", ".jpg", ".tif", ".fits"]))
@pytest.mark.filterwarnings("ignore")
def test_pictures_of_any_bytes(content: bytes, suffix: str) -> None:
    with folder() as here:
        class_images(here, ("ant", "bee"), 2)
        (here / "ant" / f"x{suffix}").write_bytes(content)
        assert use(here) in (4, 5)


@given(spot=SPOTS)
@pytest.mark.filterwarnings("ignore")
def test_arrays_with_damage(spot: Spot) -> None:
    images, labels = np.zeros((4, 2, 2), np.uint8), np.array([0, 1, 0, 1])
    with folder() as here:
        write_arrays(here, (images, labels), (images, labels), ("a", "b"))
        path = here / "images.npz"
        path.write_bytes(damaged(path.read_bytes(), spot))
        use(here)


@given(content=CONTENTS, name=st.sampled_from(["val/val_annotations.txt", "words.txt"]))
def test_listings_of_any_bytes(content: bytes, name: str) -> None:
    with folder() as here:
        tiny_imagenet(here, ("n01", "n02"), 1)
        (here / name).write_bytes(content)
        use(here)


@given(content=CONTENTS)
def test_a_preprocessor_file_of_any_bytes(content: bytes) -> None:
    with folder() as here:
        (here / "preprocessor_config.json").write_bytes(content)
        try:
            read_preprocessing(here)
        except AssetError as error:
            assert "preprocessor_config.json" in str(error)
