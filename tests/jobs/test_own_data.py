"""A device's own samples: all of them, numbered as the run numbers their classes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from net.wire.test_messages import TERMS
from PIL import Image

from cutlayer.config.schema import DataSection
from cutlayer.errors import DataError
from cutlayer.jobs.dataset import OwnData, check_own, own_samples

REVIEWS = replace(TERMS, task="text-classification", class_names=["neg", "pos"], classes=2)
SIZES = DataSection(image_size=28, max_tokens=12)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.text_model(tmp_path_factory.mktemp("own") / "bert", "bert")


def lines(path: Path, *rows: tuple[str, str], label: str = "label") -> Path:
    path.write_text(
        "".join(json.dumps({"text": text, label: name}) + "\n" for text, name in rows),
        encoding="utf-8",
    )
    return path


def test_all_samples_are_used_in_their_order(model: Path, tmp_path: Path) -> None:
    """A device that has one class only numbers it as the run does."""
    path = lines(tmp_path / "own.jsonl", *((f"good film {n}", "pos") for n in range(5)))
    samples, batches = own_samples(OwnData(path), REVIEWS, SIZES, model)
    assert [samples.read(n) for n in range(len(samples))] == [f"good film {n}" for n in range(5)]
    assert batches.make(samples, np.arange(5)).labels.tolist() == [1] * 5


def test_images_in_class_folders(tmp_path: Path) -> None:
    terms = replace(TERMS, task="image-classification", class_names=["a", "b", "c"], classes=3)
    for name in ("c", "a"):
        (tmp_path / "own" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "own" / name / "0.png")
    samples, _ = own_samples(OwnData(tmp_path / "own"), terms, SIZES, tmp_path)
    assert samples.labels.tolist() == [0, 2]


def test_documents_are_cut_into_blocks(model: Path, tmp_path: Path) -> None:
    terms = replace(TERMS, task="causal-lm", class_names=[])
    path = tmp_path / "own.txt"
    path.write_text("the film was good and " * 20, encoding="utf-8")
    samples, _ = own_samples(OwnData(path), terms, DataSection(max_tokens=8), model)
    assert len(samples) == -(-(5 * 20 + 1) // 8)


def test_conversations_are_read_on_the_run_s_terms(tmp_path: Path) -> None:
    """Whatever format a device's are in; the template is the run's."""
    llama = tiny.text_model(tmp_path / "llama", "llama")
    terms = replace(TERMS, task="causal-lm", class_names=[])
    section = DataSection(
        chat_template=tiny.CHAT_TEMPLATE, max_tokens=60, loss_on="completion", packing="documents"
    )
    samples, batches = own_samples(
        OwnData(tiny.chats(tmp_path / "own.jsonl", count=4)), terms, section, llama
    )
    batch = batches.make(samples, np.arange(len(samples)))
    assert batch.documents is not None
    assert sum(len(row) for row in batch.documents) == 4
    path = tmp_path / "shared.jsonl"
    turns = [{"from": "human", "value": "the film"}, {"from": "gpt", "value": "was good"}]
    path.write_text(json.dumps({"talk": turns, "text": "a"}), encoding="utf-8")
    own = OwnData(path, text_field="talk", format="sharegpt")
    samples, batches = own_samples(own, terms, section, llama)
    assert (batches.make(samples, np.arange(1)).labels >= 0).sum() == 3


def test_a_class_that_the_run_does_not_know(model: Path, tmp_path: Path) -> None:
    path = lines(tmp_path / "own.jsonl", ("good", "pos"), ("what", "neutral"))
    with pytest.raises(DataError, match="'neutral'; it knows neg, pos"):
        own_samples(OwnData(path), REVIEWS, SIZES, model)
    samples, _ = own_samples(OwnData(path, on_bad_sample="skip"), REVIEWS, SIZES, model)
    assert [samples.read(n) for n in range(len(samples))] == ["good"]


def test_a_slash_in_a_class_is_an_underscore_in_a_folder(tmp_path: Path) -> None:
    names = ["Coat", "T-shirt/top"]
    terms = replace(TERMS, task="image-classification", class_names=names, classes=2)
    for name in ("T-shirt_top", "Coat"):
        (tmp_path / "own" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "own" / name / "0.png")
    samples, _ = own_samples(OwnData(tmp_path / "own"), terms, SIZES, tmp_path)
    assert [names[label] for label in samples.labels] == ["Coat", "T-shirt/top"]


def test_class_names_are_compared_without_a_model(tmp_path: Path) -> None:
    own = OwnData(lines(tmp_path / "own.jsonl", ("good", "pos"), ("what", "neutral")))
    check_own(own, "text-classification", ["neutral", "pos"])
    check_own(own, "causal-lm", [])
    with pytest.raises(DataError, match=r"1 of 2 classes that the run does not know.*neutral"):
        check_own(own, "text-classification", ["neg", "pos"])
    with pytest.raises(DataError, match="the run for image-classification"):
        check_own(own, "image-classification", ["neutral", "pos"])


def test_data_for_another_task(model: Path, tmp_path: Path) -> None:
    path = lines(tmp_path / "own.jsonl", ("good", "pos"))
    terms = replace(REVIEWS, task="image-classification")
    with pytest.raises(DataError, match="the run for image-classification"):
        own_samples(OwnData(path), terms, SIZES, model)
    with pytest.raises(DataError, match="no such file"):
        own_samples(OwnData(tmp_path / "none"), terms, SIZES, model)


def test_columns_have_the_devices_names(model: Path, tmp_path: Path) -> None:
    path = lines(tmp_path / "own.jsonl", ("good", "pos"), label="mood")
    samples, _ = own_samples(OwnData(path, label_field="mood"), REVIEWS, SIZES, model)
    assert samples.labels.tolist() == [1]


def test_what_a_device_leaves_out_or_skips_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    terms = replace(TERMS, task="image-classification", class_names=["a", "b"], classes=2)
    for name in ("a", "b"):
        (tmp_path / "own" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "own" / name / "0.png")
    (tmp_path / "own" / "b" / "1.png").write_bytes(b"damaged")
    (tmp_path / "own" / "b" / "2.heic").write_bytes(b"")
    caplog.set_level("INFO")
    own_samples(OwnData(tmp_path / "own", on_bad_sample="skip"), terms, SIZES, tmp_path)
    first, second = (record.getMessage() for record in caplog.records)
    assert first.endswith("own: 3 samples; left out 1 file: 1 .heic")
    assert second.startswith(f"skipped 1 bad samples, the first: {tmp_path}/own/b/1.png is not")


def test_labels_of_a_device_are_read_as_the_runs_are(model: Path, tmp_path: Path) -> None:
    """A device whose tool wrote `1.0` and blanks has the run's classes."""
    path = tmp_path / "own.csv"
    path.write_text("text,label\ngood film,1.0\nbad film, 0 \n")
    terms = replace(REVIEWS, class_names=["0", "1"])
    samples, _ = own_samples(OwnData(path), terms, SIZES, model)
    assert samples.labels.tolist() == [1, 0]
