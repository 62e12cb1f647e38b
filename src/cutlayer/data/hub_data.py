"""Hugging Face `datasets` as splits: from the hub, or from a folder on this machine."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Int64, UInt8

from cutlayer.data.chats import format_advice, recognise
from cutlayer.data.image_sets import to_rgb
from cutlayer.data.left_out import bars_on_terminals_only, fault_of, merge_left_out, read_tree
from cutlayer.data.samples import (
    TEST_NAMES,
    UNKNOWN_LABEL,
    ReadSettings,
    Samples,
    SplitPair,
    TableReading,
    clean_name,
    index_labels,
    split_off_test,
)
from cutlayer.data.text_sets import (
    UNLABELLED,
    TextRow,
    example_row,
    group_numbers,
    refuse_no_column,
    refuse_no_text,
    text_classes,
    text_row,
    text_rows,
)
from cutlayer.errors import DataError, column_listing, reason
from cutlayer.spec import LeftOut, Task

_PARQUET = ".parquet"


@final
class HubImages(Samples):
    """Images of a `datasets` split, decoded when asked for. `rows` say why one has no label."""

    def __init__(
        self,
        images: Any,
        column: str,
        rows: Sequence[TextRow],
        labels: Int64[np.ndarray, " sample"],
        origin: str,
    ) -> None:
        self.labels, self.groups = labels, group_numbers(rows)
        self._images = images.select_columns([column])
        self._column = column
        self._faults = {row.line: row.fault for row in rows if row.fault is not None}
        self._origin = origin

    def read(self, index: int) -> UInt8[np.ndarray, "height width 3"]:
        fault = self._faults.get(index)
        if fault is not None:
            raise DataError(f"{self.where(index)}: {fault}")
        with fault_of(f"{self.where(index)} is not a readable image"):
            image = self._images[index][self._column]
            if image is None:
                raise DataError("it is empty")
            return to_rgb(image)

    def where(self, index: int) -> str:
        return f"{self._origin} row {index}"


def is_saved_dataset(path: Path) -> bool:
    """Whether `datasets` can open it: `save_to_disk`'s form, Parquet files in a folder, or one."""
    if path.is_file():
        return path.suffix.lower() == _PARQUET
    return _is_saved(path) or any(path.glob("*.parquet")) or any(path.glob("*/*.parquet"))


def read_saved_dataset(path: Path, settings: ReadSettings) -> tuple[SplitPair, Task]:
    """Both splits of such a folder or file. Raises `DataError` when it cannot be opened."""
    pair, task = read_dataset(open_dataset(path), str(path), settings)
    if path.is_file() or _is_saved(path):
        return pair, task
    return pair.leaving_out(merge_left_out((*pair.left_out, *_unread_files(path)))), task


