"""The Brown corpus: 500 documents of edited American English in 15 categories, tags removed.

The words are set as running text again: the corpus writes each mark as a word of its own and
quotes as two backquotes or apostrophes.
"""

import re
from pathlib import Path

from cutlayer.data.assets.splitting import write_split

_FOLDER = "package"
_TEST_FRACTION = 0.1
_SETTING = (
    (re.compile(r"`` ?"), '"'),
    (re.compile(r" ?''"), '"'),
    (re.compile(r" ([,.;:?!)\]}])"), r"\1"),
    (re.compile(r"([(\[{$]) "), r"\1"),
    (re.compile(r"([;?!:])\1+"), r"\1"),  # the corpus doubles some marks: `; ;`
)


def convert(unpacked: Path, target: Path) -> None:
    """Write both splits as JSON lines, a document with its category in each row."""
    listing = (unpacked / _FOLDER / "cats.txt").read_text(encoding="utf-8")
    categories = dict(line.split() for line in listing.splitlines())
    rows = [
        (_document((unpacked / _FOLDER / name).read_text(encoding="utf-8")), category)
        for name, category in sorted(categories.items())
    ]
    write_split(target, rows, _TEST_FRACTION)


def _document(tagged: str) -> str:
    paragraphs = (_sentences(block) for block in re.split(r"\n\s*\n", tagged))
    return "\n".join(paragraph for paragraph in paragraphs if paragraph)


def _sentences(tagged: str) -> str:
    text = " ".join(word.rsplit("/", 1)[0] for word in tagged.split())
    for pattern, replacement in _SETTING:
        text = pattern.sub(replacement, text)
    return text
