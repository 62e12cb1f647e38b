"""`cutlayer plan`, `cutlayer profile` and `cutlayer bench-device`: what will it take, asked before
it is bought.
"""

import argparse
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import get_args

from rich.console import Console

from cutlayer.cli.settings import (
    add_config,
    add_settings,
    given_settings,
    numbers_of,
    refuse_settings_of,
    whole_number,
)
from cutlayer.config.read import config_yaml, read_config
from cutlayer.config.training import LocalEngine, with_workers
from cutlayer.errors import ConfigError, nearest
from cutlayer.jobs.check import check, check_file, check_folder, write_together
from cutlayer.jobs.plan import CHOICES, Planned, plan
from cutlayer.logs import loading
from cutlayer.planner.profile import Family, check_machine_name, machine_text
from cutlayer.profiling.grid import FULL_GRID, MOST_BITS, QUICK_GRID
from cutlayer.report.plan_page import plan_page
from cutlayer.report.tables import (
    device_part_tables,
    fit_lines,
    plan_tables,
    profile_table,
    target_table,
)
from cutlayer.spec import Base

# `cutlayer plan`: will it fit, how long will it take, and what is best; and `cutlayer profile`:
# what accuracy each setting of the codec leaves, and what training the device part brings, by real
# training runs, which plans go by.
#
# Knows the commands' arguments, what they print and what they write; training is `profiling`'s.


# `cutlayer plan`.


_OUTPUT = Path("plan")
_NOTHING_FITS = 1


def plan_arguments(parser: argparse.ArgumentParser) -> None:
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
    parser.add_argument(
        "--from-run",
        type=Path,
        metavar="RUN",
        help="plan with the compute and link rates of a networked run of the same model and data",
    )
    parser.add_argument(
        "--target-accuracy",
        type=_share,
        metavar="SHARE",
        help="the shortest seconds to this share of the test samples, such as 0.78, rather than the"
        " shortest round: over device part, cut, codec and steps, as far as they were measured",
    )
    parser.add_argument(
        "--device-energy",
        type=float,
        metavar="J",
        help="the most that all devices together may take until then [J]",
    )
    add_settings(parser)


