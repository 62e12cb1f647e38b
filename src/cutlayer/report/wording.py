"""A run in words and numbers, the same in the terminal and on the page: the words of its record
(phases, payloads, kinds of memory) with labels and colours; scores, factors, columns of
numbers; what its codec saves.

Knows records and units, no file, no layout and no drawing. Colours say who acts: teal a device
computing, orange the uplink, violet the server, blue the downlink; pale ones wait, grey ones for
other devices. They differ in lightness too, for print and colour blindness.
"""

import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cutlayer.training.records import RoundRecord, Score, Summary, TrainedRound
from cutlayer.units import GIB, KIB, MIB, format_bytes, format_seconds

# Numbers in words.


_TIMES = (("ms", 1e-3), ("s", 1.0), ("min", 60.0), ("h", 3600.0))
_BYTES = (("B", 1.0), ("KiB", KIB), ("MiB", MIB), ("GiB", GIB))

_FAR = 1.5


@dataclass(frozen=True)
class Scale:
    """A unit for a whole column or axis: `value * unit_size` is in the base unit."""

    unit: str
    unit_size: float


def time_scale(largest_s: float) -> Scale:
    """The unit in which the largest of some durations [s] has few digits before the point."""
    unit = "ms" if largest_s < 1 else "s" if largest_s < 1e4 else "min" if largest_s < 6e5 else "h"
    return Scale(unit, dict(_TIMES)[unit])


def byte_scale(largest_bytes: float) -> Scale:
    """The binary unit in which the largest of some byte counts is at least one."""
    unit, size = max((row for row in _BYTES if row[1] <= max(largest_bytes, 1.0)), key=_size)
    return Scale(unit, size)


def column(values: Sequence[float | None], unit_size: float = 1.0) -> list[str]:
    """Numbers of a column, four characters at most up to 9999; None: `-`.

    All have the decimals with which the largest shows three digits. Where that would leave a
    smaller one less than two digits (a first round that sends the weights), each has its own.
    """
    scaled = [None if value is None else value / unit_size for value in values]
    known = [value for value in scaled if value is not None]
    decimals = decimals_for(known)
    lost = decimals < 2 and any(0 < abs(value) < 10 ** (1 - decimals) for value in known)
    return [
        "-" if value is None else f"{value:.{decimals_for([value]) if lost else decimals}f}"
        for value in scaled
    ]


