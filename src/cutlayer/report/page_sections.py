"""What the page says, section by section, as HTML. Knows a run's record, not its files."""

from collections import Counter
from collections.abc import Sequence

from cutlayer.report import html_parts as parts
from cutlayer.report.columns import RoundColumn, Saving, round_columns, savings
from cutlayer.report.delay_figures import (
    delay_figure,
    gantt_devices,
    gantt_figure,
    gantt_local_steps,
)
from cutlayer.report.drawing import svg_element
from cutlayer.report.run_figures import (
    DOWNLINK_COLOUR,
    UNCOMPRESSED_COLOUR,
    UPLINK_COLOUR,
    byte_figure,
    curve_figure,
    memory_figure,
    memory_kinds,
    names_are_drawn,
    partition_figure,
    payload_names,
    share_figure,
    shares_vary,
    shown_rounds,
)
from cutlayer.report.run_reader import RunRecord
from cutlayer.report.vocabulary import CLOCKS, MEMORY_KINDS, PAYLOADS, phases_in, word
from cutlayer.report.wording import (
    counted,
    factor_text,
    score_change,
    score_text,
    share_text,
)
from cutlayer.train.records import Summary, TrainedRound
from cutlayer.units import format_bytes, format_seconds


def page_sections(run: RunRecord) -> list[str]:
    """The sections in order; to be called inside `plain_style`."""
    works = run.trained
    sections = [_head(run.summary, works), _learning(run)]
    if works:
        sections += [_delay(works), _bytes(run.summary, works)]
    if shares_vary(works):
        sections.append(_shares(works))
    sections += [_memory(run.summary), _partition(run)]
    if works and run.last_round_steps:
        sections.append(_gantt(run, works[-1]))
    sections.append(parts.section("Round by round", _round_table(run)))
    config = f"<pre>{parts.escaped_lines(run.config_text)}</pre>"
    sections.append(parts.section("Configuration", config))
    return sections


def _head(summary: Summary, works: Sequence[TrainedRound]) -> str:
    rounds, devices = counted(summary.rounds, "round"), counted(summary.devices, "device")
    facts = {
        "task": summary.task,
        "scheme": summary.scheme,
        "model": f"{summary.model} (from {summary.model_source})",
        "data": f"{summary.data} (from {summary.data_source})",
        "samples": f"{sum(summary.samples_per_device):,} on {devices}",
        "wall-clock": f"{format_seconds(summary.wall_s)}, seed {summary.seed}",
        "config sha256": summary.config_sha256,
    }
    cards = [_score_card(summary), *(_saving_card(saving) for saving in savings(works))]
    cards += [_delay_card(summary), _memory_card(summary)]
    return (
        f'<p class="muted">{rounds}, {devices}, one edge server</p>'
        f'<div class="cards">{"".join(cards)}</div>'
        f"{parts.facts(facts)}"
    )


def _score_card(summary: Summary) -> str:
    first, final = summary.score_first, summary.score_final
    before, after = (parts.Shown(score.value, score_text(score)) for score in (first, final))
    note = f"from {before.html()}, {parts.escaped(score_change(first, final))}"
    return parts.card(final.measure, after.html(), note)


def _saving_card(saving: Saving) -> str:
    """What the codec does, which totals hide: adapters and the model are in them."""
    sent = parts.Shown(saving.sent_bytes, format_bytes(saving.sent_bytes)).html()
    plain = saving.uncompressed_bytes
    if saving.sent_bytes == plain:
        return parts.card(saving.name, sent, "not compressed")
    note = f"{sent} of {parts.Shown(plain, format_bytes(plain)).html()}"
    return parts.card(saving.name, factor_text(saving.sent_bytes, plain), note)


def _delay_card(summary: Summary) -> str:
    per_round = summary.delay_s / max(summary.rounds, 1)
    value = parts.Shown(summary.delay_s, format_seconds(summary.delay_s)).html()
    return parts.card(
        f"{CLOCKS[summary.clock]} delay", value, f"{format_seconds(per_round)} a round"
    )


