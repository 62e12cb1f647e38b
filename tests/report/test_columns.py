"""What the codec saves, apart from what it does not touch."""

from pathlib import Path

import pytest

from cutlayer.report.run_reader import read_record
from cutlayer.report.wording import Saving, savings
from cutlayer.training.records import TrainedRound
from report.fake_run import FakeRun, write_fake_run


@pytest.fixture
def work(tmp_path: Path) -> TrainedRound:
    run = read_record(write_fake_run(tmp_path / "run", FakeRun(devices=2, rounds=1)))
    return run.trained[-1]


def test_adapters_and_the_model_are_not_in_it(work: TrainedRound) -> None:
    sizes = {"activation": 10, "labels": 2, "adapter_up": 500, "gradient": 20, "weights": 9000}
    one = work.model_copy(
        update={
            "bytes_by_payload": sizes,
            "uplink_bytes": 512,
            "downlink_bytes": 9020,
            "uncompressed_uplink_bytes": 512 + 390,
            "uncompressed_downlink_bytes": 9020 + 380,
        }
    )
    assert savings([one, one]) == [Saving("activations", 20, 800), Saving("gradients", 40, 800)]


def test_a_scheme_that_sends_neither_saves_nothing(work: TrainedRound) -> None:
    one = work.model_copy(update={"bytes_by_payload": {"adapter_up": 5}})
    assert savings([one]) == []
