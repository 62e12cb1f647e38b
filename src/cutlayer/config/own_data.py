"""A device's own samples, made ready on the terms of a run.

Knows paths and terms; the forms that data may have are `data.load`'s.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from cutlayer.config.dataset import check_words, image_batches, make_blocks, text_batches
from cutlayer.data.batches import BatchMaker
from cutlayer.data.check import OnBad, Tokenize, check_samples
from cutlayer.data.class_folders import class_of
from cutlayer.data.left_out import sentence
from cutlayer.data.load import read_path
from cutlayer.data.samples import Content, Samples, SplitPair
from cutlayer.data.splits import UNKNOWN_LABEL, Settings
from cutlayer.errors import DataError
from cutlayer.model.tokenizer import load_tokenizer
from cutlayer.net.messages import Terms
from cutlayer.spec import Task

_LOG = logging.getLogger(__name__)
_LETTERS = 40


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

    def __init__(self, samples: Samples, places: Sequence[int]) -> None:
        index = np.array(places, np.int64)
        known = samples.labels != UNKNOWN_LABEL
        self.labels = np.where(known, index[samples.labels], UNKNOWN_LABEL)
        self._samples = samples

    def read(self, index: int) -> Content:
        return self._samples.read(index)

    def raw(self, index: int) -> bytes:
        return self._samples.raw(index)

    def where(self, index: int) -> str:
        return self._samples.where(index)


def check_path(path: Path) -> None:
    """Raises DataError if there is nothing: to be found before a token is used up."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; --data names this device's samples")


def check_own(own: OwnData, task: Task, class_names: Sequence[str]) -> None:
    """Whether the data are of this task, and have no class but these: to be found before a token is
    used up or a part fetched. Raises as `own_samples`."""
    _places(own, _read(own, task).class_names, task, class_names)


def own_samples(own: OwnData, terms: Terms, model: Path) -> tuple[Samples, BatchMaker]:
    """The samples of the training split, or all where there is none but that, in their order.

    `model`: the folder with the part's tokenizer or preprocessing. Raises DataError for data that
    cannot be read, are for another task, or have a class that the run does not know.
    """
    pair = _read(own, terms.task)
    unused = f", {len(pair.test)} of a test split are not used" if len(pair.test) else ""
    _LOG.info("%s: %d samples%s; %s", own.path, len(pair.train), unused, sentence(pair.left_out))
    if terms.task == "causal-lm":
        return _own_blocks(own, pair.train, len(pair.class_names), terms, model)
    samples = _Renamed(pair.train, _places(own, pair.class_names, terms.task, terms.class_names))
    if terms.task == "image-classification":
        kept = _usable(samples, terms.classes, own, None)
        return kept, image_batches(model, terms.image_size)
    tokenizer = load_tokenizer(model, terms.max_tokens)
    kept = _usable(samples, terms.classes, own, tokenizer.tokenize)
    check_words(tokenizer, kept, str(own.path))
    return kept, text_batches(tokenizer, terms.max_tokens, model)


def _own_blocks(
    own: OwnData, documents: Samples, classes: int, terms: Terms, model: Path
) -> tuple[Samples, BatchMaker]:
    tokenizer = load_tokenizer(model, None)
    kept = _usable(documents, classes, own, tokenizer.tokenize)
    check_words(tokenizer, kept, str(own.path))
    cut, batches = make_blocks(tokenizer, terms.max_tokens)
    return cut(kept), batches


def _usable(samples: Samples, classes: int, own: OwnData, tokenize: Tokenize | None) -> Samples:
    kept, bad = check_samples(samples, classes, own.on_bad_sample, tokenize)
    if bad:
        _LOG.warning("skipped %d bad samples, the first: %s", len(bad), bad[0].title)
    return kept


def _read(own: OwnData, task: Task) -> SplitPair:
    check_path(own.path)
    asked = None if task == "image-classification" else task
    settings = Settings(asked, own.text_field, own.label_field, test_fraction=None)
    pair, usual = read_path(own.path, settings)
    if (usual == "image-classification") != (task == "image-classification"):
        raise DataError(f"{own.path} is for {usual}, the run for {task}: name other data")
    return pair


def _places(
    own: OwnData, names: Sequence[str], task: Task, class_names: Sequence[str]
) -> list[int]:
    """The run's number of each own class."""
    if task == "causal-lm":
        return []
    known = {name: place for place, name in enumerate(class_names)}
    meant = {name: class_of(name, class_names) for name in names}
    unknown = sorted(name for name, found in meant.items() if found is None)
    if unknown and own.on_bad_sample == "stop":
        raise DataError(
            f"{own.path} has {len(unknown)} of {len(names)} classes that the run does not know,"
            f" such as {unknown[0][:_LETTERS]!r}; it knows"
            f" {', '.join(name[:_LETTERS] for name in class_names[:10])}"
        )
    return [UNKNOWN_LABEL if meant[name] is None else known[str(meant[name])] for name in names]
