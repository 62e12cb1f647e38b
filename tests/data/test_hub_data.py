from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datasets.naming import camelcase_to_snakecase
from PIL import Image

from cutlayer.data.check import check_data
from cutlayer.data.hub import HuggingFaceHub
from cutlayer.data.hub_data import read_dataset
from cutlayer.data.load import load_data
from cutlayer.data.splits import Settings
from cutlayer.errors import AssetError, DataError
from data.sets import picture

Rows = dict[str, list[Any]]


def labelled_images(count: int) -> datasets.Dataset:
    rows: Rows = {
        "img": [Image.fromarray(picture(seed)) for seed in range(count)],
        "fine": [seed % 3 for seed in range(count)],
        "coarse": [0] * count,
    }
    features = datasets.Features(
        {
            "img": datasets.Image(),
            "fine": datasets.ClassLabel(names=["ant", "bee", "cat"]),
            "coarse": datasets.ClassLabel(names=["animal"]),
        }
    )
    return datasets.Dataset.from_dict(rows, features)


def splits(**rows: Rows) -> datasets.DatasetDict:
    return datasets.DatasetDict(
        {name: datasets.Dataset.from_dict(content) for name, content in rows.items()}
    )


def test_images_saved_to_disk_are_read_lazily(tmp_path: Path) -> None:
    whole = datasets.DatasetDict(train=labelled_images(6), test=labelled_images(3))
    whole.save_to_disk(tmp_path / "set")
    data = load_data(str(tmp_path / "set"), label_field="fine")
    assert data.task == "image-classification"
    assert data.class_names == ("ant", "bee", "cat")
    assert data.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert np.array_equal(data.train.read(4), picture(4))
    assert data.test.where(1).endswith("set test row 1")


def test_several_label_columns_must_be_chosen_from() -> None:
    with pytest.raises(DataError, match=r"several of classes: fine, coarse.*label_field"):
        read_dataset({"train": labelled_images(3)}, "owner/set", Settings())


def test_a_single_split_is_divided(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"text": [f"t{n}" for n in range(10)], "label": [0, 1] * 5})
    rows.save_to_disk(tmp_path)
    data = load_data(str(tmp_path), test_fraction=0.4)
    assert data.task == "text-classification"
    assert (len(data.train), len(data.test)) == (6, 4)
    assert data.class_names == ("0", "1")


def test_hidden_test_labels_give_way_to_the_validation_split() -> None:
    given = splits(
        train={"text": ["a", "b"], "label": [0, 1]},
        test={"text": ["c"], "label": [-1]},
        validation={"text": ["d"], "label": [1]},
    )
    pair, _ = read_dataset(given, "owner/set", Settings())
    assert pair.test.read(0) == "d"


def test_text_without_labels_is_for_language_modelling() -> None:
    given = splits(train={"text": ["a", "b"]}, test={"text": ["c"]})
    pair, task = read_dataset(given, "owner/set", Settings())
    assert task == "causal-lm"
    assert pair.class_names == ("text",)
    assert pair.train.labels.tolist() == [0, 0]


def test_rows_without_text_or_label_are_bad_samples(tmp_path: Path) -> None:
    given = splits(
        train={"text": ["a", None, "b"], "label": ["x", "y", None]},
        test={"text": ["c", "d"], "label": ["z", "x"]},
    )
    given.save_to_disk(tmp_path)
    _, bad = check_data(load_data(str(tmp_path)), "skip")
    assert [sample.index for sample in bad if "train" in sample.where] == [1, 2]
    assert [sample.where for sample in bad][-1].endswith("test row 0 (label 'z')")


def test_a_damaged_image_is_named() -> None:
    raw = datasets.Dataset.from_dict({"image": [b"no picture"], "label": [0]})
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    encoded = raw.map(lambda row: {"image": {"bytes": row["image"], "path": None}})
    given = {"train": encoded.cast(features), "test": encoded.cast(features)}
    pair, _ = read_dataset(given, "owner/set", Settings())
    with pytest.raises(DataError, match="owner/set train row 0 is not a readable image"):
        pair.train.read(0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"test": {"text": ["a"]}}, "no train split; it has: test"),
        ({"train": {"words": ["a"]}}, "none named 'text'; it has: words"),
    ],
)
def test_what_is_missing_is_told(rows: dict[str, Rows], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_dataset(splits(**rows), "owner/set", Settings())


def test_parquet_files_are_read(tmp_path: Path) -> None:
    given = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    given.to_parquet(tmp_path / "set" / "data" / "train-00000-of-00001.parquet")
    given.to_parquet(tmp_path / "set" / "data" / "test-00000-of-00001.parquet")
    data = load_data(str(tmp_path / "set"))
    assert (len(data.train), len(data.test)) == (2, 2)


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text("{}")
    with pytest.raises(DataError, match="cannot be opened by `datasets`"):
        load_data(str(tmp_path))


@pytest.mark.parametrize("name", ["My-Set", "MNISTData", "ag_news2News"])
def test_a_set_that_datasets_once_made_ready_is_found_without_network(
    tmp_path: Path, name: str
) -> None:
    source = tmp_path / "source"
    for split in ("train", "test"):
        given = datasets.Dataset.from_dict({"text": [split, "b"], "label": [0, 1]})
        given.to_parquet(source / f"{split}.parquet")
    ready = tmp_path / "ready"
    datasets.load_dataset(str(source), cache_dir=str(ready))
    (folder,) = ready.glob("*/*/*")
    # as the library files a set of the hub
    filed = ready / f"owner___{camelcase_to_snakecase(name)}"
    filed.mkdir()
    folder.parent.rename(filed / "default")
    hub = HuggingFaceHub("http://127.0.0.1:9", prepared=ready)
    data = load_data(f"owner/{name}", hub=hub, cache=tmp_path / "cache")
    assert data.source == "hub"
    assert data.location == f"owner/{name}"
    assert [data.train.read(0), data.test.read(0)] == ["train", "test"]


def test_a_damaged_ready_set_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "owner___set" / "default" / "0.0.0" / "hash"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text('{"splits": {"train": {}}}')
    with pytest.raises(AssetError, match="hash cannot be opened"):
        HuggingFaceHub("http://127.0.0.1:9", prepared=tmp_path).data("owner/set")
