"""The settings of a run as command-line options: one `--SECTION.KEY VALUE` for each; `cutlayer
config`: whether a configuration is right, and the schema of all; `cutlayer examples`: those
that come with the package, and copies of them to edit.
"""

import argparse
import json
import logging
import shutil
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeVar, final

from rich.console import Console

from cutlayer.config.keys import Key, json_schema, keys, named_sections, overview, section_help
from cutlayer.config.schema import Config
from cutlayer.config.section import choices_with, find_field, names_of
from cutlayer.errors import ConfigError, nearest, quoted
from cutlayer.logs import lines_to, unheard
from cutlayer.net.wire.link import address_of

_LOG = logging.getLogger(__name__)
_PREFIX = "override."
_OF_NETWORKS = ("net.",)
# when a round closes: simulated ones too, but no plan's
_OF_ROUNDS = ("net.quorum", "net.deadline_s")
# devices of a network are machines of their own, and say it themselves
_OF_SIMULATIONS = ("devices.device", "server.group", "engine.name", "engine.workers", "engine")
# a real server computes one pass at a time
_OF_PREDICTIONS = ("server.workers",)
_OF_PLANS = (
    *(
        f"planner.{name}"
        for name in ("profile", "accuracy_loss", "least_cut", "server_busy", "cuts", "fix")
    ),
    "devices.power_w",
    "devices.price_per_kwh",
    "server.power_w",
    "server.price_per_hour",
)


def add_settings(parser: argparse.ArgumentParser, only: Collection[str] | None = None) -> None:
    """An option for every setting (or those of `only`), and for every section that may be given as
    a name alone. Each overrides the configuration file. Of all of them `--help` gives an overview,
    and `--help SECTION` a section."""
    if only is None:
        _help_by_section(parser)
    by_section: dict[str, list[Key]] = {}
    for key in keys():
        if only is None or key.key in only:
            by_section.setdefault(key.key.rpartition(".")[0], []).append(key)
    short = set(named_sections())
    for section, own in by_section.items():
        group = parser.add_argument_group(f"{section} settings" if section else "other settings")
        if section in short and own[0].key == f"{section}.name":
            _add(group, section, f"short for --{section}.name")
        for key in own:
            _add(group, key.key, _help(key))


def add_names(parser: argparse.ArgumentParser) -> None:
    """To a parser that is for completion alone, the names that settings may have."""
    for action in parser._actions:
        key = action.dest.removeprefix(_PREFIX)
        if key != action.dest:
            field = find_field(Config, key)
            named = choices_with(Config, key.removesuffix(".name"), "name")
            names = named or (names_of(field.annotation) if field is not None else ())
            action.choices = names or None


def given_settings(arguments: argparse.Namespace) -> dict[str, str]:
    """The settings that were given, by dotted key, as `read_config` takes them. Raises ConfigError
    for a section's name given twice, in long and in short."""
    given = {
        name.removeprefix(_PREFIX): value
        for name, value in vars(arguments).items()
        if name.startswith(_PREFIX) and value is not None
    }
    for short in named_sections():
        long = f"{short}.name"
        if short in given and given.get(long, given[short]) != given[short]:
            raise ConfigError(f"--{short} and --{long} name two things: leave out one")
    return given


def refuse_settings_of(
    overrides: Mapping[str, str],
    *,
    networks: bool = False,
    plans: bool = False,
    simulations: bool = False,
) -> None:
    """Raises ConfigError for a setting of a run over a network, of a plan or of a simulation that
    is given to a command that does not read it. In a file it may stand: that is for all
    commands."""
    for key in overrides:
        if networks and key.startswith(_OF_NETWORKS) and not (plans and key in _OF_ROUNDS):
            who = "`cutlayer serve` and `cutlayer lab`"
        elif plans and key in _OF_PLANS:
            who = "`cutlayer plan`"
        elif simulations and key in _OF_SIMULATIONS:
            who = "the simulator (`cutlayer train`)"
        elif simulations and key in _OF_PREDICTIONS:
            who = "the simulator (`cutlayer train`) and `cutlayer plan`"
        else:
            continue
        raise ConfigError(f"--{key.replace('_', '-')} is read by {who} alone: leave it out here")


