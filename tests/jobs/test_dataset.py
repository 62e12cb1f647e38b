"""What a run's data and model cannot do together is said before any weight is read."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny

from cutlayer.config.schema import Config
from cutlayer.data.partition import PreparedData
from cutlayer.data.rows import token_row
from cutlayer.errors import ConfigError, DataError
from cutlayer.jobs.dataset import prepare_data
from cutlayer.jobs.model_spec import planned_model
from cutlayer.logs import lines_to


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.text_model(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.vision_model(tmp_path_factory.mktemp("vit"))


def configured(model: Path, data: Path, **section: object) -> Config:
    """A run of these, with other settings of the data."""
    values = tiny.config(model, data).model_dump()
    return Config.model_validate({**values, "data": {**values["data"], **section}})


def prepared(model: Path, data: Path, **section: object) -> list[str]:
    """What is said while the data are prepared."""
    said: list[str] = []
    with lines_to(said.append):
        prepare_data(configured(model, data, **section), model)
    return said


def rows(path: Path, *texts: str) -> Path:
    """As many of one class as of the other."""
    lines = [json.dumps({"text": text, "label": n % 2}) for n, text in enumerate(texts * 6)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_texts_longer_than_the_model_takes_are_found_before_the_data(bert: Path) -> None:
    message = r"data\.max_tokens is 600, .* at most 512 tokens: set data\.max_tokens to 512"
    with pytest.raises(ConfigError, match=message):
        prepared(bert, Path("nowhere"), max_tokens=600)


def test_images_that_patches_do_not_fit_are_found_before_the_data(vit: Path) -> None:
    message = r"data\.image_size is 30, .* patches of 14 pixels: .* such as 28 or 42"
    with pytest.raises(ConfigError, match=message):
        prepared(vit, Path("nowhere"), image_size=30)
    with pytest.raises(ConfigError, match=r"such as 14$"):
        prepared(vit, Path("nowhere"), image_size=5)


def test_data_that_the_model_is_not_for(vit: Path, bert: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is for image-class.* for text-class.*minilm"):
        prepared(vit, rows(tmp_path / "a.jsonl", "good film", "bad film"))
    with pytest.raises(DataError, match=r"is for text-class.* for image-class.*dinov2-small"):
        prepared(bert, tiny.images(tmp_path / "images"))


def test_texts_of_which_no_word_is_known_are_refused(bert: Path, tmp_path: Path) -> None:
    data = rows(tmp_path / "a.jsonl", "uno dos tres", "cuatro cinco")
    with pytest.raises(DataError, match=r"knows no word of .*a\.jsonl, every token is the unknown"):
        prepared(bert, data)


def test_many_unknown_words_are_told(bert: Path, tmp_path: Path) -> None:
    said = prepared(bert, rows(tmp_path / "a.jsonl", "good film uno", "bad film dos"))
    assert any(line.startswith("warning: 33% of the tokens") for line in said)
    said = prepared(bert, rows(tmp_path / "b.jsonl", "good film", "bad film"))
    assert not any(line.startswith("warning") for line in said)


def test_a_text_that_breaks_the_tokenizer_is_skipped_by_name(bert: Path, tmp_path: Path) -> None:
    data = rows(tmp_path / "a.jsonl", "good film", "bad film")
    with data.open("a", encoding="utf-8") as file:
        file.write('\n{"text": "bad \\ud83d film", "label": 0}')
    with pytest.raises(DataError, match=r"1 of 13 samples cannot be used: .*a\.jsonl line 13"):
        prepared(bert, data)
    config = configured(bert, data, on_bad_sample="skip")
    assert prepare_data(config, bert).skipped == 1


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.text_model(tmp_path_factory.mktemp("llama"), "llama")


CHATS = {"chat_template": tiny.CHAT_TEMPLATE, "max_tokens": 40}


def ready(model: Path, data: Path, partition: object = "iid", **section: object) -> PreparedData:
    values = tiny.config(model, data, data={**CHATS, **section}, partition=partition)
    return prepare_data(values, model)


def test_the_start_line_says_how_conversations_are_read(llama: Path, tmp_path: Path) -> None:
    data = tiny.chats(tmp_path / "chats.jsonl")
    assert (
        "conversations from column messages, loss on the assistant's turns, template of"
        " data.chat_template, one a row, columns not read: sender"
    ) in prepared(llama, data, **CHATS)
    said = prepared(llama, data, **CHATS, loss_on="all", packing="documents")
    assert any("loss on all tokens" in line and "several documents a row" in line for line in said)


def test_the_assistant_s_tokens_count(llama: Path, tmp_path: Path) -> None:
    found = ready(llama, tiny.chats(tmp_path / "chats.jsonl"))
    samples = found.data.train
    batch = found.batches.make(samples, np.arange(len(samples)))
    assert batch.documents is None
    for row, labels in zip(batch.inputs["input_ids"], batch.labels, strict=True):
        # a header is four tokens that the tokenizer does not know; an answer three or five words
        runs = "".join("x" if label >= 0 else "." for label in labels).strip(".").split(".")
        assert [len(run) for run in runs if run] in ([4], [4, 6])
        assert (row[labels >= 0] == labels[labels >= 0]).all()


@pytest.mark.parametrize("packing", ["none", "documents", "blocks"])
def test_a_sender_s_samples_are_on_one_device(llama: Path, tmp_path: Path, packing: str) -> None:
    partition = {"name": "column", "column": "sender"}
    data = tiny.chats(tmp_path / "chats.jsonl", count=60)
    found = ready(llama, data, partition, packing=packing)
    groups = found.data.train.groups
    assert groups is not None
    owners = [set(groups[part].tolist()) for part in found.parts]
    assert sorted(value for own in owners for value in own) == list(range(6))
    with pytest.raises(DataError, match="the column has 6 values, there are 7 devices"):
        values = tiny.config(llama, data, data=CHATS, partition=partition, devices={"count": 7})
        prepare_data(values, llama)


def test_a_partition_by_column_needs_one(llama: Path, vit: Path, tmp_path: Path) -> None:
    partition = {"name": "column", "column": "sender"}
    images = tiny.images(tmp_path / "images")
    with pytest.raises(DataError, match=r"no columns, so no partition\.column 'sender'"):
        prepare_data(tiny.config(vit, images, partition=partition), vit)
    reviews = tiny.reviews(tmp_path / "reviews")
    with pytest.raises(DataError, match=r"no column 'sender' to deal samples by; it has: text, l"):
        prepare_data(tiny.config(llama, reviews, partition=partition), llama)


def test_a_classifier_s_samples_are_dealt_by_column_too(bert: Path, tmp_path: Path) -> None:
    lines = [{"text": f"good film {n}", "label": n % 2, "shop": f"shop {n % 4}"} for n in range(40)]
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    partition = {"name": "column", "column": "shop"}
    found = prepare_data(tiny.config(bert, data, partition=partition), bert)
    groups = found.data.train.groups
    assert groups is not None
    assert sorted(len(set(groups[part].tolist())) for part in found.parts) == [1, 1, 2]


def test_samples_that_are_too_long_are_told(llama: Path, tmp_path: Path) -> None:
    data = tiny.chats(tmp_path / "chats.jsonl")
    few = {**CHATS, "max_tokens": 20, "too_long": "left"}
    said = prepared(llama, data, **few)
    assert any("samples are too long and cut at the left: " in line for line in said)
    with pytest.raises(DataError, match=r"more than data\.max_tokens 20 tokens, the first: "):
        prepared(llama, data, **{**few, "too_long": "stop"})
    dropped = ready(llama, data, max_tokens=20, too_long="drop").data
    assert len(dropped.train) + len(dropped.test) == 12
    assert max(len(token_row(dropped.train, n).ids) for n in range(len(dropped.train))) <= 20


def test_what_makes_no_row_is_a_bad_sample(llama: Path, tmp_path: Path) -> None:
    data = tiny.chats(tmp_path / "chats.jsonl")
    with data.open("a", encoding="utf-8") as file:
        file.write('{"messages": [{"role": "user", "content": "the film"}], "sender": "s1"}\n')
    with pytest.raises(DataError, match=r"chats\.jsonl line 25: no token of it counts: "):
        ready(llama, data)
    assert ready(llama, data, on_bad_sample="skip").skipped == 1


def test_conversations_need_a_template(llama: Path, tmp_path: Path) -> None:
    data = tiny.chats(tmp_path / "chats.jsonl")
    with pytest.raises(ConfigError, match=r"no chat template .*: set data\.chat_template to"):
        prepared(llama, data, max_tokens=40)
    corpus = tiny.corpus(tmp_path / "corpus", documents=4)
    with pytest.raises(ConfigError, match=r"data\.loss_on is assistant, but the data are texts"):
        prepared(llama, corpus, loss_on="assistant")


def test_pairs_are_read_without_a_template_and_alpaca_with_one(llama: Path, tmp_path: Path) -> None:
    rows = [{"instruction": "the film", "output": f"was {word}"} for word in tiny.WORDS]
    data = tmp_path / "alpaca.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    said = prepared(llama, data, max_tokens=80)
    assert any("loss on the completion, Alpaca's own prompt, since" in line for line in said)
    said = prepared(llama, data, **CHATS)
    assert any("loss on the completion, template of data.chat_template" in line for line in said)


def test_texts_may_be_rows_of_their_own(llama: Path, tmp_path: Path) -> None:
    corpus = tiny.corpus(tmp_path / "corpus", documents=12, words=10)
    alone = ready(llama, corpus, packing="none", chat_template=None)
    assert len(alone.data.train) + len(alone.data.test) == 12
    row = token_row(alone.data.train, 0)
    assert (len(row.ids), row.ids[-1], row.labels[0]) == (11, 2, -100)
    packed = ready(llama, corpus, packing="documents", chat_template=None, max_tokens=33)
    batch = packed.batches.make(packed.data.train, np.arange(len(packed.data.train)))
    assert batch.documents is not None and batch.documents[0] == (11, 11, 11)


def test_the_defaults_fit_the_built_in_model() -> None:
    assert Config().data.image_size % 14 == 0


@pytest.mark.parametrize(
    "given",
    [
        {"packing": "documents"},
        {"loss_on": "all"},
        {"too_long": "drop"},
        {"chat_template": "{{a}}"},
    ],
)
def test_what_language_models_alone_read_is_refused_for_others(
    tmp_path: Path, given: dict[str, str]
) -> None:
    """In a run, once it is known what the data are for, and in a plan."""
    model, data = tiny.text_model(tmp_path / "bert", "bert"), tiny.reviews(tmp_path / "reviews")
    config = tiny.config(model, data, data=given)
    (name,) = given
    for use in (lambda: prepare_data(config, model), lambda: planned_model(config)):
        with pytest.raises(ConfigError, match=rf"data\.{name} .* is not read for text-classif"):
            use()