def decimals_for(values: Sequence[float]) -> int:
    """Decimals (0, 1 or 2) with which the largest finite value shows three digits."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    # 9.995 and 99.95 would round up to one digit more
    return 2 if largest < 9.995 else 1 if largest < 99.95 else 0


def score_text(score: Score) -> str:
    """`82.9 %` or `31.4`."""
    if score.measure == "accuracy":
        return f"{100 * score.value:.1f} %"
    return f"{score.value:.{decimals_for([score.value])}f}"


def named_score(score: Score) -> str:
    """`accuracy 82.9 %`."""
    return f"{score.measure} {score_text(score)}"


def evaluation_facts(summary: Summary) -> dict[str, str]:
    """What there is to say of a run's evaluation besides its first and last score: the best round,
    what rounds were evaluated on if not on the test split, and that it ended early."""
    facts: dict[str, str] = {}
    if summary.stopped_early is not None:
        facts["ended"] = summary.stopped_early
    if summary.score_best is not None:
        facts["best round"] = f"{summary.best_round}, {named_score(summary.score_best)}"
    if summary.macro_f1_final is not None:
        facts["macro-F1"] = f"{summary.macro_f1_final:.3f}"
    if summary.test_scores is not None:
        whole, (last, best) = summary.test_samples or 0, summary.test_scores
        split = "a validation split" if summary.evaluated_on == "validation" else "the test split"
        facts["rounds evaluated on"] = f"{summary.evaluated_samples:,} samples of {split}"
        facts["test split"] = (
            f"{whole:,} samples, evaluated at the end alone: {named_score(last)} after the last"
            f" round, {score_text(best)} after the best"
        )
    return facts


def score_change(first: Score, final: Score) -> str:
    """What training gained: `+72.7 points`, or for a perplexity `-35 %`."""
    if final.measure == "accuracy":
        return f"{100 * (final.value - first.value):+.1f} points"
    if not (math.isfinite(first.value) and math.isfinite(final.value) and first.value > 0):
        return "diverged"
    return f"{100 * (final.value / first.value - 1):+.0f} %"


def factor_text(sent_bytes: int, uncompressed_bytes: int) -> str:
    """How much compression saved: `12.3x smaller`; without compression `as much`."""
    if sent_bytes == uncompressed_bytes:
        return "as much"
    if sent_bytes == 0 or uncompressed_bytes == 0:
        return "smaller" if sent_bytes == 0 else "larger"
    factor = uncompressed_bytes / sent_bytes
    return f"{_times(factor)} smaller" if factor > 1 else f"{_times(1 / factor)} larger"


def times_text(size_bytes: int, peak_bytes: int) -> str:
    """A size against the peak of a device: `3.74x the peak`."""
    return f"{_times(size_bytes / peak_bytes)} the peak" if peak_bytes else "-"


def share_text(part: float, whole: float) -> str:
    """A share in percent: `26 %`; below one percent two digits, `0.31 %`, or `<0.01 %`."""
    if whole == 0:
        return "-"
    percent = 100 * part / whole
    if 0 < percent < 0.01:
        return "<0.01 %"
    return f"{percent:.0f} %" if percent >= 0.995 or percent == 0 else f"{percent:.2f} %"


def bar_span(longest_bytes: int, limit_bytes: int | None) -> int:
    """Where an axis of memory ends: at the longest bar, or at the limit if that is not far beyond.

    A limit far beyond the bars would leave nothing of them to see.
    """
    limit = limit_bytes or 0
    return max(limit if limit <= _FAR * longest_bytes else 0, longest_bytes, 1)


def headline(summary: Summary) -> str:
    """`sft: dinov2-small on fashion-mnist`."""
    return f"{summary.scheme}: {summary.model} on {summary.data}"


def counted(count: int, noun: str) -> str:
    """`1 device`, `8 devices`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def round_line(record: RoundRecord, rounds: int) -> str:
    """`round 1 of 5: accuracy 41.2 %, loss 1.71; up 4.67 MiB, down 5.51 MiB; simulated round 855 ms
    (wall-clock 17.8 s)`."""
    score = "not evaluated" if record.score is None else named_score(record.score)
    wall = f"(wall-clock {format_seconds(record.wall_s)})"
    if not isinstance(record, TrainedRound):
        return f"before training: {score} {wall}"
    cache = record.cache
    held = "" if cache is None else f", {cache.hits} of {cache.hits + cache.misses} samples cached"
    return (
        f"round {record.round} of {rounds}: {score}, loss {record.train_loss:.2f};"
        f" up {format_bytes(record.uplink_bytes)}, down {format_bytes(record.downlink_bytes)}"
        f"{held}; simulated round {format_seconds(record.delay_s)} {wall}"
    )


def _times(factor: float) -> str:
    return f"{factor:.{decimals_for([factor])}f}x"


def _size(row: tuple[str, float]) -> float:
    return row[1]


# The words of a run record, with their labels and colours.


@dataclass(frozen=True)
class Word:
    """How one key of a record is shown: in full, in a table heading of four letters, in colour."""

    label: str
    short: str
    colour: str


PHASES = {
    "model_distribution": Word("model distribution", "dist", "#1f5a93"),
    "adapter_down": Word("adapter down", "addn", "#4a86bd"),
    "device_queue": Word("device queue", "devq", "#cfe3df"),
    "device_forward": Word("device forward", "fwd", "#35ab9b"),
    "link_queue": Word("link queue", "lnkq", "#f3e3cb"),
    "activation_up": Word("activation up", "act", "#f0a13c"),
    "server_queue": Word("server queue", "wait", "#d9d3e6"),
    "server_compute": Word("server compute", "srv", "#7657a6"),
    "upper_compute": Word("upper compute", "upr", "#7fd0c1"),
    "gradient_down": Word("gradient down", "grad", "#8cbde4"),
    "device_backward": Word("device backward", "bwd", "#0e6b61"),
    "barrier": Word("barrier", "barr", "#c3c8cf"),
    "adapter_up": Word("adapter up", "adpt", "#b3560f"),
    "turn": Word("turn", "turn", "#e3e6ea"),
    # of a round that was measured, and not from end to end
    "unobserved": Word("not observed", "unob", "#8a929c"),
}

