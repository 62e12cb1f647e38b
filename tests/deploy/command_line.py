"""Whether a command line is one of ours."""

import argparse
from collections.abc import Sequence

from cutlayer.cli.main import COMMANDS, command


def accepted(words: Sequence[str]) -> argparse.Namespace:
    """The arguments of `cutlayer WORDS`, as its command reads them. Raises ValueError."""
    name, *rest = words
    if name not in COMMANDS:
        raise ValueError(f"no command {name}")
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False, add_help=False)
    add_arguments, _ = command(name)
    add_arguments(parser)
    known, unknown = parser.parse_known_args(rest)
    if unknown:
        raise ValueError(f"unknown arguments {unknown}")
    return known
