"""Tables for the terminal: a run, compared runs, a plan, a profile.

Knows records, comparisons, plans and profiles, no files. Eighty columns are enough; where a
terminal has no block characters, bars are drawn with `#`.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cutlayer.errors import ConfigError
from cutlayer.planner.accuracy import GRID_CODECS, JudgedSurface, fit_surfaces
from cutlayer.planner.plan import Plan
from cutlayer.planner.profile import TRAINED, Profile, ProfilePoint
from cutlayer.planner.target import TargetPlan
from cutlayer.report.comparison import (
    Column,
    Comparison,
    comparison_title,
    result_columns,
    target_columns,
    target_text,
)
from cutlayer.report.plan import (
    Cells,
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
    way_cells,
)
from cutlayer.report.sweep import (
    Sweep,
    TextTable,
    cell_table,
    difference_table,
    sweep_title,
)
from cutlayer.report.wording import (
    CLOCKS,
    DEVICE_COLOUR,
    OTHER_COLOUR,
    PHASES,
    RoundColumn,
    bar_span,
    counted,
    evaluation_facts,
    factor_text,
    headline,
    phases_in,
    printable,
    round_columns,
    savings,
    score_change,
    score_text,
    share_text,
    shortened,
    times_text,
)
from cutlayer.training.records import DevicePartBeside, RoundRecord, Summary, TrainedRound
from cutlayer.units import format_bytes, format_seconds

_BAR_WIDTH = 24


@dataclass(frozen=True)
class ShareBar:
    """A bar over `share` (0 to 1) of `width` cells; a share above zero shows at least something."""

    share: float
    width: int
    colour: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """One line of block characters in eighths, or of `#`."""
        eighths = round(8 * self.width * min(self.share, 1.0))
        eighths = max(eighths, 1) if self.share > 0 else 0
        if options.ascii_only:
            yield Text("#" * max(round(eighths / 8), eighths > 0))
        else:
            full, rest = divmod(eighths, 8)
            yield Text("█" * full + " ▏▎▍▌▋▊▉"[rest].strip(), style=self.colour)


def round_table(records: Sequence[RoundRecord]) -> Table:
    """One row per round: score, training loss, bytes each way, delay, and it by phase.

    The phases are those on the path of the round's slowest device and add up to the delay. There is
    at least one record, the evaluation before training.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 0), caption_justify="left")
    columns = round_columns(records)
    first = ("round", "score", "train_loss", "uplink", "downlink", "cached")
    shown = [columns[name] for name in first if name in columns]
    phases = [phase for phase in PHASES if phase in columns]
    shown += [columns["delay"], _gap(len(records)), *(columns[phase] for phase in phases)]
    for row_column in shown:
        table.add_column(_heading(row_column), justify="right", no_wrap=True)
    for row in zip(*(row_column.texts for row_column in shown), strict=True):
        table.add_row(*row)
    table.caption = _phase_legend(phases)
    return table


def summary_table(summary: Summary, works: Sequence[TrainedRound] = ()) -> RenderableType:
    """The run in short: score, bytes (what the codec saves by `works`), delay by phase with bars,
    memory against the whole model."""
    return Group(
        Text(printable(headline(summary)), style="bold"),
        Padding(_results(summary, works), (0, 0, 0, 2), expand=False),
        Padding(Text(_evaluation(summary)), (0, 0, 1, 2), expand=False),
        Text(f"{CLOCKS[summary.clock]} delay per round by phase", style="bold"),
        Padding(_delay_bars(summary), (0, 0, 1, 2), expand=False),
        Text("memory", style="bold"),
        Padding(_memory_bars(summary), (0, 0, 0, 2), expand=False),
    )


def _evaluation(summary: Summary) -> str:
    return "\n".join(f"{name}: {fact}" for name, fact in evaluation_facts(summary).items())


def _heading(shown: RoundColumn) -> str:
    words = [*shown.short.split(), *([shown.unit] if shown.unit else [])]
    return "\n".join([""] * (2 - len(words)) + words)


def _gap(rows: int) -> RoundColumn:
    return RoundColumn("", "", "", (None,) * rows, ("",) * rows)


def _phase_legend(phases: Iterable[str]) -> Text:
    words = ", ".join(f"{PHASES[phase].short}: {PHASES[phase].label}" for phase in phases)
    return Text(words, style="dim")


