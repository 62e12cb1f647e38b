import struct
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets.naming import camelcase_to_snakecase
from PIL import Image

from cutlayer.data.check import check_data, find_bad
from cutlayer.data.find import HuggingFaceHub
from cutlayer.data.hub_data import read_dataset
from cutlayer.data.load import load_data
from cutlayer.data.samples import Conversation, ReadSettings
from cutlayer.errors import AssetError, DataError
from cutlayer.spec import LeftOut
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
        read_dataset({"train": labelled_images(3)}, "owner/set", ReadSettings())


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
    pair, _ = read_dataset(given, "owner/set", ReadSettings())
    assert pair.test.read(0) == "d"


def test_text_without_labels_is_for_language_modelling() -> None:
    given = splits(train={"text": ["a", "b"]}, test={"text": ["c"]})
    pair, task = read_dataset(given, "owner/set", ReadSettings())
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
    pair, _ = read_dataset(given, "owner/set", ReadSettings())
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
        read_dataset(splits(**rows), "owner/set", ReadSettings())


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


def test_labels_and_texts_are_read_as_in_tables(tmp_path: Path) -> None:
    given = splits(
        train={
            "text": ["a", "b", " ", "d", "e"],
            "label": [0.0, 1.0, 1.0, float("nan"), 0.0],
        },
        test={"text": ["c"], "label": [1.0]},
    )
    given.save_to_disk(tmp_path)
    data, bad = check_data(load_data(str(tmp_path)), "skip")
    assert data.class_names == ("0", "1")
    assert [(sample.index, sample.why.split(": ")[-1]) for sample in bad] == [
        (2, "its text is empty"),
        (3, "it has no label (nan stands for none)"),
    ]


def test_a_text_that_cannot_be_decoded_costs_itself_alone(tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"caf\xe9", b"good"] * 4, pa.binary())
    text = pa.StringArray.from_buffers(len(raw), *raw.buffers()[1:])
    rows = datasets.Dataset(pa.table({"text": text, "label": [0, 1] * 6}))
    rows.save_to_disk(tmp_path / "set")
    data, bad = check_data(load_data(str(tmp_path / "set"), test_fraction=0.5), "skip")
    assert len(bad) == 4
    assert all("its 'text' cannot be decoded ('utf-8' codec" in sample.why for sample in bad)
    assert len(data.train) + len(data.test) == 8


def test_whatever_a_decoder_raises_is_the_rows_fault() -> None:
    class Rows:
        features: ClassVar = {"image": datasets.Image(), "label": datasets.Value("int64")}

        def select_columns(self, names: list[str]) -> "Rows":
            return self

        def __len__(self) -> int:
            return 3

        def __getitem__(self, key: object) -> Any:
            if key == "label":
                return [0, 1, 0]
            raise [struct.error("unpack"), RecursionError("deep"), KeyError(1)][int(str(key))]

    pair, _ = read_dataset({"train": Rows(), "test": Rows()}, "owner/set", ReadSettings())
    bad = find_bad(pair.train, 2)
    assert [sample.index for sample in bad] == [0, 1, 2]
    assert all("is not a readable image: " in sample.why for sample in bad)


def test_a_row_without_an_image_or_label_is_a_bad_sample() -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = {"image": [None, Image.fromarray(picture(0))] * 2, "label": [0, 1, 0, None]}
    given = datasets.Dataset.from_dict(rows, features)
    pair, _ = read_dataset({"train": given, "test": given}, "owner/set", ReadSettings())
    why = [sample.why.split(": ")[-1] for sample in find_bad(pair.train, 2)]
    assert why == ["it is empty", "it is empty", "it has no label"]


def test_rows_of_other_splits_and_files_of_none_are_left_out(tmp_path: Path) -> None:
    rows: Rows = {"text": ["a", "b"], "label": [0, 1]}
    given = splits(train=rows, test=rows, unsupervised=rows)
    pair, _ = read_dataset(given, "owner/set", ReadSettings())
    assert pair.left_out == (LeftOut("rows", "of split unsupervised", 2),)
    given["train"].to_parquet(tmp_path / "train.parquet")
    given["train"].to_parquet(tmp_path / "extra.parquet")
    (tmp_path / "notes.md").write_text("")
    assert load_data(str(tmp_path)).left_out == (
        LeftOut("files", ".parquet", 1),
        LeftOut("files", ".md", 1),
    )


def test_one_parquet_file_is_split(tmp_path: Path) -> None:
    given = datasets.Dataset.from_dict({"text": ["a", "b"] * 5, "label": [0, 1] * 5})
    given.to_parquet(tmp_path / "d.parquet")
    data = load_data(str(tmp_path / "d.parquet"))
    assert (len(data.train), len(data.test)) == (8, 2)


def test_a_parquet_column_given_twice_is_refused(tmp_path: Path) -> None:
    columns = [pa.array(["a"] * 4), pa.array([0, 1] * 2), pa.array([1, 0] * 2)]
    table = pa.Table.from_arrays(columns, names=["text", "label", "label"])
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"Multiple matches for .*label"):
        load_data(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "told"), [([["a"]], "a list"), ([b"a"], "bytes"), ([1.5], "a number")]
)
def test_a_column_of_other_things_than_texts_is_refused(text: list[Any], told: str) -> None:
    rows: Rows = {"text": text * 4, "label": [0, 1] * 2}
    with pytest.raises(DataError, match=f"train: the column 'text' holds no text, but {told}"):
        read_dataset(splits(train=rows), "owner/set", ReadSettings())


def test_half_an_example_is_refused_for_a_language_model() -> None:
    rows: Rows = {"question": ["a"] * 4, "completion": ["b"] * 4}
    settings = ReadSettings("causal-lm", text_field="completion")
    with pytest.raises(DataError, match="the other is in question"):
        read_dataset(splits(train=rows), "owner/set", settings)


def test_conversations_of_a_hub_s_set(tmp_path: Path) -> None:
    """A table of one type for all turns fills in what some of them have."""
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    call = {"name": "f", "arguments": {"a": 1}}
    calling = [
        turns[0],
        {"role": "assistant", "content": None, "tool_calls": [{"function": call}]},
    ]
    rows: Rows = {"messages": [turns, calling, turns, turns], "who": ["x", "y", "x", None]}
    whole = splits(train=rows, test=rows)
    pair, task = read_dataset(whole, "owner/set", ReadSettings(group_field="who"))
    assert (task, str(pair.reading)) == ("causal-lm", "conversations from column messages")
    plain, called = pair.train.read(0), pair.train.read(1)
    assert isinstance(plain, Conversation) and isinstance(called, Conversation)
    assert plain.turns == tuple(turns)
    assert called.turns[1]["tool_calls"] == [{"type": "function", "function": call}]
    assert pair.train.groups is not None and pair.train.groups[:3].tolist() == [1, 2, 1]
    assert [one.why for one in find_bad(pair.train, 1)] == [
        "owner/set train row 3: it has no value in the column 'who'"
    ]
    assert find_bad(pair.test, 1) == ()
    pq.write_table(whole["train"].data.table, tmp_path / "rows.parquet")
    assert str(load_data(str(tmp_path / "rows.parquet")).reading) == str(pair.reading)