def refuse_output(output: Path | None) -> None:
    """Raises ConfigError for an `--output` beside `--resume`, which has a place already."""
    if output is not None:
        raise ConfigError(f"--resume continues in its run directory: leave out --output {output}")


def _help_by_section(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-h",
        "--help",
        nargs="?",
        default=argparse.SUPPRESS,
        action=_Help,
        metavar="SECTION",
        help="this overview; or a section's settings, such as --help codec",
    )


@final
class _Help(argparse.Action):
    """Prints the overview or a section's settings, and ends. Raises ConfigError for no section."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> NoReturn:
        if isinstance(values, str):
            print(section_help(values))
            parser.exit()
        for action in parser._actions:
            if action.dest.startswith(_PREFIX):
                action.help = argparse.SUPPRESS
        print(parser.format_help())
        print("settings, as --SECTION.KEY VALUE (`--help SECTION` says more):")
        print(overview())
        parser.exit()


@final
class _Once(argparse.Action):
    """Stores a value. Raises ArgumentError where the option was given another before."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, self.dest)
        if before not in (None, values):
            raise argparse.ArgumentError(self, f"given twice, {before} and {values}: leave out one")
        setattr(namespace, self.dest, values)


def _add(group: argparse._ArgumentGroup, key: str, what: str) -> None:
    option = f"--{key.replace('_', '-')}"
    what = what.replace("%", "%%")
    group.add_argument(option, action=_Once, dest=_PREFIX + key, metavar="VALUE", help=what)


def _help(key: Key) -> str:
    default = "null" if key.default in (None, ()) else key.default
    return f"{key.description} ({'; '.join([str(default), *_readers(key)])})"


def _readers(key: Key) -> Iterator[str]:
    for rule in key.rules:
        yield f"read with {rule.key} {rule}"


# What several commands take and show: arguments, their types, a line of progress, log lines.


Number = TypeVar("Number", int, float)


def add_config(parser: argparse.ArgumentParser, default: str = "the default job") -> None:
    """The configuration file, before all settings and options."""
    parser.usage = "%(prog)s [CONFIG.yaml] [--SECTION.KEY VALUE ...] [options]"
    parser.add_argument(
        "config", nargs="?", type=Path, metavar="CONFIG.yaml", help=f"default: {default}"
    )


def add_target(parser: argparse.ArgumentParser) -> None:
    """The score that runs are held to."""
    parser.add_argument(
        "--target",
        type=float,
        metavar="SCORE",
        help="accuracy (0 to 1) or perplexity to reach (the worst of the runs' best)",
    )


def add_baseline(parser: argparse.ArgumentParser) -> None:
    """The settings that differences are taken to."""
    parser.add_argument(
        "--baseline",
        metavar="SETTINGS",
        help="what others are held against, as the table calls it (the first)",
    )


