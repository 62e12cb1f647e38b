"""A figure made by its name; or many of them, of which one that fails loses only itself.

Knows which are made here and which in processes of their own; not what any of them shows.
"""

import logging
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

from cutlayer.errors import ConfigError, CutlayerError
from cutlayer.logs import heard_through
from cutlayer.profiling.processes import spread
from cutlayer.units import format_seconds
from reproduction.catalogue import FIGURES
from reproduction.options import Made, Options

_LOG = logging.getLogger(f"cutlayer.{__name__}")


@dataclass(frozen=True)
class NotMade:
    """Why there is no figure, in one line."""

    reason: str


def make(name: str, options: Options, output: Path) -> Made:
    """The figure called `name`, its files in `output`.

    Raises CutlayerError, and OSError for a place that cannot be written.
    """
    # torch and matplotlib take seconds to import: not for --help or a mistake
    try:
        figure_module = import_module(f"reproduction.{name}")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the paper's figures need {error.name}: pip install 'cutlayer[train]'"
        ) from error
    made: Made = figure_module.make(options, output)
    return made


def make_all(
    names: Sequence[str], options: Options, output: Path, workers: int
) -> dict[str, Made | NotMade]:
    """Every figure of `names`, in that order, into a folder of its own under `output`; or why not.

    What is computed in seconds comes first, here; then what is trained, `workers` at a time, in
    processes. What is logged begins with the figure's name.
    """
    begin = partial(_maker, options, output)
    attempt = begin()
    trained = [name for name in names if FIGURES[name].training_minutes]
    done = {name: attempt(name) for name in names if name not in trained}
    with closing(spread(begin, trained, workers)) as ended:
        for name, result in ended:
            # an attempt raises nothing: its process died
            done[name] = result if isinstance(result, Made | NotMade) else NotMade(f"its {result}")
    return {name: done[name] for name in names}


def _maker(options: Options, output: Path) -> Callable[[str], Made | NotMade]:
    return lambda name: _named(name, options, output / name)


def _named(name: str, options: Options, output: Path) -> Made | NotMade:
    def with_name(record: logging.LogRecord) -> bool:
        record.msg, record.args = f"{name}: {record.getMessage()}", ()
        return True

    with heard_through(with_name):
        return _attempt(name, options, output)


def _attempt(name: str, options: Options, output: Path) -> Made | NotMade:
    begun_s = time.monotonic()
    _LOG.info(FIGURES[name].what)
    try:
        made = make(name, options, output)
    except (CutlayerError, OSError) as error:
        reason = " ".join(str(error).split())
    except Exception as error:
        # a bug; but half an hour of other figures is not lost for it
        for line in traceback.format_exc().splitlines():
            _LOG.info(line)
        reason = f"{type(error).__name__}, see above; please report it"
    else:
        _LOG.info(format_seconds(time.monotonic() - begun_s))
        return made
    _LOG.info(f"not made: {reason}")
    return NotMade(reason)
