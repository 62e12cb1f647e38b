"""A checkpoint folder's tokenizer as the plain callable that the data layer takes.

transformers makes a tokenizer of special tokens alone where its files are missing, and takes that
of another model as gladly: both are found here, before anything trains. Knows no samples.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from cutlayer.errors import ModelError
from cutlayer.model.tasks import read_config

_REMEDY = (
    "copy the tokenizer's files from where the weights come from, or call"
    " tokenizer.save_pretrained on that folder"
)
_LETTERS = 80  # of a value or a library's message


@dataclass(frozen=True)
class Tokenizer:
    """`tokenize(texts)` gives ids with special tokens, cut after the limit it was made with.

    `unknown_share(texts)`: the part of their tokens that the vocabulary lacks; 0 of a tokenizer
    that has a token for everything. `note`: what looks odd beside the model, or None.
    """

    tokenize: Callable[[list[str]], list[list[int]]]
    pad_id: int
    separator_id: int
    unknown_share: Callable[[list[str]], float] = lambda texts: 0.0
    note: str | None = None


def load_tokenizer(folder: Path, max_tokens: int | None) -> Tokenizer:
    """The tokenizer in `folder`; `max_tokens` None: texts are not cut.

    Padding falls back to the end-of-text id (what is padded is masked anyway). Raises ModelError
    when the folder has no usable tokenizer, or one that gives ids beyond the model's embedding; of
    a token added later, `tokenize` does so for the text that has it.
    """
    inner = _open(folder)
    if not _words(inner):
        raise ModelError(
            f"the tokenizer in {folder} knows no words, only special or added tokens: the files of"
            f" its vocabulary (tokenizer.json, or vocab.txt) are missing; {_REMEDY}"
        )
    ends = [i for i in (inner.sep_token_id, inner.eos_token_id) if i is not None]
    pads = [i for i in (inner.pad_token_id, *ends) if i is not None]
    if not pads:
        raise ModelError(f"the tokenizer in {folder} names no padding, separator or end token")
    pad, separator = int(pads[0]), int(ends[-1] if ends else pads[0])
    rows = _embedding_rows(folder)
    check = _check_of_ids(folder, inner, rows)
    check([*_own_ids(inner), pad, separator, *inner([""])["input_ids"][0]])
    marks = len(inner([""])["input_ids"][0])
    if max_tokens is not None and max_tokens <= marks:
        raise ModelError(
            f"max_tokens is {max_tokens}, and the tokenizer in {folder} adds {marks} special tokens"
            f" to every text: no word would be left; set data.max_tokens to more than {marks}"
        )
    limit = {} if max_tokens is None else {"truncation": True, "max_length": max_tokens}

    def tokenize(texts: list[str]) -> list[list[int]]:
        encoded: list[list[int]] = inner(texts, verbose=False, **limit)["input_ids"]
        for ids in encoded:
            check(ids)
        return encoded

    return Tokenizer(tokenize, pad, separator, _unknown_share(inner), _note(folder, inner, rows))


def _open(folder: Path) -> Any:
    """As transformers reads it; no code of the folder's own is run."""
    try:
        return AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the tokenizers library raises bare ones
        raise ModelError(
            f"{folder} has no tokenizer that can be read ({_why(folder, error)}); {_REMEDY}"
        ) from error


def _why(folder: Path, error: Exception) -> str:
    """The damaged file if there is one, else what the library says."""
    for path in sorted(folder.glob("*.json")):
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return f"{path.name} is damaged, or a pointer of Git LFS"
    if "sentencepiece" in str(error) or "tiktoken" in str(error):
        return "no tokenizer.json, which alone needs no further library"
    return " ".join(str(error).split())[:_LETTERS]


def _words(inner: Any) -> set[int]:
    """Ids of what it was trained on: no special tokens, none added later."""
    return _own_ids(inner) - set(inner.all_special_ids)


def _own_ids(inner: Any) -> set[int]:
    """Ids of the vocabulary that it was trained with: no token added later."""
    return set(inner.get_vocab().values()) - set(inner.get_added_vocab().values())


def _embedding_rows(folder: Path) -> int | None:
    """Ids that the model in the folder has an embedding for, if its configuration says."""
    if not (folder / "config.json").is_file():
        return None
    rows = getattr(read_config(folder), "vocab_size", None)
    return rows if isinstance(rows, int) else None


def _check_of_ids(folder: Path, inner: Any, rows: int | None) -> Callable[[list[int]], None]:
    """What raises ModelError for ids that no embedding has."""

    def check(ids: list[int]) -> None:
        largest = max(ids, default=0)
        if rows is not None and largest >= rows:
            token = str(inner.convert_ids_to_tokens(largest))[:_LETTERS]
            raise ModelError(
                f"token {token!r} has id {largest}, the embedding of the model in {folder} ends at"
                f" {rows - 1}: take the tokenizer that belongs to these weights, or call"
                " model.resize_token_embeddings(len(tokenizer)) and save the model"
            )

    return check if rows is not None and max(inner.get_vocab().values()) >= rows else _no_check


def _no_check(ids: list[int]) -> None:
    """Of a tokenizer all of whose ids the model knows."""


def _unknown_share(inner: Any) -> Callable[[list[str]], float]:
    unknown = inner.unk_token_id

    def share(texts: list[str]) -> float:
        encoded = inner(texts, verbose=False, add_special_tokens=False)["input_ids"]
        ids = [token for text in encoded for token in text]
        return ids.count(unknown) / len(ids) if ids and unknown is not None else 0.0

    return share


def _note(folder: Path, inner: Any, rows: int | None) -> str | None:
    if rows is None:
        return None
    padding = getattr(read_config(folder), "pad_token_id", None)
    if None not in (padding, inner.pad_token_id) and padding != inner.pad_token_id:
        return (
            f"the tokenizer in {folder} pads with id {inner.pad_token_id}, config.json"
            f" says {padding}: is it another model's?"
        )
    if 2 * len(inner) >= rows:
        return None
    return (
        f"the tokenizer in {folder} has {len(inner)} tokens, the model's embedding {rows}:"
        " is it another model's?"
    )
