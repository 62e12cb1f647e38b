"""A part of a data set as plain files: what is written is what a device would read."""

import json
from pathlib import Path

import numpy as np
import pytest

from cutlayer.data.check import Part, export_part, read_part
from cutlayer.data.load import load_data, read_path
from cutlayer.data.samples import DataSet, ImageArray, ReadSettings
from cutlayer.errors import DataError


def clothes() -> DataSet:
    images = np.random.default_rng(0).integers(0, 255, (12, 8, 8)).astype(np.uint8)
    samples = ImageArray(images, np.arange(12) % 2, "clothes")
    names = ("T-shirt/top", "Coat")
    return DataSet("clothes", "image-classification", samples, samples, names, "cache", "")


def test_pictures_become_class_folders(tmp_path: Path) -> None:
    data = clothes()
    assert export_part(data, tmp_path / "photos", Part(2, 3)) == 4
    pair, task = read_path(tmp_path / "photos", ReadSettings(test_fraction=None))
    assert (task, pair.class_names) == ("image-classification", ("Coat", "T-shirt_top"))
    read = {pair.train.read(at).tobytes() for at in range(4)}
    assert read == {data.train.read(at).tobytes() for at in (1, 4, 7, 10)}


@pytest.mark.parametrize("task", ["text-classification", "causal-lm"])
def test_texts_become_lines(tmp_path: Path, task: str) -> None:
    rows = [{"text": f"text {at}", "label": "ab"[at % 2]} for at in range(10)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = load_data(str(tmp_path / "in.jsonl"), task=task, test_fraction=0.2)  # type: ignore[arg-type]
    assert export_part(data, tmp_path / "own", Part(), most=3) == 3
    lines = [json.loads(line) for line in (tmp_path / "own/train.jsonl").read_text().splitlines()]
    assert len(lines) == 3
    labelled = [row if task == "text-classification" else {"text": row["text"]} for row in rows]
    assert all(line in labelled for line in lines)


def test_parts_share_nothing_and_leave_nothing_out() -> None:
    parts = [Part(number, 3).indices(10, None) for number in (1, 2, 3)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(10))
    assert Part(1, 2).indices(10, 2).tolist() == [0, 4]
    assert len(Part(1, 2).indices(10, 4)) == len(set(Part(1, 2).indices(10, 4).tolist())) == 4


@pytest.mark.parametrize("text", ["", "1", "0/3", "4/3", "1/0", "a/b", "-1/3", "1/3/5", "1.0/3"])
def test_what_is_no_part_is_told(text: str) -> None:
    with pytest.raises(DataError, match="is no part: 2/3 is the second of three"):
        read_part(text)


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    for folder in (tmp_path, tmp_path / "mine"):
        with pytest.raises(DataError, match="exists already"):
            export_part(clothes(), folder, Part())
    with pytest.raises(DataError, match="has 12 samples: no part 13/13"):
        export_part(clothes(), tmp_path / "new", Part(13, 13))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]
