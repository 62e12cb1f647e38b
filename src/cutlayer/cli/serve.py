"""`cutlayer serve`: a run's server, for devices that join over the network."""

import argparse
import ctypes
import os
from pathlib import Path

from cutlayer.cli.settings import (
    add_config,
    add_settings,
    address,
    given_settings,
    log_lines,
    refuse_output,
    refuse_settings_of,
)
from cutlayer.config.read import read_config
from cutlayer.errors import ConfigError
from cutlayer.jobs.api import LISTEN, OPERATORS, RUNS, serve

_ARENA_MAX = -8  # M_ARENA_MAX of <malloc.h>


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The configuration, where to listen, whose keys, and an option for every setting."""
    add_config(parser)
    parser.add_argument(
        "--listen",
        type=address,
        default=LISTEN,
        metavar="HOST:PORT",
        help="where devices connect (127.0.0.1:7700: this machine alone; 0.0.0.0:7700: any IPv4;"
        " [::]:7700: IPv6 as well)",
    )
    parser.add_argument(
        "--operators",
        type=address,
        default=OPERATORS,
        metavar="HOST:PORT",
        help="where the live page, /health, /status and /metrics are, in plain HTTP"
        " (127.0.0.1:7701)",
    )
    parser.add_argument(
        "--keys", type=Path, default=Path("keys"), metavar="DIR", help="the run's keys (keys)"
    )
    parser.add_argument("--output", type=Path, help=f"where run directories go ({RUNS})")
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="DIR",
        help="resume the run in DIR; with --training.rounds it trains longer, and --net.* may"
        " change",
    )
    parser.add_argument(
        "--go-on",
        action="store_true",
        help="for services: resume the newest run of this configuration under --output, and"
        " start one only if there is none",
    )
    parser.add_argument("--quiet", action="store_true", help="log warnings alone")
    add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until the run ends, or SIGTERM or SIGINT comes: both end with 0."""
    overrides = given_settings(arguments)
    if arguments.resume is not None:
        if arguments.config or arguments.go_on:
            raise ConfigError(
                "--resume takes the run and the configuration of its directory: leave out --go-on"
                " and the file"
            )
        refuse_output(arguments.output)
    config = None
    if arguments.resume is None:
        refuse_settings_of(overrides, plans=True)
        config = read_config(arguments.config, overrides)
    log_lines(arguments.quiet)
    share_one_arena()
    serve(
        config,
        resume=arguments.resume,
        changes=None if arguments.resume is None else overrides,
        go_on=arguments.go_on,
        output=arguments.output or RUNS,
        keys=arguments.keys,
        listen=arguments.listen,
        operators=arguments.operators,
    )
    return 0


def share_one_arena() -> None:
    """For this process, from now on; a setting of the user's own (MALLOC_ARENA_MAX) counts more.

    Arenas that threads have already stay: call it early. glibc gives threads arenas of their own,
    up to eight a processor, and memory that was freed in one serves no other. What gRPC's threads
    allocate for each message is freed by whichever thread is done with it: a server of 200 devices
    was still growing after 20 rounds. With one arena it levels off within them
    (`benchmarks/load.py`). Elsewhere there is nothing to do.
    """
    if "MALLOC_ARENA_MAX" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)
