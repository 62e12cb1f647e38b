"""The tables of the terminal."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from cutlayer.report.comparison import Comparison, compare
from cutlayer.report.run_reader import RunRecord, read_record
from cutlayer.report.tables import ShareBar, compare_table, round_table, summary_table
from cutlayer.report.wording import PHASES, Word, phases_in
from cutlayer.units import format_bytes, format_seconds
from report.compared import SCHEMES, compared, refused
from report.fake_run import FakeRun, write_fake_run


def printed(content: RenderableType, width: int, encoding: str = "utf-8") -> list[str]:
    """The lines that reach a pipe of that width."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    Console(width=width, file=file, force_terminal=False).print(content)
    file.flush()
    return raw.getvalue().decode(encoding).splitlines()


def _phases(run: RunRecord) -> dict[str, Word]:
    """Those that took time in this run: not those of other schemes."""
    found = phases_in(record.delay_by_phase_s for record in run.trained)
    assert {"device_forward", "server_queue"} <= set(found) < set(PHASES)
    return found


@pytest.fixture
def run(tmp_path: Path) -> RunRecord:
    """Six rounds on eight devices."""
    return read_record(write_fake_run(tmp_path / "run", FakeRun()))


@pytest.mark.parametrize("width", [80, 100])
def test_tables_fit_and_lose_nothing(run_directory: Path, width: int) -> None:
    run = read_record(run_directory)
    lines = printed(round_table(run.rounds), width) + printed(summary_table(run.summary), width)
    assert all(len(line.rstrip()) <= width for line in lines)
    # an ellipsis is where rich had to cut
    assert not any("…" in line or "\x1b" in line for line in lines)


def test_each_round_is_a_row_with_its_numbers(run: RunRecord) -> None:
    lines = printed(round_table(run.rounds), 80)
    rows = [line.split() for line in lines if line.split()[0].isdigit()]
    assert [row[0] for row in rows] == [str(record.round) for record in run.rounds]
    assert set(rows[0][2:]) == {"-"}
    for row, work in zip(rows[1:], run.trained, strict=True):
        shown = [float(text) for text in row]
        expected = [
            100 * work.score.value,
            work.train_loss,
            work.uplink_bytes / 2**20,
            work.downlink_bytes / 2**20,
            work.delay_s,
            *(work.delay_by_phase_s[phase] for phase in _phases(run)),
        ]
        # one decimal at least: half a unit of it is 0.05
        assert shown[1:] == pytest.approx(expected, abs=0.05)


def test_the_legend_names_every_phase(run: RunRecord) -> None:
    text = " ".join(" ".join(printed(round_table(run.rounds), 80)).split())
    assert _phases(run)
    assert all(f"{word.short}: {word.label}" in text for word in _phases(run).values())


def test_the_summary_says_what_the_run_cost(run: RunRecord) -> None:
    summary, text = run.summary, "\n".join(printed(summary_table(run.summary), 80))
    assert "10.4 % -> 73.5 %" in text
    for size in (
        summary.uplink_bytes,
        summary.uncompressed_downlink_bytes,
        summary.device_peak_bytes,
        summary.device_memory_limit_bytes or 0,
        summary.model_bytes,
        summary.unsplit_peak_bytes,
    ):
        assert format_bytes(size) in text
    for phase, word in _phases(run).items():
        mean_s = summary.delay_by_phase_s[phase] / summary.rounds
        row = next(line for line in text.splitlines() if word.label in line)
        assert format_seconds(mean_s) in row


def test_perplexity_takes_the_place_of_accuracy(tmp_path: Path) -> None:
    fake = FakeRun(devices=2, rounds=2, language_modelling=True, class_names=("text",))
    run = read_record(write_fake_run(tmp_path / "run", fake))
    text = "\n".join(printed(round_table(run.rounds), 80) + printed(summary_table(run.summary), 80))
    assert "perplexity" in text
    assert "61.8 -> " in text
    assert "accuracy" not in text


def test_plain_ascii_where_there_is_nothing_else(run: RunRecord) -> None:
    lines = printed(round_table(run.rounds), 80, "ascii")
    lines += printed(summary_table(run.summary), 80, "ascii")
    assert any("####" in line for line in lines)


@pytest.mark.parametrize(("share", "cells"), [(0.0, 0), (0.001, 1), (0.5, 5), (1.0, 10), (3.0, 10)])
def test_a_bar_is_as_long_as_its_share(share: float, cells: int) -> None:
    assert len("".join(printed(ShareBar(share, 10, "red"), 20))) == cells
    assert "".join(printed(ShareBar(share, 10, "red"), 20, "ascii")) == "#" * cells


def test_a_name_cannot_colour_or_command_the_terminal(run: RunRecord) -> None:
    evil = run.summary.model_copy(update={"model": "[red]x[/red] \x1b[31m \r\n"})
    raw = "\n".join(printed(summary_table(evil), 80))
    assert "[red]x[/red]" in raw
    assert "\x1b" not in raw


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Every scheme; the last does not fit."""
    folder, fake = tmp_path_factory.mktemp("runs"), FakeRun(devices=2, rounds=3, local_steps=1)
    runs = [
        compared(folder, name, fake, slower=800.0 * (n + 1), larger=50.0, learns=1 + n / 50)
        for n, name in enumerate(SCHEMES[:-1])
    ]
    return compare([*runs, refused(SCHEMES[-1], 1023.0, 1022.0)])


def test_eighty_columns_are_enough(comparison: Comparison) -> None:
    lines = printed(compare_table(comparison), 80)
    assert all(len(line.rstrip()) <= 80 for line in lines)
    assert not any("…" in line for line in lines)


def test_each_run_is_a_row_of_both_tables(comparison: Comparison) -> None:
    lines = printed(compare_table(comparison), 80)
    for name in SCHEMES:
        assert len([line for line in lines if line.startswith(f"{name} ")]) >= 2
    assert lines[-1] == "fl-full does not fit: needs 1023 MiB of 1022 MiB"


def test_a_target_out_of_reach_is_said(comparison: Comparison) -> None:
    lines = printed(compare_table(compare(comparison.entries, 0.99)), 80)
    assert "until accuracy 99.0 % or better" in lines
    assert len([line for line in lines if "not reached" in line]) == 7


def test_the_label_of_a_run_cannot_colour_or_command_the_terminal(tmp_path: Path) -> None:
    run = compared(tmp_path, "a", FakeRun(devices=1, rounds=1, local_steps=1))
    lines = printed(compare_table(compare([replace(run, label="[red]x\x1b[31m")])), 80)
    assert any("[red]x" in line for line in lines)
    assert not any("\x1b" in line for line in lines)
