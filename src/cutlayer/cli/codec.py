"""`cutlayer codec`: what the presets do to real tensors, what is in a packet, and a round trip.

Knows the command's arguments and what it prints; measuring is `codec.measure`.
"""

import argparse
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from rich import box
from rich.console import Console
from rich.table import Table

from cutlayer.cli.settings import add_settings, given_settings, status_line, whole_number
from cutlayer.codec.codec import EMPTY, Codec
from cutlayer.codec.measure import Measurement, bits_per_element, measure
from cutlayer.codec.packet import VERSION, RawPacket, read_packet
from cutlayer.codec.presets import PRESETS, codec_pair
from cutlayer.codec.staged import ENTROPY_CODERS, QUANTISERS, SCOPES, TRANSFORMS
from cutlayer.config.read import read_config
from cutlayer.errors import ConfigError, DataError, PacketError, needing

_LOG = logging.getLogger(__name__)

Named = tuple[str, Float32[np.ndarray, "..."]]
# what safetensors calls the types that become float32; BF16 is the upper half of a float32
_FLOATS = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "BF16": "<u2"}

_SETTINGS = (
    "model.name",
    "model.cut",
    "data.name",
    "data.task",
    "data.format",
    "data.chat_template",
    "data.packing",
    "data.image_size",
    "data.max_tokens",
    "data.text_field",
    "data.label_field",
    "training.batch_size",
    "codec.name",
    "codec.options",
    "seed",
    "threads",
)
_ONE_DEVICE = {"devices.count": "1", "partition": "iid"}
_ACTIONS = ("bench", "inspect", "roundtrip")
_PLAIN_COLUMNS = 120
# a packet's shape is only what it claims: larger ones are not decoded to see whether they can be
MOST_ELEMENTS = 2**27
_STAGES = 5


def codec_arguments(parser: argparse.ArgumentParser) -> None:
    """The three actions and what each takes."""
    parser.set_defaults(act=_no_action)
    actions = parser.add_subparsers(metavar="|".join(_ACTIONS))
    _add_bench(
        _action(actions, "bench", "every preset on a model's tensors at the cut layer", _bench)
    )
    inspect = _action(actions, "inspect", "the contents of a packet, section by section", _inspect)
    inspect.add_argument("file", nargs="?", type=Path, metavar="FILE", help="a packet, as sent")
    _add_roundtrip(_action(actions, "roundtrip", "a tensor through a codec and back", _roundtrip))


def run_codec(arguments: argparse.Namespace) -> int:
    """Carry the action out. Raises CutlayerError."""
    action: Callable[[argparse.Namespace], None] = arguments.act
    action(arguments)
    return 0


def _no_action(arguments: argparse.Namespace) -> None:
    raise ConfigError(f"codec: what of it? {', '.join(_ACTIONS)}; see `--help`")


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
    with needing("`cutlayer codec bench`", "train"):
        from cutlayer.jobs.codec_bench import bench_rows
    with status_line():
        source, rows = bench_rows(config, arguments.warm_steps, arguments.packets)
    head = ("codec", "tensor", "bits", "ratio", "encode", "decode", "error", "cosine", "gradient")
    _print_table(source, head, rows)
    print("bits: per element, of the last packet; encode, decode: MB/s of float32 on one core;")
    print("error: ||x - y|| / ||x||; gradient: cosine of the adapter's gradient on the other side")


def _file(arguments: argparse.Namespace, what: str) -> Path:
    path: Path | None = arguments.file
    if path is None:
        raise ConfigError(f"codec: which file? give {what}")
    return path


def _inspect(arguments: argparse.Namespace) -> None:
    data = _file(arguments, "a packet").read_bytes()
    frame = read_packet(data)
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


def describe_packet(data: bytes, frame: RawPacket) -> Iterator[str]:
    """Lines for `data`, which `packet.read` has made `frame` of."""
    elements = math.prod(frame.shape)
    yield f"kind      {frame.kind}, version {VERSION}, checksum right"
    yield f"tensor    float32, {' x '.join(map(str, frame.shape)) or 'scalar'}"
    bits = f", {bits_per_element(len(data), elements):.3f} bits an element" if elements else ""
    yield f"bytes     {len(data)}{bits}"
    if "stages" in frame.sections:
        yield f"stages    {_stages(frame.sections['stages'])}"
    yield f"decodes   {_decodes(data, frame, elements)}"
    yield from _sections(data, frame.sections)
    if "inner" in frame.sections:
        inner = frame.sections["inner"]
        yield from (f"  {line}" for line in describe_packet(inner, read_packet(inner)))


def _sections(data: bytes, sections: Mapping[str, bytes]) -> Iterator[str]:
    sizes = {name: len(section) for name, section in sections.items()}
    sizes["frame"] = len(data) - sum(sizes.values())
    width = max(len(name) for name in sizes)
    yield "sections  bytes"
    for name, size in sizes.items():
        yield f"  {name:<{width}} {size:>10}  {100 * size / len(data):5.1f} %"


