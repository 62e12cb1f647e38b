"""A plan in words and in tables of cells, the same on terminal and page.

What was decided, sensitivity, what does not fit and the least that would help; devices, cuts and
baselines. Knows plans, no terminal, no page and no file.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from cutlayer.planner.decision import CodecChoice, Decision, Shortage, Workload
from cutlayer.planner.explain import (
    AccuracyInfeasibility,
    CutInfeasibility,
    Infeasibility,
    Limit,
    LimitSensitivity,
    MemoryInfeasibility,
    Resource,
    ResourceSensitivity,
    ServerInfeasibility,
    ServerMemoryInfeasibility,
)
from cutlayer.planner.forecast import PHASES as PLANNED
from cutlayer.planner.forecast import Forecast, sent_bytes
from cutlayer.planner.plan import Baseline, CutRow, Plan
from cutlayer.planner.target import TargetPlan, Way
from cutlayer.report.wording import (
    PAYLOADS,
    PHASES,
    byte_scale,
    column,
    counted,
    time_scale,
)
from cutlayer.rounds.work import Sharing
from cutlayer.spec import Trained
from cutlayer.units import MIB, format_bytes, format_joules, format_seconds

_FLOAT32_BITS = 32
# of a data sheet nobody knows what is drawn meanwhile
_WITHOUT_WAITS = " (without what it draws while it waits)"
_LIMIT_KEYS = {
    Limit.MEMORY: "devices.memory_mib",
    Limit.SERVER_MEMORY: "server.memory_mib",
    Limit.LEAST_CUT: "planner.least_cut",
    Limit.SERVER_BUSY: "planner.server_busy",
    Limit.ACCURACY: "planner.accuracy_loss",
}
_RESOURCES = {
    Resource.BANDWIDTH: "bandwidth",
    Resource.DEVICES: "device compute",
    Resource.SERVER: "server compute",
}
_DOWNLINKS = {
    Sharing.STATIC: "each device on its share",
    Sharing.IN_TURN: "the whole bandwidth for one transfer after another",
    Sharing.SHARED: "time slots among those under way",
}


def plan_title(plan: Plan) -> str:
    """`Plan: dinov2-small on 8 devices`."""
    return f"Plan: {plan.workload.model.name} on {counted(len(plan.workload.devices), 'device')}"


def decision_facts(plan: Plan) -> dict[str, str]:
    """What was decided and what it comes to, by name. There is a decision."""
    assert plan.chosen is not None
    chosen, decision = plan.chosen, plan.chosen.decision
    model, rounds = plan.workload.model, plan.workload.rounds
    facts = {"scheme": decision.scheme.title}
    if decision.scheme.splits:
        facts["cut"] = f"{_cuts(decision)} of {counted(model.blocks, 'block')}"
    facts |= {
        "codec": codec_text(decision.codec, plan.codecs.loss_error)
        if decision.scheme.compressed
        else "float32",
        "mini-batch": f"{plan.workload.batch.samples} samples of"
        f" {counted(plan.workload.batch.tokens, 'token')}: {decision.policy}",
        "downlink": _DOWNLINKS[decision.rules.downlink],
        "bandwidth allocation": _shares(decision),
        "round": f"{_round_seconds(chosen)}, the first"
        f" {format_seconds(chosen.first.delay_s)}; {counted(rounds, 'round')} take"
        f" {format_seconds(chosen.training_s)}",
        "bytes a round": f"{format_bytes(chosen.usual.uplink_bytes)} up,"
        f" {format_bytes(chosen.usual.downlink_bytes)} down; in the first"
        f" {format_bytes(chosen.first.downlink_bytes)} down",
        "server": f"computes {100 * chosen.usual.server_busy:.0f} % of a round; memory"
        f" {_of_limit(chosen.server_memory.total, plan.workload.server.memory_bytes)}",
    }
    return facts | _weights_fact(plan.workload, decision) | _energy_facts(plan)


def _round_seconds(chosen: Forecast) -> str:
    """A later round's; where devices come to do less, of both kinds."""
    if chosen.early is None or chosen.rounds_early in (1, chosen.workload.rounds):
        return format_seconds(chosen.usual.delay_s)
    early_s, later_s = (format_seconds(one.delay_s) for one in (chosen.early, chosen.later))
    return f"{early_s} until round {chosen.rounds_early}, then {later_s}"


