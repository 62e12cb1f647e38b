"""The tables of a comparison on a terminal."""

from dataclasses import replace
from pathlib import Path

import pytest

from cutlayer.report.comparison import Comparison, compare
from cutlayer.report.tables import compare_table
from report.compared import SCHEMES, compared, refused
from report.fake_run import FakeRun
from report.test_tables import printed


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


def test_a_name_cannot_colour_or_command_the_terminal(tmp_path: Path) -> None:
    run = compared(tmp_path, "a", FakeRun(devices=1, rounds=1, local_steps=1))
    lines = printed(compare_table(compare([replace(run, label="[red]x\x1b[31m")])), 80)
    assert any("[red]x" in line for line in lines)
    assert not any("\x1b" in line for line in lines)
