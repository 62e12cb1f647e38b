"""What the codec saves, apart from what it does not touch."""

from dataclasses import replace
from pathlib import Path

import pytest

from cutlayer.report.run_reader import read_run
from cutlayer.report.run_record import RoundWork, Traffic
from cutlayer.report.savings import Saving, savings
from report.fake_run import FakeRun, write_fake_run


@pytest.fixture
def work(tmp_path: Path) -> RoundWork:
    run = read_run(write_fake_run(tmp_path / "run", FakeRun(devices=2, rounds=1)))
    work = run.rounds[-1].work
    assert work is not None
    return work


def test_adapters_and_the_model_are_not_in_it(work: RoundWork) -> None:
    sizes = {"activation": 10, "labels": 2, "adapter_up": 500, "gradient": 20, "model": 9000}
    traffic = Traffic(512, 9020, 512 + 390, 9020 + 380)
    one = replace(work, bytes_by_payload=sizes, traffic=traffic)
    assert savings([one, one]) == [Saving("activations", 20, 800), Saving("gradients", 40, 800)]


def test_a_scheme_that_sends_neither_saves_nothing(work: RoundWork) -> None:
    one = replace(work, bytes_by_payload={"adapter_up": 5}, traffic=Traffic(5, 5, 5, 5))
    assert savings([one]) == []