def _stages(stages: bytes) -> str:
    """The five bytes in words, `?` for one that no version made."""
    if len(stages) != _STAGES:
        return f"{len(stages)} bytes, expected {_STAGES}"
    centre, transform, scope, quantiser, entropy = stages
    words = ["centred"] if centre else []
    named: dict[int, str] = {number: kind.__name__ for kind, number in TRANSFORMS.items() if kind}
    if transform:
        words.append(named.get(transform, "?"))
    if scope:
        scopes = {number: name for name, number in SCOPES.items()}
        words.append(f"Top-K by {scopes.get(scope, '?')}")
    words.append({n: kind.__name__ for kind, n in QUANTISERS.items()}.get(quantiser, "?"))
    words.append({n: kind.__name__ for kind, n in ENTROPY_CODERS.items()}.get(entropy, "?"))
    return " -> ".join(words)


def _decodes(data: bytes, frame: RawPacket, elements: int) -> str:
    """Which preset decodes it by itself, or what the one of its stages says to it."""
    if frame.kind == "adapter":
        return "with the shapes of its row's tensors, for whoever has the row that it changes"
    if elements > MOST_ELEMENTS:
        return f"not tried: it claims {elements} elements"
    for name in PRESETS:
        pair = codec_pair(name)
        for codec in (pair.up, pair.down):
            if not _same_stages(codec, frame):
                continue
            try:
                codec.decode(data, frame.shape, EMPTY)
            except PacketError as error:
                return f"not by itself, codec {name}: {error}"
            return f"yes, codec {name}"
    return "by none of the presets"


def _same_stages(codec: Codec, frame: RawPacket) -> bool:
    sample = codec.encode(np.zeros(1, dtype=np.float32), EMPTY, np.random.default_rng(0))
    own = read_packet(sample.packet)
    return (own.kind, own.sections.get("stages")) == (frame.kind, frame.sections.get("stages"))


def read_tensors(path: Path) -> list[Named]:
    """Every tensor of the file by name, as float32; what was converted or left out is logged.

    Nothing is ever unpickled.

    Raises DataError: neither kind of file, unreadable, empty, or without floating-point numbers.
    OSError: not there.
    """
    match path.suffix:
        case ".npy":
            return [_npy(path)]
        case ".safetensors":
            return _safetensors(path)
        case suffix:
            raise DataError(f"{path}: a file {suffix or 'without suffix'}; give .npy, .safetensors")


def _npy(path: Path) -> Named:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        if "pickle" in str(error).lower():
            raise DataError(
                f"{path}: holds Python objects, or is no .npy file; objects are never unpickled"
            ) from error
        raise DataError(f"{path}: not a .npy file: {error}") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: an archive of arrays; give one of its .npy files")
    return path.stem, _float32(array, path.name, str(path))


def _safetensors(path: Path) -> list[Named]:
    with needing(str(path), "train"):
        import safetensors
    library: Any = safetensors  # untyped
    try:
        entries = library.deserialize(path.read_bytes())
    except library.SafetensorError as error:
        raise DataError(f"{path}: not a .safetensors file: {error}") from error
    tensors = [named for name, entry in entries for named in _floats(path, name, entry)]
    if not tensors:
        raise DataError(f"{path}: no tensor of floating-point numbers")
    return tensors


def _floats(path: Path, name: str, entry: Mapping[str, Any]) -> Iterator[Named]:
    """The tensor, unless it is empty or of another kind of numbers."""
    kind, shape = str(entry["dtype"]), entry["shape"]
    if kind not in _FLOATS or 0 in shape:
        _LOG.info(f"{path.name}: {name}: {kind} of shape {list(shape)} left out")
        return
    array = np.frombuffer(bytes(entry["data"]), dtype=_FLOATS[kind]).reshape(shape)
    if kind == "BF16":
        _LOG.info(f"{path.name}: {name}: converted from bfloat16 to float32")
        array = (array.astype(np.uint32) << 16).view(np.float32)
    yield name, _float32(array, f"{path.name}: {name}", f"{path}, {name}")


def _float32(array: np.ndarray, name: str, where: str) -> Float32[np.ndarray, "..."]:
    """Converted with a word. Raises DataError: not floating-point, or empty."""
    if array.dtype.kind != "f":
        raise DataError(f"{where}: {array.dtype} values; convert them to float32 first")
    if array.size == 0:
        raise DataError(f"{where}: an empty array of shape {array.shape}")
    if array.dtype != np.float32:
        _LOG.info(f"{name}: converted from {array.dtype} to float32")
    # beyond float32's range becomes infinity, which every codec refuses by name
    with np.errstate(over="ignore"):
        return np.asarray(array, dtype=np.float32, order="C")
