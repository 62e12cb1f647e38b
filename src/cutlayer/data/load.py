"""A data set by path or name: recognises the form from what lies there."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from cutlayer.data.arrays import FILE as ARRAYS
from cutlayer.data.arrays import read_arrays
from cutlayer.data.assets.asset import Say, silent
from cutlayer.data.assets.packages import RunTool, run_tool
from cutlayer.data.cifar100 import is_cifar100, read_cifar100
from cutlayer.data.find import HubSplits, find_data
from cutlayer.data.hub import Hub
from cutlayer.data.hub_data import is_saved_dataset, open_dataset, read_dataset
from cutlayer.data.image_folder import has_class_folders, read_image_folder
from cutlayer.data.plain_text import has_text_files, read_plain_text
from cutlayer.data.samples import DataSet, Source, SplitPair
from cutlayer.data.splits import Settings
from cutlayer.data.tables import SUFFIXES, find_split_files, read_tables
from cutlayer.data.tiny_imagenet import is_tiny_imagenet, read_tiny_imagenet
from cutlayer.errors import DataError
from cutlayer.spec import Task

_TEXT_TASKS: tuple[Task, ...] = ("text-classification", "causal-lm")


@dataclass(frozen=True)
class _Form:
    """One way a data set may lie on disk: what to look for, how to tell, how to read."""

    title: str
    fits: Callable[[Path], bool]
    read: Callable[[Path, Settings], tuple[SplitPair, Task]]


def load_data(
    name: str,
    *,
    task: Task | None = None,
    text_field: str = "text",
    label_field: str = "label",
    test_fraction: float = 0.2,
    seed: int = 0,
    cache: Path | None = None,
    hub: Hub | None = None,
    run: RunTool = run_tool,
    say: Say = silent,
) -> DataSet:
    """The data set at a path, of a known short name (`fashion-mnist`) or of a hub id.

    Looked for in the order of `find.find_model`, whose `cache`, `hub`, `run` and `say` these are.
    `task` is told from the form when None; a text set may be asked for as "text-classification"
    or "causal-lm". `text_field` and `label_field` name the columns of tables. A set without a
    test split gives up a seeded `test_fraction` of its samples; one with its own keeps it.
    Samples are not read here: see `check`. Raises `AssetError` when nobody has it, `DataError`
    when the form is not recognised or not of this task.
    """
    settings = Settings(task, text_field, label_field, test_fraction, seed)
    found = find_data(name, cache=cache, hub=hub, run=run, say=say)
    if isinstance(found, HubSplits):
        pair, usual = read_dataset(found.splits, found.hub_id, settings)
        return _data_set(name, pair, usual, settings, "hub", found.hub_id)
    pair, usual = read_path(found.path, settings)
    if found.asset is not None and found.asset.task is not None:
        usual = found.asset.task
    return _data_set(name, pair, usual, settings, found.source, str(found.path))


def read_path(path: Path, settings: Settings) -> tuple[SplitPair, Task]:
    """Both splits of what lies at a path, and the task of that form.

    Raises `DataError`, saying what was looked for, when no form fits.
    """
    for form in _FORMS:
        if form.fits(path):
            return form.read(path, settings)
    looked_for = "; ".join(form.title for form in _FORMS)
    raise DataError(f"{path} is no data set that cutlayer recognises. Looked for: {looked_for}")


def _data_set(
    name: str, pair: SplitPair, usual: Task, settings: Settings, source: Source, location: str
) -> DataSet:
    task = settings.task or usual
    if task not in get_args(Task):
        raise DataError(f"task is {task!r}: choose one of {', '.join(get_args(Task))}")
    if task != usual and not (task in _TEXT_TASKS and usual in _TEXT_TASKS):
        raise DataError(f"{name} is for {usual}, not for {task}: choose that task or other data")
    classes = len(pair.class_names)
    if task != "causal-lm" and classes < 2:
        raise DataError(f"{name} has {classes} class: {task} needs two or more")
    return DataSet(name, task, pair.train, pair.test, pair.class_names, source, location)


def _has_tables(path: Path) -> bool:
    if path.is_dir():
        return find_split_files(path) is not None
    return path.suffix in SUFFIXES


def _read_tables(path: Path, settings: Settings) -> tuple[SplitPair, Task]:
    train, test = (path, None) if path.is_file() else find_split_files(path) or (path, None)
    pair = read_tables(train, test, settings)
    return pair, settings.task or "text-classification"


def _image_task(read: Callable[[Path], SplitPair]) -> Callable[..., tuple[SplitPair, Task]]:
    return lambda path, settings: (read(path), "image-classification")


_FORMS = (
    _Form(
        f"{ARRAYS} with arrays of both splits",
        lambda path: (path / ARRAYS).is_file(),
        _image_task(read_arrays),
    ),
    _Form("CIFAR-100's train.bin and test.bin", is_cifar100, _image_task(read_cifar100)),
    _Form(
        "Tiny-ImageNet's train and val/val_annotations.txt",
        is_tiny_imagenet,
        _image_task(read_tiny_imagenet),
    ),
    _Form(
        "train.csv or train.jsonl (with test.csv, test.jsonl), or one .csv or .jsonl file",
        _has_tables,
        _read_tables,
    ),
    _Form(
        "a folder that `datasets` saved, or Parquet files",
        lambda path: path.is_dir() and is_saved_dataset(path),
        lambda path, settings: read_dataset(open_dataset(path), str(path), settings),
    ),
    _Form(
        "class folders of images, in train and test (or val) or alone",
        lambda path: has_class_folders(path / "train") or has_class_folders(path),
        lambda path, settings: (read_image_folder(path, settings), "image-classification"),
    ),
    _Form(
        ".txt files, in train and test or alone",
        lambda path: path.suffix == ".txt" if path.is_file() else has_text_files(path),
        lambda path, settings: (read_plain_text(path, settings), "causal-lm"),
    ),
)
