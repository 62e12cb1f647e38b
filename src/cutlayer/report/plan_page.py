"""`plan.html`: one self-contained page about a plan, in the style of `report.html`.

Knows plans, not files. Bars are boxes of the page itself, so that it needs no matplotlib.
"""

from collections.abc import Sequence

from cutlayer.planner.forecast import PHASES as PLANNED
from cutlayer.planner.plan import Plan
from cutlayer.report.pages import render
from cutlayer.report.plan import (
    cut_cells,
    decision_facts,
    device_cells,
    gain_cells,
    limit_line,
    misfit_line,
    phase_cells,
    plan_title,
    resource_line,
    shown_devices,
    shown_rows,
    used_phases,
)
from cutlayer.report.vocabulary import MEMORY_KINDS, PHASES, Word
from cutlayer.units import format_bytes, format_seconds

# of a device: its name, coloured parts, what they come to in words, its limit
Bar = tuple[str, Sequence[tuple[Word, float]], str, float | None]


def plan_page(plan: Plan) -> str:
    """The whole page as text; the same plan gives the same text."""
    return render(
        "plan.html",
        title=plan_title(plan),
        plan=plan,
        infeasible=[misfit_line(plan, each) for each in plan.infeasibilities],
        cuts=cut_cells(plan),
        **(_of_the_decision(plan) if plan.chosen is not None else {}),
    )


def _of_the_decision(plan: Plan) -> dict[str, object]:
    lines = [resource_line(row) for row in plan.sensitivities]
    return {
        "decision": decision_facts(plan),
        "seconds": phase_cells(plan),
        "phases": [(PHASES[phase].colour, PHASES[phase].label) for phase in used_phases(plan)],
        "delays": _delays(plan),
        "devices": device_cells(plan),
        "kinds": [(kind.colour, kind.label) for kind in MEMORY_KINDS.values()],
        "memory": _memory(plan),
        "sensitivity": lines + [limit_line(binding) for binding in plan.bindings],
        "gains": gain_cells(plan),
    }


def _delays(plan: Plan) -> tuple[list[Bar], float]:
    """Each device's seconds by phase, and the longest."""
    assert plan.chosen is not None
    later, phases = plan.chosen.later, used_phases(plan)
    places = {phase.value: number for number, phase in enumerate(PLANNED)}
    rows: list[Bar] = [
        (
            plan.workload.devices[later.devices[n]].name,
            [(PHASES[p], float(later.device_phase_s[n, places[p]])) for p in phases],
            format_seconds(float(later.device_delay_s[n])),
            None,
        )
        for n in shown_rows(plan)
    ]
    return rows, float(later.device_delay_s.max())


def _memory(plan: Plan) -> tuple[list[Bar], float]:
    """Each device's bytes by kind, and how many the bars span."""
    assert plan.chosen is not None
    needs = plan.chosen.memory
    shown = shown_devices(plan)
    limits = [plan.workload.devices[n].memory_bytes for n in shown]
    largest = max(needs[n].total for n in shown)
    # a limit far beyond the bars would leave nothing of them to see
    span = max([largest, *(each for each in limits if each is not None and each < 3 * largest)])
    rows: list[Bar] = [
        (
            plan.workload.devices[n].name,
            [(word, float(getattr(needs[n], kind))) for kind, word in MEMORY_KINDS.items()],
            format_bytes(needs[n].total) + ("" if limit is None else f" of {format_bytes(limit)}"),
            limit,
        )
        for n, limit in zip(shown, limits, strict=True)
    ]
    return rows, span
