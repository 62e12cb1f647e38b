"""A plan for the terminal.

Knows plans in words and cells, and rich's tables.
"""

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cutlayer.planner.plan import Plan
from cutlayer.report.plan_columns import (
    Cells,
    cut_cells,
    device_cells,
    gain_cells,
    phase_cells,
    phase_legend,
)
from cutlayer.report.plan_words import (
    decision_facts,
    limit_line,
    misfit_line,
    plan_title,
    resource_line,
)
from cutlayer.report.vocabulary import printable

_LEFT = ("device", "activations", "", "fits")


def plan_tables(plan: Plan) -> RenderableType:
    """Decision, seconds by phase, sensitivity, cuts, baselines; or why nothing fits."""
    parts: list[RenderableType] = [Text(printable(plan_title(plan)), style="bold")]
    if plan.chosen is None:
        parts += _section(
            "nothing fits", _lines([misfit_line(plan, m) for m in plan.infeasibilities])
        )
        return Group(*parts, *_cuts(plan))
    parts.append(Padding(_facts(decision_facts(plan)), (0, 0, 1, 2), expand=False))
    seconds = phase_cells(plan)
    title = "a round after the first, by device"
    note = "; ".join(each for each in (seconds.note, phase_legend(plan)) if each)
    parts += _section(title, _table(seconds), Text(note, style="dim"))
    parts += _section("what each device has", _table(device_cells(plan)))
    lines = [resource_line(row) for row in plan.sensitivities]
    lines += [limit_line(binding) for binding in plan.bindings]
    parts += _section("sensitivity", _lines(lines))
    parts += _cuts(plan)
    parts += _section("beside other schemes", _table(gain_cells(plan)))
    return Group(*parts)


def _cuts(plan: Plan) -> list[RenderableType]:
    return (
        _section("every cut", _table(cut_cells(plan))) if plan.scheme.splits and plan.cuts else []
    )


def _section(title: str, *content: RenderableType) -> list[RenderableType]:
    return [
        Text(title, style="bold"),
        Padding(Group(*content), (0, 0, 1, 2), expand=False),
    ]


def _facts(facts: dict[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, text in facts.items():
        table.add_row(name, Text(printable(text)))
    return table


def _lines(lines: list[str]) -> Text:
    return Text("\n".join(printable(line) for line in lines))


def _table(cells: Cells) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), collapse_padding=True, pad_edge=False
    )
    for heading in cells.headings:
        left = heading in _LEFT
        table.add_column(
            heading.replace(" ", "\n", 1) if not left else heading,
            justify="left" if left else "right",
            no_wrap=not left,
            overflow="fold",
        )
    for row in cells.rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table
