"""`cutlayer export`, `merge` and `push`: what was trained, handed on.

Knows arguments; folders and the hub are `jobs.hand_over`'s.
"""

import argparse
from pathlib import Path

from cutlayer.cli.use import add_trained, opened
from cutlayer.errors import ConfigError
from cutlayer.jobs.hand_over import check_new, export_trained, merge_trained, push_trained
from cutlayer.logs import loading

_NUMBERS = ("float32", "bfloat16", "float16")


def export_arguments(parser: argparse.ArgumentParser) -> None:
    """Of what, and where to."""
    add_trained(parser)
    parser.add_argument(
        "to", nargs="?", type=Path, metavar="OUT", help="a new folder (NAME-adapter here)"
    )


def run_export(arguments: argparse.Namespace) -> int:
    """Copy the adapter, in PEFT's format, and print where to. Raises CutlayerError."""
    folder = opened("export", arguments)
    kind = "model" if folder.is_model else "adapter"
    to = arguments.to or Path(f"{arguments.run.resolve().name}-{kind}")
    export_trained(folder, to)
    print(to)
    return 0


def merge_arguments(parser: argparse.ArgumentParser) -> None:
    """Of what, where to, and in which numbers."""
    add_trained(parser)
    parser.add_argument("to", nargs="?", type=Path, metavar="OUT", help="a new folder")
    parser.add_argument(
        "--dtype",
        choices=_NUMBERS,
        default=_NUMBERS[0],
        help="the numbers of the result; only in float32 nothing of the adapter is rounded"
        " (float32)",
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="where the weights that it was trained over are now: a path, a known name or a hub id"
        " (where they were)",
    )


def run_merge(arguments: argparse.Namespace) -> int:
    """Write the whole model, and print where to. Raises CutlayerError."""
    folder = opened("merge", arguments)
    if arguments.to is None:
        raise ConfigError("merge: where to? give a new folder after the run")
    check_new(arguments.to)
    with loading("`cutlayer merge`", "train"):
        import torch  # noqa: F401 - takes seconds
    merge_trained(folder, arguments.to, model=arguments.model, dtype=arguments.dtype)
    print(arguments.to)
    return 0


def push_arguments(parser: argparse.ArgumentParser) -> None:
    """Of what, as what, and who may see it."""
    add_trained(parser)
    parser.add_argument("name", nargs="?", metavar="NAME", help="OWNER/NAME on the hub")
    parser.add_argument(
        "--public", action="store_true", help="let everybody see it, if it is not there yet"
    )
    parser.add_argument("--message", metavar="TEXT", help="of the commit")


def run_push(arguments: argparse.Namespace) -> int:
    """Upload it, and print its address. Raises CutlayerError."""
    folder = opened("push", arguments)
    if arguments.name is None:
        raise ConfigError("push: as what? give OWNER/NAME after the run")
    address = push_trained(
        folder, arguments.name, private=not arguments.public, message=arguments.message
    )
    print(address)
    return 0