def _results(summary: Summary, works: Sequence[TrainedRound]) -> Table:
    table = Table.grid(padding=(0, 2))
    first, final = summary.score_first, summary.score_final
    per_round = summary.delay_s / max(summary.rounds, 1)
    table.add_row(
        final.measure,
        Text(f"{score_text(first)} -> {score_text(final)}", style="bold"),
        score_change(first, final),
    )
    for saving in savings(works):
        table.add_row(saving.name, *_sent(saving.sent_bytes, saving.uncompressed_bytes))
    table.add_row("uplink", *_sent(summary.uplink_bytes, summary.uncompressed_uplink_bytes))
    table.add_row("downlink", *_sent(summary.downlink_bytes, summary.uncompressed_downlink_bytes))
    cached = [work.cache for work in works if work.cache is not None]
    if cached:
        sent, used = sum(own.misses for own in cached), sum(own.hits + own.misses for own in cached)
        table.add_row(
            "cache",
            Text(format_bytes(cached[-1].held_bytes), style="bold"),
            f"{counted(cached[-1].samples, 'sample')} on disk; {sent} of {used} used were sent",
        )
    table.add_row(
        f"{CLOCKS[summary.clock]} delay",
        Text(format_seconds(summary.delay_s), style="bold"),
        f"{format_seconds(per_round)} per round, "
        f"{counted(summary.rounds, 'round')}, {counted(summary.devices, 'device')}",
    )
    if summary.beside is not None:
        table.add_row(*_beside(summary.beside))
    table.add_row("wall-clock", format_seconds(summary.wall_s), f"seed {summary.seed}")
    return table


def _beside(other: DevicePartBeside) -> tuple[str, Text, str]:
    """The other way to treat the device part, and what training it brings."""
    up, down = format_bytes(other.uplink_bytes), format_bytes(other.downlink_bytes)
    gain, error, of = (100 * v for v in (other.gain, other.gain_error, other.accuracy_trained))
    return (
        f"{other.scheme} instead",
        Text(format_seconds(other.delay_s), style="bold"),
        f"per round after the first, planned ({up} up, {down} down); training the device part"
        f" brings {gain:.1f} ± {error:.1f} of {of:.1f} points, by its profile",
    )


def _sent(sent_bytes: int, uncompressed_bytes: int) -> tuple[Text, str]:
    against = f"than {format_bytes(uncompressed_bytes)} uncompressed"
    saved = factor_text(sent_bytes, uncompressed_bytes)
    if sent_bytes == uncompressed_bytes:
        against = "as uncompressed"
    return Text(format_bytes(sent_bytes), style="bold"), f"{saved} {against}"


def _delay_bars(summary: Summary) -> Table:
    table = _bars()
    total = sum(summary.delay_by_phase_s.values())
    for phase, word in phases_in([summary.delay_by_phase_s]).items():
        seconds = summary.delay_by_phase_s[phase]
        table.add_row(
            word.label,
            format_seconds(seconds / max(summary.rounds, 1)),
            ShareBar(seconds / total if total else 0.0, _BAR_WIDTH, word.colour),
            share_text(seconds, total),
        )
    return table


def _memory_bars(summary: Summary) -> Table:
    table = _bars()
    peak, limit = summary.device_peak_bytes, summary.device_memory_limit_bytes
    rows = [
        ("peak of a device", peak, ""),
        ("whole model's weights", summary.model_bytes, times_text(summary.model_bytes, peak)),
        (
            "whole model, unsplit",
            summary.unsplit_peak_bytes,
            times_text(summary.unsplit_peak_bytes, peak),
        ),
    ]
    span = bar_span(max(size for _, size, _ in rows), limit)
    if limit is not None:
        rows.insert(1, ("limit of a device", limit, f"{share_text(peak, limit)} used"))
    for index, (label, size, note) in enumerate(rows):
        colour = DEVICE_COLOUR if index == 0 else OTHER_COLOUR
        share = size / span if size <= span else 0.0
        table.add_row(label, format_bytes(size), ShareBar(share, _BAR_WIDTH, colour), note)
    return table