def open_dataset(path: Path) -> Mapping[str, Any]:
    """The splits of such a folder or file. Raises `DataError` when they cannot be opened."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{path} needs the `datasets` library: pip install 'cutlayer[hub]'"
        ) from error
    # whatever the library raises on a damaged folder
    with fault_of(f"{path} cannot be opened by `datasets`"), bars_on_terminals_only():
        if path.is_file():
            opened = datasets.load_dataset("parquet", data_files=str(path))
        elif _is_saved(path):
            opened = datasets.load_from_disk(str(path))
        else:
            opened = datasets.load_dataset(str(path))
    return opened if isinstance(opened, Mapping) else {"train": opened}


def read_dataset(
    splits: Mapping[str, Any], origin: str, settings: ReadSettings
) -> tuple[SplitPair, Task]:
    """Both splits of an opened data set, and the task told from its columns.

    Raises `DataError` when there is no train split or no column that serves.
    """
    if "train" not in splits:
        raise DataError(f"{origin} has no train split; it has: {', '.join(splits)}")
    columns = _columns(splits["train"], origin, settings)
    test = _labelled_test(splits, columns.label)
    if columns.reading is not None:
        settings = replace(settings, task="causal-lm")
    parts = {"train": _rows(splits["train"], columns, settings, f"{origin} train")}
    if test is not None:  # nobody deals them
        undealt = replace(settings, group_field=None)
        parts[test] = _rows(splits[test], columns, undealt, f"{origin} {test}")
    names = columns.classes or text_classes(parts["train"], parts.get(test or "", []), settings)

    def samples(split: str) -> Samples:
        where = f"{origin} {split}"
        if columns.image is None:
            return text_rows(parts[split], names, where, "row")
        labels = index_labels([row.label for row in parts[split]], names)
        return HubImages(splits[split], columns.image, parts[split], labels, where)

    if test is None:
        pair = split_off_test(samples("train"), names, settings.test_fraction, settings.seed)
    else:
        pair = SplitPair(samples("train"), samples(test), names)
    pair = replace(pair, left_out=_unread(splits, test, columns), reading=columns.reading)
    if columns.image is not None:
        return pair, "image-classification"
    plain = columns.reading is None and columns.label is not None
    return pair, "text-classification" if plain else "causal-lm"


@dataclass(frozen=True)
class _Columns:
    """Which columns serve. `classes`: of labels that are indices of names, else empty. `reading`:
    of examples for a language model that are no plain texts."""

    image: str | None
    label: str | None
    classes: tuple[str, ...]
    other_images: tuple[str, ...]
    reading: TableReading | None


def _is_saved(folder: Path) -> bool:
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _is_image(kind: Any) -> bool:
    return type(kind).__name__ == "Image"


def _is_class_label(kind: Any) -> bool:
    return type(kind).__name__ == "ClassLabel"


def _columns(train: Any, origin: str, settings: ReadSettings) -> _Columns:
    names = tuple(train.features)
    images = [name for name, kind in train.features.items() if _is_image(kind)]
    refuse_no_column(names, settings, origin)
    reading = None if images else recognise(names, _some(train), origin, settings)
    if reading is not None:
        label = settings.label_field if settings.label_field in names else None
        return _Columns(None, label, (), (), reading)
    label = _label_column(train, origin, settings)
    if not images and settings.text_field not in names:
        raise DataError(
            f"{origin} has no image column and none named {settings.text_field!r}; it has: "
            f"{column_listing(names)}. {format_advice(names, settings)}"
        )
    if images and label is None:
        raise DataError(f"{origin} has images but no column {settings.label_field!r}")
    classes: tuple[str, ...] = ("text",)
    if label is not None:
        classes = _class_names(train.features[label])
    return _Columns(images[0] if images else None, label, classes, tuple(images[1:]), None)


def _some(rows: Any) -> Iterator[dict[str, Any]]:
    """Rows one by one; those that cannot be decoded without what they hold."""
    for place in range(len(rows)):
        try:
            yield rows[place]
        except MemoryError:
            raise
        except Exception:  # told where rows are read
            yield {}


def _label_column(train: Any, origin: str, settings: ReadSettings) -> str | None:
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


def _class_names(kind: Any) -> tuple[str, ...]:
    if not _is_class_label(kind):
        return ()
    return tuple(dict.fromkeys(clean_name(name) or name for name in kind.names))


def _rows(rows: Any, columns: _Columns, settings: ReadSettings, origin: str) -> list[TextRow]:
    """Every row's label, and its text where the set is of texts."""
    count = len(rows)
    labels: list[Any] = [UNLABELLED] * count
    texts: list[Any] = ["an image"] * count
    unlabelled: dict[int, str] = {}
    untold: dict[int, str] = {}
    if columns.label is not None:
        labels, unlabelled = _values(rows, columns.label)
        if _is_class_label(rows.features[columns.label]):
            names = rows.features[columns.label].names
            labels = [_named(value, names) for value in labels]
    groups: list[Any] = [None] * count
    if settings.group_field is not None:
        groups, _ = _values(rows, settings.group_field)
    if columns.reading is not None:
        return _example_rows(rows, columns.reading, labels, groups, settings)
    if columns.image is None:
        texts, untold = _values(rows, settings.text_field)
        refuse_no_text(texts, settings.text_field, origin)
    faults = {**unlabelled, **untold}
    return [
        TextRow(place, None, None, faults[place])
        if place in faults
        else text_row(place, text, label, settings, group)
        for place, (text, label, group) in enumerate(zip(texts, labels, groups, strict=True))
    ]


