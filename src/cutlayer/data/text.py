"""Text as model inputs: tokenise, truncate, pad on the right; documents cut into blocks.

The tokenizer is any callable from texts to lists of ids, special tokens included, for instance
`lambda texts: tokenizer(texts, truncation=True, max_length=n)["input_ids"]`; a tokenizer that
closes a text with a special token should truncate itself as here, so that the token survives.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, final

import numpy as np
from jaxtyping import Int, Int64

from cutlayer.data.batches import Batch, BatchMaker
from cutlayer.data.samples import Content, Samples
from cutlayer.errors import DataError

Tokenize: TypeAlias = Callable[[list[str]], list[list[int]]]
IGNORED_LABEL = -100  # what the cross entropy of a language model leaves out


@final
@dataclass(frozen=True, eq=False)
class TextBatches(BatchMaker):
    """Text classification: `input_ids`, `attention_mask` int64 [row, token] padded with `pad_id`
    to the longest row, at most `max_tokens`; labels [row]."""

    tokenize: Tokenize
    max_tokens: int
    pad_id: int

    def make(self, samples: Samples, indices: Int[np.ndarray, " row"]) -> Batch:
        raise NotImplementedError


@final
class Blocks(Samples):
    """Documents joined by `separator_id` and cut into blocks of `max_tokens` ids.

    Blocks are the samples of language modelling (contents are id arrays for `BlockBatches`). A
    block's label is that of the document it starts in; the last, shorter block is kept if it has
    two tokens or more. Raises `DataError` when there is no text at all.
    """

    def __init__(
        self, documents: Samples, tokenize: Tokenize, max_tokens: int, separator_id: int
    ) -> None:
        raise NotImplementedError


@final
@dataclass(frozen=True)
class BlockBatches(BatchMaker):
    """Causal language modelling over `Blocks`: `input_ids`, `attention_mask` int64 [row, token];
    labels [row, token] are the ids, -100 at padding."""

    pad_id: int

    def make(self, samples: Samples, indices: Int[np.ndarray, " row"]) -> Batch:
        raise NotImplementedError
