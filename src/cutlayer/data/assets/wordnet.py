"""WordNet 3.0 glosses: short definitions of nouns, told apart by the noun's lexicographer file.

The 19 noun files with at least 1,000 distinct glosses; the quoted examples behind a definition
are left out. A gloss that occurs twice is kept once, so none is in both splits.
"""

import collections
from collections.abc import Iterator
from pathlib import Path

from cutlayer.data.assets.splitting import write_split
from cutlayer.errors import AssetError

FOLDER = "usr/share/wordnet"
_LEAST_PER_CLASS = 1000
_TEST_FRACTION = 0.1
# numbers 03 to 28 of WordNet's lexnames(5)
_NOUN_FILES = (
    "tops", "act", "animal", "artifact", "attribute", "body", "cognition", "communication",
    "event", "feeling", "food", "group", "location", "motive", "object", "person", "phenomenon",
    "plant", "possession", "process", "quantity", "relation", "shape", "state", "substance",
    "time",
)  # fmt: skip
_FIRST_NOUN_FILE = 3


def convert(unpacked: Path, target: Path) -> None:
    """Write both splits as JSON lines."""
    distinct = dict(reversed(list(_glosses(unpacked / FOLDER / "data.noun"))))
    sizes = collections.Counter(distinct.values())
    rows = [row for row in sorted(distinct.items()) if sizes[row[1]] >= _LEAST_PER_CLASS]
    if not rows:
        raise AssetError(f"{FOLDER}/data.noun holds too few glosses")
    write_split(target, rows, _TEST_FRACTION)


def _glosses(path: Path) -> Iterator[tuple[str, str]]:
    """`(gloss, class)` of every noun synset, wndb(5): fields, then ` | ` and the gloss."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.startswith(" "):  # the licence, at the top
                continue
            fields, gloss = line.split(" | ", 1)
            number = int(fields.split()[1])
            yield gloss.strip().split('; "')[0], _NOUN_FILES[number - _FIRST_NOUN_FILE]
