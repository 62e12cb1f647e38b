"""`plan.html`: one self-contained page about a plan, in the style of `report.html`.

Knows plans, not files; draws with boxes of the page itself, so that it needs no matplotlib.
"""

from collections.abc import Sequence

from cutlayer.planner.forecast import PHASES as PLANNED
from cutlayer.planner.plan import Plan
from cutlayer.report import html_parts as parts
from cutlayer.report.page_style import STYLE
from cutlayer.report.plan import (
    Cells,
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

_STYLE = """
th:first-child, td:first-child { text-align: left; }
.refused { color: #b3261e; }
.bars { display: grid; gap: 5px 12px; grid-template-columns: max-content 1fr max-content;
  font-size: 13px; align-items: center; margin: 14px 0 0; }
.bar { display: flex; height: 16px; position: relative; }
.bar i { display: block; height: 100%; }
.bar b { position: absolute; top: -3px; bottom: -3px; width: 2px; background: #b3261e; }
"""


def plan_page(plan: Plan) -> str:
    """The whole page as text; the same plan gives the same text."""
    sections = _chosen(plan) if plan.chosen is not None else _nothing(plan)
    footer = (
        "Delays are simulated, on the mean channel; 1 MiB is"
        " 1024 · 1024 bytes; every number is in plan.json."
    )
    return parts.page(plan_title(plan), "\n".join(sections), footer, STYLE + _STYLE)


def _chosen(plan: Plan) -> list[str]:
    return [
        parts.section("Decision", parts.facts(decision_facts(plan))),
        _seconds(plan),
        _memory(plan),
        _binds(plan),
        *_cuts(plan),
        parts.section("Beside other schemes", _table(gain_cells(plan))),
    ]


def _nothing(plan: Plan) -> list[str]:
    lines = "".join(
        f'<p class="refused">{parts.escaped(misfit_line(plan, each))}.</p>'
        for each in plan.infeasibilities
    )
    return [parts.section("Nothing fits", lines), *_cuts(plan)]


def _cuts(plan: Plan) -> list[str]:
    if not plan.scheme.splits or not plan.cuts:
        return []
    return [parts.section("Every cut", _table(cut_cells(plan)))]


def _seconds(plan: Plan) -> str:
    assert plan.chosen is not None
    later, phases = plan.chosen.later, used_phases(plan)
    places = {phase.value: number for number, phase in enumerate(PLANNED)}
    longest = float(later.device_delay_s.max())
    rows: list[Bar] = [
        (
            plan.workload.devices[later.devices[n]].name,
            [(PHASES[p], float(later.device_phase_s[n, places[p]])) for p in phases],
            format_seconds(float(later.device_delay_s[n])),
            None,
        )
        for n in shown_rows(plan)
    ]
    cells = phase_cells(plan)
    note = f"<p>{parts.escaped(cells.note)}.</p>" if cells.note else ""
    return parts.section(
        "A round after the first, by device",
        note,
        parts.legend((PHASES[p].colour, parts.escaped(PHASES[p].label)) for p in phases),
        _bars(rows, longest),
        _table(cells),
    )


def _memory(plan: Plan) -> str:
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
    legend = parts.legend(
        (word.colour, parts.escaped(word.label)) for word in MEMORY_KINDS.values()
    )
    return parts.section(
        "Memory of a device at its peak", legend, _bars(rows, span), _table(device_cells(plan))
    )


def _binds(plan: Plan) -> str:
    lines = [resource_line(row) for row in plan.sensitivities]
    lines += [limit_line(binding) for binding in plan.bindings]
    items = "".join(f"<li>{parts.escaped(line)}</li>" for line in lines)
    return parts.section("Sensitivity", f"<ul>{items}</ul>")


def _bars(rows: Sequence[Bar], span: float) -> str:
    """A stacked bar a row: name, coloured parts, what it comes to; a red line at a limit."""
    drawn = []
    for name, pieces, total, limit in rows:
        boxes = "".join(
            f'<i style="width:{100 * value / span:.3f}%;background:{word.colour}"'
            f' title="{parts.escaped(word.label)}"></i>'
            for word, value in pieces
            if value > 0
        )
        line = ""
        if limit is not None and limit <= span:
            line = f'<b style="left:{100 * limit / span:.3f}%"></b>'
        drawn.append(
            f"<span>{parts.escaped(name)}</span>"
            f'<div class="bar">{boxes}{line}</div><span>{parts.escaped(total)}</span>'
        )
    return f'<div class="bars">{"".join(drawn)}</div>'


def _table(cells: Cells) -> str:
    return parts.table(cells.headings, cells.rows)