def _weights_fact(workload: Workload, decision: Decision) -> dict[str, str]:
    """What is assumed of the frozen weights' way to the devices; nothing where they are sent as
    they are held, or trained."""
    counted_as, model = workload.accounting.weights, workload.model
    if counted_as is None or decision.scheme.trained is Trained.WEIGHTS:
        return {}
    if counted_as.devices_have_them:
        return {"weights": "devices have them"}
    cut = min(decision.cuts) if decision.scheme.splits else model.blocks
    sent, held = counted_as.bytes(model, cut), model.device_weight_bytes(cut)
    return {
        "weights": f"{format_bytes(sent)} in the first round: {format_bytes(held)} of"
        f" {model.device_base}, coded as trained weights usually are"
    }


def _energy_facts(plan: Plan) -> dict[str, str]:
    """Energy where a power is known, money where there is a price."""
    energy, facts = plan.energy, {}
    assert energy is not None
    known = [total for one in energy.devices if (total := one.total_j) is not None]
    words = []
    if known:
        least, most = format_joules(min(known)), format_joules(max(known))
        waits = any(one.idle_j is None for one in energy.devices)
        range_ = least if least == most else f"{least} to {most}"
        words.append(f"{range_} a device{_WITHOUT_WAITS if waits else ''}")
    if energy.server_j is not None:
        waits = plan.workload.server.idle_power_w is None
        words.append(f"server {format_joules(energy.server_j)}{_WITHOUT_WAITS if waits else ''}")
    if words:
        facts["energy a round"] = ", ".join(words)
    costs = {"server": energy.server_cost, "devices' energy": energy.devices_cost}
    priced = [f"{who} {_money(cost)}" for who, cost in costs.items() if cost is not None]
    if priced:
        rounds = counted(plan.workload.rounds, "round")
        facts["cost"] = f"{rounds}: {', '.join(priced)}, in the currency of the prices"
    return facts


def _money(amount: float) -> str:
    return f"{amount:,.2f}" if amount >= 0.1 or amount == 0 else f"{amount:.2g}"


def _of_limit(need_bytes: float, limit_bytes: int | None) -> str:
    need = format_bytes(need_bytes)
    return need if limit_bytes is None else f"{need} of {format_bytes(limit_bytes)}"


def codec_text(codec: CodecChoice, error: float | None = None) -> str:
    """`best (target_bits_up 0.42, ...), 0.46 + 0.26 bits a value, costs 1.3 points of accuracy`;
    `error`: the standard error of what it costs."""
    bits = f"{_FLOAT32_BITS * codec.up:.2f} + {_FLOAT32_BITS * codec.down:.2f} bits per value"
    if codec.accuracy_loss is None:
        return f"{codec}, {bits}, accuracy not measured"
    points = 100 * codec.accuracy_loss
    about = "" if error is None else f" ± {100 * error:.1f}"
    costs = f"costs {points:.1f}{about} points of accuracy"
    if points < 0.05:
        costs = f"costs no accuracy{about and f' ({about.strip()} points)'}"
    return f"{codec}, {bits}, {costs}"


def resource_line(row: ResourceSensitivity) -> str:
    """What ten percent more of a resource bring."""
    more = f"+10 % {_RESOURCES[row.resource]}"
    return f"{more}: {_saved(row.saved)}, {format_seconds(row.delay_s)}"


def limit_line(sensitivity: LimitSensitivity) -> str:
    """What a limit keeps out."""
    decision, key = sensitivity.decision, _LIMIT_KEYS[sensitivity.limit]
    codec = f"{decision.codec}" if sensitivity.limit is Limit.ACCURACY else decision.codec.codec
    instead = f"cut {decision.cuts[0]}, {codec}, {decision.policy}"
    return f"{key} of {_needed(sensitivity)} would allow {instead}: {_saved(sensitivity.saved)}"


