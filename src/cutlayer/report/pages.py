"""The pages: of a run, of a comparison, and live."""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from cutlayer.errors import RunError
from cutlayer.net.operations.web import Answer
from cutlayer.report import vocabulary
from cutlayer.report.columns import round_columns, savings
from cutlayer.report.compare_figures import (
    bar_legend,
    coinciding,
    compare_curves,
    device_memory_figure,
    round_figure,
    wide,
)
from cutlayer.report.comparison import (
    Column,
    ComparedRun,
    Comparison,
    Entry,
    comparison_title,
    limit_bytes,
    memory_bytes,
    payload_bytes,
    phase_seconds,
    result_columns,
    target_columns,
    target_text,
)
from cutlayer.report.delay_figures import (
    delay_figure,
    gantt_devices,
    gantt_figure,
    gantt_local_steps,
    gantt_phases,
)
from cutlayer.report.drawing import plain_style, svg_element
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
from cutlayer.report.vocabulary import (
    CLOCKS,
    MEMORY_KINDS,
    PAYLOADS,
    PHASES,
    Word,
    phases_in,
    printable,
    word,
)
from cutlayer.report.wording import (
    counted,
    factor_text,
    headline,
    score_change,
    score_text,
    share_text,
)
from cutlayer.training.files import write_text
from cutlayer.training.records import Partition, Score, Summary, TrainedRound
from cutlayer.units import format_bytes, format_seconds

# Pages from the templates beside this file: HTML that shows text, and nothing but text, of others.
#
# Knows how values are shown on any page, and no page.


def render(template: str, **values: object) -> str:
    """The page that a template makes of values; the same values give the same text."""
    return _environment().get_template(template).render(values)


def shown(value: float, text: str) -> Markup:
    """A number as written; the page keeps it to the last digit beside that."""
    return Markup('<data value="{}">{}</data>').format(repr(value), text)


def cells(values: Sequence[float | None], texts: Iterable[str]) -> list[str]:
    """A column of a table: numbers with their texts, plain text where there is no number."""
    return [
        text if value is None else shown(value, text)
        for value, text in zip(values, texts, strict=True)
    ]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("cutlayer.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_printable,
    )
    environment.filters |= {
        "as_bytes": lambda size: shown(size, format_bytes(size)),
        "as_lines": _lines,
        "as_score": _score,
        "as_seconds": lambda seconds: shown(seconds, format_seconds(seconds)),
    }
    functions = (counted, factor_text, format_seconds, score_change, shown)
    environment.globals |= {function.__name__: function for function in functions}
    return environment


def _printable(value: object) -> object:
    """Text from outside without what a page cannot hold; escaping follows."""
    return printable(value) if type(value) is str else value


def _lines(text: str) -> Markup:
    """A text of many lines, whose ends and tabs are kept."""
    lines = (Markup("\t").join(map(printable, line.split("\t"))) for line in text.split("\n"))
    return Markup("\n").join(lines)


def _score(score: Score) -> Markup:
    return shown(score.value, score_text(score))


# The live page of a server, in the report's words and colours.
#
# Knows the files that the page is put together from, once, and no run: the page asks for its
# numbers.


_FOLDER = files("cutlayer.report") / "live"
_SCRIPTS = ("words.js", "sections.js", "charts.js", "asking.js")


def live_page() -> Answer:
    """The page as a browser gets it, one file that asks for no other.

    It may run its own script and ask its own server, no more.
    """
    style, script = _text("page.css"), "\n".join(map(_text, _SCRIPTS))
    page = render(
        "live.html",
        style=Markup(style),
        words=Markup(json.dumps(_words())),
        script=Markup(script),
    )
    kind = "text/html; charset=utf-8"
    return Answer(HTTPStatus.OK, kind, page.encode(), _policy(style, script))


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _words() -> dict[str, object]:
    return {
        "phases": _rows(vocabulary.PHASES),
        "payloads": _rows(vocabulary.PAYLOADS),
        "device": vocabulary.DEVICE_COLOUR,
        "other": vocabulary.OTHER_COLOUR,
        "score": vocabulary.SCORE_COLOUR,
        "train": vocabulary.TRAIN_COLOUR,
    }


