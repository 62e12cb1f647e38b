"""`plan.json`: every number of a plan, units in the keys.

Knows plans, and no file.
"""

from dataclasses import asdict
from typing import Any

from cutlayer.planner.decision import CodecChoice, Decision
from cutlayer.planner.forecast import PHASES, Forecast, RoundForecast
from cutlayer.planner.plan import CutRow, Plan
from cutlayer.report.plan import limit_line, misfit_line

Record = dict[str, Any]


def plan_record(plan: Plan) -> Record:
    """The plan as a nested mapping that JSON holds."""
    return {
        "model": plan.workload.model.name,
        "blocks": plan.workload.model.blocks,
        "rounds": plan.workload.rounds,
        "accuracy_loss_allowed": plan.most_loss,
        "decision": None if plan.chosen is None else _decision(plan.chosen.decision),
        "forecast": None if plan.chosen is None else _forecast(plan, plan.chosen),
        "misfits": [misfit_line(plan, each) for each in plan.infeasibilities],
        "cuts": [_cut(row) for row in plan.cuts],
        "a_tenth_more": [
            {"resource": row.resource.value, "delay_s": row.delay_s, "saved": row.saved}
            for row in plan.sensitivities
        ],
        "bindings": [
            {
                "limit": each.limit.value,
                "needed": each.needed,
                "saved": each.saved,
                "text": limit_line(each),
            }
            for each in plan.bindings
        ],
        "rivals": [
            {
                "name": baseline.name,
                "delay_s": baseline.delay_s,
                "training_s": baseline.training_s,
                "fits": baseline.fits,
                "decision": _decision(baseline.decision),
            }
            for baseline in plan.baselines
        ],
    }


def _decision(decision: Decision) -> Record:
    return {
        "scheme": decision.scheme.name,
        "cuts": list(decision.cuts),
        "codec": _codec(decision.codec),
        "activation_memory": decision.held.activation_memory.value,
        "micro_batches": decision.held.micro_batches,
        "in_flight": decision.held.in_flight,
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
    devices = zip(plan.workload.devices, chosen.memory, strict=True)
    return {
        "training_s": chosen.training_s,
        "simulated_whole": chosen.whole,
        "first_round": _round(chosen.first),
        "later_round": _round(chosen.later),
        "devices": [
            {
                "name": device.name,
                "memory_bytes": asdict(need),
                "peak_bytes": need.total,
                "limit_bytes": device.memory_bytes,
            }
            for device, need in devices
        ],
    }


def _round(played: RoundForecast) -> Record:
    return {
        "delay_s": played.delay_s,
        "server_busy": played.server_busy,
        "uplink_bytes": played.uplink_bytes,
        "downlink_bytes": played.downlink_bytes,
        "played_devices": list(played.devices),
        "device_phase_s": [
            {phase.value: seconds for phase, seconds in zip(PHASES, row, strict=True) if seconds}
            for row in played.device_phase_s.tolist()
        ],
    }


def _cut(row: CutRow) -> Record:
    return {
        "cut": row.cut,
        "delay_s": row.delay_s,
        "server_part": row.server_part,
        "peak_bytes": row.need.total,
        "activation_memory": row.held.activation_memory.value,
        "micro_batches": row.held.micro_batches,
        "in_flight": row.held.in_flight,
        "missing_bytes": None if row.short is None else row.short.missing_bytes,
        "allowed": row.allowed,
    }
