"""A browser without a window: a page as its script leaves it, as text or as a picture.

Debian's package `chromium` has it.
"""

import asyncio
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
_no_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium: apt-get install chromium")

_OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
_LIMIT_S = 120.0
_COMPLAINT = re.compile(r"CONSOLE.*(?:Uncaught|Refused|violates|Failed to).*")


def needs_browser(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test that looks at a page."""
    return pytest.mark.promise(pytest.mark.slow("a browser for each page")(_no_browser(test)))


@dataclass(frozen=True)
class Seen:
    """A page after its script ran: its elements as HTML, the text on it, and what went wrong."""

    html: str
    text: str
    complaints: tuple[str, ...]


async def look(url: str, folder: Path, *, virtual_ms: int = 3000, width: int = 1280) -> Seen:
    """The page at `url` after so long by its own clock."""
    out, log = await _browse(url, folder, virtual_ms, "--dump-dom", f"--window-size={width},900")
    return Seen(out, _text(out), tuple(_COMPLAINT.findall(log)))


async def picture(url: str, folder: Path, size: tuple[int, int], *, dark: bool = False) -> Path:
    """The page at `url` as a PNG of `size` pixels."""
    path = folder / "picture.png"
    scheme = ("--blink-settings=preferredColorScheme=0",) if dark else ()
    window = f"--window-size={size[0]},{size[1]}"
    await _browse(url, folder, 3000, f"--screenshot={path}", window, *scheme)
    return path


async def _browse(url: str, folder: Path, virtual_ms: int, *words: str) -> tuple[str, str]:
    assert BROWSER is not None
    process = await asyncio.create_subprocess_exec(
        BROWSER,
        *_OPTIONS,
        f"--user-data-dir={folder / 'profile'}",
        f"--virtual-time-budget={virtual_ms}",
        "--enable-logging=stderr",
        *words,
        url,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, log = await asyncio.wait_for(process.communicate(), _LIMIT_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    return out.decode(), log.decode()


class _Words(HTMLParser):
    """Collects what is text on the page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._hidden = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden = tag in ("script", "style", "noscript")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.found.append(data)


def _text(html: str) -> str:
    """The text of a page, blanks of any kind as one space."""
    words = _Words()
    words.feed(html)
    return " ".join(" ".join(words.found).split())
