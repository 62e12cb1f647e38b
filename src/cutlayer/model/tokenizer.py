"""A checkpoint folder's tokenizer as the plain callable that the data layer takes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer

from cutlayer.errors import ModelError


@dataclass(frozen=True)
class Tokenizer:
    """`tokenize(texts)` gives ids with special tokens, cut after the limit it was made with."""

    tokenize: Callable[[list[str]], list[list[int]]]
    pad_id: int
    separator_id: int


def load_tokenizer(folder: Path, max_tokens: int | None) -> Tokenizer:
    """The tokenizer in `folder`; `max_tokens` None: texts are not cut.

    Padding falls back to the end-of-text id (what is padded is masked anyway). Raises ModelError
    when the folder has no usable tokenizer.
    """
    try:
        inner = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder} has no tokenizer that can be read: {error}") from error
    ends = [i for i in (inner.sep_token_id, inner.eos_token_id) if i is not None]
    pads = [i for i in (inner.pad_token_id, *ends) if i is not None]
    if not pads:
        raise ModelError(f"the tokenizer in {folder} names no padding, separator or end token")

    def tokenize(texts: list[str]) -> list[list[int]]:
        limit = {} if max_tokens is None else {"truncation": True, "max_length": max_tokens}
        encoded: list[list[int]] = inner(texts, verbose=False, **limit)["input_ids"]
        return encoded

    return Tokenizer(tokenize, int(pads[0]), int(ends[-1] if ends else pads[0]))
