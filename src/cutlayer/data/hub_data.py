"""Hugging Face `datasets` as splits: from the hub, or from a folder on this machine."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import UInt8

from cutlayer.data.bars import bars_on_terminals_only
from cutlayer.data.image_files import rgb
from cutlayer.data.samples import Samples, SplitPair
from cutlayer.data.splits import (
    TEST_NAMES,
    UNKNOWN_LABEL,
    Settings,
    index_labels,
    name_classes,
    split_off_test,
)
from cutlayer.data.tables import TextRows
from cutlayer.errors import DataError
from cutlayer.spec import Task


@final
class HubImages(Samples):
    """Images of a `datasets` split, decoded when asked for."""

    def __init__(self, rows: Any, column: str, labels: np.ndarray, origin: str) -> None:
        self.labels = labels
        self._rows = rows.select_columns([column])
        self._column = column
        self._origin = origin

    def read(self, index: int) -> UInt8[np.ndarray, "height width 3"]:
        try:
            return rgb(self._rows[index][self._column])
        except (OSError, ValueError, SyntaxError, AttributeError) as error:
            raise DataError(f"{self.where(index)} is not a readable image: {error}") from error

    def where(self, index: int) -> str:
        return f"{self._origin} row {index}"


def is_saved_dataset(folder: Path) -> bool:
    """Whether `datasets` can open the folder: `save_to_disk`'s form, or Parquet files."""
    return _is_saved(folder) or any(folder.glob("*.parquet")) or any(folder.glob("*/*.parquet"))


def open_dataset(folder: Path) -> Mapping[str, Any]:
    """The splits of such a folder. Raises `DataError` when they cannot be opened."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{folder} needs the `datasets` library: pip install 'cutlayer[hub]'"
        ) from error
    try:
        with bars_on_terminals_only():
            if _is_saved(folder):
                opened = datasets.load_from_disk(str(folder))
            else:
                opened = datasets.load_dataset(str(folder))
    except Exception as error:  # whatever the library raises on a damaged folder
        raise DataError(f"{folder} cannot be opened by `datasets`: {error}") from error
    return opened if isinstance(opened, Mapping) else {"train": opened}


def read_dataset(
    splits: Mapping[str, Any], origin: str, settings: Settings
) -> tuple[SplitPair, Task]:
    """Both splits of an opened data set, and the task told from its columns.

    Raises `DataError` when there is no train split or no column that serves.
    """
    if "train" not in splits:
        raise DataError(f"{origin} has no train split; it has: {', '.join(splits)}")
    train = splits["train"]
    label = _label_column(train, origin, settings)
    image = next((name for name, kind in train.features.items() if _is_image(kind)), None)
    if image is None and settings.text_field not in train.features:
        raise DataError(
            f"{origin} has no image column and none named {settings.text_field!r}; it has: "
            f"{', '.join(train.features)}. Name the text's with text_field"
        )
    if image is not None and label is None:
        raise DataError(f"{origin} has images but no column {settings.label_field!r}")
    names, known = _class_names(train, label)

    def samples(rows: Any, split: str) -> Samples:
        raw = _raw_labels(rows, label, known)
        labels = index_labels(raw, names)
        where = f"{origin} {split}"
        if image is not None:
            return HubImages(rows, image, labels, where)
        texts = tuple(rows[settings.text_field])
        return TextRows(texts, labels, raw, np.arange(len(rows)), where, "row")

    test = _labelled_test(splits, label)
    if test is None:
        whole = samples(train, "train")
        pair = split_off_test(whole, names, settings.test_fraction, settings.seed)
    else:
        pair = SplitPair(samples(train, "train"), samples(splits[test], test), names)
    if image is not None:
        return pair, "image-classification"
    return pair, "causal-lm" if label is None else "text-classification"


def _is_saved(folder: Path) -> bool:
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _is_image(kind: Any) -> bool:
    return type(kind).__name__ == "Image"


def _is_class_label(kind: Any) -> bool:
    return type(kind).__name__ == "ClassLabel"


def _label_column(train: Any, origin: str, settings: Settings) -> str | None:
    if settings.label_field in train.features:
        return settings.label_field
    classes: list[str] = [name for name, kind in train.features.items() if _is_class_label(kind)]
    if len(classes) == 1:
        return classes[0]
    if settings.task == "causal-lm" or not classes:
        return None
    raise DataError(
        f"{origin} has no column {settings.label_field!r} but several of classes: "
        f"{', '.join(classes)}. Choose one with label_field"
    )


def _class_names(train: Any, label: str | None) -> tuple[tuple[str, ...], bool]:
    """The names, and whether the column holds their indices."""
    if label is None:
        return ("text",), False
    if _is_class_label(train.features[label]):
        return tuple(train.features[label].names), True
    return name_classes([None if value is None else str(value) for value in train[label]]), False


def _raw_labels(rows: Any, label: str | None, known: bool) -> tuple[str | None, ...]:
    if label is None:
        return ("text",) * len(rows)
    values: Sequence[Any] = rows[label]
    if known:
        names = rows.features[label].names
        return tuple(names[value] if _inside(value, len(names)) else None for value in values)
    return tuple(None if value is None else str(value) for value in values)


def _inside(value: int | None, count: int) -> bool:
    return value is not None and 0 <= value < count


def _labelled_test(splits: Mapping[str, Any], label: str | None) -> str | None:
    """The first test split that has labels: some sets hide their test labels as -1."""
    for name in TEST_NAMES:
        if name in splits:
            hidden = label is not None and set(splits[name][label]) <= {None, UNKNOWN_LABEL}
            if not hidden:
                return name
    return None
