"""Who holds a round up, in words."""

from cutlayer.net.server.devices import DeviceProgress, missing


def test_who_is_late_is_named_with_how_far_they_are() -> None:
    devices = [
        DeviceProgress(True, 10, True),
        DeviceProgress(False, 3, False),
        DeviceProgress(True, 10, False),
    ]
    name_of = {1: "pi-1"}.get
    assert missing(devices, 10, name_of) == (
        "pi-1 (away, 3 of 10 local steps), device 2 (connected, 10 of 10 local steps)"
    )


def test_of_many_the_first_are_named() -> None:
    said = missing([DeviceProgress(False, 0, False)] * 200, 10, lambda device: None)
    assert said.count("device") == 8
    assert said.endswith(" and 192 more")
