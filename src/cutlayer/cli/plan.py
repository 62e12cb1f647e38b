"""`cutlayer plan`: will it fit, how long will it take, and what is best.

Knows the command's arguments, what it prints and what it writes.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from cutlayer.cli.settings import add_config, add_settings, given_settings, refuse_settings_of
from cutlayer.config.read import config_yaml, read_config
from cutlayer.jobs.check import check_folder, write_together
from cutlayer.jobs.plan import CHOICES, Planned, plan, profile_notes, replacements
from cutlayer.report.plan_files import plan_page
from cutlayer.report.tables import plan_tables

_OUTPUT = Path("plan")
_NOTHING_FITS = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The configuration file, where the plan goes, and an option for every setting."""
    add_config(parser)
    parser.add_argument(
        "--output",
        type=Path,
        default=_OUTPUT,
        metavar="DIR",
        help=f"where plan.json, plan.html and plan.yaml go ({_OUTPUT})",
    )
    parser.add_argument(
        "--fixed",
        action="store_true",
        help="decide nothing: the delay of the configuration as it is, and whether it fits",
    )
    add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Plan, print, write; 1 if nothing fits. Raises CutlayerError."""
    overrides = given_settings(arguments)
    refuse_settings_of(overrides, networks=True)
    config = read_config(arguments.config, overrides, also_read=CHOICES)
    check_folder(arguments.output)
    planned = plan(config, fixed=arguments.fixed)
    console = Console(file=sys.stdout)
    console.print(plan_tables(planned.plan))
    for line in _notes(planned, fixed=arguments.fixed):
        console.print(line, markup=False)
    for path in _write(planned, arguments.output):
        console.print(str(path), markup=False, soft_wrap=True)
    return _NOTHING_FITS if planned.plan.chosen is None else 0


def _notes(planned: Planned, *, fixed: bool) -> Iterator[str]:
    """What is other than given, and what accuracies are known from."""
    if fixed:
        yield "as configured (--fixed): nothing was chosen, accuracy is not checked"
        return
    config = planned.given
    if planned.profile is None:
        yield (
            f"no profile of {config.model.name} on {config.data.name}: the codec stays as"
            " configured, accuracy is not checked; `cutlayer profile` measures it"
        )
    yield from profile_notes(planned)
    replaced = replacements(planned)
    yield from replaced
    if replaced:
        yield "`cutlayer plan --fixed` gives the delay of the configuration as it is"


def _write(planned: Planned, output: Path) -> list[Path]:
    texts: dict[str, str | None] = {
        "plan.json": json.dumps(planned.to_dict(), indent=1) + "\n",
        "plan.html": plan_page(planned.plan),
        "plan.yaml": None,  # an older plan's would be another's
    }
    chosen = planned.plan.chosen
    if chosen is not None and chosen.decision.common_cut is not None:
        texts["plan.yaml"] = config_yaml(planned.config)
    write_together(output, texts)
    return [output / name for name, text in texts.items() if text is not None]
