"""A packaged text set's own test split: fixed once, the same for everyone."""

from pathlib import Path

import numpy as np

from cutlayer.data.splits import index_labels, name_classes, split_off_test
from cutlayer.data.tables import write_json_lines
from cutlayer.data.text_rows import TextRows

_SEED = 0


def write_split(folder: Path, rows: list[tuple[str, str]], test_fraction: float) -> None:
    """Write `(text, label)` rows as `train.jsonl` and `test.jsonl`, split class by class."""
    raw = tuple(label for _, label in rows)
    names = name_classes(raw)
    samples = TextRows(
        texts=tuple(text for text, _ in rows),
        labels=index_labels(raw, names),
        raw_labels=raw,
        lines=np.arange(len(rows)),
        origin="rows",
    )
    pair = split_off_test(samples, names, test_fraction, _SEED)
    for split, part in (("train", pair.train), ("test", pair.test)):
        texts = (str(part.read(index)) for index in range(len(part)))
        labels = (names[label] for label in part.labels)
        write_json_lines(folder / f"{split}.jsonl", zip(texts, labels, strict=True))