def _bars() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=22, no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(width=_BAR_WIDTH, no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    return table


# eighty columns hold the results of runs with names of at most so many
_LABEL_LENGTH = 18
_SHOWN = ("best", "a round", "up", "down", "memory")


def compare_table(comparison: Comparison) -> RenderableType:
    """The runs' results, what the target took, and which runs did not fit."""
    results = result_columns(comparison)
    shown = [results[0], *(one for one in results if one.label in _SHOWN)]
    refused = [
        Text(printable(f"{one.label} {one.reason}"), style="red") for one in comparison.refused
    ]
    return Group(
        Text(printable(comparison_title(comparison)), style="bold"),
        Padding(_table(comparison, shown), (0, 0, 1, 0), expand=False),
        Text(f"until {target_text(comparison)}", style="bold"),
        _table(comparison, target_columns(comparison)),
        *refused,
    )


def _table(comparison: Comparison, columns: Sequence[Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("run", no_wrap=True)
    for column in columns:
        table.add_column(column.label, justify="right", no_wrap=True)
    labels = [shortened(entry.label, _LABEL_LENGTH) for entry in comparison.entries]
    for label, *texts in zip(labels, *(column.texts for column in columns), strict=True):
        table.add_row(Text(label), *texts)
    return table


_SWEPT = ("delay_s", "sent_bytes", "devices_j", "target_s")


def sweep_tables(sweep: Sweep) -> RenderableType:
    """Each cell's means, the fronts, and the differences of the score to the baseline."""
    score = sweep.quantity(f"{sweep.measure}_final")
    shown = [score, *(one for one in sweep.quantities if one.key in _SWEPT)]
    fronts = [
        f"not beaten in {score.name} and {front.cost.name}: "
        + "; ".join(cell.label for cell in front.cells)
        for front in sweep.fronts
        if front.cells
    ]
    refused = [f"{cell.label} {cell.refused.reason}" for cell in sweep.cells if cell.refused]
    parts: list[RenderableType] = [
        Text(printable(sweep_title(sweep)), style="bold"),
        Padding(_texts_table(cell_table(sweep, shown)), (0, 0, 1, 0), expand=False),
        *(Text(printable(line)) for line in fronts),
        *(Text(printable(line), style="red") for line in refused),
    ]
    if sweep.differences(score):
        title = f"against {sweep.baseline.label}, seed by seed"
        parts.append(Padding(Text(printable(title), style="bold"), (1, 0, 0, 0), expand=False))
        parts.append(_texts_table(difference_table(sweep, score)))
    return Group(*parts)


def _texts_table(texts: TextTable) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(Text(texts.headings[0]), overflow="fold", min_width=_LABEL_LENGTH)
    for heading in texts.headings[1:]:
        table.add_column(Text(heading), justify="right")
    for row in texts.rows:
        table.add_row(*(Text(printable(text)) for text in row))
    return table


_LEFT = ("device", "activations", "", "fits", "way")


def plan_tables(plan: Plan) -> RenderableType:
    """Decision, seconds by phase, sensitivity, cuts, baselines; or why nothing fits."""
    parts: list[RenderableType] = [Text(printable(plan_title(plan)), style="bold")]
    if plan.chosen is None:
        parts += _section(
            "nothing fits", _lines([infeasibility_line(plan, m) for m in plan.infeasibilities])
        )
        return Group(*parts, *_cuts(plan))
    parts.append(Padding(_facts(decision_facts(plan)), (0, 0, 1, 2), expand=False))
    seconds = phase_cells(plan)
    title = "a round after the first, by device"
    note = "; ".join(each for each in (seconds.note, phase_legend(plan)) if each)
    parts += _section(title, _cells_table(seconds), Text(note, style="dim"))
    parts += _section("what is sent, a broadcast once", _cells_table(sent_cells(plan)))
    parts += _section("what each device has", _cells_table(device_cells(plan)))
    lines = [resource_line(row) for row in plan.resource_sensitivities]
    lines += [limit_line(limit) for limit in plan.limit_sensitivities]
    parts += _section("sensitivity", _lines(lines))
    parts += _cuts(plan)
    parts += _section("beside other schemes", _cells_table(gain_cells(plan)))
    return Group(*parts)


def target_table(target: TargetPlan) -> RenderableType:
    """Every way to the target accuracy, the fastest first."""
    title = f"ways to {100 * target.target.accuracy:.3g} % accuracy, simulated"
    cells = way_cells(target)
    return Group(*_section(title, _cells_table(cells), Text(cells.note, style="dim")))


def _cuts(plan: Plan) -> list[RenderableType]:
    return (
        _section("every cut", _cells_table(cut_cells(plan)))
        if plan.scheme.splits and plan.cuts
        else []
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


def _cells_table(cells: Cells) -> Table:
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


# A profile, and how well the accuracy surfaces go through it.


# both codecs of the grid send the same symbols: one training run is a point of each
_SAME_SYMBOLS = GRID_CODECS[0]


def profile_table(profile: Profile) -> Table:
    """A row a point: bits per value, mean accuracy and its range over the seeds, points lost."""
    seeds = len(profile.seeds)
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        title=Text(printable(profile.training)),
        title_justify="left",
        caption=f"accuracy of {profile.test_samples} test samples over {seeds} seed"
        f"{'s' if seeds > 1 else ''}; lost: points of its mean against none",
        caption_justify="left",
    )
    table.add_column("codec", no_wrap=True)
    table.add_column("settings", no_wrap=True)
    for label in ("bits up", "down", "mean [%]", "range [%]", "lost"):
        table.add_column(label, justify="right", no_wrap=True)
    for point in profile.points:
        table.add_row(*_cells(point, profile.uncompressed.accuracy))
    return table


def _cells(point: ProfilePoint, uncompressed: float) -> tuple[str, ...]:
    low, high = (100 * end(point.accuracies) for end in (min, max))
    return (
        point.codec,
        ", ".join(f"{value:g}" for value in point.settings.values()),
        f"{point.bits_up:.3f}",
        f"{point.bits_down:.3f}",
        f"{100 * point.accuracy:.1f}",
        f"{low:.1f} to {high:.1f}",
        "" if point.codec == "none" else f"{100 * (uncompressed - point.accuracy):+.1f}",
    )


def device_part_tables(profile: Profile) -> Iterator[Table]:
    """A row a cut and device part: mean accuracy, its range, points lost against the device part
    trained at that cut and their standard error; no table where nothing was measured."""
    if not profile.device_parts:
        return
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        caption="through the codec best; lost: points against the device part trained, seed by"
        " seed, and the standard error",
        caption_justify="left",
    )
    table.add_column("cut", justify="right", no_wrap=True)
    table.add_column("device part", no_wrap=True)
    for label in ("mean [%]", "range [%]", "lost", "±"):
        table.add_column(label, justify="right", no_wrap=True)
    for point in profile.device_parts:
        low, high = (100 * end(point.accuracies) for end in (min, max))
        lost = profile.device_part_loss(point)
        trained = point.device_part == TRAINED
        table.add_row(
            str(point.cut),
            point.device_part
            + ("" if point.rounds is None else f", {counted(point.rounds, 'round')}"),
            f"{100 * point.accuracy:.1f}",
            f"{low:.1f} to {high:.1f}",
            "" if trained else f"{100 * lost.loss:+.1f}",
            "" if trained else f"{100 * lost.error:.1f}",
        )
    yield table


def fit_lines(profile: Profile) -> tuple[str, ...]:
    """A line for each surface, and the noise that neither can go below.

    One line that says why, where the profile has no full grid.
    """
    # a training run of `paper` is also a point of `paper-rans`: its noise counts once
    own = replace(profile, points=(profile.uncompressed, *profile.of(_SAME_SYMBOLS)))
    try:
        fitted = fit_surfaces(own)
    except ConfigError as error:
        return (f"no accuracy surface: {error}",)
    noise = (
        "unknown with one seed"
        if math.isnan(fitted.noise)
        else f"{fitted.noise:.2f} points (standard error of a mean over the seeds)"
    )
    return (
        _fit_line("cubic (35)", fitted.cubic),
        _fit_line("monotone surface", fitted.monotone),
        f"noise: {noise}",
    )


def _fit_line(name: str, judged: JudgedSurface) -> str:
    left_out = (
        f"{judged.left_out_root:.2f} at points left out in turn"
        if math.isfinite(judged.left_out_root)
        else "too few points to leave any out"
    )
    return f"{name}: {judged.root:.2f} points root mean square at the points, {left_out}"