# phases in which a device does nothing
WAITS = ("device_queue", "link_queue", "server_queue", "barrier", "turn")

PAYLOADS = {
    "activation": Word("activation", "act", "#f0a13c"),
    "labels": Word("labels", "lab", "#f7d9a8"),
    "adapter_up": Word("adapter up", "adup", "#b3560f"),
    "gradient": Word("gradient", "grad", "#8cbde4"),
    "adapter_down": Word("adapter down", "addn", "#1f5a93"),
    "weights": Word("weights", "wts", "#0d2b49"),
}

MEMORY_KINDS = {
    "weights": Word("weights", "wgt", "#3d4f66"),
    "adapters": Word("adapters", "adpt", "#b3560f"),
    "optimizer": Word("optimizer", "opt", "#f0a13c"),
    "gradients": Word("gradients", "grad", "#8cbde4"),
    "activations": Word("activations", "act", "#35ab9b"),
    "input": Word("input", "in", "#c9cfd8"),
    "codec": Word("codec", "cdc", "#7a5aa6"),
}

# what was measured on the test split, and while training
SCORE_COLOUR = "#1f5a93"
TRAIN_COLOUR = "#f0a13c"

# a device's own share of something, and what it is compared with
DEVICE_COLOUR = "#35ab9b"
OTHER_COLOUR = "#9aa3ae"
# what a record calls its clock, and what a person reads
CLOCKS = {"virtual": "simulated", "measured": "measured"}
# these would turn round the text that follows them
_DIRECTION_OVERRIDES = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def phases_in(seconds: Iterable[Mapping[str, float]]) -> dict[str, Word]:
    """The phases that took any time, in order: a scheme has some of them only."""
    given = list(seconds)
    return {
        phase: own for phase, own in PHASES.items() if any(one.get(phase, 0.0) > 0 for one in given)
    }


def word(vocabulary: dict[str, Word], key: str) -> Word:
    """The word of a key; one we do not know is shown as it is, in grey."""
    return vocabulary.get(key) or Word(printable(key), printable(key)[:4], OTHER_COLOUR)


def printable(text: str) -> str:
    """The text without what a terminal obeys or XML forbids: controls, surrogates, overrides.

    Each is replaced by U+FFFD; what remains still has to be escaped for HTML.
    """
    return "".join(_visible(character) for character in text)


def shortened(text: str, length: int) -> str:
    """The text made printable and cut to at most `length` characters, with an ellipsis."""
    shown = printable(text)
    return shown if len(shown) <= length else shown[: length - 1] + "…"


def _visible(character: str) -> str:
    hidden = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
    hidden |= character in _DIRECTION_OVERRIDES or character in "\ufffe\uffff"
    return "\ufffd" if hidden else character


# A run as columns of numbers and of text, and what its codec saves.


_PLURALS = {"activation": "activations", "gradient": "gradients"}


@dataclass(frozen=True)
class Saving:
    """Bytes of one payload over the run, and of the same values as float32."""

    name: str
    sent_bytes: int
    uncompressed_bytes: int


def savings(works: Sequence[TrainedRound]) -> list[Saving]:
    """Of the payloads that pass the codec; none where a scheme sends neither."""
    found = []
    for payload, name in _PLURALS.items():
        sent = sum(work.bytes_by_payload.get(payload, 0) for work in works)
        plain = sent + sum(_saved(work, payload) for work in works)
        if sent:
            found.append(Saving(name, sent, plain))
    return found


def _saved(work: TrainedRound, payload: str) -> int:
    """Each way one payload is compressed, and what else goes there is not."""
    if payload == "activation":
        return work.uncompressed_uplink_bytes - work.uplink_bytes
    return work.uncompressed_downlink_bytes - work.downlink_bytes


