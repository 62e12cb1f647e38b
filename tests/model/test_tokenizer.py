"""A folder's tokenizer as the data layer sees it."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer as Trained
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from cutlayer.errors import ModelError
from cutlayer.model.tokenizer import load_tokenizer

WORDS = {"[UNK]": 0, "[PAD]": 1, "[END]": 2, "cut": 3, "the": 4, "layer": 5}


def save(folder: Path, **special: str) -> Path:
    inner = Trained(WordLevel(WORDS, unk_token="[UNK]"))
    inner.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=inner, **special).save_pretrained(folder)
    return folder


def test_texts_become_ids_cut_at_the_limit(tmp_path: Path) -> None:
    folder = save(tmp_path, pad_token="[PAD]", sep_token="[END]")
    whole, short = load_tokenizer(folder, None), load_tokenizer(folder, 2)
    assert whole.tokenize(["cut the layer", "layer"]) == [[3, 4, 5], [5]]
    assert short.tokenize(["cut the layer", "layer"]) == [[3, 4], [5]]
    assert (whole.pad_id, whole.separator_id) == (1, 2)


def test_padding_falls_back_to_the_end_of_text(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save(tmp_path, eos_token="[END]"), None)
    assert (tokenizer.pad_id, tokenizer.separator_id) == (2, 2)


def test_a_folder_without_a_usable_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="names no padding, separator or end token"):
        load_tokenizer(save(tmp_path / "bare"), None)
    with pytest.raises(ModelError, match="no tokenizer that can be read"):
        load_tokenizer(tmp_path, None)
