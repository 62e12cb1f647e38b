"""`cutlayer paper`: a figure of the paper made again, beside what the paper says of it.

Knows the command's arguments and what it prints; what a figure needs is `paper.NAME`.
"""

import argparse
import sys
from importlib import import_module
from pathlib import Path

from cutlayer.config.schema import DataSection, ModelSection
from cutlayer.errors import ConfigError
from cutlayer.paper.options import Made, Options
from cutlayer.words import nearest

FIGURES = {
    "fig7": "accuracy against sparsity and against bit width; 12x and 20x (about 10 minutes)",
}
# the paper's cut: 5 of 12 blocks on the devices
_CUT = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which figure, what to train for it, and where the files go."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    rows = "\n".join(f"  {name:<8} {what}" for name, what in FIGURES.items())
    parser.epilog = f"figures:\n{rows}"
    parser.add_argument("name", nargs="?", metavar="NAME", help="which figure: see below")
    data, model = DataSection().name, ModelSection().name
    parser.add_argument("--data", default=data, help=f"as data.name of a run ({data})")
    parser.add_argument("--model", default=model, help=f"as model.name of a run ({model})")
    parser.add_argument("--cut", type=int, default=_CUT, help=f"blocks on the devices ({_CUT})")
    parser.add_argument("--rounds", type=_count, help="rounds of each training (the figure's own)")
    parser.add_argument("--seeds", type=_count, default=1, help="seeds of each training (1)")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="where the files go (paper/NAME)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a small grid, a few steps: the numbers say nothing"
    )


def run(arguments: argparse.Namespace) -> int:
    """Make the figure; claims and files on stdout, progress on stderr. Raises CutlayerError."""
    name: str | None = arguments.name
    if name is None:
        raise ConfigError(f"paper: which figure? {', '.join(FIGURES)}")
    if name not in FIGURES:
        raise ConfigError(f"unknown figure {name}; {nearest(name, list(FIGURES))}")
    # torch and matplotlib take seconds to import: not for --help or a mistake
    try:
        figure = import_module(f"cutlayer.paper.{name}")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"`cutlayer paper` needs {error.name}: pip install 'cutlayer[train]'"
        ) from error
    options = Options(
        data=arguments.data,
        model=arguments.model,
        cut=arguments.cut,
        rounds=arguments.rounds,
        seeds=arguments.seeds,
        quick=arguments.quick,
    )
    output = arguments.output or Path("paper") / name
    made: Made = figure.make(options, output, _say)
    print(f"{name}: {made.setting}")
    for claim in made.claims:
        print(f"{name}: {claim.line()}")
    for path in made.files:
        print(path)
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return number
