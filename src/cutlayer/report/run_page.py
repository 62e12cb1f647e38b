"""`report.html`: one self-contained page about a run, drawn from its directory.

Knows a run's record; what stands where is the template's.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure

from cutlayer.files import write_text
from cutlayer.report.columns import round_columns, savings
from cutlayer.report.delay_figures import (
    delay_figure,
    gantt_devices,
    gantt_figure,
    gantt_local_steps,
    gantt_phases,
)
from cutlayer.report.drawing import plain_style, svg_element
from cutlayer.report.pages import cells, render
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
from cutlayer.report.run_reader import RunRecord, read_record
from cutlayer.report.vocabulary import CLOCKS, MEMORY_KINDS, PAYLOADS, phases_in, word
from cutlayer.report.wording import counted, headline, share_text
from cutlayer.training.records import Partition, Summary, TrainedRound
from cutlayer.units import format_seconds

REPORT = "report.html"


def write_report(directory: Path) -> Path:
    """Write `report.html` into the run directory, in one step, and give its path.

    The same run gives the same bytes.

    Raises:
        RunError: the directory cannot be read as a run, or the page cannot be written.
    """
    path = directory / REPORT
    write_text(path, run_page(read_record(directory)))
    return path


def run_page(run: RunRecord) -> str:
    """The whole page as text."""
    summary, works, columns = run.summary, run.trained, round_columns(run.rounds).values()
    with plain_style():
        return render(
            "run.html",
            title=headline(summary),
            clock=CLOCKS[summary.clock],
            run=run,
            summary=summary,
            works=works,
            savings=savings(works),
            about=_about(summary),
            memory_text=_memory_text(summary),
            kinds=[
                (kind.colour, kind.label, summary.device_memory_bytes[name])
                for name in memory_kinds(summary)
                for kind in (word(MEMORY_KINDS, name),)
            ],
            sizes=" to ".join(f"{size:,}" for size in _span(summary.samples_per_device)),
            classes=[] if names_are_drawn(run.partition) else _classes(run.partition),
            headings=[f"{one.label} [{one.unit}]" if one.unit else one.label for one in columns],
            cells=list(zip(*(cells(one.values, one.texts) for one in columns), strict=True)),
            curves=_svg(
                curve_figure(run.rounds, CLOCKS[summary.clock]),
                "curves",
                f"{summary.score_final.measure} and loss over the run",
            ),
            memory=_svg(memory_figure(summary), "memory", "peak memory of a device by kind"),
            partition=_svg(
                partition_figure(run.partition), "partition", "samples by class and device"
            ),
            **_of_training(works),
            **_of_the_last_round(run),
        )


def _of_training(works: Sequence[TrainedRound]) -> dict[str, object]:
    """What there is of rounds that trained."""
    if not works:
        return {"shares": None}
    return {
        "delay": _svg(delay_figure(works), "delay", "delay by phase, by round and by device"),
        "phases": _phase_shares(works),
        "slowest": _slowest(works),
        "bytes": _svg(byte_figure(works), "bytes", "bytes by direction and by payload"),
        "directions": [
            (UPLINK_COLOUR, "uplink"),
            (DOWNLINK_COLOUR, "downlink"),
            (UNCOMPRESSED_COLOUR, "uncompressed"),
        ],
        "payloads": [
            (payload.colour, payload.label, sum(w.bytes_by_payload.get(name, 0) for w in works))
            for name in payload_names(works)
            for payload in (word(PAYLOADS, name),)
        ],
        "shown_rounds": shown_rounds(works),
        "shares": _svg(share_figure(works), "shares", "bandwidth allocation by device and round")
        if shares_vary(works)
        else None,
    }


def _of_the_last_round(run: RunRecord) -> dict[str, object]:
    """One round step by step, if a trace of it is there."""
    steps = run.last_round_steps
    if not run.trained or not steps:
        return {"gantt": None}
    slowest = run.trained[-1].slowest_device
    return {
        "gantt": _svg(gantt_figure(steps, slowest), "gantt", "who does what when"),
        "steps": gantt_local_steps(steps, slowest),
        "rows": len(gantt_devices(steps, slowest)),
        "drawn_phases": [(phase.colour, phase.label) for phase in gantt_phases(steps)],
    }


def _about(summary: Summary) -> dict[str, str]:
    devices = counted(summary.devices, "device")
    return {
        "task": summary.task,
        "scheme": summary.scheme,
        "model": f"{summary.model} (from {summary.model_source})",
        "data": f"{summary.data} (from {summary.data_source})",
        "samples": f"{sum(summary.samples_per_device):,} on {devices}",
        "wall-clock": f"{format_seconds(summary.wall_s)}, seed {summary.seed}",
        "config sha256": summary.config_sha256,
    }


def _phase_shares(works: Sequence[TrainedRound]) -> list[tuple[str, str]]:
    total_s = sum(work.delay_s for work in works)
    seconds = [work.delay_by_phase_s for work in works]
    return [
        (own.colour, f"{own.label} {share_text(sum(s.get(phase, 0.0) for s in seconds), total_s)}")
        for phase, own in phases_in(seconds).items()
    ]


def _slowest(works: Sequence[TrainedRound]) -> str:
    ranking = Counter(work.slowest_device for work in works).most_common()
    named = [f"device {device} in {counted(count, 'round')}" for device, count in ranking[:4]]
    others = len(ranking) - len(named)
    return ", ".join(named) + (f", and {counted(others, 'other')}" if others > 0 else "")


def _memory_text(summary: Summary) -> str:
    peak, limit = summary.device_peak_bytes, summary.device_memory_limit_bytes
    weights = summary.device_memory_bytes.get("weights", 0)
    text = (
        f"A device has {share_text(weights, summary.model_bytes)} of the model's weights; its "
        f"peak is {share_text(peak, summary.unsplit_peak_bytes)} of what the unsplit model needs"
    )
    if limit is None:
        return f"{text}. No limit was set."
    fits = "would not fit" if summary.unsplit_peak_bytes > limit else "would fit too"
    return f"{text} and {share_text(peak, limit)} of its limit. The unsplit model {fits}."


def _span(sizes: Sequence[int]) -> list[int]:
    return sorted({min(sizes), max(sizes)})


def _classes(partition: Partition) -> list[tuple[str, int]]:
    """Each class and its samples on all devices."""
    totals = map(sum, zip(*partition.counts, strict=True))
    return list(zip(partition.class_names, totals, strict=True))


def _svg(figure: Figure, name: str, description: str) -> Markup:
    return Markup(svg_element(figure, name, description))
