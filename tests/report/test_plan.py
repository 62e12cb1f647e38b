"""A plan in words and in tables."""

import re
from dataclasses import replace

import pytest
from planner import workloads

from cutlayer.planner.configuration import CodecChoices
from cutlayer.planner.decision import PlannedServer, Workload
from cutlayer.planner.explain import (
    AccuracyInfeasibility,
    Limit,
    LimitSensitivity,
    ServerInfeasibility,
)
from cutlayer.planner.plan import Plan, make_plan
from cutlayer.report.plan import (
    MOST_DEVICES,
    codec_text,
    cut_cells,
    decision_facts,
    device_cells,
    gain_cells,
    infeasibility_line,
    limit_line,
    phase_cells,
    phase_legend,
    plan_title,
    resource_line,
    shown_devices,
    used_phases,
)
from cutlayer.report.tables import plan_tables
from cutlayer.rounds.costs import SentWeights
from cutlayer.rounds.schemes import SFT
from cutlayer.units import MIB, format_bytes
from report.test_tables import printed


def plan_of(own: Workload, codecs: CodecChoices = workloads.CODECS, **bounds: object) -> Plan:
    """The plan of SFT within these limits and two points of accuracy."""
    return make_plan(own, workloads.limits(own, **bounds), SFT, codecs, 0.02)


def number_after(key: str, text: str) -> float:
    """What `text` says to set `key` to."""
    found = re.search(rf"{re.escape(key)} to (?:at least )?([0-9.]+[0-9])", text)
    assert found is not None, text
    return float(found[1])


@pytest.fixture(scope="module")
def plan() -> Plan:
    """Three devices without limits."""
    return plan_of(workloads.workload())


def test_the_decision_in_words(plan: Plan) -> None:
    assert plan_title(plan) == "Plan: small on 3 devices"
    assert plan.chosen is not None
    facts, decision = decision_facts(plan), plan.chosen.decision
    assert facts["scheme"] == decision.scheme.title
    assert facts["cut"] == f"after block {decision.common_cut} of 6 blocks"
    assert facts["mini-batch"].startswith("8 samples of 17 tokens: ")
    assert "; 5 rounds take " in facts["round"]
    percents = re.findall(r"[0-9.]+", facts["bandwidth allocation"])
    assert float(percents[0]) == pytest.approx(100 * min(decision.shares), rel=5e-3)
    assert float(percents[-1]) == pytest.approx(100 * max(decision.shares), rel=5e-3)


def test_cuts_of_their_own_are_counted(plan: Plan) -> None:
    assert plan.chosen is not None
    decision = replace(plan.chosen.decision, cuts=(1, 4, 4))
    other = replace(plan, chosen=replace(plan.chosen, decision=decision))
    assert decision_facts(other)["cut"] == "after block 1 on 1 device, 4 on 2 devices of 6 blocks"


def test_what_is_assumed_of_the_weights_on_their_way(plan: Plan) -> None:
    assert plan.chosen is not None
    assert "weights" not in decision_facts(plan)  # sent as they are held
    own, cut = plan.workload, plan.chosen.decision.cuts[0]

    def fact(sent: SentWeights) -> str:
        accounting = replace(own.accounting, weights=sent)
        return decision_facts(replace(plan, workload=replace(own, accounting=accounting)))[
            "weights"
        ]

    size = format_bytes(SentWeights().bytes(own.model, cut))
    held = format_bytes(own.model.device_weight_bytes(cut))
    assert fact(SentWeights()).startswith(f"{size} in the first round: {held} of float32, coded")
    assert fact(SentWeights(devices_have_them=True)) == "devices have them"


def test_a_codec_and_what_it_costs() -> None:
    assert codec_text(workloads.BEST) == (
        "best (target_bits_up 0.7, target_bits_down 0.4), 0.70 + 0.42 bits per value, costs 0.5"
        " points of accuracy"
    )
    free = replace(workloads.BEST, accuracy_loss=-0.003)
    assert codec_text(free).endswith("costs no accuracy")
    unknown = replace(workloads.BEST, accuracy_loss=None)
    assert codec_text(unknown).endswith("accuracy not measured")


