"""Rows of tokens: documents one a row, packed, or joined and cut into blocks."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.data.rows import (
    Blocks,
    PackedRows,
    TokenBatches,
    TokenRows,
    document_row,
    shorten,
    token_row,
    whole_row,
)
from cutlayer.data.samples import Samples
from cutlayer.errors import DataError
from cutlayer.spec import IGNORED_LABEL, TooLong
from data.sets import texts

PAD, SEPARATOR = 99, 50


def letters(text: str) -> list[int]:
    """One id a letter."""
    return [ord(letter) - ord("a") for letter in text]


def joined(contents: list[str]) -> TokenRows:
    """Documents that end in the separator; each of a category of its own."""
    rows = [whole_row([*letters(content), SEPARATOR]) for content in contents]
    return TokenRows(texts(contents, list(range(len(contents)))), rows)


def counted(*contents: str, groups: Sequence[int] | None = None) -> TokenRows:
    """Documents in which vowels count."""
    rows = [document_row(letters(one), [letter in "aeiou" for letter in one]) for one in contents]
    samples = texts(list(contents), list(range(len(contents))))
    made = TokenRows(samples, rows)
    made.groups = None if groups is None else np.array(groups)
    return made


def spelt(samples: Samples, index: int) -> str:
    """A row in letters, in upper case where they count."""
    row = token_row(samples, index)
    return "".join(
        chr(ord("a") + token).upper() if label == token else chr(ord("a") + token)
        for token, label in zip(row.ids.tolist(), row.labels.tolist(), strict=True)
    )


documents = st.lists(st.text("abcdefgh", min_size=1, max_size=12), min_size=1, max_size=8)


@given(documents, st.integers(2, 9))
def test_blocks_are_the_documents_one_after_the_other(contents: list[str], width: int) -> None:
    blocks = Blocks(joined(contents), width)
    whole = [token for text in contents for token in [*letters(text), SEPARATOR]]
    rows = [blocks.read(index).ids.tolist() for index in range(len(blocks))]
    assert all(len(row) == width for row in rows[:-1])
    together = [token for row in rows for token in row]
    assert together == whole[: len(together)]
    assert len(whole) - len(together) <= 1  # one token alone predicts nothing


@given(documents, st.integers(2, 9))
def test_a_block_has_the_label_of_the_document_it_starts_in(
    contents: list[str], width: int
) -> None:
    blocks = Blocks(joined(contents), width)
    owners = [place for place, text in enumerate(contents) for _ in range(len(text) + 1)]
    assert blocks.labels.tolist() == [owners[index * width] for index in range(len(blocks))]


def test_a_block_says_where_it_starts() -> None:
    blocks = Blocks(joined(["abc", "defgh"]), 4)
    assert blocks.where(1) == "memory line 2, block 1"


@pytest.mark.parametrize("width", [1, 0])
def test_a_block_needs_two_tokens(width: int) -> None:
    with pytest.raises(DataError, match=f"max_tokens is {width}"):
        Blocks(joined(["abc"]), width)


def test_no_text_gives_no_block() -> None:
    with pytest.raises(DataError, match="1 tokens in all give no block"):
        Blocks(joined([""]), 4)


def test_language_modelling_labels_are_the_ids_and_ignore_padding() -> None:
    blocks = Blocks(joined(["abcde"]), 4)
    batch = TokenBatches(pad_id=SEPARATOR).make(blocks, np.array([0, 1]))
    assert batch.inputs["input_ids"].tolist() == [[0, 1, 2, 3], [4, SEPARATOR, 50, 50]]
    # a real separator counts even where it is the padding's id
    assert batch.labels.tolist() == [
        [0, 1, 2, 3],
        [4, SEPARATOR, IGNORED_LABEL, IGNORED_LABEL],
    ]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.lengths == (4, 2)


def test_a_text_is_not_a_row() -> None:
    with pytest.raises(DataError, match="memory line 1 is not a row"):
        TokenBatches(PAD).make(texts(["abc"]), np.array([0]))


def test_tokens_that_do_not_count_have_no_label_in_the_middle_too() -> None:
    batch = TokenBatches(PAD).make(counted("banana", "kid"), np.array([0, 1]))
    no = IGNORED_LABEL
    assert batch.labels.tolist() == [[no, 0, no, 0, no, 0], [no, 8, no, no, no, no]]
    assert batch.inputs["attention_mask"].tolist()[1] == [1, 1, 1, 0, 0, 0]
    assert (batch.lengths, batch.documents) == ((6, 3), None)


def test_nothing_predicts_the_first_token_of_a_document() -> None:
    assert spelt(counted("aaa"), 0) == "aAA"


@pytest.mark.parametrize(
    ("how", "rows", "lost"),
    [("right", ["bAnA", "kId"], 2), ("left", ["nAnA", "kId"], 2), ("drop", ["kId"], 6)],
)
def test_rows_that_are_too_long_are_cut_or_dropped_and_counted(
    how: TooLong, rows: list[str], lost: int
) -> None:
    kept, told = shorten(counted("banana", "kid"), 4, how)
    assert [spelt(kept, index) for index in range(len(kept))] == rows
    assert told is not None
    assert (told.too_long, told.of, told.tokens_lost) == (1, 2, lost)
    assert str(told).startswith("1 of 2 samples are too long and ")
    assert shorten(counted("kid"), 4, how)[1] is None


def test_rows_that_are_too_long_may_be_refused() -> None:
    with pytest.raises(DataError, match=r"1 of 2 samples .*max_tokens 4 tokens.*memory line 2"):
        shorten(counted("kid", "banana"), 4, "stop")
    with pytest.raises(DataError, match=r"all 1 samples have more .* dropped"):
        shorten(counted("banana"), 4, "drop")


def test_a_row_of_which_nothing_counts_after_the_cut_is_bad() -> None:
    kept, _ = shorten(counted("xyzzya", "kid"), 4, "right")
    with pytest.raises(DataError, match=r"memory line 1: no token of it counts, cut at the right"):
        kept.read(0)
    assert spelt(kept, 1) == "kId"


def test_a_row_that_was_none_before_says_so_once() -> None:
    kept, _ = shorten(TokenRows(texts(["a"], [0]), ["no answer"]), 4, "right")
    with pytest.raises(DataError) as raised:
        kept.read(0)
    assert str(raised.value) == f"{kept.where(0)}: no answer"


rows_of = st.lists(st.text("abcdefgh", min_size=1, max_size=9), min_size=1, max_size=12)


@given(rows_of, st.integers(9, 20), st.data())
def test_packed_rows_hold_every_document_once_and_whole(
    contents: list[str], width: int, data: st.DataObject
) -> None:
    groups = data.draw(st.lists(st.integers(0, 2), min_size=len(contents), max_size=len(contents)))
    packed = PackedRows(counted(*contents, groups=groups), width)
    assert packed.groups is not None
    found = []
    for index in range(len(packed)):
        row, text = token_row(packed, index), spelt(packed, index)
        assert sum(row.documents) == len(row.ids) <= width
        for size in row.documents:
            found.append((text[:size], int(packed.groups[index])))
            text = text[size:]
    single = counted(*contents)
    wanted = [(spelt(single, index), group) for index, group in enumerate(groups)]
    assert sorted(found) == sorted(wanted)


def test_a_packed_batch_says_where_its_documents_end() -> None:
    packed = PackedRows(counted("abba", "ab", "oboe"), 6)
    batch = TokenBatches(PAD).make(packed, np.arange(len(packed)))
    assert batch.documents == ((4, 2), (4,))
    assert batch.lengths == (6, 4)
    assert [spelt(packed, index) for index in range(2)] == ["abbAab", "obOE"]
    assert packed.where(0) == "memory line 1 and 1 more in a row"


def test_blocks_are_of_one_group_each() -> None:
    documents = joined(["abc", "def", "ghi"])
    documents.groups = np.array([1, 0, 1])
    blocks = Blocks(documents, 6)
    assert blocks.groups is not None
    rows = [blocks.read(index).ids.tolist() for index in range(len(blocks))]
    assert rows == [[3, 4, 5, 50], [0, 1, 2, 50, 6, 7], [8, 50]]
    assert blocks.groups.tolist() == [0, 1, 1]


def test_a_block_of_which_nothing_counts_is_left_out() -> None:
    blocks = Blocks(counted("xyza", "kkkk", "kid"), 4)
    assert [spelt(blocks, index) for index in range(len(blocks))] == ["xyzA", "kId"]
