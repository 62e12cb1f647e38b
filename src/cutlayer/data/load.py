"""A data set by path or name: recognises the form from what lies there."""

from collections.abc import Callable
from pathlib import Path

from cutlayer.data.samples import DataSet, Task


def load_data(
    name: str,
    *,
    task: Task | None = None,
    text_field: str = "text",
    label_field: str = "label",
    test_fraction: float = 0.2,
    seed: int = 0,
    cache: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> DataSet:
    """The data set at a path, of a known short name (`fashion-mnist`) or of a hub id.

    Looked for in the order of `find.find_model`. `task` is told from the form when None; a text
    set may be asked for as "text-classification" or "causal-lm". `text_field` and `label_field`
    name the columns of tables. A set without a test split gives up a seeded `test_fraction` of
    its samples; one with its own keeps it. Samples are not read here: see `check`. Raises
    `AssetError` when nobody has it, `DataError` when the form is not recognised or not this task.
    """
    raise NotImplementedError
