import numpy as np
import pytest

from cutlayer.data.batches import TextBatches
from cutlayer.data.samples import ImageArray
from cutlayer.data.templates import tokenised
from cutlayer.errors import DataError
from data.sets import picture, texts

PAD = 99


def tokenize(contents: list[str]) -> list[list[int]]:
    """One id a letter."""
    return [[ord(letter) - ord("a") for letter in content] for content in contents]


def test_texts_are_truncated_and_padded_on_the_right() -> None:
    batch = TextBatches(tokenize, max_tokens=3, pad_id=PAD).make(
        texts(["abcd", "e", "fg"], [3, 4, 5]), np.array([2, 0, 1])
    )
    assert batch.inputs["input_ids"].tolist() == [[5, 6, PAD], [0, 1, 2], [4, PAD, PAD]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0]]
    assert batch.lengths == (2, 3, 1)
    assert batch.labels.tolist() == [5, 3, 4]


def test_a_batch_is_no_wider_than_its_longest_row() -> None:
    batch = TextBatches(tokenize, max_tokens=512, pad_id=PAD).make(texts(["ab"]), np.array([0]))
    assert batch.inputs["input_ids"].shape == (1, 2)


def test_what_the_model_passes_over_at_the_end_is_left_out() -> None:
    ids = {"a": [5, 9, 6, 9, 9], "b": [9, 9], "c": [5, 6, 7]}
    samples = texts(["a", "b", "c"])
    batch = TextBatches(lambda given: [ids[text] for text in given], 8, 9, unread=9).make(
        samples, np.arange(3)
    )
    assert batch.lengths == (3, 1, 3)
    assert batch.inputs["input_ids"].tolist() == [[5, 9, 6], [9, 9, 9], [5, 6, 7]]


def test_a_text_without_tokens_is_named() -> None:
    with pytest.raises(DataError, match="memory line 2: the tokenizer makes no token"):
        TextBatches(tokenize, 8, PAD).make(texts(["a", ""]), np.array([0, 1]))


def test_an_image_is_not_a_text() -> None:
    image = ImageArray(picture(0)[None], np.array([0]), "memory")
    with pytest.raises(DataError, match="memory index 0 is not a text"):
        TextBatches(tokenize, 8, PAD).make(image, np.array([0]))


def test_a_text_that_the_tokenizer_fails_on_is_named() -> None:
    def fragile(given: list[str]) -> list[list[int]]:
        if "bad" in given:
            raise TypeError("not this one")
        return [[1]] * len(given)

    samples = texts(["fine", "bad", "fine"])
    message = "memory line 2: the tokenizer fails on it: TypeError: not this one"
    with pytest.raises(DataError, match=message):
        TextBatches(fragile, 4, 0).make(samples, np.arange(3))
    with pytest.raises(DataError, match=message):
        tokenised(samples, range(3), fragile)
