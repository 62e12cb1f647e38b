"""`cutlayer trace`: one round of a run as a Chrome trace, to open in Perfetto (ui.perfetto.dev).

Knows the command's arguments and a run's files; the format is `rounds.result`.
"""

import argparse
from pathlib import Path

from cutlayer.config.read import read_written
from cutlayer.errors import ConfigError, RunError
from cutlayer.jobs.build import make_scheme
from cutlayer.report.run_reader import read_rounds, read_steps
from cutlayer.rounds.result import chrome_trace_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, which round, which file."""
    # not required here, so that one line of ours says what is missing
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="a run's directory")
    parser.add_argument("--round", type=int, metavar="N", help="which round (the last)")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="where the trace goes (RUN/round-N.json)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the file and print its path. Raises CutlayerError, OSError."""
    if arguments.run is None:
        raise ConfigError("trace: of which run? give its directory, such as runs/NAME-001")
    directory: Path = arguments.run
    number = _round(directory, arguments.round)
    events = list(read_steps(directory / "trace.jsonl", number))
    if not events:
        raise RunError(f"{directory / 'trace.jsonl'}: holds no step of round {number}")
    scheme = make_scheme(read_written(directory / "config.yaml").scheme)
    path = arguments.output or directory / f"round-{number}.json"
    path.write_text(chrome_trace_of(scheme, events), encoding="utf-8")
    print(path)
    return 0


def _round(directory: Path, wanted: int | None) -> int:
    """The round that is wanted, or the last one that has finished."""
    last = read_rounds(directory / "rounds.jsonl")[-1].round
    if last == 0:
        raise RunError(f"{directory}: no round has finished yet")
    if wanted is not None and not 1 <= wanted <= last:
        raise ConfigError(f"--round {wanted}: {directory} has rounds 1 to {last}")
    return last if wanted is None else wanted