def infeasibility_line(plan: Plan, infeasibility: Infeasibility) -> str:
    """Why nothing fits, and the least that would let something through."""
    match infeasibility:
        case MemoryInfeasibility():
            return _memory_line(plan, infeasibility)
        case ServerMemoryInfeasibility():
            return _server_memory_line(plan, infeasibility)
        case AccuracyInfeasibility(most_loss=most, nearest=nearest):
            asked = f"no setting costs at most {100 * most:.1f} points of accuracy"
            if nearest is None or nearest.accuracy_loss is None:
                return f"{asked}, and none was measured; profile a larger grid"
            return (
                f"{asked}; {nearest} costs least, {100 * nearest.accuracy_loss:.1f} points: set"
                f" planner.accuracy_loss to {_at_least(nearest.accuracy_loss, 3)}, or profile a"
                " larger grid"
            )
        case ServerInfeasibility(most=most, least=least, cut=cut):
            return (
                f"the server would compute {100 * least:.3g} % of a round even with cut {cut},"
                f" allowed are {100 * most:.3g} %: set planner.server_busy to"
                f" {_at_least(least, 3)}, or take a faster server"
            )
        case CutInfeasibility(least_cut=asked, deepest=deepest):
            return (
                f"planner.least_cut is {asked}, but cuts go to {deepest}: set it to {deepest} at"
                " most"
            )


def _memory_line(plan: Plan, infeasibility: MemoryInfeasibility) -> str:
    short = infeasibility.shortage
    assert short.device is not None
    device = plan.workload.devices[short.device]
    need = format_bytes(short.need.total)
    where = f"cut {short.cut}" if plan.scheme.splits else "the whole model"
    limit = format_bytes(short.limit_bytes)
    line = f"{where} ({short.policy}) needs {need}, {device.name} has {limit}"
    line += _beside(device.reserved_bytes)
    if infeasibility.short_devices > 1:
        line += f", {counted(infeasibility.short_devices - 1, 'more device')} too little"
    if infeasibility.embedding_bytes > short.limit_bytes:
        line += f"; the embedding alone has {format_bytes(infeasibility.embedding_bytes)}"
    line += (
        f": short by {format_bytes(short.missing_bytes)}, set devices.memory_mib to at"
        f" least {_at_least((short.need.total + device.reserved_bytes) / MIB, 1)}"
    )
    if infeasibility.fitting_cut is not None:
        line += f", or planner.least_cut to {infeasibility.fitting_cut}"
    if infeasibility.smaller_base is not None:
        base, base_need = infeasibility.smaller_base
        verdict = "which fits" if base_need <= short.limit_bytes else "which does not fit either"
        line += f", or set devices.base to {base}: about {format_bytes(base_need)}, {verdict}"
    return line


def _beside(reserved_bytes: int) -> str:
    reserved = format_bytes(reserved_bytes)
    return f" beside {reserved} reserved for its system" if reserved_bytes else ""


def _server_memory_line(plan: Plan, infeasibility: ServerMemoryInfeasibility) -> str:
    short, reserved = infeasibility.shortage, plan.workload.server.reserved_bytes
    where = f"with cut {short.cut} ({short.policy}) " if plan.scheme.splits else ""
    line = (
        f"{where}the server needs {format_bytes(short.need.total)}, it has"
        f" {format_bytes(short.limit_bytes)}{_beside(reserved)}: short by"
        f" {format_bytes(short.missing_bytes)}, set server.memory_mib to at least"
        f" {_at_least((short.need.total + reserved) / MIB, 1)}"
    )
    checkpoint_bytes = infeasibility.checkpoint_bytes
    if checkpoint_bytes is not None:
        enough = checkpoint_bytes <= short.limit_bytes
        line += (
            f", or server.activation_memory to checkpoint: {format_bytes(checkpoint_bytes)}, which"
            f" {'fits' if enough else 'does not fit either'}"
        )
    return line


def _needed(sensitivity: LimitSensitivity) -> str:
    match sensitivity.limit:
        case Limit.MEMORY | Limit.SERVER_MEMORY:
            return f"{_at_least(sensitivity.needed / MIB, 1)} MiB"
        case Limit.LEAST_CUT:
            return f"{sensitivity.needed:.0f}"
        case Limit.SERVER_BUSY | Limit.ACCURACY:
            return _at_least(sensitivity.needed, 3)


def _at_least(value: float, digits: int) -> str:
    """Rounded up, so that a limit set to it is enough."""
    return f"{math.ceil(value * 10**digits) / 10**digits:.{digits}f}"


def _saved(part: float) -> str:
    if part < 0.0005:
        return "no gain"
    return f"round {100 * part:.1f} % shorter"


def _cuts(decision: Decision) -> str:
    if decision.common_cut is not None:
        return f"after block {decision.common_cut}"
    counts = {cut: decision.cuts.count(cut) for cut in sorted(set(decision.cuts))}
    each = ", ".join(f"{cut} on {counted(count, 'device')}" for cut, count in counts.items())
    return f"after block {each}"


