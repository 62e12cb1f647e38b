import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.data.batches import BlockBatches, Blocks, TextBatches
from cutlayer.data.samples import ImageArray
from cutlayer.errors import DataError
from cutlayer.spec import IGNORED_LABEL
from data.sets import picture, texts

PAD, SEPARATOR = 99, 50


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


documents = st.lists(st.text("abcdefgh", min_size=1, max_size=12), min_size=1, max_size=8)


@given(documents, st.integers(2, 9))
def test_blocks_are_the_documents_one_after_the_other(contents: list[str], width: int) -> None:
    blocks = Blocks(texts(contents, list(range(len(contents)))), tokenize, width, SEPARATOR)
    joined = [token for ids in tokenize(contents) for token in [*ids, SEPARATOR]]
    rows = [blocks.read(index).tolist() for index in range(len(blocks))]
    assert all(len(row) == width for row in rows[:-1])
    together = [token for row in rows for token in row]
    assert together == joined[: len(together)]
    assert len(joined) - len(together) <= 1  # one token alone predicts nothing


@given(documents, st.integers(2, 9))
def test_a_block_has_the_label_of_the_document_it_starts_in(
    contents: list[str], width: int
) -> None:
    blocks = Blocks(texts(contents, list(range(len(contents)))), tokenize, width, SEPARATOR)
    owners = [place for place, text in enumerate(contents) for _ in range(len(text) + 1)]
    assert blocks.labels.tolist() == [owners[index * width] for index in range(len(blocks))]


def test_a_block_says_where_it_starts() -> None:
    blocks = Blocks(texts(["abc", "defgh"]), tokenize, 4, SEPARATOR)
    assert blocks.where(1) == "memory line 2, block 1"


@pytest.mark.parametrize("width", [1, 0])
def test_a_block_needs_two_tokens(width: int) -> None:
    with pytest.raises(DataError, match=f"max_tokens is {width}"):
        Blocks(texts(["abc"]), tokenize, width, SEPARATOR)


def test_no_text_gives_no_block() -> None:
    with pytest.raises(DataError, match="1 tokens in all give no block"):
        Blocks(texts([""]), tokenize, 4, SEPARATOR)


def test_language_modelling_labels_are_the_ids_and_ignore_padding() -> None:
    blocks = Blocks(texts(["abcde"]), tokenize, 4, SEPARATOR)
    batch = BlockBatches(pad_id=SEPARATOR).make(blocks, np.array([0, 1]))
    assert batch.inputs["input_ids"].tolist() == [[0, 1, 2, 3], [4, SEPARATOR, 50, 50]]
    # a real separator counts even where it is the padding's id
    assert batch.labels.tolist() == [
        [0, 1, 2, 3],
        [4, SEPARATOR, IGNORED_LABEL, IGNORED_LABEL],
    ]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.lengths == (4, 2)


def test_a_document_is_not_a_block() -> None:
    with pytest.raises(DataError, match="memory line 1 is not a block"):
        BlockBatches(PAD).make(texts(["abc"]), np.array([0]))


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
        Blocks(samples, fragile, 4, 0)