def _memory_card(summary: Summary) -> str:
    peak, unsplit = summary.device_peak_bytes, summary.unsplit_peak_bytes
    value = parts.Shown(peak, format_bytes(peak)).html()
    whole = parts.Shown(unsplit, format_bytes(unsplit)).html()
    return parts.card("peak of a device", value, f"{whole} if it were not split")


def _learning(run: RunRecord) -> str:
    measure = run.summary.score_final.measure
    figure = curve_figure(run.rounds, CLOCKS[run.summary.clock])
    svg = svg_element(figure, "curves", f"{measure} and loss over the run")
    return parts.section("Learning", parts.figure(svg))


def _delay(works: Sequence[TrainedRound]) -> str:
    total = sum(work.delay_s for work in works)
    entries = []
    for phase, phase_word in phases_in(work.delay_by_phase_s for work in works).items():
        share = share_text(sum(work.delay_by_phase_s.get(phase, 0.0) for work in works), total)
        entries.append((phase_word.colour, parts.escaped(f"{phase_word.label} {share}")))
    svg = svg_element(delay_figure(works), "delay", "delay by phase, by round and by device")
    caption = f"Slowest device: {_slowest(works)}."
    text = "<p>A round ends when its slowest device is done; shares are along its path.</p>"
    return parts.section("Delay by phase", text, parts.figure(svg, caption, parts.legend(entries)))


def _slowest(works: Sequence[TrainedRound]) -> str:
    ranking = Counter(work.slowest_device for work in works).most_common()
    named = [f"device {device} in {counted(count, 'round')}" for device, count in ranking[:4]]
    others = len(ranking) - len(named)
    return ", ".join(named) + (f", and {counted(others, 'other')}" if others > 0 else "")


def _bytes(summary: Summary, works: Sequence[TrainedRound]) -> str:
    entries = [
        (UPLINK_COLOUR, "uplink"),
        (DOWNLINK_COLOUR, "downlink"),
        (UNCOMPRESSED_COLOUR, "uncompressed"),
    ]
    payloads = []
    for name in payload_names(works):
        total = sum(work.bytes_by_payload.get(name, 0) for work in works)
        shown = parts.Shown(total, format_bytes(total)).html()
        payload = word(PAYLOADS, name)
        payloads.append((payload.colour, f"{parts.escaped(payload.label)} {shown}"))
    svg = svg_element(byte_figure(works), "bytes", "bytes by direction and by payload")
    uplink = _total("Uplink", summary.uplink_bytes, summary.uncompressed_uplink_bytes)
    downlink = _total("downlink", summary.downlink_bytes, summary.uncompressed_downlink_bytes)
    text = (
        f"<p>{uplink}; {downlink} (activations and gradients as float32). Adapters, labels and the"
        " model are in these totals, and are not compressed.</p>"
    )
    both = parts.legend(entries) + parts.legend(payloads)
    return parts.section("Bytes over the link", text, parts.figure(svg, before=both))


def _shares(works: Sequence[TrainedRound]) -> str:
    svg = svg_element(share_figure(works), "shares", "bandwidth allocation by device and round")
    drawn, of = shown_rounds(works), len(works)
    which = "all rounds" if drawn == of else f"the last {drawn} of {of} rounds"
    text = f"<p>Percent of the bandwidth that each device had, both ways, in {which}.</p>"
    return parts.section("Bandwidth allocation", text, parts.figure(svg))


def _total(name: str, sent_bytes: int, uncompressed_bytes: int) -> str:
    """`uplink 4.67 MiB, 1.31x smaller than 6.11 MiB uncompressed`."""
    sent = parts.Shown(sent_bytes, format_bytes(sent_bytes)).html()
    if sent_bytes == uncompressed_bytes:
        return f"{name} {sent}, as uncompressed"
    plain = parts.Shown(uncompressed_bytes, format_bytes(uncompressed_bytes)).html()
    factor = factor_text(sent_bytes, uncompressed_bytes)
    return f"{name} {sent}, {factor} than {plain} uncompressed"


