"""`compare.html`: one self-contained page about several runs, in the style of `report.html`.

Knows comparisons, not files; what stands where is the template's.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import yaml
from markupsafe import Markup

from cutlayer.errors import RunError
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
from cutlayer.report.drawing import plain_style, svg_element
from cutlayer.report.pages import cells, render
from cutlayer.report.vocabulary import MEMORY_KINDS, PAYLOADS, PHASES
from cutlayer.units import format_bytes

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
