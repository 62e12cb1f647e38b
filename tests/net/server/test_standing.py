"""Who holds a round up, in words."""

from cutlayer.net.server.devices import DeviceStanding, missing


def test_who_is_late_is_named_with_how_far_they_are() -> None:
    standings = [
        DeviceStanding(True, 10, True),
        DeviceStanding(False, 3, False),
        DeviceStanding(True, 10, False),
    ]
    name_of = {1: "pi-1"}.get
    assert missing(standings, 10, name_of) == (
        "pi-1 (away, 3 of 10 local steps), device 2 (connected, 10 of 10 local steps)"
    )


def test_of_many_the_first_are_named() -> None:
    said = missing([DeviceStanding(False, 0, False)] * 200, 10, lambda device: None)
    assert said.count("device") == 8
    assert said.endswith(" and 192 more")