def _shares(decision: Decision) -> str:
    least, most = min(decision.shares), max(decision.shares)
    shown = [f"{100 * share:.3g}" for share in (least, most)]
    if shown[0] == shown[1]:
        return f"{shown[0]} % of the bandwidth each"
    return f"{shown[0]} to {shown[1]} % of the bandwidth"


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
    delays = plan.chosen.usual.device_delay_s
    if len(delays) <= MOST_DEVICES:
        return list(range(len(delays)))
    slowest: list[int] = np.argsort(-delays, kind="stable")[:MOST_DEVICES].tolist()
    return slowest


def shown_devices(plan: Plan) -> list[int]:
    """The devices of these rows, by number."""
    assert plan.chosen is not None
    return [plan.chosen.usual.devices[row] for row in shown_rows(plan)]


def used_phases(plan: Plan) -> list[str]:
    """The phases that take any of the shown devices time, in the order of a round."""
    assert plan.chosen is not None
    rows = plan.chosen.usual.device_phase_s[shown_rows(plan)]
    given = {phase.value for n, phase in enumerate(PLANNED) if rows[:, n].max() > 0}
    return [phase for phase in PHASES if phase in given]


def phase_cells(plan: Plan) -> Cells:
    """A row for each shown device: its seconds by phase of a later round, and their sum."""
    assert plan.chosen is not None
    later, rows, phases = plan.chosen.usual, shown_rows(plan), used_phases(plan)
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
    """A row for each shown device: its cut, its share, its memory at the peak and the limit, which
    is without what is reserved for its system, and its energy in a round, where it is known; and
    the server's."""
    assert plan.chosen is not None
    chosen, devices, server = plan.chosen, shown_devices(plan), plan.workload.server
    needs = [chosen.memory[n].total for n in devices]
    scale = byte_scale(max(needs))
    limits = [*(plan.workload.devices[n].memory_bytes for n in devices), server.memory_bytes]
    columns = [
        [*(plan.workload.devices[n].name for n in devices), "server"],
        [*(f"{chosen.decision.cuts[n]}" for n in devices), ""],
        [*column([100 * chosen.decision.shares[n] for n in devices]), ""],
        column([*needs, chosen.server_memory.total], scale.unit_size),
        column(limits, scale.unit_size),
    ]
    headings = ["device", "cut", "bandwidth %", f"memory {scale.unit}", f"limit {scale.unit}"]
    reserved = [*(plan.workload.devices[n].reserved_bytes for n in devices), server.reserved_bytes]
    if any(reserved):
        headings.append(f"reserved {scale.unit}")
        columns.append(column(reserved, scale.unit_size))
    energy = plan.energy
    assert energy is not None
    joules = [*(energy.devices[n].total_j for n in devices), energy.server_j]
    if any(each is not None for each in joules):
        headings.append("energy J")
        columns.append(column(joules))
    return Cells(tuple(headings), tuple(zip(*columns, strict=True)))


def sent_cells(plan: Plan) -> Cells:
    """A row for each kind of round, what all devices together send and hear in one of them by
    payload; then one for each scheme, of all rounds."""
    assert plan.chosen is not None
    chosen, curves = plan.chosen, plan.workload.channel.mean_curves()
    rows = [("round 1", chosen.first.sent)]
    number = 2
    for kind, each in chosen.by_kind:
        if kind.rounds:
            last = number + kind.rounds - 1
            name = f"round {number}" if kind.rounds == 1 else f"rounds {number} to {last}, each"
            rows.append((name, each.sent))
            number += kind.rounds
    own = sent_bytes(chosen.workload, chosen.decision, curves)
    rows.append(("all rounds", own))
    rows += [(f"all rounds, {each.name}", each.sent) for each in plan.baselines]
    names = [name for name in PAYLOADS if any(asdict(sent).get(name) for _, sent in rows)]
    cells = tuple(
        (name, *(format_bytes(asdict(sent)[key]) for key in names), format_bytes(sent.total))
        for name, sent in rows
    )
    return Cells(("", *(PAYLOADS[name].label for name in names), "all"), cells)


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
    policy = row.policy
    ways = (policy.activation_memory.value, f"{policy.micro_batches}", f"{policy.in_flight}")
    memory = format_bytes(row.need.total)
    if row.delay_s is None or row.server_part is None:
        return (f"{row.cut}", "-", memory, _shortage(row.short), "-", *ways)
    fits = "yes" if row.allowed else "server too busy"
    busy = f"{100 * row.server_part:.0f} %"
    return (f"{row.cut}", format_seconds(row.delay_s), memory, fits, busy, *ways)


