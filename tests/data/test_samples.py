"""What a loader gives: labels as indices, and a test split where there is none."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cutlayer.data.samples import index_labels, name_classes, split_off_test
from cutlayer.errors import DataError
from data.sets import texts


def test_whole_numbers_are_ordered_by_value_and_words_by_alphabet() -> None:
    assert name_classes(["10", "9", None, "9"]) == ("9", "10")
    assert name_classes(["b", "10", "a"]) == ("10", "a", "b")


def test_unknown_and_missing_labels_are_minus_one() -> None:
    assert index_labels(["b", None, "c", "a"], ("a", "b")).tolist() == [1, -1, -1, 0]


@given(st.integers(2, 200), st.floats(0.05, 0.95), st.integers(0, 2**32))
def test_a_split_deals_every_sample_once_and_each_class_by_its_share(
    count: int, fraction: float, seed: int
) -> None:
    assume(1 <= fraction * count <= count - 1)
    labels = [index % 3 for index in range(count)]
    whole = texts([str(index) for index in range(count)], labels)
    pair = split_off_test(whole, ("a", "b", "c"), fraction, seed)
    sides = [
        [int(str(part.read(index))) for index in range(len(part))]
        for part in (pair.train, pair.test)
    ]
    assert sorted(sides[0] + sides[1]) == list(range(count))
    assert abs(len(sides[1]) - fraction * count) < 1
    for label in range(3):
        share = fraction * labels.count(label)
        taken = int((pair.test.labels == label).sum())
        # a class is a stretch of the line: floor(end) - floor(start), within one of its length
        assert abs(taken - share) < 1 + 1e-9


def test_the_seed_decides() -> None:
    whole = texts([str(index) for index in range(100)])

    def held_out(seed: int) -> list[str]:
        part = split_off_test(whole, ("a",), 0.2, seed).test
        return [str(part.read(index)) for index in range(len(part))]

    assert held_out(1) == held_out(1)
    assert held_out(1) != held_out(2)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_a_fraction_outside_zero_and_one_is_refused(fraction: float) -> None:
    with pytest.raises(DataError, match="test_fraction is"):
        split_off_test(texts(["a", "b"]), ("a",), fraction, 0)


def test_nothing_is_held_out_where_nobody_tests() -> None:
    samples = texts(["x", "y", "z"])
    pair = split_off_test(samples, ("a", "b"), None, 0)
    assert pair.train is samples and len(pair.test) == 0


def test_a_split_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="1 samples cannot be split"):
        split_off_test(texts(["a"]), ("a",), 0.5, 0)


def test_labels_survive() -> None:
    pair = split_off_test(texts(list("abcdef"), [0, 1, 2, 0, 1, 2]), ("x", "y", "z"), 0.5, 0)
    assert sorted(np.concatenate([pair.train.labels, pair.test.labels])) == [0, 0, 1, 1, 2, 2]
