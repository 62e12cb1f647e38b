"""Text as model inputs: tokenise, truncate, pad on the right; documents cut into blocks.

The tokenizer is any callable from texts to lists of ids, special tokens included, for instance
`lambda texts: tokenizer(texts, truncation=True, max_length=n)["input_ids"]`; a tokenizer that
closes a text with a special token should truncate itself as here, so that the token survives.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Int, Int64

from cutlayer.data.check import Tokenize, brief_error
from cutlayer.data.samples import Batch, BatchMaker, Samples
from cutlayer.errors import DataError
from cutlayer.spec import IGNORED_LABEL

_LEAST_BLOCK = 2  # one token to read and one to predict


@final
@dataclass(frozen=True, eq=False)
class TextBatches(BatchMaker):
    """Text classification: `input_ids`, `attention_mask` int64 [row, token] padded with `pad_id`
    to the longest row, at most `max_tokens`; labels [row].

    `unread`: an id that the model passes over at the end of a text (a decoder's padding, often the
    end-of-text mark too): left out there, so that the last token is the one that the model reads.
    """

    tokenize: Tokenize
    max_tokens: int
    pad_id: int
    unread: int | None = None

    def make(self, samples: Samples, indices: Int[np.ndarray, " row"]) -> Batch:
        found = tokenised(samples, indices.tolist(), self.tokenize)
        rows = [_read_part(ids[: self.max_tokens], self.unread) for ids in found]
        for index, ids in zip(indices, rows, strict=True):
            if not ids:
                raise DataError(f"{samples.where(int(index))}: the tokenizer makes no token of it")
        padded, mask = _pad(rows, self.pad_id)
        lengths = tuple(len(row) for row in rows)
        return Batch(
            {"input_ids": padded, "attention_mask": mask}, lengths, samples.labels[indices]
        )


@final
class Blocks(Samples):
    """Documents joined by `separator_id` and cut into blocks of `max_tokens` ids.

    Blocks are the samples of language modelling (contents are id arrays for `BlockBatches`). A
    block's label is that of the document it starts in; the last, shorter block is kept if it has
    two tokens or more. Raises `DataError` when that leaves no block.
    """

    def __init__(
        self, documents: Samples, tokenize: Tokenize, max_tokens: int, separator_id: int
    ) -> None:
        if max_tokens < _LEAST_BLOCK:
            raise DataError(f"max_tokens is {max_tokens}: a block needs {_LEAST_BLOCK} or more")
        found = tokenised(documents, range(len(documents)), tokenize)
        pieces = [[*ids, separator_id] for ids in found]
        sizes = np.array([len(piece) for piece in pieces], np.int64)
        self._ids = np.fromiter((token for piece in pieces for token in piece), np.int64)
        starts = np.arange(0, len(self._ids) - _LEAST_BLOCK + 1, max_tokens)
        if not len(starts):
            raise DataError(f"{len(self._ids)} tokens in all give no block: take more text")
        self._max_tokens = max_tokens
        self._documents = documents
        self._document = np.searchsorted(np.cumsum(sizes), starts, side="right")
        self.labels = documents.labels[self._document]

    def read(self, index: int) -> Int64[np.ndarray, " token"]:
        start = index * self._max_tokens
        return self._ids[start : start + self._max_tokens]

    def where(self, index: int) -> str:
        return f"{self._documents.where(int(self._document[index]))}, block {index}"


@final
@dataclass(frozen=True)
class BlockBatches(BatchMaker):
    """Causal language modelling over `Blocks`: `input_ids`, `attention_mask` int64 [row, token];
    labels [row, token] are the ids, -100 at padding."""

    pad_id: int

    def make(self, samples: Samples, indices: Int[np.ndarray, " row"]) -> Batch:
        rows = [self._ids(samples, int(index)) for index in indices]
        ids, mask = _pad(rows, self.pad_id)
        lengths = tuple(len(row) for row in rows)
        labels = np.where(mask == 1, ids, IGNORED_LABEL)
        return Batch({"input_ids": ids, "attention_mask": mask}, lengths, labels)

    def _ids(self, samples: Samples, index: int) -> list[int]:
        content = samples.read(index)
        if isinstance(content, str) or content.ndim != 1:
            raise DataError(f"{samples.where(index)} is not a block of token ids: see `Blocks`")
        return [int(token) for token in content]


def _read_part(ids: list[int], unread: int | None) -> list[int]:
    """Without trailing `unread`; where there is nothing else the model reads the first."""
    end = len(ids)
    while end > 1 and ids[end - 1] == unread:
        end -= 1
    return ids[:end]


def tokenised(samples: Samples, indices: Iterable[int], tokenize: Tokenize) -> list[list[int]]:
    """Ids of these samples. Raises `DataError` naming the sample that the tokenizer fails on."""
    places = list(indices)
    texts = [_text(samples, index) for index in places]
    try:
        return tokenize(texts)
    except Exception as error:  # whatever the tokenizer's library raises, of any one text
        for index, text in zip(places, texts, strict=True):
            _try(samples, index, text, tokenize)
        raise DataError(
            f"the tokenizer fails on {len(texts)} texts: {brief_error(error)}"
        ) from error


def _try(samples: Samples, index: int, text: str, tokenize: Tokenize) -> None:
    try:
        tokenize([text])
    except Exception as error:
        raise DataError(
            f"{samples.where(index)}: the tokenizer fails on it: {brief_error(error)}"
        ) from error


def _text(samples: Samples, index: int) -> str:
    content = samples.read(index)
    if not isinstance(content, str):
        raise DataError(f"{samples.where(index)} is not a text: this model needs texts")
    return content


def _pad(
    rows: Sequence[Sequence[int]], pad_id: int
) -> tuple[Int64[np.ndarray, "row token"], Int64[np.ndarray, "row token"]]:
    """Ids padded on the right to the longest row, and the mask that is 1 on real tokens."""
    ids = np.full((len(rows), max(len(row) for row in rows)), pad_id, np.int64)
    mask = np.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = 1
    return ids, mask