def _shortage(short: Shortage | None) -> str:
    """Who has too little memory for a cut, and by how much."""
    if short is None:
        return "no"
    who = "server" if short.device is None else "device"
    return f"{who} short by {format_bytes(short.missing_bytes)}"


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
            _whom(baseline),
        )
        for baseline in plan.baselines
    ]
    return Cells(("", "round", "all rounds", "relative time", "fits"), (own, *rows))


def _whom(baseline: Baseline) -> str:
    """Whether it fits, and whom it does not."""
    if baseline.fits:
        return "yes"
    if baseline.fits_devices:
        return "not the server"
    return "not the devices" if baseline.fits_server else "neither"


def _times(factor: float) -> str:
    return f"{factor:.0f}" if factor >= _MANY else f"{factor:.3g}"


def way_cells(target: TargetPlan) -> Cells:
    """A row for each way to the target, the fastest first: its seconds, as measured and at one
    standard error either way, its rounds, cut and codec."""
    energy = any(way.devices_j is not None for way in target.ways)
    headings = ("way", "seconds", "at best", "at worst", "rounds", "cut", "bits")
    rows = tuple(_way_row(target, way, energy=energy) for way in target.ways)
    note = "at best, at worst: one standard error of the accuracies; bits up and down per value"
    return Cells((*headings, *(("devices",) if energy else ())), rows, note)


def _way_row(target: TargetPlan, way: Way, *, energy: bool) -> tuple[str, ...]:
    decision, most_s = way.forecast.decision, way.most_s
    joules = "-" if way.devices_j is None else format_joules(way.devices_j)
    measured = way.variant.title if not way.variant.unmeasured and way.variant.title else None
    names = decision.scheme.name, *(() if measured is None else (measured,)), *way.unmeasured
    name = ", ".join(names)
    mark = " (the plan)" if way is target.chosen else " (not measured)" if way.unmeasured else ""
    bits = [_FLOAT32_BITS * part for part in (decision.codec.up, decision.codec.down)]
    return (
        name + mark,
        format_seconds(way.seconds),
        format_seconds(way.least_s),
        "never" if most_s is None else format_seconds(most_s),
        f"{way.rounds.likely:.0f}",
        f"{decision.cuts[0]}",
        f"{bits[0]:.2g} + {bits[1]:.2g}" if decision.scheme.trains_device else f"{bits[0]:.2g}",
        *((joules,) if energy else ()),
    )


def target_notes(target: TargetPlan) -> Iterator[str]:
    """How long it takes and how sure that is; then what was taken to be so, and what nobody
    knows."""
    learning, way, profile = target.learning, target.chosen, target.learning.profile
    share = f"{100 * target.target.accuracy:.3g} %"
    if way is not None:
        worst = "never" if way.most_s is None else f"after {format_seconds(way.most_s)}"
        codec = way.forecast.decision.codec
        yield (
            f"{share} accuracy after {format_seconds(way.seconds)} simulated, {worst} if all that"
            f" was measured is one standard error too good; codec {codec}"
        )
    yield f"assumed: it learns by local steps as what was measured: {profile.training}"
    if profile.curve:
        yield "assumed: what codec and device part lose by the end, they lose on the way too"
    else:
        yield (
            f"assumed: the profile ended after {learning.highest.rounds} of these rounds; nobody"
            " measured it on the way, so no way is known to be shorter: `cutlayer profile` does"
        )
    if not learning.device_part_cuts:
        yield (
            f"not known: what other cuts than {profile.cut}, or a frozen device part, cost:"
            " `cutlayer profile` measures it"
        )
    yield from (f"assumed: {line}" for line in target.assumed)
    if any(one.forecast.decision.scheme.cached for one in target.ways):
        yield (
            "assumed: an activation that is kept costs no more accuracy than one coded anew;"
            " without a codec they are the same"
        )
    faster = [one for one in target.ways if way is None or one.seconds < way.seconds]
    fastest = {one.unmeasured: one for one in reversed(faster) if one.unmeasured}
    for unmeasured, one in sorted(fastest.items(), key=lambda each: each[1].seconds):
        yield (
            f"not known: accuracy with {', '.join(unmeasured)}, which would get there in"
            f" {format_seconds(one.seconds)} ({one.forecast.decision.scheme.name}) if it cost none"
        )
