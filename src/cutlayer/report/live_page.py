"""The live page of a server, in the report's words and colours.

Knows the files that the page is put together from, once, and no run: the page asks for its numbers.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from http import HTTPStatus
from importlib.resources import files

from markupsafe import Markup

from cutlayer.net.operations.web import Answer
from cutlayer.report import wording
from cutlayer.report.wording import Word, render

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
        "phases": _rows(wording.PHASES),
        "payloads": _rows(wording.PAYLOADS),
        "device": wording.DEVICE_COLOUR,
        "other": wording.OTHER_COLOUR,
        "score": wording.SCORE_COLOUR,
        "train": wording.TRAIN_COLOUR,
    }


def _rows(words: Mapping[str, Word]) -> list[dict[str, object]]:
    return [
        {"key": key, "label": own.label, "colour": own.colour, "wait": key in wording.WAITS}
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
