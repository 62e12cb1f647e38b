"""What a plan is written as: `plan.html`, a page closed in itself, and `plan.json`, every number
with its unit in the key.

Knows plans, and no file. The page's bars are boxes of its own, so that it needs no matplotlib.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cutlayer.planner.decision import CodecChoice, Decision
from cutlayer.planner.forecast import PHASES as PLANNED
from cutlayer.planner.forecast import Forecast, RoundForecast
from cutlayer.planner.plan import CutRow, Plan
from cutlayer.planner.target import TargetPlan
from cutlayer.report.plan import (
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
    sent_cells,
    shown_devices,
    shown_rows,
    used_phases,
)
from cutlayer.report.wording import MEMORY_KINDS, PHASES, Word, render
from cutlayer.units import format_bytes, format_seconds

Record = dict[str, Any]


def plan_record(plan: Plan, notes: Sequence[str] = ()) -> Record:
    """The plan as a nested mapping that JSON holds. `notes`: what else there is to know of it."""
    return {
        "model": plan.workload.model.name,
        "blocks": plan.workload.model.blocks,
        "rounds": plan.workload.rounds,
        "accuracy_loss_allowed": plan.most_loss,
        "decision": None if plan.chosen is None else _decision(plan.chosen.decision),
        "forecast": None if plan.chosen is None else _forecast(plan, plan.chosen),
        "notes": list(notes),
        "infeasibilities": [infeasibility_line(plan, each) for each in plan.infeasibilities],
        "cuts": [_cut(row) for row in plan.cuts],
        "ten_percent_more": [
            {"resource": row.resource.value, "delay_s": row.delay_s, "saved": row.saved}
            for row in plan.resource_sensitivities
        ],
        "binding_limits": [
            {
                "limit": each.limit.value,
                "needed": each.needed,
                "saved": each.saved,
                "text": limit_line(each),
            }
            for each in plan.limit_sensitivities
        ],
        "baselines": [
            {
                "name": baseline.name,
                "delay_s": baseline.delay_s,
                "training_s": baseline.training_s,
                "sent_bytes": asdict(baseline.sent),
                "fits": baseline.fits,
                "decision": _decision(baseline.decision),
            }
            for baseline in plan.baselines
        ],
    }


def target_record(target: TargetPlan) -> Record:
    """The ways to a target accuracy as a nested mapping that JSON holds, the fastest first."""
    return {
        "accuracy": target.target.accuracy,
        "most_devices_j": target.target.most_devices_j,
        "assumed": list(target.assumed),
        "measured": [
            {"rounds": one.rounds, "steps": one.steps, "accuracies": list(one.accuracies)}
            for one in target.learning.curve
        ],
        "ways": [
            {
                "chosen": way is target.chosen,
                "seconds": way.seconds,
                "least_s": way.least_s,
                "most_s": way.most_s,
                "rounds": way.rounds.likely,
                "accuracy_loss": way.loss.loss,
                "accuracy_loss_error": way.loss.error,
                "devices_j": way.devices_j,
                "early_rounds": way.forecast.rounds_early,
                "settings": {key: dict(own) for key, own in way.variant.settings.items()},
                "not_measured": list(way.unmeasured),
                "decision": _decision(way.forecast.decision),
            }
            for way in target.ways
        ],
    }


def _decision(decision: Decision) -> Record:
    return {
        "scheme": decision.scheme.name,
        "cuts": list(decision.cuts),
        "codec": _codec(decision.codec),
        "activation_memory": decision.policy.activation_memory.value,
        "micro_batches": decision.policy.micro_batches,
        "in_flight": decision.policy.in_flight,
        "uplink": decision.rules.uplink.value,
        "downlink": decision.rules.downlink.value,
        "shares": list(decision.shares),
    }


def _codec(codec: CodecChoice) -> Record:
    return {
        "name": codec.codec,
        "settings": dict(codec.settings),
        "ratio_up": codec.up,
        "ratio_down": codec.down,
        "accuracy_loss": codec.accuracy_loss,
    }


def _forecast(plan: Plan, chosen: Forecast) -> Record:
    energy = plan.energy
    assert energy is not None
    devices = zip(plan.workload.devices, chosen.memory, energy.devices, strict=True)
    return {
        "training_s": chosen.training_s,
        "simulated_whole": chosen.whole,
        "first_round": _round(chosen.first),
        "early_round": None if chosen.early is None else _round(chosen.early),
        "early_rounds": chosen.rounds_early,
        "later_round": _round(chosen.later),
        "devices": [
            {
                "name": device.name,
                "memory_bytes": asdict(need),
                "peak_bytes": need.total,
                "limit_bytes": device.memory_bytes,
                "reserved_bytes": device.reserved_bytes,
                "energy_j": own.total_j,
                **asdict(own),
            }
            for device, need, own in devices
        ],
        "server": {
            "memory_bytes": asdict(chosen.server_memory),
            "peak_bytes": chosen.server_memory.total,
            "limit_bytes": plan.workload.server.memory_bytes,
            "reserved_bytes": plan.workload.server.reserved_bytes,
            "energy_j": energy.server_j,
        },
        "all_rounds": {
            "devices_j": energy.all_devices_j,
            "server_j": energy.all_server_j,
            "devices_cost": energy.devices_cost,
            "server_cost": energy.server_cost,
        },
    }


def _round(played: RoundForecast) -> Record:
    return {
        "delay_s": played.delay_s,
        "server_busy": played.server_busy,
        "sent_bytes": asdict(played.sent),
        "uplink_bytes": played.uplink_bytes,
        "downlink_bytes": played.downlink_bytes,
        "played_devices": list(played.devices),
        "device_phase_s": [
            {phase.value: seconds for phase, seconds in zip(PLANNED, row, strict=True) if seconds}
            for row in played.device_phase_s.tolist()
        ],
    }


def _cut(row: CutRow) -> Record:
    return {
        "cut": row.cut,
        "delay_s": row.delay_s,
        "server_part": row.server_part,
        "peak_bytes": row.need.total,
        "server_peak_bytes": row.server_need.total,
        "activation_memory": row.policy.activation_memory.value,
        "micro_batches": row.policy.micro_batches,
        "in_flight": row.policy.in_flight,
        "missing_bytes": None if row.short is None else row.short.missing_bytes,
        "allowed": row.allowed,
    }


# of a device: its name, coloured parts, what they come to in words, its limit
Bar = tuple[str, Sequence[tuple[Word, float]], str, float | None]


def plan_page(plan: Plan, notes: Sequence[str] = ()) -> str:
    """The whole page as text, notes below the decision; the same plan gives the same text."""
    return render(
        "plan.html",
        title=plan_title(plan),
        plan=plan,
        notes=notes,
        infeasible=[infeasibility_line(plan, each) for each in plan.infeasibilities],
        cuts=cut_cells(plan),
        **(_of_the_decision(plan) if plan.chosen is not None else {}),
    )


def _of_the_decision(plan: Plan) -> dict[str, object]:
    lines = [resource_line(row) for row in plan.resource_sensitivities]
    return {
        "decision": decision_facts(plan),
        "seconds": phase_cells(plan),
        "phase_words": phase_legend(plan),
        "phases": [(PHASES[phase].colour, PHASES[phase].label) for phase in used_phases(plan)],
        "delays": _delays(plan),
        "sent": sent_cells(plan),
        "devices": device_cells(plan),
        "kinds": [(kind.colour, kind.label) for kind in MEMORY_KINDS.values()],
        "memory": _memory(plan),
        "sensitivity": lines + [limit_line(limit) for limit in plan.limit_sensitivities],
        "gains": gain_cells(plan),
    }


def _delays(plan: Plan) -> tuple[list[Bar], float]:
    """Each device's seconds by phase, and the longest."""
    assert plan.chosen is not None
    later, phases = plan.chosen.usual, used_phases(plan)
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
    """Bytes by kind of each device and of the server, as parts of its limit: a whole bar is all
    that it has.

    Without a limit they are parts of what the largest of its kind needs.
    """
    assert plan.chosen is not None
    needs, shown, server = plan.chosen.memory, shown_devices(plan), plan.workload.server
    largest = max(needs[n].total for n in shown)
    own = plan.chosen.server_memory
    rows = [
        (each.name, needs[n], each.memory_bytes, each.memory_bytes or largest)
        for n, each in ((n, plan.workload.devices[n]) for n in shown)
    ]
    rows.append(("server", own, server.memory_bytes, server.memory_bytes or own.total))
    return [
        (
            name,
            [(word, getattr(need, kind) / whole) for kind, word in MEMORY_KINDS.items()],
            format_bytes(need.total) + ("" if limit is None else f" of {format_bytes(limit)}"),
            None,
        )
        for name, need, limit, whole in rows
    ], 1.0
