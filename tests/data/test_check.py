from pathlib import Path

import numpy as np
import pytest

from cutlayer.data.check import check_data, check_samples, find_bad
from cutlayer.data.image_sets import ImageFiles
from cutlayer.data.samples import DataSet, Subset
from cutlayer.errors import DataError, ModelError
from data.sets import class_images, texts

MIXED = ["fine", "  \n", None, "fine too", "odd label"]
MIXED_LABELS = [0, 1, 1, 1, 2]


def test_every_bad_sample_is_found_with_place_and_reason() -> None:
    bad = find_bad(texts(MIXED, MIXED_LABELS), classes=2)
    assert [(sample.index, sample.where) for sample in bad] == [
        (1, "memory line 2"),
        (2, "memory line 3"),
        (4, "memory line 5"),
    ]
    assert "empty" in bad[0].why
    assert "no text" in bad[1].why
    assert "none of the 2 classes" in bad[2].why


@pytest.mark.parametrize("label", [-1, 2, 99])
def test_a_label_out_of_range_is_bad(label: int) -> None:
    assert len(find_bad(texts(["text"], [label]), classes=2)) == 1


def test_damaged_images_are_found(tmp_path: Path) -> None:
    class_images(tmp_path, ("cat",), 4)
    paths = tuple(tmp_path / "cat" / f"{number}.png" for number in range(4))
    paths[1].write_bytes(paths[1].read_bytes()[:-40])
    paths[2].write_bytes(b"no picture")
    paths[3].unlink()
    bad = find_bad(ImageFiles(paths, np.zeros(4, np.int64)), classes=1)
    assert [sample.index for sample in bad] == [1, 2, 3]
    assert [sample.where for sample in bad] == [str(path) for path in paths[1:]]


def test_stop_names_the_first_few_and_the_count() -> None:
    many = texts([""] * 8 + ["good"])
    with pytest.raises(DataError, match=r"8 of 9 samples.*line 1: .*line 5: .*and 3 more"):
        check_samples(many, classes=1)


def test_skip_drops_the_bad_and_says_which() -> None:
    kept, bad = check_samples(texts(MIXED, MIXED_LABELS), 2, "skip")
    assert [kept.read(index) for index in range(len(kept))] == ["fine", "fine too"]
    assert kept.labels.tolist() == [0, 1]
    assert [sample.index for sample in bad] == [1, 2, 4]


def test_good_samples_stay_as_they_are() -> None:
    good = texts(["a", "b"])
    assert check_samples(good, 1) == (good, ())


def test_skipping_everything_is_refused() -> None:
    with pytest.raises(DataError, match="all 2 samples are bad"):
        check_samples(texts(["", ""]), 1, "skip")


def data_set(train: list[str | None], test: list[str | None]) -> DataSet:
    return DataSet(
        "set", "text-classification", texts(train), texts(test), ("one",), "path", "memory"
    )


def test_both_splits_are_checked_before_a_stop() -> None:
    with pytest.raises(DataError, match="2 of 5 samples"):
        check_data(data_set(["a", "", "b"], ["", "c"]))


def test_both_splits_are_cleaned() -> None:
    data, bad = check_data(data_set(["a", "", "b"], ["", "c"]), "skip")
    assert (len(data.train), len(data.test), len(bad)) == (2, 1, 2)
    assert data.name == "set"


def test_only_the_samples_that_will_be_used_are_read() -> None:
    used = Subset(texts(["", "a", "b"]), np.array([2, 1]))
    assert find_bad(used, 1) == ()
    assert used.where(0) == "memory line 3"


def fragile(texts: list[str]) -> list[list[int]]:
    """A tokenizer that cannot stand an x, makes nothing of y, and knows a z that no model has."""
    if any("z" in text for text in texts):
        raise ModelError("token 'z' has id 9")
    if any("x" in text for text in texts):
        raise TypeError("TextEncodeInput must be " + "Union" * 50)
    return [[1] * (text != "y") for text in texts]


def test_a_text_that_the_tokenizer_fails_on_is_bad() -> None:
    bad = find_bad(texts(["a", "x", "y"]), 1, fragile)
    assert [sample.where for sample in bad] == ["memory line 2", "memory line 3"]
    assert bad[0].why.startswith("the tokenizer fails on it: TypeError: TextEncodeInput must be")
    assert len(bad[0].why) < 130
    assert bad[1].why == "the tokenizer makes no token of it"
    assert len(check_samples(texts(["a", "x", "y"]), 1, "skip", fragile)[0]) == 1


def test_a_token_without_embedding_is_no_fault_of_the_sample() -> None:
    with pytest.raises(ModelError, match="memory line 2: token 'z' has id 9"):
        check_samples(texts(["a", "z"]), 1, "skip", fragile)
