"""A device reads back what it was dealt, in that order."""

from pathlib import Path

import numpy as np
import pytest
import tiny

from cutlayer.data.load import read_path
from cutlayer.data.partition import PreparedData
from cutlayer.data.samples import ReadSettings, Samples
from cutlayer.errors import DataError
from cutlayer.jobs.dataset import prepare_data
from cutlayer.lab.run import write_device_samples


def prepared(tmp_path: Path, data: Path, kind: str = "bert") -> PreparedData:
    model = tmp_path / "model"
    images = (data / "train.bin").is_file()
    made = tiny.vision_model(model) if images else tiny.text_model(model, kind)
    return prepare_data(tiny.config(made, data), made)


def read_back(folder: Path) -> tuple[Samples, tuple[str, ...]]:
    """As `cutlayer join --data` reads: nothing is held out."""
    pair, _ = read_path(folder, ReadSettings(test_fraction=None))
    assert not len(pair.test)
    return pair.train, pair.class_names


def test_images(tmp_path: Path) -> None:
    made = prepared(tmp_path, tiny.images(tmp_path / "images"))
    for device, part in enumerate(made.parts):
        own, names = read_back(write_device_samples(tmp_path / str(device), made, device))
        assert names == made.data.class_names
        assert np.array_equal(own.labels, made.data.train.labels[part])
        for place, index in enumerate(part):
            assert np.array_equal(own.read(place), made.data.train.read(int(index)))


def test_texts(tmp_path: Path) -> None:
    made = prepared(tmp_path, tiny.reviews(tmp_path / "reviews"))
    for device, part in enumerate(made.parts):
        own, names = read_back(write_device_samples(tmp_path / str(device), made, device))
        labels = [names[label] for label in own.labels]
        assert labels == [made.data.class_names[made.data.train.labels[index]] for index in part]
        texts = [own.read(place) for place in range(len(own))]
        assert texts == [made.data.train.read(int(index)) for index in part]


def test_blocks_of_tokens_are_no_samples_of_a_file(tmp_path: Path) -> None:
    made = prepared(tmp_path, tiny.corpus(tmp_path / "corpus"), "llama")
    with pytest.raises(DataError, match="for a language model"):
        write_device_samples(tmp_path / "0", made, 0)
