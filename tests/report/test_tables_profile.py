"""The table of a profile."""

from dataclasses import replace
from io import StringIO

from rich.console import Console

from cutlayer.planner.profile import DevicePartPoint, Profile, ProfilePoint
from cutlayer.report.tables import device_part_tables, profile_table

PROFILE = Profile(
    model="m",
    data="d",
    cut=4,
    training="m cut after block 4",
    command="cutlayer profile",
    test_samples=500,
    seeds=(0, 1),
    points=(
        ProfilePoint("none", {}, 32.0, 32.0, (0.8, 0.9)),
        ProfilePoint("paper-rans", {"keep_ratio": 0.05, "levels": 63}, 0.5, 0.25, (0.7, 0.8)),
        ProfilePoint(
            "best", {"target_bits_up": 0.26, "target_bits_down": 0.12}, 0.3, 0.1, (1.0, 0.0)
        ),
    ),
)


def test_every_point_and_what_it_loses() -> None:
    shown = StringIO()
    Console(file=shown, width=80).print(profile_table(PROFILE))
    text = [" ".join(line.split()) for line in shown.getvalue().splitlines()]
    assert text[0] == "m cut after block 4"
    assert text[3] == "none 32.000 32.000 85.0 80.0 to 90.0"
    assert text[4] == "paper-rans 0.05, 63 0.500 0.250 75.0 70.0 to 80.0 +10.0"
    assert text[5] == "best 0.26, 0.12 0.300 0.100 50.0 0.0 to 100.0 +35.0"
    assert text[6].startswith("accuracy of 500 test samples over 2 seeds")
    assert all(len(line) <= 80 for line in shown.getvalue().splitlines())


def test_every_device_part_and_what_it_loses() -> None:
    parts = (
        DevicePartPoint(4, "trained", None, (0.8, 0.9)),
        DevicePartPoint(4, "frozen", None, (0.7, 0.7)),
        DevicePartPoint(4, "warm", 2, (0.81, 0.91)),
    )
    (table,) = device_part_tables(replace(PROFILE, device_parts=parts))
    shown = StringIO()
    Console(file=shown, width=80).print(table)
    text = [" ".join(line.split()) for line in shown.getvalue().splitlines()]
    assert text[2] == "4 trained 85.0 80.0 to 90.0"
    assert text[3] == "4 frozen 70.0 70.0 to 70.0 +15.0 5.0"
    assert text[4] == "4 warm, 2 rounds 86.0 81.0 to 91.0 -1.0 0.0"
    assert text[5].startswith("through the codec best; lost: points")
    assert all(len(line) <= 80 for line in shown.getvalue().splitlines())


def test_no_table_where_nothing_was_measured() -> None:
    assert not list(device_part_tables(PROFILE))
