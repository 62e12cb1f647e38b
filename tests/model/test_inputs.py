"""What a model's forward is given: inputs and the tokenizer."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as Trained
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from cutlayer.errors import ModelError, UnsupportedModelError
from cutlayer.model.blocks import meta_model
from cutlayer.model.inputs import (
    image_sides,
    image_step,
    length_mask,
    load_tokenizer,
    patch_sides,
    real_inputs,
    stand_in_inputs,
    token_limit,
)
from cutlayer.spec import Task
from model.architectures import (
    LENGTHS,
    PADDING,
    VOCABULARY,
    config_of,
    image_batch,
    random_model,
    text_batch,
)

TEXT: Task = "text-classification"
IMAGES: Task = "image-classification"


def test_stand_ins_reproduce_the_padding() -> None:
    activation = torch.zeros(4, 7, 24)
    for model_type in ("llama", "gpt2"):
        config = config_of(model_type, pad_token_id=PADDING)
        given = stand_in_inputs(config, TEXT, activation, LENGTHS)
        assert (given["input_ids"] != PADDING).sum(1).tolist() == LENGTHS
        assert given["attention_mask"].sum(1).tolist() == LENGTHS
        full = stand_in_inputs(config, TEXT, activation, None)
        assert bool((full["input_ids"] != PADDING).all())
        assert bool(full["attention_mask"].all())


def test_images_of_another_size_ask_for_interpolation() -> None:
    vit = meta_model(config_of("vit"), IMAGES)
    assert set(real_inputs(vit, IMAGES, image_batch(), None)) == {"pixel_values"}
    other = real_inputs(vit, IMAGES, image_batch(side=24), None)
    assert other["interpolate_pos_encoding"] is True
    dinov2 = meta_model(config_of("dinov2"), IMAGES)  # it always interpolates
    assert set(real_inputs(dinov2, IMAGES, image_batch(side=24), None)) == {"pixel_values"}


def test_lengths_stand_for_a_mask() -> None:
    model = meta_model(config_of("bert"), TEXT)
    padded = text_batch(LENGTHS)
    given = real_inputs(model, TEXT, {"input_ids": padded["input_ids"]}, LENGTHS)
    assert torch.equal(given["attention_mask"], padded["attention_mask"])
    assert length_mask(None, 2, 3, torch.device("cpu")).tolist() == [[1, 1, 1], [1, 1, 1]]


def test_padding_of_another_token_is_replaced_for_a_decoder() -> None:
    model = meta_model(config_of("llama"), TEXT)
    batch = text_batch(LENGTHS)
    ids = batch["input_ids"].where(batch["attention_mask"] != 0, 33)
    given = real_inputs(model, TEXT, {**batch, "input_ids": ids}, None)
    assert torch.equal(given["input_ids"], batch["input_ids"])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 20, 16), "20x16 pixels cannot be cut into patches of 8x8"),
        ((2, 1, 16, 16), r"takes \[batch, 3, height, width\]"),
        ((3, 16, 16), r"takes \[batch, 3, height, width\]"),
    ],
)
def test_images_that_do_not_fit_are_refused(shape: tuple[int, ...], message: str) -> None:
    model = meta_model(config_of("vit"), IMAGES)
    with pytest.raises(ModelError, match=message):
        real_inputs(model, IMAGES, {"pixel_values": torch.zeros(shape)}, None)


@pytest.mark.parametrize(("model_type", "limit"), [("bert", 40), ("roberta", 38)])
def test_texts_that_are_too_long_are_refused(model_type: str, limit: int) -> None:
    model = meta_model(config_of(model_type), TEXT)
    fits = torch.zeros(1, limit, dtype=torch.long)
    real_inputs(model, TEXT, {"input_ids": fits}, None)
    with pytest.raises(ModelError, match=f"at most {limit} tokens"):
        real_inputs(model, TEXT, {"input_ids": torch.zeros(1, limit + 1).long()}, None)


def test_missing_inputs_are_named() -> None:
    model = meta_model(config_of("bert"), TEXT)
    with pytest.raises(ModelError, match=r"no 'input_ids', only \['pixel_values'\]"):
        real_inputs(model, TEXT, image_batch(), None)


def test_what_a_configuration_does_not_say() -> None:
    for sides in (image_sides, patch_sides):
        with pytest.raises(UnsupportedModelError, match=r"type 'bert' has no .*_size in its"):
            sides(config_of("bert"))
    assert image_step(config_of("bert")) is None
    assert token_limit(config_of("vit")) is None
    assert image_step(config_of("vit")) == 8
    with pytest.raises(ModelError, match="patch_size 0: it must be above 0"):
        image_step(config_of("vit", patch_size=0))
    assert token_limit(config_of("gpt2")) == 40


@pytest.mark.parametrize("wrong", [61, -1])
def test_ids_without_embedding_are_refused(wrong: int) -> None:
    bert = random_model(config_of("bert"), TEXT)
    ids = torch.tensor([[5, wrong]])
    with pytest.raises(ModelError, match="the tokenizer that belongs to the model"):
        real_inputs(bert, TEXT, {"input_ids": ids}, None)


WORDS = {"[UNK]": 0, "[PAD]": 1, "[END]": 2, "cut": 3, "the": 4, "layer": 5}


def save(folder: Path, words: dict[str, int] = WORDS, **special: str) -> Path:
    inner = Trained(WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=inner, **special).save_pretrained(folder)
    return folder


def beside_a_model(folder: Path, words: dict[str, int] = WORDS, model: str = "bert") -> Path:
    """The tokenizer in a folder with a model's configuration."""
    config_of(model).save_pretrained(folder)
    return save(folder, words, pad_token="[PAD]", unk_token="[UNK]", eos_token="[END]")


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