def _memory(summary: Summary) -> str:
    entries = []
    for kind in memory_kinds(summary):
        size = summary.device_memory_bytes[kind]
        kind_word = word(MEMORY_KINDS, kind)
        shown = parts.Shown(size, format_bytes(size)).html()
        entries.append((kind_word.colour, f"{parts.escaped(kind_word.label)} {shown}"))
    svg = svg_element(memory_figure(summary), "memory", "peak memory of a device by kind")
    text = f"<p>{parts.escaped(_memory_text(summary))}</p>"
    return parts.section(
        "Memory of a device", text, parts.figure(svg, before=parts.legend(entries))
    )


def _memory_text(summary: Summary) -> str:
    peak, limit = summary.device_peak_bytes, summary.device_memory_limit_bytes
    weights = summary.device_memory_bytes.get("weights", 0)
    text = (
        f"A device holds {share_text(weights, summary.model_bytes)} of the model's weights; its "
        f"peak is {share_text(peak, summary.unsplit_peak_bytes)} of what the unsplit model needs"
    )
    if limit is None:
        return f"{text}. No limit was set."
    fits = "would not fit" if summary.unsplit_peak_bytes > limit else "would fit too"
    return f"{text} and {share_text(peak, limit)} of its limit. The unsplit model {fits}."


def _partition(run: RunRecord) -> str:
    partition, sizes = run.partition, run.summary.samples_per_device
    svg = svg_element(partition_figure(partition), "partition", "samples by class and device")
    span = sorted({min(sizes), max(sizes)})
    text = f"<p>{' to '.join(f'{size:,}' for size in span)} samples a device.</p>"
    title = "Labels on devices" if len(partition.class_names) > 1 else "Samples on devices"
    names = ""
    if not names_are_drawn(partition):
        totals = [sum(column) for column in zip(*partition.counts, strict=True)]
        items = "".join(
            f"<li>{number}: {parts.escaped(name)} ({parts.Shown(total, f'{total:,}').html()})</li>"
            for number, (name, total) in enumerate(zip(partition.class_names, totals, strict=True))
        )
        summary = f"<summary>the {len(totals)} classes and their samples</summary>"
        names = f'<details>{summary}<ul class="names">{items}</ul></details>'
    return parts.section(title, text, parts.figure(svg), names)


def _gantt(run: RunRecord, last: TrainedRound) -> str:
    steps = run.last_round_steps
    drawn, of = gantt_local_steps(steps, last.slowest_device)
    rows = len(gantt_devices(steps, last.slowest_device))
    svg = svg_element(gantt_figure(steps, last.slowest_device), "gantt", "who does what when")
    which = f"all {of} local steps" if drawn == of else f"the first {drawn} of {of} local steps"
    devices = "" if rows == run.summary.devices else f" {rows} of {run.summary.devices} devices."
    text = (
        f"<p>Round {run.rounds[-1].round}, {which} of its slowest device "
        f"({last.slowest_device}).{devices} Waiting is drawn thin; where micro-batches "
        "overlap, computing is above, transfers are below, and waiting is left out.</p>"
    )
    drawn_phases = phases_in({step.phase: step.end_s - step.start_s} for step in steps)
    entries = parts.legend((phase.colour, phase.label) for phase in drawn_phases.values())
    return parts.section("One round, step by step", text, parts.figure(svg, before=entries))


def _round_table(run: RunRecord) -> str:
    columns = round_columns(run.rounds).values()
    headings = [f"{one.label} [{one.unit}]" if one.unit else one.label for one in columns]
    return parts.table(headings, zip(*(_cells(one) for one in columns), strict=True))


def _cells(one: RoundColumn) -> list[parts.Shown | str]:
    return [
        text if value is None else parts.Shown(value, text)
        for value, text in zip(one.values, one.texts, strict=True)
    ]
