"""The tables and figures of the paper by name: what a user may choose of one, how it is made, and
what it leaves on the disk: its tables, its claims, its picture; and all verdicts in one.

Knows what making each takes: here, or in a process of its own, where one that fails loses only
itself. Imports none of them before it is made: torch and matplotlib take seconds.
"""

import logging
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from cutlayer.errors import ConfigError, CutlayerError
from cutlayer.jobs.workers import Engine, spread
from cutlayer.logs import heard_through
from cutlayer.units import KIB, format_seconds
from reproduction.claims import CLAIM_COLUMNS, Claim, claim_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture


_LOG = logging.getLogger(f"cutlayer.{__name__}")

# as Linux tells it
MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class Figure:
    """One of the paper's. `training_minutes`: about how long its training runs take on one core at
    their default size, 0 where nothing is trained.
    """

    what: str
    training_minutes: int = 0

    @property
    def takes(self) -> str:
        """What making it takes, in words."""
        if self.training_minutes:
            return f"trains, about {self.training_minutes} minutes"
        return "computed in seconds"


FIGURES: dict[str, Figure] = {
    "table1": Figure("memory of devices and of models"),
    "table2": Figure("the setting: the table against the text and the results"),
    "table3": Figure("device memory by scheme, row by row"),
    "fig4": Figure("accuracy surface over sparsity and bits, its cubic fit", 7),
    "fig5": Figure("accuracy by round of every scheme, two partitions", 12),
    "fig6": Figure("device memory by blocks on the device"),
    "fig7": Figure("accuracy against sparsity and against bit width; 12x and 20x", 10),
    "fig8": Figure("volume by scheme and by way of compressing"),
    "fig9": Figure("convergence of the two-timescale algorithm"),
    "fig10": Figure("delay by allocation of bandwidth"),
    "fig11": Figure("delay by scheme on two data sets"),
    "fig12": Figure("delay by scheme with ViT-L"),
    "fig13": Figure("delay by scheme with 20 devices"),
    "fig14": Figure("accuracy by round with less data", 8),
    "theorem1": Figure("the convergence bound against SGD on quadratics"),
    "headline": Figure("every headline number, from one fitted constant"),
}


def figures(*, analytic: bool = False) -> tuple[str, ...]:
    """The names in the paper's order; `analytic`: without any training."""
    return tuple(
        name for name, figure in FIGURES.items() if not (analytic and figure.training_minutes)
    )


@dataclass(frozen=True)
class Options:
    """A model and data by name or path, where to cut, how long, over how many seeds.

    `rounds`: None for the figure's own number. `quick`: a small grid and a few steps, to see that
    everything works; its numbers say nothing.
    """

    data: str
    model: str
    cut: int
    rounds: int | None
    seeds: int
    quick: bool


@dataclass(frozen=True)
class Made:
    """What was trained on, in words; the claims; the files written."""

    setting: str
    claims: tuple[Claim, ...]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class NotMade:
    """Why there is no figure, in one line."""

    reason: str


def make(name: str, options: Options, output: Path) -> Made:
    """The figure called `name`: NAME.csv, NAME-claims.csv, NAME.png and NAME.svg in `output`.

    By the `make` of its module. Raises CutlayerError for a model, data set or setting that cannot
    be, before any training, and for a place that cannot be written; that may be an OSError too.
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
    names: Sequence[str], options: Options, output: Path, engine: Engine
) -> dict[str, Made | NotMade]:
    """Every figure of `names`, in that order, into a folder of its own under `output`; or why not.

    What is computed in seconds comes first, here; then what is trained, by the engine's workers.
    What is logged begins with the figure's name.
    """
    begin = partial(_maker, options, output)
    attempt = begin()
    trained = [name for name in names if FIGURES[name].training_minutes]
    done = {name: attempt(name) for name in names if name not in trained}
    with closing(spread(engine, begin, trained)) as ended:
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


def room_for(processes: int, each_bytes: int, meminfo: Path = MEMINFO) -> int:
    """So many of `processes` as find `each_bytes` of memory without swapping; at least one.

    All of them where the system does not tell.
    """
    try:
        lines = meminfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return processes
    left = [int(line.split()[1]) * KIB for line in lines if line.startswith("MemAvailable:")]
    return max(1, min(processes, left[0] // each_bytes)) if left else processes


# What a figure leaves on the disk.


# a cell by its heading; one that a row lacks is empty
Cells = Mapping[str, object]


def write(
    name: str,
    output: Path,
    setting: str,
    claims: tuple[Claim, ...],
    tables: Mapping[str, Iterable[Cells]],
    draw: "Callable[[], Picture]",
) -> Made:
    """Write each of `tables` as CSV, `name`-claims.csv, and the picture as .png and .svg.

    `draw` is called in the plain style. Raises RunError for an output that cannot be written.
    """
    from cutlayer.report.drawing import plain_style, save_figure, save_table

    output.mkdir(parents=True, exist_ok=True)
    files = [_save(output / f"{each}.csv", list(rows)) for each, rows in tables.items()]
    files.append(save_table(output / f"{name}-claims.csv", CLAIM_COLUMNS, claim_rows(claims)))
    with plain_style():
        files += save_figure(output / name, draw())
    return Made(setting, claims, tuple(files))


def _save(path: Path, rows: Sequence[Cells]) -> Path:
    from cutlayer.report.drawing import save_table

    columns = list(dict.fromkeys(heading for row in rows for heading in row))
    return save_table(path, columns, ([row.get(each, "") for each in columns] for row in rows))


def caption(figure: "Picture", setting: str) -> None:
    """A line above all panels: what was computed or trained."""
    from cutlayer.report.drawing import MUTED

    figure.suptitle(setting, x=0.005, ha="left", fontsize=10.5, color=MUTED)


def save_verdicts(path: Path, claims: Mapping[str, Sequence[Claim]]) -> Path:
    """A CSV file of all claims by figure. Raises RunError: cannot be written."""
    from cutlayer.report.drawing import save_table

    rows = [(name, *row) for name, some in claims.items() for row in claim_rows(some)]
    return save_table(path, ("figure", *CLAIM_COLUMNS), rows)