@pytest.mark.parametrize("model", ["bert", "gpt2", "roberta", "qwen2", "gemma", "gpt_neox", "opt"])
def test_a_model_without_tokenizer_files_is_refused(tmp_path: Path, model: str) -> None:
    """transformers makes one of special tokens alone, to which every word is unknown."""
    config_of(model).save_pretrained(tmp_path)
    assert len(AutoTokenizer.from_pretrained(tmp_path)) < 10
    with pytest.raises(ModelError, match=r"knows no words.*tokenizer\.json, or vocab\.txt"):
        load_tokenizer(tmp_path, 8)


def test_a_tokenizer_configuration_without_its_vocabulary_is_refused(tmp_path: Path) -> None:
    folder = beside_a_model(tmp_path)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"no tokenizer that can be read \(no tokenizer\.json"):
        load_tokenizer(folder, 8)
    (folder / "added_tokens.json").write_text('{"cut": 3, "layer": 5}')
    own = folder / "tokenizer_config.json"
    own.write_text(own.read_text().replace("TokenizersBackend", "BertTokenizer"))
    with pytest.raises(ModelError, match="knows no words"):
        load_tokenizer(folder, 8)


@pytest.mark.parametrize("content", ["", "version https://git-lfs.github.com/spec/v1\n", "{"])
def test_a_damaged_tokenizer_file_is_named(tmp_path: Path, content: str) -> None:
    folder = beside_a_model(tmp_path)
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=r"tokenizer\.json is damaged, or a pointer of Git LFS"):
        load_tokenizer(folder, 8)


def test_a_token_added_beyond_the_embedding_is_refused_where_it_is_used(tmp_path: Path) -> None:
    words = {**WORDS, **{f"word{i}": i for i in range(len(WORDS), VOCABULARY)}}
    folder = beside_a_model(tmp_path, words)
    inner = AutoTokenizer.from_pretrained(folder)
    inner.add_tokens(["zebra"])
    inner.save_pretrained(folder)
    tokenizer = load_tokenizer(folder, 8)
    assert tokenizer.tokenize(["the layer"]) == [[4, 5]]
    with pytest.raises(ModelError, match=r"'zebra' has id 61.* ends at 60.*resize_token_embed"):
        tokenizer.tokenize(["the layer", "the zebra"])


def test_the_padding_that_was_added_beyond_the_embedding_is_refused(tmp_path: Path) -> None:
    words = {"[UNK]": 0, "a": 1, "[END]": 2, **{f"word{i}": i for i in range(3, VOCABULARY)}}
    config_of("gpt2").save_pretrained(tmp_path)
    save(tmp_path, words, eos_token="[END]")
    inner = AutoTokenizer.from_pretrained(tmp_path)
    inner.add_special_tokens({"pad_token": "[PAD]"})
    inner.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"'\[PAD\]' has id 61"):
        load_tokenizer(tmp_path, 8)


def test_a_larger_vocabulary_is_another_models(tmp_path: Path) -> None:
    words = {**WORDS, **{f"word{i}": i for i in range(len(WORDS), 2 * VOCABULARY)}}
    with pytest.raises(ModelError, match=r"'word121' has id 121.*that belongs to these weights"):
        load_tokenizer(beside_a_model(tmp_path, words), 8)


def test_a_much_smaller_vocabulary_is_told(tmp_path: Path) -> None:
    note = load_tokenizer(beside_a_model(tmp_path), 8).note
    assert note is not None
    assert "has 6 tokens, the model's embedding 61: is it another model's?" in note
    assert load_tokenizer(save(tmp_path / "alone", eos_token="[END]"), 8).note is None


def test_other_padding_is_told(tmp_path: Path) -> None:
    config_of("bert", vocab_size=8, pad_token_id=0).save_pretrained(tmp_path)
    save(tmp_path, pad_token="[PAD]", unk_token="[UNK]", eos_token="[END]")
    note = load_tokenizer(tmp_path, 8).note
    assert note is not None and "pads with id 1, config.json says 0" in note
    config_of("bert", vocab_size=8, pad_token_id=1).save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path, 8).note is None


def test_a_limit_that_leaves_no_word_is_refused(tmp_path: Path) -> None:
    config_of("bert").save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ncut\nlayer\n")
    assert load_tokenizer(tmp_path, 3).tokenize(["cut layer"]) == [[2, 5, 3]]
    with pytest.raises(ModelError, match=r"max_tokens is 2, .* adds 2 special tokens"):
        load_tokenizer(tmp_path, 2)


def test_the_share_of_unknown_words(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(beside_a_model(tmp_path), 8)
    assert tokenizer.unknown_share(["cut the layer", "cut the zebra"]) == 1 / 6
    assert tokenizer.unknown_share([""]) == 0


def test_code_in_the_folder_is_not_run(tmp_path: Path) -> None:
    folder = beside_a_model(tmp_path / "model")
    (folder / "own.py").write_text("raise SystemExit('ran')")
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", null]}}'
    )
    with pytest.raises(ModelError, match="names no padding"):
        load_tokenizer(folder, 8)
