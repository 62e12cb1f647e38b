"""`cutlayer completion`: what makes a shell complete commands, options and names."""

import argparse
from importlib import import_module

from cutlayer.cli.main import COMMANDS
from cutlayer.cli.settings import add_names
from cutlayer.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments after `cutlayer completion`."""
    parser.add_argument(
        "shell",
        choices=("bash", "zsh"),
        help='bash: eval "$(cutlayer completion bash)" in ~/.bashrc; zsh: put what is printed into'
        " a file _cutlayer in a folder of $fpath",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    import shtab  # not for other commands

    print(shtab.complete(_whole(), shell=arguments.shell))
    return 0


def _whole() -> argparse.ArgumentParser:
    """All commands in one parser, which only completes; of one whose extra is not installed, its
    name."""
    parser = argparse.ArgumentParser(prog="cutlayer")
    commands = parser.add_subparsers()
    for name, what in COMMANDS.items():
        own = commands.add_parser(name, help=what, conflict_handler="resolve")
        try:
            import_module(f"cutlayer.cli.{name}").add_arguments(own)
        except ConfigError:
            continue
        add_names(own)
    return parser