def test_what_more_of_a_resource_brings(plan: Plan) -> None:
    for row in plan.resource_sensitivities:
        line = resource_line(row)
        names = {"server's compute": "server compute", "devices' compute": "device compute"}
        more = names.get(row.resource, "bandwidth")
        assert line.startswith(f"+10 % {more}: ")
        assert "shorter" in line


@pytest.mark.parametrize(
    ("limit", "needed", "words"),
    [
        (Limit.MEMORY, 2.04 * MIB, "devices.memory_mib of 2.1 MiB"),
        (Limit.LEAST_CUT, 3, "planner.least_cut of 3 "),
        (Limit.SERVER_BUSY, 0.4321, "planner.server_busy of 0.433 "),
        (Limit.ACCURACY, 0.05001, "planner.accuracy_loss of 0.051 "),
    ],
)
def test_what_a_limit_keeps_out(plan: Plan, limit: Limit, needed: float, words: str) -> None:
    assert plan.chosen is not None
    line = limit_line(LimitSensitivity(limit, plan.chosen.decision, needed, 0.123))
    assert line.startswith(words)
    assert line.endswith("round 12.3 % shorter")


def test_what_is_reserved_is_shown_and_asked_for() -> None:
    own = workloads.workload(memory_mib=(100.0, 100.0, 100.0))
    kept = tuple(replace(device, reserved_bytes=512 * MIB) for device in own.devices)
    cells = device_cells(plan_of(replace(own, devices=kept)))
    assert cells.headings[-1] == "reserved MiB"
    assert {row[-1] for row in cells.rows[:-1]} == {"512"}
    short = tuple(replace(device, memory_bytes=MIB // 4) for device in kept)
    nothing = plan_of(replace(own, devices=short))
    (infeasibility,) = nothing.infeasibilities
    line = infeasibility_line(nothing, infeasibility)
    assert "device-0 has 256 KiB beside 512 MiB reserved for its system" in line
    assert number_after("devices.memory_mib", line) > 512.25


def test_the_memory_that_is_asked_for_is_enough() -> None:
    own = workloads.workload(memory_mib=(0.5, 0.25, 100.0))
    nothing = plan_of(own)
    (infeasibility,) = nothing.infeasibilities
    line = infeasibility_line(nothing, infeasibility)
    assert "device-1 has 256 KiB, 1 more device too little" in line
    assert "the embedding alone has" not in line
    enough = int(number_after("devices.memory_mib", line) * MIB)
    others = tuple(replace(each, memory_bytes=enough) for each in own.devices)
    assert plan_of(replace(own, devices=others)).chosen is not None
    # and a tenth of a MiB less is not
    fewer = tuple(replace(each, memory_bytes=enough - MIB // 10 - 1) for each in own.devices)
    assert plan_of(replace(own, devices=fewer)).chosen is None


def test_the_servers_memory_that_is_asked_for_is_enough() -> None:
    own = workloads.workload()

    def with_memory(mib: float) -> Plan:
        return plan_of(replace(own, server=PlannedServer(memory_bytes=int(mib * MIB))))

    nothing = with_memory(1.0)
    assert nothing.chosen is None
    (infeasibility,) = nothing.infeasibilities
    line = infeasibility_line(nothing, infeasibility)
    assert "the server needs" in line and "it has 1.00 MiB: short by" in line
    assert "server.activation_memory to checkpoint" in line and "does not fit either" in line
    assert {row[3].partition(" by ")[0] for row in cut_cells(nothing).rows} == {"server short"}
    enough = number_after("server.memory_mib", line)
    fitting = with_memory(enough)
    assert fitting.chosen is not None and fitting.chosen.server_memory.total <= enough * MIB
    assert decision_facts(fitting)["server"].endswith(f" of {enough:.2f} MiB")
    assert with_memory(enough - 0.2).chosen is None


def test_less_than_the_embedding() -> None:
    own = workloads.workload(memory_mib=(0.01, 0.01, 0.01))
    nothing = plan_of(own)
    assert "; the embedding alone has " in infeasibility_line(nothing, nothing.infeasibilities[0])


def test_a_shallower_cut_that_fits_is_named() -> None:
    own = workloads.workload(memory_mib=(1.0, 1.0, 1.0))
    nothing = plan_of(own, least_cut=5)
    line = infeasibility_line(nothing, nothing.infeasibilities[0])
    cut = int(re.findall(r"or planner\.least_cut to (\d+)", line)[0])
    assert plan_of(own, least_cut=cut).chosen is not None
    assert plan_of(own, least_cut=cut + 1).chosen is None


def test_limits_that_bind_together_are_all_said() -> None:
    """Accuracy, memory and the server: with all three changes made, something fits."""
    own = workloads.workload(
        (1e12,) * 3, memory_mib=(0.1, 0.1, 0.1), server_flops_per_s=1e9, bandwidth_hz=1e8
    )
    coarse = CodecChoices((), (workloads.COARSE,), None)
    nothing = plan_of(own, coarse, server_busy=0.01)
    lines = [infeasibility_line(nothing, each) for each in nothing.infeasibilities]
    assert len(lines) == 3
    loss = number_after("planner.accuracy_loss", lines[0])
    memory = int(number_after("devices.memory_mib", lines[1]) * MIB)
    busy = number_after("planner.server_busy", lines[2])
    assert loss >= (workloads.COARSE.accuracy_loss or 1)
    changed = replace(own, devices=tuple(replace(d, memory_bytes=memory) for d in own.devices))
    allowed = CodecChoices((workloads.COARSE,), (), None)
    bounds = workloads.limits(own, server_busy=busy)
    assert make_plan(changed, bounds, SFT, allowed, loss).chosen is not None


def test_no_accuracy_is_reached(plan: Plan) -> None:
    line = infeasibility_line(plan, AccuracyInfeasibility(0.001, workloads.BEST))
    assert line.startswith("no setting costs at most 0.1 points of accuracy; best (")
    assert number_after("planner.accuracy_loss", line) == 0.005
    assert "none was measured" in infeasibility_line(plan, AccuracyInfeasibility(0.0, None))


def test_a_server_that_computes_too_much(plan: Plan) -> None:
    line = infeasibility_line(plan, ServerInfeasibility(0.001, 0.04231, 8))
    assert "4.23 % of a round even with cut 8, allowed are 0.1 %" in line
    assert number_after("planner.server_busy", line) == 0.043


def plan_of_many(count: int, memory_mib: float | None, **bounds: object) -> Plan:
    """That of devices which get faster one by one."""
    own = workloads.workload(
        [1e9 * (1 + n) for n in range(count)],
        [15.0] * count,
        [memory_mib] * count,
        local_steps=2,
    )
    return make_plan(own, workloads.limits(own, **bounds), SFT, workloads.CODECS, 0.02)


@pytest.fixture(scope="module")
def tabled() -> Plan:
    """Some cuts of it do not fit."""
    return plan_of_many(3, 1.0)


@pytest.fixture(scope="module")
def crowded() -> Plan:
    """More devices than are shown."""
    return plan_of_many(MOST_DEVICES + 3, None)


def test_seconds_by_phase_sum_to_the_round(tabled: Plan) -> None:
    cells = phase_cells(tabled)
    assert tabled.chosen is not None
    assert len(cells.headings) == 2 + len(used_phases(tabled))
    assert [row[0] for row in cells.rows] == ["device-0", "device-1", "device-2"]
    for row, delay_s in zip(cells.rows, tabled.chosen.later.device_delay_s, strict=True):
        *phases, whole = map(float, row[1:])
        unit = {"s": 1.0, "ms": 1e-3}[cells.headings[-1].split()[-1]]
        assert whole * unit == pytest.approx(delay_s, rel=5e-3)
        # each is rounded to as many digits as three of the largest leave
        digits = len(row[-1].partition(".")[2])
        assert sum(phases) == pytest.approx(whole, abs=(len(phases) + 1) * 10.0**-digits)


def test_devices_with_what_they_have(tabled: Plan) -> None:
    cells = device_cells(tabled)
    assert tabled.chosen is not None
    assert cells.headings[:3] == ("device", "cut", "bandwidth %")
    *rows, server = cells.rows
    shares = [float(row[2]) for row in rows]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert {row[1] for row in rows} == {str(tabled.chosen.decision.common_cut)}
    for row in rows:
        assert float(row[3]) <= float(row[4])
    # more than a device, and without a limit
    assert server[:3] == ("server", "", "")
    assert float(server[3]) > float(rows[0][3]) and server[4] == "-"


def test_the_slowest_of_many_are_shown(crowded: Plan) -> None:
    assert crowded.chosen is not None
    later, shown = crowded.chosen.later, shown_devices(crowded)
    assert len(shown) == MOST_DEVICES == len(device_cells(crowded).rows) - 1
    left = set(later.devices) - set(shown)
    slowest_left = max(later.device_delay_s[n] for n in left)
    assert min(later.device_delay_s[n] for n in shown) >= slowest_left
    assert phase_cells(crowded).note == "the slowest; 3 more are not shown"


def test_the_legend_names_every_column(tabled: Plan) -> None:
    for heading in phase_cells(tabled).headings[1:-1]:
        assert f"{heading.split()[0]}: " in phase_legend(tabled)


def test_a_row_for_every_cut(tabled: Plan) -> None:
    rows = cut_cells(tabled).rows
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "5"]
    fits = [row[3] for row in rows]
    assert fits[0] == "yes" and fits[-1].startswith("device short by ")
    for row in rows:
        assert (row[1] == "-") is row[3].startswith("device short by ")


def test_a_server_that_would_be_too_busy() -> None:
    own = workloads.workload((1e12,) * 3, server_flops_per_s=1e9, bandwidth_hz=1e8)
    busy = make_plan(own, workloads.limits(own, server_busy=0.05), SFT, workloads.CODECS, 0.02)
    assert {row[3] for row in cut_cells(busy).rows} == {"server too busy"}


def test_gains_begin_with_the_plan(tabled: Plan) -> None:
    rows = gain_cells(tabled).rows
    assert (rows[0][0], rows[0][3], rows[0][4]) == ("this plan", "1", "yes")
    assert [row[0] for row in rows[1:]] == [baseline.name for baseline in tabled.baselines]
    assert {row[4] for row in rows[1:]} == {"yes", "not the devices"}


def test_eighty_columns_are_enough(tabled: Plan, crowded: Plan) -> None:
    for each in (tabled, crowded):
        text = printed(plan_tables(each), 80)
        assert all(len(line.rstrip()) <= 80 for line in text)
        assert not any("…" in line for line in text)
        # a device is told in one line of each table
        assert sum(bool(re.match(r" +device-0 ", line)) for line in text) in (0, 2)
    assert (
        sum(bool(re.match(r" +device-0 ", line)) for line in printed(plan_tables(tabled), 80)) == 2
    )


def test_where_nothing_fits_there_is_a_reason_and_the_cuts() -> None:
    text = printed(plan_tables(plan_of_many(3, 0.05)), 80)
    assert "nothing fits" in text
    assert any(line.startswith("every cut") for line in text)
    deep = printed(plan_tables(plan_of_many(3, None, least_cut=6)), 80)
    assert any("planner.least_cut is 6" in line for line in deep)
    assert "every cut" not in deep
