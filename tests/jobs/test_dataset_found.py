"""The data of a run: told in whole, checked in whole, and for the model that is to learn them."""

import json
from pathlib import Path

import pytest
import tiny
from data.sets import class_images, json_lines

from cutlayer.config.schema import Config
from cutlayer.data.partition import PreparedData
from cutlayer.errors import DataError
from cutlayer.jobs.dataset import prepare_data
from cutlayer.jobs.train import start
from cutlayer.logs import lines_to
from cutlayer.spec import LeftOut


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny.vision_model(folder / "vision")
    tiny.text_model(folder / "bert", "bert")
    tiny.text_model(folder / "llama", "llama")
    return folder


def prepared(model: Path, data: Path | str, **settings: object) -> tuple[PreparedData, list[str]]:
    """What prepare_data gives, and the lines that it says."""
    config = Config.model_validate(
        {
            "model": {"name": str(model)},
            "data": {"name": str(data), "image_size": 28, **settings},
            "devices": {"count": 2},
        }
    )
    said: list[str] = []
    with lines_to(said.append):
        return prepare_data(config, model), said


def table(folder: Path, rows: int = 20) -> Path:
    path = folder / "d.jsonl"
    json_lines(path, [{"text": f"good film {n}", "label": n % 2} for n in range(rows)])
    return path


@pytest.mark.parametrize(
    ("model", "data", "task", "advice"),
    [
        ("vision", "brown", "causal-lm", "smollm2"),
        ("vision", "wordnet-glosses", "text-classification", "minilm"),
        ("bert", "brown", "causal-lm", "smollm2"),
        ("llama", "fashion-mnist", "image-classification", "dinov2-small"),
    ],
)
def test_a_model_for_another_task_is_refused_before_data_are_fetched(
    models: Path, monkeypatch: pytest.MonkeyPatch, model: str, data: str, task: str, advice: str
) -> None:
    monkeypatch.delattr("cutlayer.jobs.dataset.load_data")
    with pytest.raises(DataError, match=rf"is for .*data {data} for {task}: .* such as {advice}"):
        prepared(models / model, data)


def test_a_model_for_another_task_than_a_paths_data_is_refused(
    models: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"is for image-classification, data .* for text-class"):
        prepared(models / "vision", table(tmp_path))


def test_all_that_was_found_is_told_in_a_line(models: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        class_images(tmp_path / split, ("green", "red"), 4)
    (tmp_path / "train" / "red" / ".thumbnails").mkdir()
    for place in range(3):
        (tmp_path / "train" / "red" / ".thumbnails" / f"{place}.png").write_bytes(b"")
    (tmp_path / "test" / "red" / "a.heic").write_bytes(b"")
    result, said = prepared(models / "vision", tmp_path)
    found = "found 8 training and 8 test samples; left out 4 files: 3 hidden, 1 .heic"
    assert f"warning: {found}" in said  # a .heic is a picture that nobody will train on
    assert set(result.data.left_out) == {
        LeftOut("files", "hidden", 3),
        LeftOut("files", ".heic", 1),
    }


def test_the_size_and_filter_of_pictures_are_told(models: Path, tmp_path: Path) -> None:
    class_images(tmp_path, ("green", "red"), 4)
    _, said = prepared(models / "vision", tmp_path)
    assert "images: the central square, resized to 28 px (bicubic)" in said


def test_a_broken_row_is_named_though_few_rows_are_drawn(models: Path, tmp_path: Path) -> None:
    path = table(tmp_path, 200)
    with path.open("a") as file:
        file.write("{\n")
    with pytest.raises(DataError, match=r"1 of 201 samples cannot be used: .*line 201"):
        prepared(models / "bert", path, train_samples=10)
    result, said = prepared(models / "bert", path, train_samples=10, on_bad_sample="skip")
    assert result.skipped == 1
    assert len(result.data.train) == 10
    assert any("skipped 1 bad samples" in line for line in said)


def test_classes_that_look_alike_are_told(models: Path, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"text": "good", "label": label} for label in ("Red", "red", "green") * 5
    ]
    json_lines(tmp_path / "d.jsonl", rows)
    result, said = prepared(models / "bert", tmp_path / "d.jsonl")
    assert (
        "warning: classes 'Red' and 'red' look alike and stay separate: is that intended?" in said
    )
    assert result.data.class_names == ("Red", "green", "red")


def test_labels_that_may_be_quantities_are_told(models: Path, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": "good", "label": 0.37 * n} for n in range(30)]
    json_lines(tmp_path / "d.jsonl", rows)
    _, said = prepared(models / "bert", tmp_path / "d.jsonl", test_fraction=0.4)
    told = "warning: 30 samples have 30 classes, such as 0, 0.37, 0.74: are the labels quantities"
    assert any(line.startswith(told) for line in said)


def test_labels_that_are_no_classes_do_not_stop_a_language_model(
    models: Path, tmp_path: Path
) -> None:
    rows: list[dict[str, object]] = [
        {"text": "good film was the plot " * 9, "label": f"own {n}" if n % 3 else None}
        for n in range(30)
    ]
    json_lines(tmp_path / "d.jsonl", rows)
    result, _ = prepared(models / "llama", tmp_path / "d.jsonl", task="causal-lm", max_tokens=8)
    assert result.skipped == 0
    assert sum(len(part) for part in result.parts) == len(result.data.train)


def test_a_runs_summary_keeps_what_was_left_out(models: Path, tmp_path: Path) -> None:
    class_images(tmp_path / "d", ("green", "red"), 6)
    (tmp_path / "d" / "red" / ".0.png").write_bytes(b"")
    (tmp_path / "d" / "red" / "damaged.png").write_bytes(b"")
    config = tiny.config(
        models / "vision",
        tmp_path / "d",
        training={"rounds": 1, "local_steps": 1},
        devices={"count": 2},
    )
    section = config.data.model_copy(update={"on_bad_sample": "skip"})
    config = config.model_copy(update={"data": section})
    summary = json.loads((start(config, tmp_path / "runs").path / "summary.json").read_text())
    assert summary["left_out"] == [{"what": "files", "why": "hidden", "count": 1}]
    assert summary["skipped_samples"] == 1
