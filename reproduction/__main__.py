"""`python -m reproduction NAME`: a table or figure of the paper, beside what the paper says of it.

Knows the command's arguments and what it prints; how a figure is made is `reproduction.NAME`.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cutlayer.cli.main import guarded, on_standard_error, parsed, prepare
from cutlayer.cli.settings import whole_number
from cutlayer.config.schema import DataSection, ModelSection
from cutlayer.config.training import EngineSection, LocalEngine, RayEngine, with_workers
from cutlayer.errors import ConfigError, nearest
from cutlayer.jobs.workers import opened
from cutlayer.logs import lines_to
from cutlayer.units import GIB
from reproduction.catalogue import (
    FIGURES,
    Made,
    NotMade,
    Options,
    figures,
    make,
    make_all,
    room_for,
)
from reproduction.claims import Claim, count_line, each_once

DESCRIPTION = "a figure of the paper reproduced, its numbers beside the published ones"
ALL, LIST = "all", "list"
# the paper's cut: 5 of 12 blocks on the devices
_CUT = 5
# training runs side by side, if nobody says how many
_MOST_WORKERS = 2
# figure 5 trains all weights of four devices, 2.4 GiB at its peak; the codec's take 1.0 GiB
_WORKER_BYTES = 5 * GIB // 2
_MISTAKE = 2


def main(words: Sequence[str] | None = None) -> int:
    """Make what `words` name; the exit code is 0, or 2 for a mistake of the user's."""
    given = sys.argv[1:] if words is None else words
    prepare()
    with lines_to(on_standard_error):
        return guarded(
            lambda: run(parsed("python -m reproduction", DESCRIPTION, add_arguments, given))
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which figure, what to train for it, and where the files go."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _names()
    parser.add_argument(
        "name", nargs="?", default=LIST, metavar="NAME", help="table or figure: see below"
    )
    data, model = DataSection().name, ModelSection().name
    parser.add_argument("--data", default=data, help=f"to train on, as data.name of a run ({data})")
    parser.add_argument(
        "--model", default=model, help=f"to train, as model.name of a run ({model})"
    )
    parser.add_argument("--cut", type=int, default=_CUT, help=f"blocks on the devices ({_CUT})")
    parser.add_argument("--rounds", type=whole_number, help="rounds of each run (the figure's own)")
    parser.add_argument("--seeds", type=whole_number, default=1, help="seeds of each run (1)")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help=f"where the files go (paper/NAME; {ALL}: paper)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a small grid, a few steps: the numbers say nothing"
    )
    parser.add_argument(
        "--analytic", action="store_true", help=f"with {ALL}: only what needs no training"
    )
    parser.add_argument(
        "--workers",
        type=whole_number,
        help=f"with {ALL}: training runs side by side, each a process of one thread and up to"
        f" 2.5 GiB (one a core, {_MOST_WORKERS} at most)",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help=f"with {ALL}: on that Ray cluster (HOST:PORT, auto; local: one that is started here);"
        " its nodes write into the output, which they must share",
    )


def run(arguments: argparse.Namespace) -> int:
    """Make one figure or all; claims and files on stdout, progress on stderr.

    2 if one of all could not be made. Raises CutlayerError.
    """
    name: str = arguments.name
    if name == LIST:
        print(_names())
        return 0
    options = Options(
        data=arguments.data,
        model=arguments.model,
        cut=arguments.cut,
        rounds=arguments.rounds,
        seeds=arguments.seeds,
        quick=arguments.quick,
    )
    return _run_all(options, arguments) if name == ALL else _run_one(name, options, arguments)


def _names() -> str:
    rows = [f"  {name:<9} {figure.what} ({figure.takes})" for name, figure in FIGURES.items()]
    rows.append(f"  {ALL:<9} all of them, and a table of all verdicts")
    rows.append(f"  {LIST:<9} these names")
    return "names:\n" + "\n".join(rows)


def _run_one(name: str, options: Options, arguments: argparse.Namespace) -> int:
    if name not in FIGURES:
        raise ConfigError(f"unknown figure {name}; {nearest(name, [*FIGURES, ALL, LIST])}")
    if arguments.analytic:
        raise ConfigError(f"--analytic chooses among the figures of `{ALL}`; {name} is one figure")
    if arguments.ray is not None:
        raise ConfigError(f"--ray spreads the figures of `{ALL}`; {name} is one figure")
    if arguments.workers is not None:
        raise ConfigError(f"--workers spreads the figures of `{ALL}`; {name} is one figure")
    made = make(name, options, arguments.output or Path("paper") / name)
    print(f"{name}: {made.setting}")
    _show([(name, claim) for claim in made.claims])
    for path in made.files:
        print(path)
    return 0


def _run_all(options: Options, arguments: argparse.Namespace) -> int:
    """All figures, or those without training, then all verdicts; 2 if one failed."""
    names = figures(analytic=arguments.analytic)
    output: Path = arguments.output or Path("paper")
    usual = room_for(min(os.cpu_count() or 1, _MOST_WORKERS), _WORKER_BYTES)
    section: EngineSection = with_workers(LocalEngine(), arguments.workers or usual)
    if arguments.ray is not None:
        address = None if arguments.ray == "local" else arguments.ray
        section = RayEngine(workers=arguments.workers, address=address)
        output = output.resolve()
    with opened(section, ["cutlayer.profiling.measure"]) as engine:
        done = make_all(names, options, output, engine)
    made = {name: figure for name, figure in done.items() if isinstance(figure, Made)}
    failed = {name: why.reason for name, why in done.items() if isinstance(why, NotMade)}
    for name, figure in made.items():
        print(f"{name}: {figure.setting}")
    _conclude({name: figure.claims for name, figure in made.items()}, failed, output)
    return _MISTAKE if failed else 0


def _conclude(claims: dict[str, tuple[Claim, ...]], failed: dict[str, str], output: Path) -> None:
    """All verdicts, and why a figure failed."""
    if claims:
        # matplotlib again
        from reproduction.catalogue import save_verdicts

        print(count_line(claims))
        _show(each_once(claims))
        print(save_verdicts(output / "verdicts.csv", claims))
    for name, reason in failed.items():
        print(f"{name}: not made: {reason}")


def _show(claims: Sequence[tuple[str, Claim]]) -> None:
    """A table on a terminal, whose reasons are in the CSV file; elsewhere a line each, with it."""
    console = Console(file=sys.stdout)
    if console.is_terminal:
        console.print(claims_table(claims))
        return
    for name, claim in claims:
        print(f"{name}: {claim.line()}")


def claims_table(claims: Iterable[tuple[str, Claim]]) -> Table:
    """Of each claim, named by its figure: what the paper says, ours, the difference, the
    verdict."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("figure", "claim", "paper", "ours", "difference", "verdict"):
        right = heading in ("ours", "difference")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for figure, claim in claims:
        shown = (claim.name, claim.says, claim.ours_shown, claim.difference_shown)
        table.add_row(*(Text(cell) for cell in (figure, *shown, claim.verdict.value)))
    return table


if __name__ == "__main__":
    sys.exit(main())