@dataclass(frozen=True)
class RoundColumn:
    """One quantity of every round: exact `values` (None: not in that round) and their `texts`.

    `short` is a heading for narrow tables; texts are in `unit`, values as in the record.
    """

    label: str
    short: str
    unit: str
    values: tuple[float | None, ...]
    texts: tuple[str, ...]


def round_columns(records: Sequence[RoundRecord]) -> dict[str, RoundColumn]:
    """Every column by its name: `round`, `score`, `uplink`, `delay`, each phase that took any
    time, and others.

    A column has one unit and as many decimals as its largest value needs; delay and phases share
    their unit, so that a row adds up.
    """
    works = [record if isinstance(record, TrainedRound) else None for record in records]
    delays = _of(works, lambda work: work.delay_s)
    scale = time_scale(_largest(delays))
    return {
        "round": _round_column(records),
        "score": _score_column(records),
        "train_loss": _scaled("train loss", "train loss", _of(works, _train_loss)),
        "eval_loss": _scaled("eval loss", "eval loss", [record.eval_loss for record in records]),
        "uplink": _bytes("up", _of(works, lambda work: work.uplink_bytes)),
        "downlink": _bytes("down", _of(works, lambda work: work.downlink_bytes)),
        **({"cached": _cached(works)} if any(work and work.cache for work in works) else {}),
        "delay": _scaled("delay", "delay", delays, scale),
        **{
            phase: _scaled(word.label, word.short, _of_phase(works, phase), scale)
            for phase, word in phases_in(
                work.delay_by_phase_s for work in works if work is not None
            ).items()
        },
        "virtual_time": _seconds("time so far", _of(works, lambda work: work.virtual_time_s)),
        "wall": _seconds("wall-clock", _of(works, lambda work: work.wall_s)),
    }


def _cached(works: Sequence[TrainedRound | None]) -> RoundColumn:
    """The part of a round's samples that the server held."""
    found = [None if work is None else work.cache for work in works]
    parts = [None if own is None else own.hits / (own.hits + own.misses) for own in found]
    texts = ("" if part is None else f"{100 * part:.0f}" for part in parts)
    return RoundColumn("samples cached", "cached", "%", tuple(parts), tuple(texts))


def _score_column(records: Sequence[RoundRecord]) -> RoundColumn:
    values = [None if record.score is None else record.score.value for record in records]
    if any(record.perplexity is not None for record in records):
        return _scaled("perplexity", "perp- lexity", values)
    texts = tuple("-" if value is None else f"{100 * value:.1f}" for value in values)
    return RoundColumn("accuracy", "acc.", "%", tuple(values), texts)


def _round_column(records: Sequence[RoundRecord]) -> RoundColumn:
    numbers = tuple(record.round for record in records)
    return RoundColumn("round", "round", "", numbers, tuple(str(number) for number in numbers))


def _bytes(label: str, values: Sequence[float | None]) -> RoundColumn:
    return _scaled(label, label, values, byte_scale(_largest(values)))


def _seconds(label: str, values: Sequence[float | None]) -> RoundColumn:
    return _scaled(label, label, values, time_scale(_largest(values)))


def _scaled(
    label: str, short: str, values: Sequence[float | None], scale: Scale | None = None
) -> RoundColumn:
    scale = scale or Scale("", 1.0)
    texts = tuple(column(values, scale.unit_size))
    return RoundColumn(label, short, scale.unit, tuple(values), texts)


def _of(
    works: Sequence[TrainedRound | None], value: Callable[[TrainedRound], float]
) -> list[float | None]:
    return [value(work) if work else None for work in works]


def _of_phase(works: Sequence[TrainedRound | None], phase: str) -> list[float | None]:
    return _of(works, lambda work: work.delay_by_phase_s.get(phase, 0.0))


def _train_loss(work: TrainedRound) -> float:
    return work.train_loss


def _largest(values: Sequence[float | None]) -> float:
    return max((value for value in values if value is not None), default=0.0)


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
