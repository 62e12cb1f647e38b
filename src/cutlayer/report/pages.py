"""Pages from the templates beside this file: HTML that shows text, and nothing but text, of others.

Knows how values are shown on any page, and no page.
"""

from collections.abc import Iterable, Sequence
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cutlayer.report.wording import counted, factor_text, printable, score_change, score_text
from cutlayer.training.records import Score
from cutlayer.units import format_bytes, format_seconds


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
