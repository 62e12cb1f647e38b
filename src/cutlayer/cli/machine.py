"""`cutlayer bench-device`: what this machine reaches when it trains, into a file for plans.

Knows the command's arguments and what it prints; measuring is `profiling`'s.
"""

import argparse
import platform
import shlex
from dataclasses import replace
from pathlib import Path
from typing import get_args

from cutlayer.cli.settings import whole_number
from cutlayer.errors import ConfigError, nearest
from cutlayer.jobs.check import check_file
from cutlayer.logs import loading
from cutlayer.planner.machine import Family, check_machine_name, machine_text
from cutlayer.spec import Base

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
    profile = bench_machine(arguments.name, _command(arguments), device, shapes, wanted, effort)
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


def _command(arguments: argparse.Namespace) -> str:
    """What decides the numbers, as typed."""
    words = ["cutlayer", "bench-device", "--device", arguments.device]
    words += ["--families", arguments.families]
    for key in ("bases", "width", "tokens", "samples", "threads"):
        value = getattr(arguments, key)
        words += [] if value is None else [f"--{key}", str(value)]
    return shlex.join([*words, *(["--quick"] if arguments.quick else [])])
