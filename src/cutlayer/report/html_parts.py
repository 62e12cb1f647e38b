"""The pieces a page is put together from. Every string from a run goes through `escaped` here.

Knows no run; gives strings of HTML.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from cutlayer.report.vocabulary import printable


@dataclass(frozen=True)
class Shown:
    """A number as read and as written: the page keeps the one beside the other."""

    value: float | int
    text: str

    def html(self) -> str:
        """A `<data>` element whose value is the number to the last digit."""
        return f'<data value="{self.value!r}">{escaped(self.text)}</data>'


def escaped(text: str) -> str:
    """Text that is safe between tags and in attributes."""
    return escape(printable(text), quote=True)


def escaped_lines(text: str) -> str:
    """The same for a text of many lines; line ends and tabs are kept."""
    lines = (line.split("\t") for line in text.split("\n"))
    return "\n".join("\t".join(escaped(part) for part in line) for line in lines)


def card(name: str, value: str, note: str) -> str:
    """A headline number; `value` and `note` are HTML."""
    return (
        f'<div class="card"><div class="name">{escaped(name)}</div>'
        f'<div class="value">{value}</div><div class="note">{note}</div></div>'
    )


def facts(rows: Mapping[str, str]) -> str:
    """A list of named facts, plain text."""
    items = (f"<dt>{escaped(name)}</dt><dd>{escaped(text)}</dd>" for name, text in rows.items())
    return f"<dl>{''.join(items)}</dl>"


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """Colours and what they stand for (HTML)."""
    items = (f'<li><i style="background:{colour}"></i>{text}</li>' for colour, text in entries)
    return f'<ul class="legend">{"".join(items)}</ul>'


def figure(svg: str, caption: str = "", before: str = "") -> str:
    """A drawing with a legend `before` it (HTML) and a caption (HTML)."""
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f"{before}<figure>{svg}{below}</figure>"


def page(title: str, content: str, footer: str, style: str) -> str:
    """A whole document: `title` and `footer` plain text, `content` HTML, `style` a style sheet."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped(title)}</title><style>{style}</style></head>\n<body><main>\n"
        f"<h1>{escaped(title)}</h1>\n{content}\n"
        f"<footer>{escaped(footer)}</footer>\n</main></body></html>\n"
    )


def section(title: str, *content: str) -> str:
    """A heading and what stands under it (HTML)."""
    return f"<section><h2>{escaped(title)}</h2>{''.join(content)}</section>"


def table(headings: Sequence[str], rows: Iterable[Sequence[Shown | str]]) -> str:
    """A table of numbers; a cell that is no number is plain text."""
    top = "".join(f"<th>{escaped(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cell(cell: Shown | str) -> str:
    return f"<td>{cell.html() if isinstance(cell, Shown) else escaped(cell)}</td>"