def _rows(words: Mapping[str, Word]) -> list[dict[str, object]]:
    return [
        {"key": key, "label": own.label, "colour": own.colour, "wait": key in vocabulary.WAITS}
        for key, own in words.items()
    ]


def _policy(style: str, script: str) -> str:
    """Script and style by their hashes: what got into the page in any other way stays dead."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash(script)}",
            f"style-src {_hash(style)}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


def _hash(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


# `compare.html`: one self-contained page about several runs, in the style of `report.html`.
#
# Knows comparisons, not files; what stands where is the template's.


Table = tuple[list[str], list[tuple[str, ...]]]


def compare_page(comparison: Comparison) -> str:
    """The whole page as text; the same comparison gives the same text.

    Raises RunError: a run's configuration is not YAML.
    """
    entries, runs, measure = comparison.entries, comparison.runs, comparison.measure
    limits = sorted({limit for one in entries if (limit := limit_bytes(one))})
    with plain_style():
        curves = svg_element(compare_curves(comparison), "curves", f"{measure} of every run")
        round_ = svg_element(round_figure(comparison), "round", "seconds and bytes of a round")
        memory = svg_element(device_memory_figure(comparison), "memory", "peak memory of a device")
    return render(
        "compare.html",
        title=comparison_title(comparison),
        comparison=comparison,
        caption=_caption(comparison),
        until=target_text(comparison),
        target=_table(entries, target_columns(comparison)),
        results=_table(entries, result_columns(comparison)),
        seconds=bar_legend(PHASES, [phase_seconds(run) for run in runs]),
        sizes=bar_legend(PAYLOADS, [payload_bytes(run) for run in runs]),
        kinds=bar_legend(MEMORY_KINDS, [memory_bytes(entry) for entry in entries]),
        limits=" or ".join(format_bytes(limit) for limit in limits),
        labels=[entry.label for entry in entries],
        settings=[(row.key, *row.values) for row in differences(entries)],
        places=[(run.label, run.place) for run in runs],
        curves=Markup(curves),
        round=Markup(round_),
        memory=Markup(memory),
    )


def _caption(comparison: Comparison) -> str:
    runs = comparison.runs
    caption = "Bytes are those of both directions."
    if coinciding(comparison):
        caption += " Runs that coincide are drawn as rims."
    if wide(runs, lambda p: p.time_s) or wide(runs, lambda p: float(p.sent_bytes)):
        caption += " On a logarithmic axis the evaluation before training, at 0, is left out."
    return caption


def _table(entries: Sequence[Entry], columns: Sequence[Column]) -> Table:
    names = [
        entry.label if isinstance(entry, ComparedRun) else f"{entry.label} (does not fit)"
        for entry in entries
    ]
    rows = zip(names, *(cells(one.values, one.texts) for one in columns), strict=True)
    return ["run", *(column.label for column in columns)], list(rows)


@dataclass(frozen=True)
class Difference:
    """One dotted key and its value in each run, as YAML; `-` where a run's file has no such key."""

    key: str
    values: tuple[str, ...]


def differences(entries: Sequence[Entry]) -> tuple[Difference, ...]:
    """The keys whose values are not the same everywhere, in the order of the files.

    Raises RunError: a configuration is not YAML.
    """
    settings = [_settings(entry) for entry in entries]
    keys = dict.fromkeys(key for one in settings for key in one)
    rows = [Difference(key, tuple(one.get(key, "-") for one in settings)) for key in keys]
    return tuple(row for row in rows if len(set(row.values)) > 1)


def _settings(entry: Entry) -> Mapping[str, str]:
    text = entry.record.config_text if isinstance(entry, ComparedRun) else entry.config_text
    try:
        return dict(_flat(yaml.safe_load(text) or {}, ""))
    except (yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"the configuration of {entry.label} is not YAML: {reason}") from error


def _flat(value: object, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, _as_yaml(value)


def _as_yaml(value: object) -> str:
    # a line of its own would end with YAML's mark of a document's end
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("...\n").strip()


# `report.html`: one self-contained page about a run, drawn from its directory.
#
# Knows a run's record; what stands where is the template's.


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
