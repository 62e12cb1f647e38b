from pathlib import Path

import pytest

from cutlayer.data.load import load_data
from cutlayer.errors import DataError
from data.sets import class_images, json_lines


def test_a_folder_of_no_known_form_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "something.bin").write_bytes(b"")
    with pytest.raises(DataError, match=r"recognises.*train\.bin.*train\.csv.*class folders"):
        load_data(str(tmp_path))


def test_a_task_that_does_not_fit_the_data_is_refused(tmp_path: Path) -> None:
    class_images(tmp_path, ("ant", "bee"), 3)
    with pytest.raises(DataError, match="is for image-classification, not for causal-lm"):
        load_data(str(tmp_path), task="causal-lm")


def test_labelled_text_serves_both_text_tasks(tmp_path: Path) -> None:
    json_lines(tmp_path / "train.jsonl", [{"text": "a", "label": n} for n in range(5)])
    json_lines(tmp_path / "test.jsonl", [{"text": "b", "label": 1}])
    for task in ("text-classification", "causal-lm"):
        data = load_data(str(tmp_path), task=task)
        assert data.task == task
        assert data.class_names == ("0", "1", "2", "3", "4")


def test_text_of_one_kind_cannot_be_classified(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo")
    with pytest.raises(DataError, match="has 1 class: text-classification needs two"):
        load_data(str(tmp_path / "a.txt"), task="text-classification", test_fraction=0.5)


def test_the_seed_decides_the_split(tmp_path: Path) -> None:
    class_images(tmp_path, ("ant", "bee"), 20)

    def places(seed: int) -> list[str]:
        test = load_data(str(tmp_path), seed=seed).test
        return [test.where(index) for index in range(len(test))]

    assert places(1) == places(1)
    assert places(1) != places(2)