def add_run_folder(parser: argparse.ArgumentParser, folder: Path) -> None:
    """Where several runs and what is written of them go, and how much is told meanwhile."""
    parser.add_argument(
        "--output",
        type=Path,
        default=folder,
        metavar="DIR",
        help=f"where tables, page and runs go; finished runs there are kept ({folder})",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress, only the tables")


def whole_number(text: str) -> int:
    """A whole number from 1 on."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not a whole number from 1 on")
    return number


def numbers_of(number: Callable[[str], Number]) -> Callable[[str], tuple[Number, ...]]:
    """Numbers of one kind with commas between."""

    def numbers(text: str) -> tuple[Number, ...]:
        try:
            return tuple(number(part) for part in text.split(","))
        except ValueError:
            what = "whole numbers" if number is int else "numbers"
            raise argparse.ArgumentTypeError(
                f"{quoted(text)} is not {what} with commas between"
            ) from None

    return numbers


def host_and_port(text: str) -> tuple[str, int]:
    """The two parts of `HOST:PORT`; IPv6 in brackets."""
    try:
        return address_of(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def address(text: str) -> str:
    """`HOST:PORT` as it is, if it is one."""
    host_and_port(text)
    return text


@contextmanager
def status_line() -> Iterator[None]:
    """What is logged, as one line that changes, on a terminal; nothing elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        with unheard():
            yield
        return
    with console.status("") as status, lines_to(status.update):
        yield


@final
class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, where it was said, and what. ASCII alone: what a
    stranger sent cannot command the terminal that shows it."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line).replace("\x7f", "\\u007f")


@contextmanager
def log_lines(quiet: bool) -> Iterator[None]:
    """What cutlayer logs, what asyncio has to report, and warnings go to standard error as JSON;
    `quiet`: warnings alone."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    ours, loop = logging.getLogger("cutlayer"), logging.getLogger("asyncio")
    before = [(logger, logger.handlers, logger.level) for logger in (ours, loop)]
    ours.handlers = loop.handlers = [handler]
    ours.setLevel(logging.WARNING if quiet else logging.INFO)
    loop.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _log_warning
            yield
    finally:
        for logger, handlers, level in before:
            logger.handlers = handlers
            logger.setLevel(level)


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """As an error is told: no line of anybody's source."""
    _LOG.warning("%s", " ".join(str(message).split()))


# `cutlayer config`.


def config_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments after `cutlayer config`."""
    parser.usage = "%(prog)s check CONFIG.yaml [--SECTION.KEY VALUE ...]\n       %(prog)s schema"
    parser.add_argument(
        "action",
        nargs="?",
        choices=("check", "schema"),
        help="check: read a file strictly, without training; schema: print a JSON schema, by which"
        " an editor completes and checks configuration files",
    )
    parser.add_argument("config", nargs="?", type=Path, metavar="CONFIG.yaml", help="what to check")
    add_settings(parser)


def run_config(arguments: argparse.Namespace) -> int:
    """Check or print. Raises CutlayerError for a configuration that no run could have."""
    from cutlayer.config.read import config_sha256, read_config  # not for other commands
    from cutlayer.jobs.check import as_run, check, check_limits

    overrides = given_settings(arguments)
    if arguments.action is None:
        raise ConfigError("config: what of it? check or schema; see `--help`")
    if arguments.action == "schema":
        if overrides or arguments.config is not None:
            raise ConfigError("config schema is of all configurations: leave out what follows it")
        print(json.dumps(json_schema(), indent=1))
        return 0
    if arguments.config is None:
        raise ConfigError("config check: which file? give its name")
    config = as_run(read_config(arguments.config, overrides))
    check(config)
    check_limits(config)
    print(
        f"{arguments.config} is valid: {config.scheme.name} of {config.model.name} on"
        f" {config.data.name}, configuration {config_sha256(config)[:16]}"
    )
    return 0


# `cutlayer examples`.


_SUFFIX = ".yaml"


def examples_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments after `cutlayer examples`."""
    parser.add_argument(
        "action",
        choices=("list", "copy"),
        nargs="?",
        default="list",
        help="list: what there is (default); copy: put one where it can be edited",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="the one to copy")
    parser.add_argument(
        "to", nargs="?", type=Path, default=Path(), metavar="TO", help="a folder, or a new file (.)"
    )


def run_examples(arguments: argparse.Namespace) -> int:
    """Carry the command out. Raises ConfigError, OSError."""
    examples = all_examples()
    if arguments.action == "list":
        for name, example in examples.items():
            print(f"{name}\t{_first_line(example)}")
        return 0
    if arguments.name is None:
        raise ConfigError(f"examples copy: which one? {', '.join(examples)}")
    name = arguments.name.removesuffix(_SUFFIX)
    if name not in examples:
        raise ConfigError(f"no example {arguments.name[:80]!r}; {nearest(name, list(examples))}")
    print(_copy(examples[name], arguments.to))
    return 0


def all_examples() -> dict[str, Traversable]:
    """Each example by its name, in the order of the alphabet."""
    folder = files("cutlayer") / "examples"
    found = [file for file in folder.iterdir() if file.name.endswith(_SUFFIX)]
    return {file.name.removesuffix(_SUFFIX): file for file in sorted(found, key=lambda f: f.name)}


def _first_line(example: Traversable) -> str:
    """The first sentence of the comment at the top."""
    comment = []
    for line in example.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    return " ".join(comment).partition(". ")[0].rstrip(".")


def _copy(example: Traversable, to: Path) -> Path:
    target = to / example.name if to.is_dir() else to
    if target.exists():
        raise ConfigError(f"{target} is there already: name another file")
    with as_file(example) as source:
        shutil.copyfile(source, target)
    return target
