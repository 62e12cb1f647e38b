"""A server's line about how far its run is."""

from cutlayer.net.operations.status import RunPace
from cutlayer.net.server.devices import DeviceProgress


def test_a_line_says_how_far_the_run_is_and_how_long_it_takes() -> None:
    times_s = iter([10.0, 30.0, 31.0])
    pace = RunPace(rounds=4, steps=10, clock=lambda: next(times_s))
    here, away = DeviceProgress(True, 2, False), DeviceProgress(False, 3, True)
    assert pace.line(2, [here, away], 4.0) == (
        "38 %: round 2 of 4, step 5 of 10, 1 of 2 devices connected, 1 adapters sent; the round has"
        " taken 4.00 s"
    )
    # half of the run in 20 s from 37.5 % on: the rest, as much again, in 20 s
    later = pace.line(3, [DeviceProgress(True, 5, False), DeviceProgress(True, 2, False)], 12.0)
    assert later.startswith("68 %: round 3 of 4, step 7 of 10, 2 of 2 devices")
    assert later.endswith("the round has taken 12.0 s, about 22 s of the run left")


def test_nobody_knows_how_long_a_run_takes_that_does_not_get_on() -> None:
    pace = RunPace(rounds=4, steps=10, clock=iter([1.0, 2.0]).__next__)
    devices = [DeviceProgress(True, 2, False)]
    assert pace.line(1, devices, 1.0) == pace.line(1, devices, 1.0)
