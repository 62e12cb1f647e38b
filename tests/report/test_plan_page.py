"""`plan.html` and `plan.json`."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from planner import workloads

from cutlayer.planner.decision import Workload
from cutlayer.planner.forecast import PHASES
from cutlayer.planner.plan import Plan, make_plan
from cutlayer.report.plan import phase_legend
from cutlayer.report.plan_page import plan_page, plan_record
from cutlayer.rounds.schemes import SCHEMES, SFT
from cutlayer.units import MIB

HOSTILE = '<script>alert("x")</script>'
UNITS = ("_s", "_bytes", "_per_s")


def plan_of(own: Workload, **bounds: object) -> Plan:
    """The plan of SFT within these limits and two points of accuracy."""
    return make_plan(own, workloads.limits(own, **bounds), SFT, workloads.CODECS, 0.02)


@pytest.fixture(scope="module")
def plan() -> Plan:
    """Some cuts of it do not fit."""
    return plan_of(workloads.workload(memory_mib=(1.0, 2.0, None)))


@pytest.fixture(scope="module")
def nothing() -> Plan:
    """No cut fits."""
    return plan_of(workloads.workload(memory_mib=(0.01, 0.01, 0.01)))


class Page(HTMLParser):
    """Collects open tags and headings, and sees that what is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.headings: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """One that has an end is remembered until it."""
        self.tags.append(tag)
        if tag not in ("meta", "link", "br", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """It closes the last that was opened."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """A section's name."""
        if self._open[-1:] == ["h2"]:
            self.headings.append(data)


def test_the_page_has_its_sections(plan: Plan) -> None:
    page = Page(plan_page(plan))
    assert page.headings == [
        "Decision",
        "A round after the first, by device",
        "What is sent",
        "Memory at the peak",
        "Sensitivity",
        "Every cut",
        "Baselines",
    ]
    assert plan_page(plan) == plan_page(plan)
    assert "http" not in plan_page(plan).replace("http-equiv", "")


def test_hostile_names_are_text(plan: Plan) -> None:
    own = plan.workload
    named = replace(
        own,
        model=replace(own.model, name=HOSTILE),
        devices=tuple(replace(each, name=HOSTILE) for each in own.devices),
    )
    assert plan.chosen is not None
    baselines = tuple(replace(each, name=HOSTILE) for each in plan.baselines)
    hostile = replace(
        plan, workload=named, chosen=replace(plan.chosen, workload=named), baselines=baselines
    )
    text = plan_page(hostile)
    assert "script" not in Page(text).tags
    assert HOSTILE not in text
    assert text.count("&lt;script&gt;") >= 1 + 3 + len(baselines)


def test_nothing_fits_page(nothing: Plan) -> None:
    text = plan_page(nothing)
    assert Page(text).headings == ["Nothing fits", "Every cut"]
    assert "set devices.memory_mib to at least" in text
    unsplit = make_plan(
        nothing.workload, nothing.limits, SCHEMES["fl-lora"], workloads.CODECS, 0.02
    )
    assert Page(plan_page(unsplit)).headings == ["Nothing fits"]


def test_the_record_is_json_with_units(plan: Plan, nothing: Plan) -> None:
    for each in (plan, nothing):
        record = plan_record(each)
        # NaN and infinity would be none
        assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert plan_record(nothing)["decision"] is None
    assert plan_record(nothing)["forecast"] is None
    assert len(plan_record(nothing)["infeasibilities"]) == len(nothing.infeasibilities) > 0


def test_the_record_has_every_number(plan: Plan) -> None:
    record = plan_record(plan)
    assert plan.chosen is not None
    later, written = plan.chosen.later, record["forecast"]["later_round"]
    assert written["delay_s"] == later.delay_s
    assert written["uplink_bytes"] == later.uplink_bytes
    assert written["played_devices"] == [0, 1, 2]
    for row, phases in zip(written["device_phase_s"], later.device_phase_s, strict=True):
        assert set(row) <= {phase.value for phase in PHASES}
        assert sum(row.values()) == pytest.approx(float(phases.sum()), rel=1e-12)
    assert record["forecast"]["training_s"] == plan.chosen.training_s
    assert record["decision"]["shares"] == list(plan.chosen.decision.shares)
    devices = record["forecast"]["devices"]
    assert [each["limit_bytes"] for each in devices] == [2**20, 2**21, None]
    assert all(sum(d["memory_bytes"].values()) == d["peak_bytes"] for d in devices)
    assert [row["cut"] for row in record["cuts"]] == [1, 2, 3, 4, 5]
    assert [row["name"] for row in record["baselines"]] == [
        baseline.name for baseline in plan.baselines
    ]
    assert len(record["ten_percent_more"]) == 3


def test_the_page_says_what_the_terminal_says(plan: Plan) -> None:
    page = plan_page(plan, ["measured at cut 4, not 1", "<b>"])
    decision, _, after = page.partition("A round after the first")
    assert "<li>measured at cut 4, not 1</li>" in decision and "&lt;b&gt;" in decision
    # headings of four letters are explained below their table
    assert f"{phase_legend(plan)}." in after
    assert plan_record(plan, ["a note"])["notes"] == ["a note"]


def test_a_bar_of_memory_is_part_of_the_limit() -> None:
    made = plan_of(workloads.workload(memory_mib=(4.0, 400.0, None)))
    assert made.chosen is not None
    section = plan_page(made).partition("Memory at the peak")[2].partition("<table>")[0]
    bars = section.split('<div class="bar">')[1:]
    widths = [sum(map(float, re.findall(r"width:([0-9.]+)%", bar))) for bar in bars]
    needs = (*made.chosen.memory, made.chosen.server_memory)
    largest = max(need.total for need in made.chosen.memory)
    # the server is the last, and has no limit
    wholes = (4 * MIB, 400 * MIB, largest, needs[-1].total)
    parts = [100 * need.total / whole for need, whole in zip(needs, wholes, strict=True)]
    assert widths == pytest.approx(parts, abs=0.01)
