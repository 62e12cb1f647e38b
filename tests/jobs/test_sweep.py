"""What a sweep says of its runs' energy."""

import pytest

from cutlayer.config.schema import Config
from cutlayer.jobs.sweep import _joules
from cutlayer.report.run_reader import RunRecord
from cutlayer.rounds.schemes import Phase
from cutlayer.training.records import Partition, Summary, TrainedRound


def _run(delay_s: float, computes_s: list[float], participants: tuple[int, ...] = ()) -> RunRecord:
    """Of one round; what energy is not made of is not there."""
    played = TrainedRound.model_construct(
        delay_s=delay_s,
        device_delay_by_phase_s=tuple({Phase.DEVICE_FORWARD.value: one} for one in computes_s),
        participants=participants,
    )
    return RunRecord("", (played,), Partition.model_construct(), (), Summary.model_construct())


def test_energy_is_of_the_devices_that_take_part() -> None:
    config = Config(devices={"count": 3, "power_w": 2.0}, channel={"name": "snr"})
    assert _joules(config, _run(4.0, [1.0, 2.0, 3.0])) == pytest.approx(12.0)
    assert _joules(config, _run(4.0, [3.0], (2,))) == pytest.approx(6.0)
    assert _joules(Config(devices={"count": 3}), _run(4.0, [1.0, 2.0, 3.0])) is None
