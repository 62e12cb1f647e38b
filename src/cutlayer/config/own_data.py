"""A device's own samples, made ready on the terms of a run.

Knows paths and terms; the forms that data may have are `data.load`'s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from cutlayer.config.dataset import check_words, image_batches, make_blocks, text_batches
from cutlayer.data.batches import BatchMaker
from cutlayer.data.check import OnBad, check_samples
from cutlayer.data.load import read_path
from cutlayer.data.samples import Content, Samples
from cutlayer.data.splits import UNKNOWN_LABEL, Settings
from cutlayer.errors import DataError
from cutlayer.model.tokenizer import load_tokenizer
from cutlayer.net.messages import Terms


@dataclass(frozen=True)
class OwnData:
    """Where a device's samples are: a path in any form that `data.name` may have, columns of a
    table, and what to do about samples that cannot be read."""

    path: Path
    text_field: str = "text"
    label_field: str = "label"
    on_bad_sample: OnBad = "stop"


@final
class _Renamed(Samples):
    """Samples whose classes are numbered as another data set numbers them."""

    def __init__(self, samples: Samples, own: Sequence[str], names: Sequence[str]) -> None:
        places = {name: place for place, name in enumerate(names)}
        index = np.array([places.get(name, UNKNOWN_LABEL) for name in own], np.int64)
        known = samples.labels != UNKNOWN_LABEL
        self.labels = np.where(known, index[samples.labels], UNKNOWN_LABEL)
        self._samples = samples

    def read(self, index: int) -> Content:
        return self._samples.read(index)

    def where(self, index: int) -> str:
        return self._samples.where(index)


def check_path(path: Path) -> None:
    """Raises DataError if there is nothing: to be found before a token is used up."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; --data names this device's samples")


def own_samples(own: OwnData, terms: Terms, model: Path) -> tuple[Samples, BatchMaker]:
    """The samples of the training split, or all where there is none but that, in their order.

    `model`: the folder with the part's tokenizer or preprocessing. Raises DataError for data that
    cannot be read, are for another task, or have a class that the run does not know.
    """
    check_path(own.path)
    task = None if terms.task == "image-classification" else terms.task
    settings = Settings(task, own.text_field, own.label_field, test_fraction=None)
    pair, usual = read_path(own.path, settings)
    if (usual == "image-classification") != (terms.task == "image-classification"):
        raise DataError(f"{own.path} is for {usual}, the run for {terms.task}: name other data")
    if terms.task == "causal-lm":
        return _own_blocks(own, pair.train, len(pair.class_names), terms, model)
    _check_classes(own, pair.class_names, terms)
    samples = _Renamed(pair.train, pair.class_names, terms.class_names)
    if terms.task == "image-classification":
        kept, _ = check_samples(samples, terms.classes, own.on_bad_sample)
        return kept, image_batches(model, terms.image_size)
    tokenizer = load_tokenizer(model, terms.max_tokens)
    kept, _ = check_samples(samples, terms.classes, own.on_bad_sample, tokenizer.tokenize)
    check_words(tokenizer, kept, str(own.path))
    return kept, text_batches(tokenizer, terms.max_tokens)


def _own_blocks(
    own: OwnData, documents: Samples, classes: int, terms: Terms, model: Path
) -> tuple[Samples, BatchMaker]:
    tokenizer = load_tokenizer(model, None)
    kept, _ = check_samples(documents, classes, own.on_bad_sample, tokenizer.tokenize)
    check_words(tokenizer, kept, str(own.path))
    cut, batches = make_blocks(tokenizer, terms.max_tokens)
    return cut(kept), batches


def _check_classes(own: OwnData, names: Sequence[str], terms: Terms) -> None:
    unknown = sorted(set(names) - set(terms.class_names))
    if unknown and own.on_bad_sample == "stop":
        raise DataError(
            f"{own.path} has {len(unknown)} classes that the run does not know, such as"
            f" {unknown[0]!r}; it knows {', '.join(terms.class_names[:10])}"
        )
