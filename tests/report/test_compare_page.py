"""The page of a comparison: whole, closed in itself, true to its runs, the same each time."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from cutlayer.errors import RunError
from cutlayer.report.compare_page import Difference, compare_page, differences
from cutlayer.report.comparison import (
    Comparison,
    RefusedRun,
    compare,
    comparison_title,
    result_columns,
    target_columns,
    target_text,
)
from report.compared import compared, refused, with_scores
from report.fake_run import FakeRun
from report.test_run_page import HOSTILE, PageReader, drawings, read_page


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Two runs and one that does not fit."""
    folder, fake = tmp_path_factory.mktemp("runs"), FakeRun(devices=2, rounds=2, local_steps=1)
    runs = [compared(folder, "sft", fake), compared(folder, "sl", fake, slower=3.0)]
    return compare([*runs, refused("fl-lora")])


def _read(comparison: Comparison, folder: Path) -> tuple[PageReader, Path]:
    path = folder / "compare.html"
    path.write_text(compare_page(comparison), encoding="utf-8")
    return read_page(path), path


def test_the_page_is_well_formed_and_draws_everything(
    comparison: Comparison, tmp_path: Path
) -> None:
    reader, path = _read(comparison, tmp_path)
    assert len(drawings(path)) == 3
    assert "fl-lora does not fit: needs 155 MiB of 72.0 MiB" in reader.text
    assert comparison_title(comparison) in reader.text
    assert target_text(comparison) in reader.text
    assert path.stat().st_size < 200_000


def test_every_number_of_the_tables_is_on_the_page(comparison: Comparison, tmp_path: Path) -> None:
    reader, _ = _read(comparison, tmp_path)
    shown = {float(number) for number in reader.numbers}
    for column in (*result_columns(comparison), *target_columns(comparison)):
        assert {float(value) for value in column.values if value is not None} <= shown


def test_what_differs_is_a_row(comparison: Comparison, tmp_path: Path) -> None:
    reader, _ = _read(comparison, tmp_path)
    rows = [[text for _, text in row] for row in reader.rows if row]
    assert ["scheme.name", "sft", "sl", "fl-lora"] in rows
    run = comparison.runs[0]
    same = compare([run, replace(run, label="again")])
    assert "No setting differs" in compare_page(same)
    assert "coincide" in compare_page(same)


def test_nothing_is_said_of_rims_where_no_runs_coincide(comparison: Comparison) -> None:
    run = comparison.runs[0]
    apart = compare([run, with_scores(run, [0.2, 0.5, 0.3])])
    assert "coincide" not in compare_page(apart)


def test_the_page_needs_nothing_from_outside(comparison: Comparison, tmp_path: Path) -> None:
    reader, path = _read(comparison, tmp_path)
    assert not {tag for tag, _ in reader.tags} & {"script", "link", "iframe", "object", "img"}
    urls = set(re.findall(r"https?://[^\"' )]+", path.read_text(encoding="utf-8")))
    # XML namespaces are names, nothing is fetched from there
    assert urls == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_ids_are_unique(comparison: Comparison, tmp_path: Path) -> None:
    reader, _ = _read(comparison, tmp_path)
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_same_comparison_gives_the_same_bytes(comparison: Comparison) -> None:
    assert compare_page(comparison) == compare_page(comparison)


def test_hostile_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    fake = FakeRun(devices=1, rounds=1, local_steps=1)
    run = compared(tmp_path, "a", fake)
    config = "scheme: '<img src=x>'\n"
    evil = [replace(run, label=name, place=name) for name in HOSTILE]
    record = replace(run.record, config_text=config)
    reader, path = _read(compare([*evil, replace(run, record=record)]), tmp_path)
    assert not {"script", "img"} & {tag for tag, _ in reader.tags}
    assert HOSTILE[0] in reader.text and "<img src=x>" in reader.text
    assert len(drawings(path)) == 3


def _configured(text: str) -> RefusedRun:
    return replace(refused("run"), config_text=text)


def test_only_keys_that_differ_are_named() -> None:
    first = _configured("scheme: {name: sft}\ntraining: {rounds: 2, batch_size: 4}\nseed: 0\n")
    second = _configured("scheme: {name: sl}\ntraining: {rounds: 3, batch_size: 4}\nseed: 0\n")
    assert differences([first, second]) == (
        Difference("scheme.name", ("sft", "sl")),
        Difference("training.rounds", ("2", "3")),
    )
    assert differences([first, first]) == ()


def test_values_are_shown_as_yaml_and_missing_keys_as_a_dash() -> None:
    first = _configured("shares: [0.5, 0.25]\nlimit: null\nquiet: true\nname: '1'\n")
    second = _configured("limit: 72.0\nquiet: false\nname: 1\n")
    found = {row.key: row.values for row in differences([first, second])}
    assert found == {
        "shares": ("[0.5, 0.25]", "-"),
        "limit": ("null", "72.0"),
        "quiet": ("true", "false"),
        "name": ("'1'", "1"),
    }


def test_finished_and_refused_runs_are_read_alike(tmp_path: Path) -> None:
    run = compared(tmp_path, "sft", FakeRun(devices=1, rounds=1, local_steps=1))
    assert differences([run, refused("fl-lora")]) == (
        Difference("scheme.name", ("sft", "fl-lora")),
    )


@pytest.mark.parametrize("text", ["a: [", "a: !!python/object:os.system {}", "[" * 5000])
def test_a_configuration_that_is_not_yaml(text: str) -> None:
    with pytest.raises(RunError, match="configuration of run is not YAML"):
        differences([_configured(text)])


def test_an_empty_configuration_has_no_keys() -> None:
    assert differences([_configured(""), _configured("a: 1")]) == (Difference("a", ("-", "1")),)
