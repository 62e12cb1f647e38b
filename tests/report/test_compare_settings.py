"""Which settings differ."""

from dataclasses import replace
from pathlib import Path

import pytest

from cutlayer.errors import RunError
from cutlayer.report.comparison import Difference, RefusedRun, differences
from report.compared import compared, refused
from report.fake_run import FakeRun


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
