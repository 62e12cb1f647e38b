"""`cutlayer join`: this device takes part in the run of a server."""

import argparse
import sys
from pathlib import Path

from cutlayer.cli.settings import address, log_lines, whole_number
from cutlayer.errors import IdentityError

_PATIENCE_S = 600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The server, who this device is, and its samples."""
    parser.add_argument("address", type=address, metavar="HOST:PORT", help="the server's")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="PATH",
        help="this device's samples, in any form that `data.name` takes; a training split, or all",
    )
    parser.add_argument(
        "--identity",
        type=Path,
        default=Path("identity"),
        metavar="DIR",
        help="this device's key and certificate, and its state during a run (identity)",
    )
    parser.add_argument(
        "--token",
        metavar="TOKEN",
        help="the invitation, where there is no identity yet; - reads it from standard input",
    )
    parser.add_argument("--text-field", default="text", help="column of the text in tables (text)")
    parser.add_argument(
        "--label-field", default="label", help="column of the label in tables (label)"
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out samples that cannot be used"
    )
    parser.add_argument(
        "--patience",
        type=whole_number,
        default=_PATIENCE_S,
        metavar="SECONDS",
        help=f"how long the server may be away before this gives up ({_PATIENCE_S})",
    )
    parser.add_argument("--threads", type=whole_number, help="torch threads (torch's choice)")
    parser.add_argument("--quiet", action="store_true", help="log warnings alone")


def run(arguments: argparse.Namespace) -> int:
    """Take part until the run ends."""
    from cutlayer.jobs.api import join  # takes longer than --help may

    log_lines(arguments.quiet)
    join(
        arguments.address,
        arguments.data,
        identity=arguments.identity,
        token=_token(arguments),
        text_field=arguments.text_field,
        label_field=arguments.label_field,
        skip_bad=arguments.skip_bad,
        patience_s=float(arguments.patience),
        threads=arguments.threads,
    )
    return 0


def _token(arguments: argparse.Namespace) -> str | None:
    if arguments.token != "-":
        return None if arguments.token is None else str(arguments.token)
    line = sys.stdin.readline()
    if not line.strip():
        raise IdentityError("--token - reads a token from standard input: there was none")
    return line
