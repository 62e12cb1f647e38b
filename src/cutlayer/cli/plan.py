"""`cutlayer plan`: will it fit, how long will it take, and what is best.

Knows the command's arguments, what it prints and what it writes.
"""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from cutlayer.cli.settings import add_settings, given_settings
from cutlayer.config.plan import Planned, plan, planned_config
from cutlayer.config.read import config_yaml, read_config
from cutlayer.report.plan_page import plan_page
from cutlayer.report.plan_record import plan_record
from cutlayer.report.plan_tables import plan_tables

_OUTPUT = Path("plan")
_NOTHING_FITS = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The configuration file, where the plan goes, and an option for every setting."""
    parser.usage = "%(prog)s [CONFIG.yaml] [--SECTION.KEY VALUE ...] [options]"
    parser.add_argument(
        "config", nargs="?", type=Path, metavar="CONFIG.yaml", help="default: the built-in job"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=_OUTPUT,
        metavar="DIR",
        help=f"where plan.json, plan.html and plan.yaml go ({_OUTPUT})",
    )
    add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Plan, print, write; 1 if nothing fits. Raises CutlayerError."""
    config = read_config(arguments.config, given_settings(arguments))
    planned = plan(config, lambda line: print(line, file=sys.stderr, flush=True))
    console = Console(file=sys.stdout)
    console.print(plan_tables(planned.plan))
    if planned.profile is None:
        console.print(
            f"no profile of {config.model.name} on {config.data.name}: the codec is taken as"
            " configured, accuracy is not looked at; `cutlayer profile` measures it",
            markup=False,
        )
    for path in _write(planned, arguments.output):
        console.print(str(path), markup=False, soft_wrap=True)
    return _NOTHING_FITS if planned.plan.chosen is None else 0


def _write(planned: Planned, output: Path) -> list[Path]:
    output.mkdir(parents=True, exist_ok=True)
    texts = {
        "plan.json": json.dumps(plan_record(planned.plan), indent=1) + "\n",
        "plan.html": plan_page(planned.plan),
    }
    chosen = planned.plan.chosen
    if chosen is not None and chosen.decision.common_cut is not None:
        texts["plan.yaml"] = config_yaml(planned_config(planned))
    for name, text in texts.items():
        (output / name).write_text(text, encoding="utf-8")
    return [output / name for name in texts]
