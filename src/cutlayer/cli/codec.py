"""`cutlayer codec`: what the presets do to real tensors, what is in a packet, and a round trip.

Knows the command's arguments and what it prints; measuring is `codec.measure`.
"""

import argparse
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from cutlayer.cli.options import whole_number
from cutlayer.cli.packet_text import describe_packet
from cutlayer.cli.settings import add_settings, given_settings
from cutlayer.cli.tensor_files import read_tensors
from cutlayer.codec.codec import Codec
from cutlayer.codec.measure import Measurement, measure
from cutlayer.codec.packet import read
from cutlayer.codec.presets import PRESETS, codec_pair
from cutlayer.config.read import read_config
from cutlayer.errors import ConfigError
from cutlayer.logs import lines_to, unheard

_SETTINGS = (
    "model.name",
    "model.cut",
    "data.name",
    "data.task",
    "data.image_size",
    "data.max_tokens",
    "data.text_field",
    "data.label_field",
    "training.batch_size",
    "seed",
    "threads",
)
_ONE_DEVICE = {"devices.count": "1", "partition": "iid"}
_ACTIONS = ("bench", "inspect", "roundtrip")
_PLAIN_COLUMNS = 120


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The three actions and what each takes."""
    parser.set_defaults(act=_no_action)
    actions = parser.add_subparsers(metavar="|".join(_ACTIONS))
    _add_bench(_action(actions, "bench", "every preset on a model's tensors at the cut", _bench))
    inspect = _action(actions, "inspect", "what a packet holds, section by section", _inspect)
    inspect.add_argument("file", nargs="?", type=Path, metavar="FILE", help="a packet, as sent")
    _add_roundtrip(_action(actions, "roundtrip", "a tensor through a codec and back", _roundtrip))


def run(arguments: argparse.Namespace) -> int:
    """Carry the action out. Raises CutlayerError."""
    action: Callable[[argparse.Namespace], None] = arguments.act
    action(arguments)
    return 0


def _action(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    what: str,
    act: Callable[[argparse.Namespace], None],
) -> argparse.ArgumentParser:
    parser = actions.add_parser(
        name, help=what, description=what, allow_abbrev=False, exit_on_error=False
    )
    parser.set_defaults(act=act)
    return parser


def _add_bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--warm-steps",
        type=whole_number,
        default=4,
        help="local steps to train before measuring (4)",
    )
    parser.add_argument(
        "--packets",
        type=whole_number,
        default=8,
        help="packets to send, the last of which is measured: a codec that learns needs some (8)",
    )
    add_settings(parser, _SETTINGS)


def _add_roundtrip(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        metavar="FILE",
        help="a .npy, or the tensors of a .safetensors file",
    )
    parser.add_argument(
        "--codec",
        choices=list(PRESETS),
        default="paper-rans",
        help="all but none are lossy (paper-rans: paper's values, in fewer bytes)",
    )
    parser.add_argument(
        "--direction",
        choices=("up", "down"),
        default="up",
        help="the preset's codec for activations (up) or for gradients (down)",
    )
    parser.add_argument(
        "--packets",
        type=whole_number,
        default=1,
        help="how often each tensor is sent; the last packet counts (1)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of a stochastic codec (0)")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PACKET",
        help="write the packet; of a file with several tensors, a folder of packets",
    )


def _bench(arguments: argparse.Namespace) -> None:
    config = read_config(None, {**_ONE_DEVICE, **given_settings(arguments)})
    try:
        from cutlayer.cli.codec_bench import bench_rows
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"`cutlayer codec bench` needs {error.name}: pip install 'cutlayer[train]'"
        ) from error
    notes = Console(stderr=True)
    with (
        notes.status("") as status,
        lines_to(status.update) if notes.is_terminal else unheard(),
    ):
        source, rows = bench_rows(config, arguments.warm_steps, arguments.packets)
    head = ("codec", "tensor", "bits", "ratio", "encode", "decode", "error", "cosine", "gradient")
    _print_table(source, head, rows)
    print("bits: per element, of the last packet; encode, decode: MB/s of float32 on one core;")
    print("error: ||x - y|| / ||x||; gradient: cosine of the adapter's gradient on the other side")


def _no_action(arguments: argparse.Namespace) -> None:
    raise ConfigError(f"codec: what of it? {', '.join(_ACTIONS)}; see `--help`")


def _file(arguments: argparse.Namespace, what: str) -> Path:
    path: Path | None = arguments.file
    if path is None:
        raise ConfigError(f"codec: which file? give {what}")
    return path


def _inspect(arguments: argparse.Namespace) -> None:
    data = _file(arguments, "a packet").read_bytes()
    frame = read(data)
    print("\n".join(describe_packet(data, frame)))


def _roundtrip(arguments: argparse.Namespace) -> None:
    pair = codec_pair(arguments.codec)
    codec: Codec = pair.up if arguments.direction == "up" else pair.down
    path = _file(arguments, "a .npy or .safetensors file")
    tensors = read_tensors(path)
    rows = []
    for name, tensor in tensors:
        done = measure(codec, [tensor] * arguments.packets, arguments.seed, time.perf_counter)
        rows.append(_roundtrip_row(name, tensor.shape, done))
        if arguments.output is not None:
            _write(arguments.output, name, done.packet, alone=path.suffix == ".npy")
    head = ("tensor", "shape", "bytes", "bits", "ratio", "error", "cosine")
    _print_table(f"codec {arguments.codec}, {arguments.direction}", head, rows)


def _roundtrip_row(name: str, shape: tuple[int, ...], done: Measurement) -> tuple[str, ...]:
    return (
        name,
        " x ".join(map(str, shape)) or "scalar",
        str(len(done.packet)),
        f"{done.bits:.3f}",
        f"{done.ratio:.1f}",
        f"{done.fidelity.error:.4g}",
        f"{done.fidelity.cosine:.6f}",
    )


def _write(output: Path, name: str, packet: bytes, *, alone: bool) -> None:
    if alone:
        output.write_bytes(packet)
        return
    output.mkdir(parents=True, exist_ok=True)
    (output / f"{name.replace('/', '_')}.packet").write_bytes(packet)


def _print_table(title: str, head: Iterable[str], rows: Iterable[tuple[str, ...]]) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, _PLAIN_COLUMNS)
    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
    for place, column in enumerate(head):
        table.add_column(column, justify="left" if place == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)
