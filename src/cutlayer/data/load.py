"""A data set by path or name: recognises the form from what lies there.

Knows which forms there are, by the files that tell them apart; each is read in a file of its own.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from cutlayer.data.assets.packages import RunTool, run_tool
from cutlayer.data.check import find_bad
from cutlayer.data.find import Hub, HubSplits, find_data
from cutlayer.data.hub_data import is_saved_dataset, read_dataset, read_saved_dataset
from cutlayer.data.image_sets import (
    CIFAR100_FILES,
    has_class_folders,
    is_cifar100,
    is_tiny_imagenet,
    read_arrays,
    read_cifar100,
    read_image_folder,
    read_tiny_imagenet,
)
from cutlayer.data.left_out import is_hidden, left_beside, list_folder
from cutlayer.data.samples import ARRAY_FILE, DataSet, ReadSettings, Source, SplitPair
from cutlayer.data.text_sets import (
    find_split_files,
    has_text_files,
    is_table,
    is_text_file,
    read_plain_text,
    read_table_folder,
    read_tables,
)
from cutlayer.errors import DataError, quoted
from cutlayer.spec import Task, TextFormat

_NAMED = 4
_TEXT_TASKS: tuple[Task, ...] = ("text-classification", "causal-lm")


@dataclass(frozen=True)
class _Form:
    """One way a data set may lie on disk: what to look for, how to tell, how to read."""

    title: str
    fits: Callable[[Path], bool]
    read: Callable[[Path, ReadSettings], tuple[SplitPair, Task]]


def load_data(
    name: str,
    *,
    task: Task | None = None,
    text_field: str = "text",
    label_field: str = "label",
    test_fraction: float = 0.2,
    seed: int = 0,
    format: TextFormat | Literal["auto"] = "auto",
    group_field: str | None = None,
    cache: Path | None = None,
    hub: Hub | None = None,
    run: RunTool = run_tool,
) -> DataSet:
    """The data set at a path, of a known short name (`fashion-mnist`) or of a hub id.

    Looked for in the order of `find.find_model`, whose `cache`, `hub` and `run` these are.
    `task` is told from the form when None; a text set may be asked for as "text-classification"
    or "causal-lm". `text_field` and `label_field` name the columns of tables, `format` says how
    their rows are examples for a language model, `group_field` the column that says whose each
    sample is. A set without a test split gives up a seeded `test_fraction` of its samples; one with
    its own keeps it. Samples are not read here: see `check`. Raises `AssetError` when nobody has
    it, `DataError` when the form is not recognised or not of this task.
    """
    settings = ReadSettings(task, text_field, label_field, test_fraction, seed, format, group_field)
    found = find_data(name, cache=cache, hub=hub, run=run)
    if isinstance(found, HubSplits):
        pair, usual = read_dataset(found.splits, found.hub_id, settings)
        return _data_set(name, pair, usual, settings, "hub", found.hub_id)
    pair, usual = read_path(found.path, settings)
    if found.asset is not None and found.asset.task is not None:
        usual = found.asset.task
    return _data_set(name, pair, usual, settings, found.source, str(found.path))


def read_path(path: Path, settings: ReadSettings) -> tuple[SplitPair, Task]:
    """Both splits of what lies at a path, and the task of that form.

    Raises `DataError`, saying what was looked for, when no form fits.
    """
    for form in _FORMS:
        if form.fits(path):
            pair, task = form.read(path, settings)
            _refuse_without_columns(pair, path, settings)
            return pair, task
    looked_for = "; ".join(form.title for form in _FORMS)
    raise DataError(
        f"{path} is no data set that cutlayer recognises{_contents(path)}. Looked for: {looked_for}"
    )


def _refuse_without_columns(pair: SplitPair, path: Path, settings: ReadSettings) -> None:
    """Raises `DataError` where columns are asked for and there are none."""
    if settings.format not in ("auto", "text") and pair.reading is None:
        raise DataError(
            f"{path} has no columns to read as data.format {settings.format}: give a table (JSON,"
            " JSON lines, CSV, Parquet), or leave data.format out"
        )
    if settings.group_field is not None and pair.train.groups is None:
        raise DataError(
            f"{path} has no columns, so no partition.column {settings.group_field!r}: give a table,"
            " or choose another partition"
        )


def _contents(path: Path) -> str:
    """What lies in a folder that no form fits, in short."""
    if not path.is_dir():
        return ""
    kinds = Counter(
        "folders" if entry.is_dir() else entry.suffix or "files without a suffix"
        for entry in list_folder(path)
        if not is_hidden(entry)
    )
    held = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(_NAMED))
    return f" (it holds {held or 'nothing'})"


def _data_set(
    name: str, pair: SplitPair, usual: Task, settings: ReadSettings, source: Source, location: str
) -> DataSet:
    task = settings.task or usual
    if task not in get_args(Task):
        raise DataError(f"task is {task!r}: choose one of {', '.join(get_args(Task))}")
    if task != usual and not (task in _TEXT_TASKS and usual in _TEXT_TASKS):
        raise DataError(f"{name} is for {usual}, not for {task}: choose that task or other data")
    if task == "text-classification" and settings.text_field == settings.label_field:
        raise DataError(
            f"text_field and label_field are both {quoted(settings.text_field)}: every text would"
            " be a class of its own; name two columns"
        )
    classes = len(pair.class_names)
    if len(set(pair.class_names)) < classes:
        twice = next(n for n in pair.class_names if pair.class_names.count(n) > 1)
        raise DataError(f"{name} has the class {quoted(twice)} twice: rename one, or make them one")
    if task != "causal-lm" and classes < 2:
        raise DataError(
            f"{name} has {classes} class: {task} needs two or more{_first_bad(pair, task)}"
        )
    return DataSet(
        name,
        task,
        pair.train,
        pair.test,
        pair.class_names,
        source,
        location,
        pair.left_out,
        pair.reading,
    )


def _first_bad(pair: SplitPair, task: Task) -> str:
    """Texts that cannot be read may be why classes are missing."""
    if task not in _TEXT_TASKS:
        return ""
    bad = [bad for part in (pair.train, pair.test) for bad in find_bad(part, len(pair.class_names))]
    return f"; {len(bad)} samples cannot be used, the first: {bad[0].title}" if bad else ""


def _has_tables(path: Path) -> bool:
    if path.is_dir():
        return find_split_files(path) is not None
    return is_table(path)


def _read_tables(path: Path, settings: ReadSettings) -> tuple[SplitPair, Task]:
    if path.is_file():
        pair = read_tables(path, None, settings)
    else:
        pair = read_table_folder(path, settings)
    usual: Task = "text-classification" if pair.reading is None else "causal-lm"
    return pair, settings.task or usual


def _image_task(
    read: Callable[[Path], SplitPair], *files: str
) -> Callable[..., tuple[SplitPair, Task]]:
    """For a form of images whose splits are given; of `files` alone, others are left out."""

    def both(path: Path, settings: ReadSettings) -> tuple[SplitPair, Task]:
        pair = read(path)
        if files:
            pair = pair.leaving_out(left_beside(path, [path / name for name in files]))
        return pair, "image-classification"

    return both


_FORMS = (
    _Form(
        f"{ARRAY_FILE} with arrays of both splits",
        lambda path: (path / ARRAY_FILE).is_file(),
        _image_task(read_arrays, ARRAY_FILE),
    ),
    _Form(
        "CIFAR-100's train.bin and test.bin",
        is_cifar100,
        _image_task(read_cifar100, *CIFAR100_FILES),
    ),
    _Form(
        "Tiny-ImageNet's train and val/val_annotations.txt",
        is_tiny_imagenet,
        _image_task(read_tiny_imagenet),
    ),
    _Form(
        "train.csv, train.jsonl or train.json (with a test file of that kind), or one such file",
        _has_tables,
        _read_tables,
    ),
    _Form(
        "a folder that `datasets` saved, or Parquet files",
        is_saved_dataset,
        read_saved_dataset,
    ),
    _Form(
        "class folders of images, in train and test (or val) or alone",
        lambda path: has_class_folders(path / "train") or has_class_folders(path),
        lambda path, settings: (read_image_folder(path, settings), "image-classification"),
    ),
    _Form(
        ".txt files, in train and test or alone",
        lambda path: is_text_file(path) or has_text_files(path),
        lambda path, settings: (read_plain_text(path, settings), "causal-lm"),
    ),
)