def _share(text: str) -> float:
    """`0.78`, or `78%`."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no share of the test samples, such as 0.78"
        ) from None


def run_plan(arguments: argparse.Namespace) -> int:
    """Plan, print, write; 1 if nothing fits. Raises CutlayerError."""
    overrides = given_settings(arguments)
    refuse_settings_of(overrides, networks=True)
    config = read_config(arguments.config, overrides, also_read=CHOICES)
    check_folder(arguments.output)
    planned = plan(
        config,
        fixed=arguments.fixed,
        from_run=arguments.from_run,
        target_accuracy=arguments.target_accuracy,
        device_energy_j=arguments.device_energy,
    )
    console = Console(file=sys.stdout)
    console.print(plan_tables(planned.plan))
    if planned.target is not None:
        console.print(target_table(planned.target))
    for line in planned.notes:
        console.print(line, markup=False)
    for path in _write(planned, arguments.output):
        console.print(str(path), markup=False, soft_wrap=True)
    return _NOTHING_FITS if planned.plan.chosen is None else 0


def _write(planned: Planned, output: Path) -> list[Path]:
    texts: dict[str, str | None] = {
        "plan.json": json.dumps(planned.to_dict(), indent=1) + "\n",
        "plan.html": plan_page(planned.plan, planned.notes),
        "plan.yaml": None,  # an older plan's would be another's
    }
    chosen = planned.plan.chosen
    if chosen is not None and chosen.decision.common_cut is not None:
        texts["plan.yaml"] = config_yaml(planned.config)
    write_together(output, texts)
    return [output / name for name, text in texts.items() if text is not None]


# `cutlayer profile`.


_QUICK = {"training.rounds": "1", "training.local_steps": "2", "data.test_samples": "64"}
_SEEDS = 3


def profile_arguments(parser: argparse.ArgumentParser) -> None:
    """The job, the grid, how it is spread, where it goes, and an option for every setting."""
    add_config(parser)
    parser.add_argument(
        "--keep-ratios",
        type=numbers_of(float),
        metavar="R,R,...",
        help=f"parts of values that paper and paper-rans keep ({_listed(FULL_GRID.keep_ratios)})",
    )
    parser.add_argument(
        "--bits",
        type=numbers_of(int),
        metavar="Q,Q,...",
        help=f"bits of their levels, 1 to {MOST_BITS} ({_listed(FULL_GRID.bits)})",
    )
    parser.add_argument(
        "--cuts",
        type=numbers_of(int),
        metavar="N,N,...",
        help="cuts at which the device part is trained, frozen and warm (model.cut, and about 1, 4,"
        " 8 and 10 twelfths of the blocks)",
    )
    parser.add_argument("--seeds", type=whole_number, help=f"seeds of each training run ({_SEEDS})")
    parser.add_argument(
        "--workers", type=whole_number, help="training runs at a time, in processes (one a core)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("profile.json"),
        metavar="FILE.json",
        help="the profile; in its folder, FILE.runs.jsonl is what a stopped one resumes from",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a small grid, a few steps: the numbers say nothing"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress, only the table")
    add_settings(parser)


def run_profile(arguments: argparse.Namespace) -> int:
    """Train what is missing, write the profile, print the table. Raises CutlayerError."""
    overrides = given_settings(arguments)
    _refuse_codec(overrides)
    refuse_settings_of(overrides, networks=True, plans=True)
    output: Path = arguments.output
    check_file(output)
    quick = _QUICK if arguments.quick else {}
    config = read_config(arguments.config, {**quick, **overrides})
    check(config)
    # torch and transformers take seconds to import: not for --help or a mistake
    with loading("`cutlayer profile`", "train"):
        from rich.console import Console

        from cutlayer.files import write_text
        from cutlayer.jobs.workers import opened
        from cutlayer.planner.profile import profile_text
        from cutlayer.profiling.measure import ProfilePlan, measure_profile
    usual = QUICK_GRID if arguments.quick else FULL_GRID
    keep_ratios = arguments.keep_ratios or usual.keep_ratios
    grid = replace(usual, keep_ratios=keep_ratios, bits=arguments.bits or usual.bits)
    seeds = arguments.seeds or (1 if arguments.quick else _SEEDS)
    cuts = arguments.cuts or ((config.model.cut,) if arguments.quick else None)
    command = _command(arguments, overrides)
    plan = ProfilePlan(config, grid, seeds, command, cuts)
    log = output.with_name(f"{output.stem}.runs.jsonl")
    cores = os.cpu_count() or 1 if isinstance(config.engine, LocalEngine) else None
    section = with_workers(config.engine, arguments.workers or cores)
    with opened(section, ["cutlayer.profiling.measure"]) as engine:
        profile = measure_profile(plan, log, engine)
    write_text(output, profile_text(profile))
    console = Console(file=sys.stdout)
    console.print(profile_table(profile))
    for table in device_part_tables(profile):
        console.print(table)
    for line in fit_lines(profile):
        print(line)
    print(output)
    return 0


def _refuse_codec(overrides: Mapping[str, str]) -> None:
    for key in overrides:
        if key.partition(".")[0] == "codec":
            raise ConfigError(
                f"--{key.replace('_', '-')}: a profile goes through the codecs itself; leave it"
                " out, or choose with --keep-ratios and --bits"
            )


def _command(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> str:
    """What decides the profile, as typed; not where it goes nor in how many processes."""
    words = ["cutlayer", "profile"]
    words += [] if arguments.config is None else [str(arguments.config)]
    for key, value in overrides.items():
        words += [f"--{key.replace('_', '-')}", value]
    for key in ("keep_ratios", "bits", "cuts"):
        numbers = getattr(arguments, key)
        words += [] if numbers is None else [f"--{key.replace('_', '-')}", _listed(numbers)]
    words += [] if arguments.seeds is None else ["--seeds", str(arguments.seeds)]
    words += ["--quick"] if arguments.quick else []
    return shlex.join(words)


def _listed(numbers: Iterable[float]) -> str:
    return ",".join(str(number) for number in numbers)


# `cutlayer bench-device`: what this machine reaches when it trains, into a file for plans.
#
# Knows the command's arguments and what it prints; measuring is `profiling`'s.


_FAMILIES: tuple[Family, ...] = get_args(Family)


def bench_device_arguments(parser: argparse.ArgumentParser) -> None:
    """What is measured, on which device, and where it goes."""
    parser.add_argument(
        "--device",
        default="auto",
        help="auto (cuda, else mps, else cpu), cpu, cuda, cuda:0, ... or mps (auto)",
    )
    parser.add_argument(
        "--families",
        default=",".join(_FAMILIES),
        metavar="F,F,...",
        help=f"whose blocks: {', '.join(_FAMILIES)} (all)",
    )
    parser.add_argument(
        "--bases",
        metavar="B,B,...",
        help=f"numbers of the frozen weights: {', '.join(Base)} (all that this machine has)",
    )
    parser.add_argument(
        "--width", type=whole_number, help="of the blocks, a multiple of 64 (384; decoder: 576)"
    )
    parser.add_argument("--tokens", type=whole_number, help="of a sample (257, 128, 256)")
    parser.add_argument("--samples", type=whole_number, help="of a mini-batch (16; decoder: 4)")
    parser.add_argument("--threads", type=whole_number, help="torch threads (torch's choice)")
    parser.add_argument(
        "--name", default=platform.node() or "machine", help="what plans call it (the host's name)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("machine.yaml"),
        metavar="FILE.yaml",
        help="the profile, which devices.profile and server.profile take (machine.yaml)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="small mini-batches, in seconds: rough numbers"
    )


def run_bench_device(arguments: argparse.Namespace) -> int:
    """Measure, print, write. Raises CutlayerError."""
    output: Path = arguments.output
    families = _chosen("--families", arguments.families, _FAMILIES)
    given = arguments.bases
    bases = None if given is None else _chosen("--bases", given, tuple(map(str, Base)))
    check_file(output)
    check_machine_name(arguments.name, "--name")
    with loading("`cutlayer bench-device`", "train"):
        import torch

        from cutlayer.files import write_text
        from cutlayer.model.placement import Accelerators, device_named
        from cutlayer.profiling.machine import (
            QUICK,
            QUICK_SHAPES,
            SHAPES,
            BenchEffort,
            bases_here,
            bench_machine,
            machine_lines,
        )
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    device = device_named(arguments.device, "--device", Accelerators.seen())
    here = bases_here()
    wanted = here if bases is None else tuple(map(Base, bases))
    for base in wanted:
        if base not in here:
            raise ConfigError(
                f"--bases {base.value}: this machine has {', '.join(here)};"
                " pip install 'cutlayer[quant]' brings int8 and nf4"
            )
    own = {
        key: value
        for key in ("width", "tokens", "samples")
        if (value := getattr(arguments, key)) is not None
    }
    usual = QUICK_SHAPES if arguments.quick else SHAPES
    shapes = [replace(usual[family], **own) for family in _FAMILIES if family in families]
    effort = QUICK if arguments.quick else BenchEffort()
    profile = bench_machine(
        arguments.name, _bench_command(arguments), device, shapes, wanted, effort
    )
    write_text(output, machine_text(profile))
    for line in machine_lines(profile):
        print(line)
    print(output)
    return 0


def _chosen(option: str, text: str, known: tuple[str, ...]) -> list[str]:
    """Names with commas between, each once. Raises ConfigError for an unknown one."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in known:
            raise ConfigError(f"{option} {name!r}: {nearest(name, list(known))}")
    return names


def _bench_command(arguments: argparse.Namespace) -> str:
    """What decides the numbers, as typed."""
    words = ["cutlayer", "bench-device", "--device", arguments.device]
    words += ["--families", arguments.families]
    for key in ("bases", "width", "tokens", "samples", "threads"):
        value = getattr(arguments, key)
        words += [] if value is None else [f"--{key}", str(value)]
    return shlex.join([*words, *(["--quick"] if arguments.quick else [])])
