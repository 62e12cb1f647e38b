"""A plan's tables as rows of cells: devices, cuts, baselines. Terminal and page show the same.

Knows plans and numbers in words; no layout.
"""

from dataclasses import dataclass

import numpy as np

from cutlayer.planner.forecast import PHASES as PLANNED
from cutlayer.planner.plan import CutRow, Plan
from cutlayer.report.vocabulary import PHASES
from cutlayer.report.wording import byte_scale, column, time_scale
from cutlayer.units import format_bytes, format_seconds

MOST_DEVICES = 16
_MANY = 1000.0


@dataclass(frozen=True)
class Cells:
    """A table: headings and rows of text. `note` says what is left out, if anything."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def shown_rows(plan: Plan) -> list[int]:
    """Which rows of the later round to show: all, or those that end it last."""
    assert plan.chosen is not None
    delays = plan.chosen.later.device_delay_s
    if len(delays) <= MOST_DEVICES:
        return list(range(len(delays)))
    slowest: list[int] = np.argsort(-delays, kind="stable")[:MOST_DEVICES].tolist()
    return slowest


def shown_devices(plan: Plan) -> list[int]:
    """The devices of these rows, by number."""
    assert plan.chosen is not None
    return [plan.chosen.later.devices[row] for row in shown_rows(plan)]


def used_phases(plan: Plan) -> list[str]:
    """The phases that take any of the shown devices time, in the order of a round."""
    assert plan.chosen is not None
    rows = plan.chosen.later.device_phase_s[shown_rows(plan)]
    given = {phase.value for n, phase in enumerate(PLANNED) if rows[:, n].max() > 0}
    return [phase for phase in PHASES if phase in given]


def phase_cells(plan: Plan) -> Cells:
    """A row for each shown device: its seconds by phase of a later round, and their sum."""
    assert plan.chosen is not None
    later, rows, phases = plan.chosen.later, shown_rows(plan), used_phases(plan)
    scale = time_scale(float(later.device_delay_s.max()))
    places = {phase.value: number for number, phase in enumerate(PLANNED)}
    seconds = later.device_phase_s[rows]
    columns = [
        [plan.workload.devices[n].name for n in shown_devices(plan)],
        *(column(seconds[:, places[p]].tolist(), scale.unit_size) for p in phases),
        column(seconds.sum(axis=1).tolist(), scale.unit_size),
    ]
    left_out = len(plan.workload.devices) - len(rows)
    return Cells(
        ("device", *(f"{PHASES[p].short} {scale.unit}" for p in phases), f"round {scale.unit}"),
        tuple(zip(*columns, strict=True)),
        f"the slowest; {left_out} more are not shown" if left_out else "",
    )


def device_cells(plan: Plan) -> Cells:
    """A row for each shown device: its cut, its share, its memory at the peak and the limit."""
    assert plan.chosen is not None
    chosen, devices = plan.chosen, shown_devices(plan)
    needs = [chosen.memory[n].total for n in devices]
    scale = byte_scale(max(needs))
    columns = [
        [plan.workload.devices[n].name for n in devices],
        [f"{chosen.decision.cuts[n]}" for n in devices],
        column([100 * chosen.decision.shares[n] for n in devices]),
        column(needs, scale.unit_size),
        column([plan.workload.devices[n].memory_bytes for n in devices], scale.unit_size),
    ]
    headings = ("device", "cut", "bandwidth %", f"memory {scale.unit}", f"limit {scale.unit}")
    return Cells(headings, tuple(zip(*columns, strict=True)))


def phase_legend(plan: Plan) -> str:
    """`fwd: device forward, ...`."""
    return ", ".join(f"{PHASES[p].short}: {PHASES[p].label}" for p in used_phases(plan))


def cut_cells(plan: Plan) -> Cells:
    """A row for each cut: its delay, and whether it fits."""
    headings = (
        "cut",
        "round",
        "memory",
        "fits",
        "server",
        "activations",
        "micro-batches",
        "in flight",
    )
    return Cells(headings, tuple(_cut_row(plan, row) for row in plan.cuts))


def _cut_row(plan: Plan, row: CutRow) -> tuple[str, ...]:
    held = row.held
    ways = (held.activation_memory.value, f"{held.micro_batches}", f"{held.in_flight}")
    memory = format_bytes(row.need.total)
    if row.delay_s is None or row.server_part is None:
        short = row.short
        fits = "no" if short is None else f"short by {format_bytes(short.missing_bytes)}"
        return (f"{row.cut}", "-", memory, fits, "-", *ways)
    fits = "yes" if row.allowed else "server too busy"
    busy = f"{100 * row.server_part:.0f} %"
    return (f"{row.cut}", format_seconds(row.delay_s), memory, fits, busy, *ways)


def gain_cells(plan: Plan) -> Cells:
    """A row for each baseline: its round, all rounds, times the plan's, and whether it fits."""
    assert plan.chosen is not None
    chosen = plan.chosen
    own = (
        "this plan",
        format_seconds(chosen.delay_s),
        format_seconds(chosen.training_s),
        "1",
        "yes",
    )
    rows = [
        (
            baseline.name,
            format_seconds(baseline.delay_s),
            format_seconds(baseline.training_s),
            _times(baseline.training_s / chosen.training_s),
            "yes" if baseline.fits else "no",
        )
        for baseline in plan.baselines
    ]
    return Cells(("", "round", "all rounds", "relative time", "fits"), (own, *rows))


def _times(factor: float) -> str:
    return f"{factor:.0f}" if factor >= _MANY else f"{factor:.3g}"
