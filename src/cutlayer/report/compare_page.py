"""`compare.html`: one self-contained page about several runs, in the style of `report.html`.

Knows comparisons, not files. The same comparison gives the same text.
"""

from collections.abc import Sequence

from cutlayer.report import html_parts as parts
from cutlayer.report.columns import (
    Column,
    limit_bytes,
    memory_bytes,
    payload_bytes,
    phase_seconds,
    result_columns,
    target_columns,
)
from cutlayer.report.compare_figures import (
    bar_legend,
    coinciding,
    compare_curves,
    device_memory_figure,
    round_figure,
    wide,
)
from cutlayer.report.comparison import (
    ComparedRun,
    Comparison,
    Entry,
    comparison_title,
    differences,
    target_text,
)
from cutlayer.report.drawing import plain_style, svg_element
from cutlayer.report.page_style import STYLE
from cutlayer.report.vocabulary import MEMORY_KINDS, PAYLOADS, PHASES
from cutlayer.units import format_bytes

# beside the page's own: names stand left, what does not fit is red
_STYLE = """
th:first-child, td:first-child { text-align: left; }
.refused { color: #b3261e; }
"""


def compare_page(comparison: Comparison) -> str:
    """The whole page as text. Raises RunError: a run's configuration is not YAML."""
    with plain_style():
        content = "\n".join(
            (
                _refused(comparison),
                _curves(comparison),
                _target(comparison),
                _results(comparison),
                _round(comparison),
                _memory(comparison),
                _settings(comparison),
                _places(comparison),
            )
        )
    footer = (
        "Delays are simulated, those of runs between machines measured; 1 MiB is 1024 · 1024 bytes;"
        " every number is in compare.csv."
    )
    return parts.page(comparison_title(comparison), content, footer, STYLE + _STYLE)


def _refused(comparison: Comparison) -> str:
    lines = (parts.escaped(f"{one.label} {one.reason}") for one in comparison.refused)
    return "".join(f'<p class="refused">{line}.</p>' for line in lines)


def _curves(comparison: Comparison) -> str:
    runs, measure = comparison.runs, comparison.measure
    svg = svg_element(compare_curves(comparison), "curves", f"{measure} of every run")
    logarithmic = wide(runs, lambda p: p.time_s) or wide(runs, lambda p: float(p.sent_bytes))
    caption = "Bytes are those of both directions."
    if coinciding(comparison):
        caption += " Runs that coincide are drawn as rims."
    if logarithmic:
        caption += " On a logarithmic axis the evaluation before training, at 0, is left out."
    name = measure.capitalize()
    return parts.section(f"{name} for rounds, time and bytes", parts.figure(svg, caption))


def _target(comparison: Comparison) -> str:
    text = (
        f"Until {target_text(comparison)}: the first evaluation after training that reaches it,"
        " nothing interpolated."
    )
    if comparison.yardstick is not None:
        text += f" Relative figures are against {comparison.yardstick.label}."
    table = _table(comparison.entries, target_columns(comparison))
    return parts.section("To the target", f"<p>{parts.escaped(text)}</p>", table)


def _results(comparison: Comparison) -> str:
    return parts.section("In short", _table(comparison.entries, result_columns(comparison)))


def _round(comparison: Comparison) -> str:
    runs = comparison.runs
    svg = svg_element(round_figure(comparison), "round", "seconds and bytes of a round")
    seconds = bar_legend(PHASES, [phase_seconds(run) for run in runs])
    sizes = bar_legend(PAYLOADS, [payload_bytes(run) for run in runs])
    text = (
        "<p>Means of the rounds; seconds are along each round's slowest device. What is sent in"
        " the first round only (the model) is spread over all.</p>"
    )
    legends = parts.legend(seconds) + parts.legend(sizes)
    return parts.section("What a round is made of", text, parts.figure(svg, before=legends))


def _memory(comparison: Comparison) -> str:
    svg = svg_element(device_memory_figure(comparison), "memory", "peak memory of a device")
    rows = [memory_bytes(entry) for entry in comparison.entries]
    legend = parts.legend(bar_legend(MEMORY_KINDS, rows))
    limits = sorted({limit for one in comparison.entries if (limit := limit_bytes(one))})
    least = " or ".join(format_bytes(limit) for limit in limits)
    has = f"The smallest device has {least} (red, where near)." if limits else "No limit was set."
    text = f"<p>At the peak of a local step. {parts.escaped(has)}</p>"
    return parts.section("Memory of a device", text, parts.figure(svg, before=legend))


def _settings(comparison: Comparison) -> str:
    entries = comparison.entries
    rows = [[row.key, *row.values] for row in differences(entries)]
    if not rows:
        return parts.section("What differs", "<p>No setting differs.</p>")
    table = parts.table(["setting", *(entry.label for entry in entries)], rows)
    return parts.section("What differs", "<p>All other settings are equal.</p>", table)


def _places(comparison: Comparison) -> str:
    rows = [[run.label, run.place] for run in comparison.runs]
    return parts.section("Run directories", parts.table(["run", "directory"], rows))


def _table(entries: Sequence[Entry], columns: Sequence[Column]) -> str:
    rows = [[_name(entry), *(_cell(one, n) for one in columns)] for n, entry in enumerate(entries)]
    return parts.table(["run", *(column.label for column in columns)], rows)


def _name(entry: Entry) -> str:
    return entry.label if isinstance(entry, ComparedRun) else f"{entry.label} (does not fit)"


def _cell(column: Column, index: int) -> parts.Shown | str:
    value, text = column.values[index], column.texts[index]
    return text if value is None else parts.Shown(value, text)
