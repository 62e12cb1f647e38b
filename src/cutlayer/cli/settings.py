"""The settings of a run as command-line options: one `--SECTION.KEY VALUE` for each."""

import argparse
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, final

from cutlayer.config.help import overview, section_help
from cutlayer.config.keys import Key, keys, named_sections
from cutlayer.config.schema import Config
from cutlayer.config.section import choices_with, find_field, names_of
from cutlayer.errors import ConfigError

_PREFIX = "override."
_OF_NETWORKS = ("net.",)
_OF_PLANS = tuple(
    f"planner.{name}" for name in ("profile", "accuracy_loss", "least_cut", "server_busy", "cuts")
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
    overrides: Mapping[str, str], *, networks: bool = False, plans: bool = False
) -> None:
    """Raises ConfigError for a setting of a run over a network, or of a plan, that is given to a
    command that does not read it. In a file it may stand: that is for all commands."""
    for key in overrides:
        if networks and key.startswith(_OF_NETWORKS):
            who = "`cutlayer serve` and `cutlayer lab`"
        elif plans and key in _OF_PLANS:
            who = "`cutlayer plan`"
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
