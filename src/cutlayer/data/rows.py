"""Rows of tokens, the samples of language modelling: documents as token ids with the labels that
count, cut to what a row may have, one a row, packed, or joined and cut into blocks.

Knows no tokenizer and no text. A document's first token never counts where rows are documents:
nothing comes before it that it could be predicted from.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Int, Int64

from cutlayer.data.samples import Batch, BatchMaker, Samples, Subset, TokenRow
from cutlayer.errors import DataError
from cutlayer.spec import IGNORED_LABEL, TooLong

_LEAST_BLOCK = 2  # one token to read and one to predict
_NO_COUNT = "no token of it counts"


def document_row(ids: Sequence[int], counts: Sequence[bool]) -> TokenRow:
    """A document in which these tokens count, as a row."""
    values = np.asarray(ids, np.int64)
    labels = np.where(np.asarray(counts, bool), values, IGNORED_LABEL)
    labels[:1] = IGNORED_LABEL
    return TokenRow(values, labels)


def whole_row(ids: Sequence[int]) -> TokenRow:
    """A document in which all tokens count, the first too: for `Blocks`, where others are before
    it."""
    values = np.asarray(ids, np.int64)
    return TokenRow(values, values)


@final
class TokenRows(Samples):
    """Rows in memory, made of the samples of `source`, one of each; or why there is none."""

    def __init__(self, source: Samples, rows: Sequence[TokenRow | str]) -> None:
        self.labels, self.groups = source.labels, source.groups
        self._source, self._rows = source, rows

    def read(self, index: int) -> TokenRow:
        row = self._rows[index]
        if isinstance(row, str):
            raise DataError(f"{self.where(index)}: {row}")
        return row

    def where(self, index: int) -> str:
        return self._source.where(index)


def token_row(samples: Samples, index: int) -> TokenRow:
    """A sample that is a row. Raises DataError for another."""
    content = samples.read(index)
    if not isinstance(content, TokenRow):
        raise DataError(f"{samples.where(index)} is not a row of tokens: see `rows.TokenRows`")
    return content


# Rows that are longer than a model takes.


@dataclass(frozen=True)
class Shortened:
    """What was done to samples that are too long: how many of how many, tokens that are lost."""

    too_long: int
    of: int
    tokens_lost: int
    how: TooLong

    def __str__(self) -> str:
        done = "dropped" if self.how == "drop" else f"cut at the {self.how}"
        return (
            f"{self.too_long} of {self.of} samples are too long and {done}:"
            f" {self.tokens_lost} tokens are lost"
        )


def shorten(rows: Samples, max_tokens: int, how: TooLong) -> tuple[Samples, Shortened | None]:
    """Rows of at most `max_tokens`, and what that took; None: all are short enough.

    `right` keeps a row's beginning, `left` its end, `drop` leaves it out, `stop` raises DataError.
    A row without a token that counts stays, with that as its fault.
    """
    made: list[TokenRow | str] = []
    kept: list[int] = []
    long: list[int] = []
    lost = 0
    for index in range(len(rows)):
        try:
            row = token_row(rows, index)
        except DataError as error:
            made.append(str(error).removeprefix(f"{rows.where(index)}: "))
            kept.append(index)
            continue
        over = max(0, len(row.ids) - max_tokens)
        if over:
            long.append(index)
            lost += len(row.ids) if how == "drop" else over
        if not over or how != "drop":
            kept.append(index)
        made.append(_cut(row, over, how) if over else _counted(row, ""))
    if long and how == "stop":
        raise DataError(
            f"{len(long)} of {len(rows)} samples have more than data.max_tokens {max_tokens}"
            f" tokens, the first: {rows.where(long[0])}: raise data.max_tokens, or have them cut or"
            " dropped (data.too_long: right, left or drop)"
        )
    if not kept:
        raise DataError(
            f"all {len(rows)} samples have more than data.max_tokens {max_tokens} tokens and are"
            " dropped (data.too_long): raise data.max_tokens"
        )
    shortened = TokenRows(rows, made)
    told = Shortened(len(long), len(rows), lost, how) if long else None
    if len(kept) == len(rows):
        return shortened, told
    return Subset(shortened, np.array(kept)), told


def _cut(row: TokenRow, over: int, how: TooLong) -> TokenRow | str:
    kept = slice(over, None) if how == "left" else slice(len(row.ids) - over)
    labels = row.labels[kept].copy()
    labels[:1] = IGNORED_LABEL
    return _counted(TokenRow(row.ids[kept], labels), f", cut at the {how} by {over} tokens")


def _counted(row: TokenRow, how: str) -> TokenRow | str:
    """The row, or that nothing of it counts."""
    return row if (row.labels != IGNORED_LABEL).any() else f"{_NO_COUNT}{how}"


# Several documents in a row.


@final
class PackedRows(Samples):
    """Documents packed into rows of at most `max_tokens`, fullest first that still has room, the
    longest document first; of one group each. A row's label is that of its first document.

    Documents must not be longer than that: see `shorten`. Source: best-fit decreasing, as in
    Ding et al. 2024 (Fewer Truncations Improve Language Modeling), section 3.
    """

    def __init__(self, documents: Samples, max_tokens: int) -> None:
        rows = [token_row(documents, index) for index in range(len(documents))]
        sizes = [len(row.ids) for row in rows]
        self._documents, self._rows = documents, rows
        self._members = [
            members
            for group in _by_group(documents)
            for members in _best_fit(
                [(sizes[index], index) for index in group.tolist()], max_tokens
            )
        ]
        first = np.array([members[0] for members in self._members], np.int64)
        self.labels = documents.labels[first]
        self.groups = None if documents.groups is None else documents.groups[first]

    def read(self, index: int) -> TokenRow:
        rows = [self._rows[member] for member in self._members[index]]
        return TokenRow(
            np.concatenate([row.ids for row in rows]),
            np.concatenate([row.labels for row in rows]),
            tuple(len(row.ids) for row in rows),
        )

    def where(self, index: int) -> str:
        members = self._members[index]
        more = f" and {len(members) - 1} more in a row" if len(members) > 1 else ""
        return f"{self._documents.where(members[0])}{more}"


def _best_fit(sized: Sequence[tuple[int, int]], most: int) -> list[list[int]]:
    """Documents, as their length and index, in rows of at most so many tokens."""
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # what each row has left, and its place, in order
    for size, index in sorted(sized, key=lambda one: (-one[0], one[1])):
        place = bisect_left(room, (size, -1))
        if place == len(room):
            rows.append([])
            left, row = most, len(rows) - 1
        else:
            left, row = room.pop(place)
        rows[row].append(index)
        insort(room, (left - size, row))
    return [sorted(members) for members in rows]


def _by_group(samples: Samples) -> Iterator[Int64[np.ndarray, "_"]]:
    """The samples of each group, in their order; all at once where there are none."""
    if samples.groups is None:
        yield np.arange(len(samples))
        return
    for group in np.unique(samples.groups):
        yield np.flatnonzero(samples.groups == group)


@final
class Blocks(Samples):
    """Documents one after the other, cut into blocks of `max_tokens` ids; of one group each.

    A block's label is that of the document it starts in; the last, shorter block is kept if it has
    two tokens or more, and a block in which a token counts. Raises `DataError` when that leaves no
    block.
    """

    def __init__(self, documents: Samples, max_tokens: int) -> None:
        if max_tokens < _LEAST_BLOCK:
            raise DataError(f"max_tokens is {max_tokens}: a block needs {_LEAST_BLOCK} or more")
        rows = [token_row(documents, index) for index in range(len(documents))]
        self._documents = documents
        self._blocks: list[TokenRow] = []
        starts: list[int] = []
        for group in _by_group(documents):
            ids = np.concatenate([rows[index].ids for index in group])
            labels = np.concatenate([rows[index].labels for index in group])
            ends = np.cumsum([len(rows[index].ids) for index in group])
            for start in range(0, len(ids) - _LEAST_BLOCK + 1, max_tokens):
                piece = slice(start, start + max_tokens)
                if not (labels[piece][1:] != IGNORED_LABEL).any():
                    continue
                self._blocks.append(TokenRow(ids[piece], labels[piece]))
                starts.append(int(group[np.searchsorted(ends, start, side="right")]))
        if not self._blocks:
            total = sum(len(row.ids) for row in rows)
            raise DataError(f"{total} tokens in all give no block: take more text")
        self._starts = np.array(starts, np.int64)
        self.labels = documents.labels[self._starts]
        self.groups = None if documents.groups is None else documents.groups[self._starts]

    def read(self, index: int) -> TokenRow:
        return self._blocks[index]

    def where(self, index: int) -> str:
        return f"{self._documents.where(int(self._starts[index]))}, block {index}"


# Mini-batches.


@final
@dataclass(frozen=True)
class TokenBatches(BatchMaker):
    """Causal language modelling: `input_ids`, `attention_mask` int64 [row, token], padded on the
    right with `pad_id`; labels [row, token] are -100 at padding too."""

    pad_id: int

    def make(self, samples: Samples, indices: Int[np.ndarray, " row"]) -> Batch:
        rows = [token_row(samples, int(index)) for index in indices]
        ids, mask = pad_rows([row.ids for row in rows], self.pad_id)
        labels, _ = pad_rows([row.labels for row in rows], IGNORED_LABEL)
        lengths = tuple(len(row.ids) for row in rows)
        packed = any(len(row.documents) > 1 for row in rows)
        documents = tuple(row.documents or (len(row.ids),) for row in rows) if packed else None
        return Batch({"input_ids": ids, "attention_mask": mask}, lengths, labels, documents)


def pad_rows(
    rows: Sequence[Sequence[int] | Int64[np.ndarray, "_"]], pad_id: int
) -> tuple[Int64[np.ndarray, "row token"], Int64[np.ndarray, "row token"]]:
    """Ids padded on the right to the longest row, and the mask that is 1 on real tokens."""
    ids = np.full((len(rows), max(len(row) for row in rows)), pad_id, np.int64)
    mask = np.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = 1
    return ids, mask
