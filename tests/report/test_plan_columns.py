"""The cells of a plan's tables, and how they look on a terminal."""

import re

import pytest
from planner import workloads

from cutlayer.planner.plan import Plan, make_plan
from cutlayer.report.plan import (
    MOST_DEVICES,
    cut_cells,
    device_cells,
    gain_cells,
    phase_cells,
    phase_legend,
    shown_devices,
    used_phases,
)
from cutlayer.report.tables import plan_tables
from cutlayer.rounds.schemes import SFT
from report.test_tables import printed


def plan_of(count: int, memory_mib: float | None, **bounds: object) -> Plan:
    """That of devices which get faster one by one."""
    own = workloads.workload(
        [1e9 * (1 + n) for n in range(count)],
        [15.0] * count,
        [memory_mib] * count,
        local_steps=2,
    )
    return make_plan(own, workloads.limits(own, **bounds), SFT, workloads.CODECS, 0.02)


@pytest.fixture(scope="module")
def plan() -> Plan:
    """Some cuts of it do not fit."""
    return plan_of(3, 1.0)


@pytest.fixture(scope="module")
def crowded() -> Plan:
    """More devices than are shown."""
    return plan_of(MOST_DEVICES + 3, None)


def test_seconds_by_phase_sum_to_the_round(plan: Plan) -> None:
    cells = phase_cells(plan)
    assert plan.chosen is not None
    assert len(cells.headings) == 2 + len(used_phases(plan))
    assert [row[0] for row in cells.rows] == ["device-0", "device-1", "device-2"]
    for row, delay_s in zip(cells.rows, plan.chosen.later.device_delay_s, strict=True):
        *phases, whole = map(float, row[1:])
        unit = {"s": 1.0, "ms": 1e-3}[cells.headings[-1].split()[-1]]
        assert whole * unit == pytest.approx(delay_s, rel=5e-3)
        # each is rounded to as many digits as three of the largest leave
        digits = len(row[-1].partition(".")[2])
        assert sum(phases) == pytest.approx(whole, abs=(len(phases) + 1) * 10.0**-digits)


def test_devices_with_what_they_have(plan: Plan) -> None:
    cells = device_cells(plan)
    assert plan.chosen is not None
    assert cells.headings[:3] == ("device", "cut", "bandwidth %")
    shares = [float(row[2]) for row in cells.rows]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert {row[1] for row in cells.rows} == {str(plan.chosen.decision.common_cut)}
    for row in cells.rows:
        assert float(row[3]) <= float(row[4])


def test_the_slowest_of_many_are_shown(crowded: Plan) -> None:
    assert crowded.chosen is not None
    later, shown = crowded.chosen.later, shown_devices(crowded)
    assert len(shown) == MOST_DEVICES == len(device_cells(crowded).rows)
    left = set(later.devices) - set(shown)
    slowest_left = max(later.device_delay_s[n] for n in left)
    assert min(later.device_delay_s[n] for n in shown) >= slowest_left
    assert phase_cells(crowded).note == "the slowest; 3 more are not shown"


def test_the_legend_names_every_column(plan: Plan) -> None:
    for heading in phase_cells(plan).headings[1:-1]:
        assert f"{heading.split()[0]}: " in phase_legend(plan)


def test_a_row_for_every_cut(plan: Plan) -> None:
    rows = cut_cells(plan).rows
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "5"]
    fits = [row[3] for row in rows]
    assert fits[0] == "yes" and fits[-1].startswith("short by ")
    for row in rows:
        assert (row[1] == "-") is row[3].startswith("short by ")


def test_a_server_that_would_be_too_busy() -> None:
    own = workloads.workload((1e12,) * 3, server_flops_per_s=1e9, bandwidth_hz=1e8)
    busy = make_plan(own, workloads.limits(own, server_busy=0.05), SFT, workloads.CODECS, 0.02)
    assert {row[3] for row in cut_cells(busy).rows} == {"server too busy"}


def test_gains_begin_with_the_plan(plan: Plan) -> None:
    rows = gain_cells(plan).rows
    assert (rows[0][0], rows[0][3], rows[0][4]) == ("this plan", "1", "yes")
    assert [row[0] for row in rows[1:]] == [baseline.name for baseline in plan.baselines]
    assert {row[4] for row in rows[1:]} <= {"yes", "no"}


def test_eighty_columns_are_enough(plan: Plan, crowded: Plan) -> None:
    for each in (plan, crowded):
        text = printed(plan_tables(each), 80)
        assert all(len(line.rstrip()) <= 80 for line in text)
        assert not any("…" in line for line in text)
        # a device is told in one line of each table
        assert sum(bool(re.match(r" +device-0 ", line)) for line in text) in (0, 2)
    assert sum(bool(re.match(r" +device-0 ", line)) for line in printed(plan_tables(plan), 80)) == 2


def test_where_nothing_fits_there_is_a_reason_and_the_cuts() -> None:
    text = printed(plan_tables(plan_of(3, 0.05)), 80)
    assert "nothing fits" in text
    assert any(line.startswith("every cut") for line in text)
    deep = printed(plan_tables(plan_of(3, None, least_cut=6)), 80)
    assert any("planner.least_cut is 6" in line for line in deep)
    assert "every cut" not in deep
