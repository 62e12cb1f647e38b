"""What a run's data and model cannot do together is said before any weight is read."""

import json
from pathlib import Path

import pytest
import tiny

from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError, DataError
from cutlayer.jobs.dataset import prepare_data
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


def test_the_defaults_fit_the_built_in_model() -> None:
    assert Config().data.image_size % 14 == 0
