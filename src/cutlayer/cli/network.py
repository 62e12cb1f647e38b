"""`cutlayer serve`, `join` and `lab`: a run's server, for devices that join over the network; a
device of it; and a run between real processes over shaped links, beside its prediction.

Knows the commands' arguments and what they print; runs are `jobs`', the lab is `lab`.
"""

import argparse
import contextlib
import ctypes
import logging
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from cutlayer.cli.main import guarded
from cutlayer.cli.settings import (
    add_config,
    add_settings,
    address,
    given_settings,
    log_lines,
    refuse_output,
    refuse_settings_of,
    whole_number,
)
from cutlayer.config.read import read_config
from cutlayer.errors import ConfigError, IdentityError
from cutlayer.jobs.api import LISTEN, OPERATORS, RUNS, join, serve
from cutlayer.jobs.check import check, check_folder
from cutlayer.logs import loading

# `cutlayer serve`.


_LOG = logging.getLogger(__name__)
_ARENA_MAX = -8  # M_ARENA_MAX of <malloc.h>
_DESCRIPTORS = 65_536


def serve_arguments(parser: argparse.ArgumentParser) -> None:
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


def run_serve(arguments: argparse.Namespace) -> int:
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
        refuse_settings_of(overrides, plans=True, simulations=True)
        config = read_config(arguments.config, overrides)

    def begin() -> int:
        share_one_arena()
        allow_descriptors()
        run = serve(
            config,
            resume=arguments.resume,
            changes=None if arguments.resume is None else overrides,
            go_on=arguments.go_on,
            output=arguments.output or RUNS,
            keys=arguments.keys,
            listen=arguments.listen,
            operators=arguments.operators,
        )
        if not run.finished:
            _LOG.info("`cutlayer serve --resume %s` resumes it", run.path)
        return 0

    return _logged(begin, arguments.quiet)


def _logged(run: Callable[[], int], quiet: bool) -> int:
    """The exit code of `run`; all that it says is lines of a log, the error that ends it too."""
    with log_lines(quiet):
        return guarded(run, lambda text: _LOG.error("%s", text))


def allow_descriptors() -> None:
    """For this process, from now on: as many open files as the system lets it have, to 65,536.

    Most systems begin with 1,024, of which each connection takes one.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        # macOS promises more than it gives
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def share_one_arena() -> None:
    """For this process, from now on; a setting of the user's own (MALLOC_ARENA_MAX) counts more.

    Arenas that threads have already stay: call it early. glibc gives threads arenas of their own,
    up to eight a processor, and memory that was freed in one serves no other. Frames come to the
    loop's thread, and what is computed of them in others is freed wherever it is done with. With
    one arena a server of 200 devices levels off (`benchmarks/load.py`). Elsewhere there is nothing
    to do.
    """
    if "MALLOC_ARENA_MAX" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)


# `cutlayer join`.


_PATIENCE_S = 600
_MOST_DISK_GIB = 16


def join_arguments(parser: argparse.ArgumentParser) -> None:
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
        "--format",
        default="auto",
        metavar="NAME",
        help="how a table's rows are examples for a language model, as `data.format` (auto)",
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
    parser.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="what computes here: cpu, cuda, cuda:N, mps, or the first of cuda, mps and cpu that is"
        " there (auto)",
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="the model that is trained, by path or name, where it lies on this machine: its"
        " weights are not fetched from the server",
    )
    parser.add_argument(
        "--most-disk",
        type=whole_number,
        default=_MOST_DISK_GIB,
        metavar="GIB",
        help="what weights of this and earlier runs may take on disk; the oldest make room"
        f" ({_MOST_DISK_GIB})",
    )
    parser.add_argument("--quiet", action="store_true", help="log warnings alone")


def run_join(arguments: argparse.Namespace) -> int:
    """Take part until the run ends."""

    def begin() -> int:
        join(
            arguments.address,
            arguments.data,
            identity=arguments.identity,
            token=_token(arguments),
            text_field=arguments.text_field,
            label_field=arguments.label_field,
            format=arguments.format,
            skip_bad=arguments.skip_bad,
            patience_s=float(arguments.patience),
            threads=arguments.threads,
            device=arguments.device,
            model=arguments.model,
            most_disk_gib=float(arguments.most_disk),
        )
        return 0

    return _logged(begin, arguments.quiet)


def _token(arguments: argparse.Namespace) -> str | None:
    if arguments.token != "-":
        return None if arguments.token is None else str(arguments.token)
    line = sys.stdin.readline()
    if not line.strip():
        raise IdentityError("--token - reads a token from standard input: there was none")
    return line


# `cutlayer lab`.


# the default job as a lab: a round that warms up, one that calibrates, four that are compared
_BUILT_IN = {"devices.count": "4", "training.rounds": "6"}


def lab_arguments(parser: argparse.ArgumentParser) -> None:
    """The configuration file, where the run goes, and an option for every setting."""
    add_config(parser, "the default job with 4 devices and 6 rounds")
    parser.add_argument(
        "--output", type=Path, default=Path("runs"), help="where run directories go (runs)"
    )
    parser.add_argument(
        "--loopback",
        action="store_true",
        help="no namespaces: on loopback, where devices and server pace themselves",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress, only the table")
    add_settings(parser)


def run_lab(arguments: argparse.Namespace) -> int:
    """Run, compare, print, write; 0 however far off. Raises CutlayerError."""
    built_in = _BUILT_IN if arguments.config is None else {}
    overrides = given_settings(arguments)
    refuse_settings_of(overrides, plans=True)
    config = read_config(arguments.config, built_in | overrides)
    check_folder(arguments.output)
    check(config)
    # torch and matplotlib take seconds to import: not for --help or a mistake
    with loading("`cutlayer lab`", "train,net"):
        from cutlayer.lab.lab import (
            comparison_certainty,
            comparison_verdict,
            phase_table,
            round_table,
            run_lab,
            write_comparison,
        )
    ended = run_lab(config, arguments.output, on_loopback=arguments.loopback)
    console = Console(file=sys.stdout)
    console.print(phase_table(ended.comparison))
    console.print(round_table(ended.comparison))
    console.print(ended.where, markup=False, soft_wrap=True)
    console.print(comparison_verdict(ended.comparison), markup=False)
    console.print(comparison_certainty(ended.comparison), markup=False, soft_wrap=True)
    for path in write_comparison(ended.comparison, ended.directory):
        console.print(str(path), markup=False, soft_wrap=True)
    return 0