def _example_rows(
    rows: Any,
    reading: TableReading,
    labels: Sequence[Any],
    groups: Sequence[Any],
    settings: ReadSettings,
) -> list[TextRow]:
    columns: dict[str, list[Any]] = {}
    faults: dict[int, str] = {}
    for _, name in reading.columns:
        columns[name], broken = (
            _values(rows, name) if name in rows.features else ([None] * len(rows), {})
        )
        faults |= broken
    if settings.group_field is not None:
        columns[settings.group_field] = list(groups)
    return [
        TextRow(place, None, None, faults[place])
        if place in faults
        else example_row(
            place, reading, {name: of[place] for name, of in columns.items()}, label, settings
        )
        for place, label in enumerate(labels)
    ]


def _values(rows: Any, column: str) -> tuple[list[Any], dict[int, str]]:
    """A column's values, and why a row has none that can be decoded."""
    alone = rows.select_columns([column])
    try:
        return list(alone[column]), {}
    except MemoryError:
        raise
    except Exception:  # one row at a time then
        return _values_one_by_one(alone, column)


def _values_one_by_one(rows: Any, column: str) -> tuple[list[Any], dict[int, str]]:
    values: list[Any] = []
    faults: dict[int, str] = {}
    for place in range(len(rows)):
        try:
            values.append(rows[place][column])
        except MemoryError:
            raise
        except Exception as error:
            values.append(None)
            faults[place] = f"its {column!r} cannot be decoded ({reason(error)})"
    return values, faults


def _named(value: int | None, names: Sequence[str]) -> str | None:
    """The class of an index; -1 is how many sets write that there is none."""
    if value is None or value == UNKNOWN_LABEL:
        return None
    return clean_name(names[value]) or names[value] if 0 <= value < len(names) else str(value)


def _labelled_test(splits: Mapping[str, Any], label: str | None) -> str | None:
    """The first test split that has labels: some sets hide their test labels as -1."""
    for name in TEST_NAMES:
        if name in splits and not (label is not None and _hides_labels(splits[name], label)):
            return name
    return None


def _hides_labels(rows: Any, label: str) -> bool:
    if label not in rows.features:
        return True
    values, _ = _values(rows, label)
    return all(value is None or value == UNKNOWN_LABEL for value in values)


def _unread(splits: Mapping[str, Any], test: str | None, columns: _Columns) -> tuple[LeftOut, ...]:
    """The rows of other splits, and further columns of images."""
    rest = [
        LeftOut("rows", f"of split {name}", len(rows))
        for name, rows in splits.items()
        if name not in ("train", test)
    ]
    rest += [LeftOut("columns", f"of images ({name})", 1) for name in columns.other_images]
    return merge_left_out(rest)


def _unread_files(folder: Path) -> list[LeftOut]:
    """Files of a folder of Parquet files that `datasets` gives no split."""
    import datasets

    with fault_of(f"{folder} cannot be opened by `datasets`"):
        given = datasets.load_dataset_builder(str(folder)).config.data_files or {}
        used = {Path(path).resolve() for paths in given.values() for path in paths}
    tree = read_tree(folder, lambda path: path.resolve() not in used)
    others = Counter(path.suffix or "without a suffix" for path in tree.paths)
    hidden = tree.others["hidden"]
    return [LeftOut("files", why, count) for why, count in {**others, "hidden": hidden}.items()]
