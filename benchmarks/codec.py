"""The codec beside its peers: bytes, speed, error, gradient cosine, in one run on one machine.

    python benchmarks/codec.py [--quick] [--json FILE] [--picture FILE]

See README.md here for what each figure answers. Needs `pip install '.[bench]'`.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from contenders import Contender, Ours, Row, Theirs, row_of, with_one_yardstick
from line_up import all_peers
from rich.console import Console
from rich.table import Table
from speed import Repeats
from tensors import Stream, real_streams, speed_stream

from cutlayer.codec.codec import Codec
from cutlayer.codec.kernels.load import load
from cutlayer.codec.presets import PRESETS, codec_pair
from cutlayer.codec.staged import StagedCodec
from cutlayer.config.probe import probe
from cutlayer.config.schema import Config
from cutlayer.errors import CutlayerError
from cutlayer.units import format_bytes


@dataclass(frozen=True)
class Extent:
    """How much is measured: the whole, or what ends within a minute."""

    speed_shape: tuple[int, int, int]
    batch: int
    warm_steps: int
    kept_steps: int
    speed: Repeats
    real: Repeats


FULL = Extent((64, 197, 768), 64, 8, 6, Repeats(9, 6.0), Repeats(5, 2.0))
QUICK = Extent((24, 197, 768), 16, 4, 8, Repeats(3, 0.3), Repeats(2, 0.1))


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, write. Exit code 2 for what a user can mend."""
    arguments = _parser().parse_args(words)
    torch.set_num_threads(1)
    console = Console(stderr=True)
    started = time.perf_counter()
    try:
        rows, about = _measured(arguments, console)
    except CutlayerError as error:
        print(f"benchmarks/codec.py: {error}", file=sys.stderr)
        return 2
    about["wall_s"] = round(time.perf_counter() - started, 1)
    _print(rows, about)
    if arguments.json:
        text = json.dumps({"about": about, "figures": _by_name(rows)}, indent=1)
        arguments.json.write_text(text + "\n", encoding="utf-8")
    if arguments.picture:
        from picture import draw

        draw(rows, about, arguments.picture)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller and fewer: within 60 s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure by name")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw FILE as PNG and SVG")
    parser.add_argument("--model", default="dinov2-small", help="as `cutlayer train --model`")
    parser.add_argument("--data", default="fashion-mnist", help="as `cutlayer train --data`")
    parser.add_argument("--cut", type=int, default=3, help="blocks on the device (3)")
    parser.add_argument("--image-size", type=int, default=56, help="[px] (56)")
    parser.add_argument(
        "--speed-file", type=Path, metavar="NPY", help="tile this tensor for the speed table"
    )
    parser.add_argument("--only", metavar="WORD", help="contenders whose name has this word")
    return parser


def _measured(
    arguments: argparse.Namespace, console: Console
) -> tuple[list[Row], dict[str, object]]:
    extent = QUICK if arguments.quick else FULL
    contenders = [
        contender
        for contender in all_contenders()
        if arguments.only is None or arguments.only in contender.name
    ]
    with console.status("tensors") as status:
        speed = speed_stream(extent.speed_shape, arguments.speed_file)
        made = probe(_config(arguments, extent), extent.warm_steps, extent.kept_steps)
        streams = (speed, *real_streams(made))
        rows = []
        for stream in streams:
            own = []
            for contender in contenders:
                if contender.threads > 1 and stream is not speed:
                    continue
                status.update(f"{stream.name}: {contender.name}")
                repeats = extent.speed if stream is speed else extent.real
                own.append(row_of(contender, stream, repeats))
            rows += with_one_yardstick(own)
    return rows, _about(arguments, streams)


def all_contenders() -> list[Contender]:
    """Every preset with one thread and with two, then every peer."""
    presets = [(name, threads) for name in PRESETS for threads in (1, 2)]
    return [*(_ours(*preset) for preset in presets), *(Theirs(peer) for peer in all_peers())]


def _ours(name: str, threads: int) -> Ours:
    pair = codec_pair(name)
    return Ours(name, _threaded(pair.up, threads), _threaded(pair.down, threads), threads)


def _threaded(codec: Codec, threads: int) -> Codec:
    return replace(codec, kernels=load(threads)) if isinstance(codec, StagedCodec) else codec


def _config(arguments: argparse.Namespace, extent: Extent) -> Config:
    return Config.model_validate(
        {
            "model": {"name": arguments.model, "cut": arguments.cut},
            "data": {"name": arguments.data, "image_size": arguments.image_size},
            "training": {"batch_size": extent.batch},
            "partition": "iid",
            "devices": {"count": 1},
            "threads": 1,
        }
    )


def _about(arguments: argparse.Namespace, streams: Sequence[Stream]) -> dict[str, object]:
    return {
        "quick": arguments.quick,
        "machine": _processor(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "streams": {
            stream.name: {"shape": list(stream.tensors[-1].shape), "source": stream.source}
            for stream in streams
        },
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo")
    if lines.exists():
        for line in lines.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _by_name(rows: Sequence[Row]) -> dict[str, dict[str, object]]:
    """Each row under `stream/name/threads`."""
    return {f"{row.stream}/{row.name}/{row.threads}": asdict(row) for row in rows}


def _print(rows: Sequence[Row], about: dict[str, object]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 150)
    streams = about["streams"]
    assert isinstance(streams, dict)
    for stream, what in streams.items():
        shape = " x ".join(map(str, what["shape"]))
        console.print(_table(f"{stream}: {shape}, {what['source']}", rows, stream))
    console.print(f"{about['machine']}; {about['wall_s']} s", highlight=False)


def _table(title: str, rows: Sequence[Row], stream: str) -> Table:
    judged = any(row.gradient_cosine is not None for row in rows if row.stream == stream)
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    heads = ["threads", "bits", "ratio", "basis", "enc x", "dec x", "enc MB/s", "dec MB/s"]
    for head in [*heads, "error", "cosine", *(["gradient cos"] if judged else [])]:
        table.add_column(head, justify="right")
    for row in rows:
        if row.stream == stream:
            table.add_row(*_cells(row, judged), style="bold" if row.ours else "")
    return table


def _cells(row: Row, judged: bool) -> list[str]:
    cells = [
        row.name,
        str(row.threads),
        f"{row.bits:.3f}",
        f"{row.ratio:.1f}",
        format_bytes(row.learned_bytes) if row.learned_bytes else "",
        f"{row.encode_copies:.1f}",
        f"{row.decode_copies:.1f}",
        f"{row.encode_mb_s:.0f}",
        f"{row.decode_mb_s:.0f}",
        f"{row.error:.4f}",
        f"{row.cosine:.4f}",
    ]
    return [*cells, f"{row.gradient_cosine:.4f}"] if judged else cells


def _with_one_thread() -> None:
    """Start again with one thread in every library, unless the environment says how many: they read
    it when they are imported."""
    if "OMP_NUM_THREADS" not in os.environ:
        one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **one})


if __name__ == "__main__":
    _with_one_thread()
    sys.exit(main())
