"""`cutlayer paper`: a table or figure of the paper made again, beside what the paper says of it.

Knows the command's arguments and what it prints; what a figure needs is `paper.NAME`.
"""

import argparse
import sys
import time
import traceback
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from cutlayer.cli.options import whole_number
from cutlayer.config.schema import DataSection, ModelSection
from cutlayer.errors import ConfigError, CutlayerError
from cutlayer.paper.catalogue import FIGURES, figures
from cutlayer.paper.claims import Claim
from cutlayer.paper.options import Made, Options
from cutlayer.units import format_seconds
from cutlayer.words import nearest

ALL = "all"
# the paper's cut: 5 of 12 blocks on the devices
_CUT = 5
_MISTAKE = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which figure, what to train for it, and where the files go."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    rows = [f"  {name:<9} {figure.what} ({figure.takes})" for name, figure in FIGURES.items()]
    rows.append(f"  {ALL:<9} all of them, one after another, and a table of all verdicts")
    parser.epilog = "names:\n" + "\n".join(rows)
    parser.add_argument("name", nargs="?", metavar="NAME", help="table or figure: see below")
    data, model = DataSection().name, ModelSection().name
    parser.add_argument("--data", default=data, help=f"to train on, as data.name of a run ({data})")
    parser.add_argument(
        "--model", default=model, help=f"to train, as model.name of a run ({model})"
    )
    parser.add_argument("--cut", type=int, default=_CUT, help=f"blocks on the devices ({_CUT})")
    parser.add_argument(
        "--rounds", type=whole_number, help="rounds of each training (the figure's own)"
    )
    parser.add_argument("--seeds", type=whole_number, default=1, help="seeds of each training (1)")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help=f"where the files go (paper/NAME; {ALL}: paper)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a small grid, a few steps: the numbers say nothing"
    )
    parser.add_argument(
        "--analytic", action="store_true", help=f"with {ALL}: only what needs no training"
    )


def run(arguments: argparse.Namespace) -> int:
    """Make one figure or all; claims and files on stdout, progress on stderr.

    2 if one of all could not be made. Raises CutlayerError.
    """
    name: str | None = arguments.name
    if name is None:
        raise ConfigError(f"paper: which figure? {', '.join((*FIGURES, ALL))}")
    if arguments.analytic and name != ALL:
        raise ConfigError(f"--analytic chooses among the figures of `{ALL}`; {name} is one figure")
    options = Options(
        data=arguments.data,
        model=arguments.model,
        cut=arguments.cut,
        rounds=arguments.rounds,
        seeds=arguments.seeds,
        quick=arguments.quick,
    )
    if name == ALL:
        names = figures(analytic=arguments.analytic)
        return make_all(names, options, arguments.output or Path("paper"))
    made = _make(name, options, arguments.output or Path("paper") / name)
    for claim in made.claims:
        print(f"{name}: {claim.line()}")
    for path in made.files:
        print(path)
    return 0


def _make(name: str, options: Options, output: Path) -> Made:
    """One figure; its setting on stdout."""
    if name not in FIGURES:
        raise ConfigError(f"unknown figure {name}; {nearest(name, [*FIGURES, ALL])}")
    # torch and matplotlib take seconds to import: not for --help or a mistake
    try:
        figure_module = import_module(f"cutlayer.paper.{name}")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"`cutlayer paper` needs {error.name}: pip install 'cutlayer[train]'"
        ) from error
    made: Made = figure_module.make(options, output, _say)
    print(f"{name}: {made.setting}", flush=True)
    return made


def make_all(names: Iterable[str], options: Options, output: Path) -> int:
    """Each of the figures `names` into a folder of its own, then all verdicts; 2 if one failed."""
    claims: dict[str, tuple[Claim, ...]] = {}
    failed: dict[str, str] = {}
    for name in names:
        begun_s = time.monotonic()
        _say(f"{name}: {FIGURES[name].what}")
        try:
            claims[name] = _make(name, options, output / name).claims
        except (CutlayerError, OSError) as error:
            failed[name] = " ".join(str(error).split())
            _say(f"{name}: not made: {failed[name]}")
        except Exception as error:
            # a bug; but half an hour of other figures is not lost for it
            traceback.print_exc()
            failed[name] = f"{type(error).__name__}, see above; please report it"
        else:
            _say(f"{name}: {format_seconds(time.monotonic() - begun_s)}")
    _conclude(claims, failed, output)
    return _MISTAKE if failed else 0


def _conclude(claims: dict[str, tuple[Claim, ...]], failed: dict[str, str], output: Path) -> None:
    """All verdicts, and why a figure failed."""
    # matplotlib again
    from cutlayer.paper.verdicts import save_verdicts, verdict_lines

    if claims:
        for line in verdict_lines(claims):
            print(line)
        print(save_verdicts(output / "verdicts.csv", claims))
    for name, reason in failed.items():
        print(f"{name}: not made: {reason}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
