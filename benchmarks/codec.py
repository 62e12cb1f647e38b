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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import matplotlib
import numpy as np
import torch
from codec_measure import (
    Contender,
    Ours,
    Repeats,
    Row,
    Stream,
    Theirs,
    real_streams,
    row_of,
    speed_stream,
    with_one_yardstick,
)
from codec_peers import all_peers
from matplotlib import pyplot
from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Table

from cutlayer.codec.codec import Codec
from cutlayer.codec.kernels.native import load_kernels
from cutlayer.codec.presets import PRESETS, best, codec_pair
from cutlayer.codec.staged import StagedCodec
from cutlayer.config.schema import Config
from cutlayer.errors import CutlayerError
from cutlayer.jobs.codec_bench import probe
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


# of the default job: samples a mini-batch, packets of a stream
JOB_BATCH, JOB_PACKETS = 16, 50
FULL = Extent((64, 197, 768), 64, 8, 6, Repeats(9, 6.0), Repeats(5, 2.0))
QUICK = Extent((24, 197, 768), 16, 4, 8, Repeats(3, 0.3), Repeats(2, 0.1))


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, write. Exit code 2 for what a user can correct."""
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
        streams = (speed, *real_streams(made, JOB_BATCH))
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
    # how long a stream is decides what is learned on the way
    pair = best(packets=JOB_PACKETS) if name == "best" else codec_pair(name)
    return Ours(name, _threaded(pair.up, threads), _threaded(pair.down, threads), threads)


def _threaded(codec: Codec, threads: int) -> Codec:
    return (
        replace(codec, kernels=load_kernels(threads)) if isinstance(codec, StagedCodec) else codec
    )


def _config(arguments: argparse.Namespace, extent: Extent) -> Config:
    return Config.model_validate(
        {
            "scheme": "sft",
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


_OURS, _THEIRS = "#0b6e4f", "#5b6770"
Box = tuple[float, float, float, float]


_FLOOR = 1e-6
# where a label may go around its point [points], the nearest places first
_PLACES = tuple(
    (radius * x, radius * y)
    for radius in (9, 15, 22, 30, 40)
    for x, y in (
        (1, 0),
        (0, 1),
        (0, -1),
        (-1, 0),
        (0.8, 0.8),
        (0.8, -0.8),
        (-0.8, 0.8),
        (-0.8, -0.8),
    )
)


def draw(rows: Sequence[Row], about: dict[str, object], path: Path) -> None:
    """Write PATH as PNG and SVG: what a bit buys, and what it costs in time.

    Left, gradient cosine against bits per element for what goes up and what comes down; right,
    encode and decode time over memcpy's.
    """
    matplotlib.use("Agg")
    pyplot.rcParams.update({"font.size": 9, "svg.fonttype": "none", "axes.spines.top": False})
    figure = pyplot.figure(figsize=(14, 10.5), layout="constrained")
    left, right = np.asarray(figure.subfigures(1, 2, width_ratios=(1.1, 1)))
    peers = list(dict.fromkeys(row.name for row in rows if not row.ours))
    names = {row.name: row.name for row in rows if row.ours}
    names |= {name: str(number) for number, name in enumerate(peers, 1)}
    axes = left.subplots(2, 1)
    _bars(right.subplots(), [row for row in rows if row.stream == "speed"], names)
    for own, stream, title in zip(
        axes, ("activation", "gradient"), ("activations up", "gradients down"), strict=True
    ):
        _scatter(own, [row for row in rows if row.stream == stream], title)
    figure.suptitle(_title(about), fontsize=11)
    # labels go where they are free, which is known only when all else has its place
    figure.canvas.draw()
    figure.set_layout_engine("none")
    for own, stream in zip(axes, ("activation", "gradient"), strict=True):
        _label(own, [row for row in rows if row.stream == stream], names)
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=110)
    pyplot.close(figure)


def _title(about: dict[str, object]) -> str:
    quick = ", --quick" if about["quick"] else ""
    return f"cutlayer's codecs (green) and their peers (grey, numbered){quick}: {about['machine']}"


def _loss(row: Row) -> float:
    """1 - cosine, so that good ones are told apart; exact ones lie at the top."""
    assert row.gradient_cosine is not None
    return max(1.0 - row.gradient_cosine, _FLOOR)


def _scatter(axes: Axes, rows: Sequence[Row], title: str) -> None:
    for row in rows:
        axes.plot(row.bits, _loss(row), "o", color=_OURS if row.ours else _THEIRS, markersize=5)
    axes.set(xscale="log", yscale="log", title=title)
    axes.set(
        xlabel="bits per element", ylabel="1 - cosine of the adapter's gradient (less: better)"
    )
    axes.invert_yaxis()
    axes.margins(x=0.12, y=0.12)
    ticks = (0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32)
    low, high = axes.get_xlim()
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(low, high)
    powers = range(-6, 1)
    axes.set_yticks([10.0**p for p in powers], ["exact", *(f"{10.0**p:g}" for p in powers[1:])])
    axes.grid(alpha=0.25)


def _label(axes: Axes, rows: Sequence[Row], names: Mapping[str, str]) -> None:
    """Each point's name at the first free place around it, ours first."""
    figure = axes.get_figure()
    assert figure is not None
    scale = figure.dpi / 72
    points = [axes.transData.transform((row.bits, _loss(row))) for row in rows]
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    order = sorted(range(len(rows)), key=lambda place: not rows[place].ours)
    for place in order:
        row, (x, y) = rows[place], points[place]
        half = (2.6 * len(names[row.name]) + 1) * scale
        for right, up in _PLACES:
            # a label's middle is as far from its point as its half width asks for
            middle = x + right * scale + half * ((right > 0) - (right < 0)), y + up * scale
            box = middle[0] - half, middle[1] - 5 * scale, middle[0] + half, middle[1] + 5 * scale
            if not any(_overlap(box, other) for other in taken):
                break
        taken.append(box)
        colour = _OURS if row.ours else _THEIRS
        axes.annotate(
            names[row.name],
            (row.bits, _loss(row)),
            xytext=((middle[0] - x) / scale, (middle[1] - y) / scale),
            textcoords="offset points",
            ha="center",
            va="center",
            color=colour,
            fontsize=8,
            fontweight="bold" if row.ours else "normal",
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.4, "shrinkA": 1, "shrinkB": 1},
        )


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _bars(axes: Axes, rows: Sequence[Row], names: Mapping[str, str]) -> None:
    places = range(len(rows))
    for offset, field, shade in ((-0.2, "encode_copies", 1.0), (0.2, "decode_copies", 0.5)):
        axes.barh(
            [place + offset for place in places],
            [getattr(row, field) for row in rows],
            height=0.38,
            color=[_OURS if row.ours else _THEIRS for row in rows],
            alpha=shade,
        )
    for place, row in zip(places, rows, strict=True):
        most = max(row.encode_copies, row.decode_copies)
        text = f"{row.encode_copies:.0f} / {row.decode_copies:.0f}"
        axes.text(most * 1.06, place, text, va="center", fontsize=8)
    axes.set_yticks(list(places), [_bar_name(row, names) for row in rows])
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="time over memcpy's of the same tensor (less: better)")
    axes.set_title("speed: encode (solid) / decode (pale)")
    axes.grid(axis="x", alpha=0.25)
    axes.margins(x=0.25, y=0.01)


def _bar_name(row: Row, names: Mapping[str, str]) -> str:
    short = row.name.replace(", paper's symbols", " (symbols)").replace(" (bitshuffle, zstd-1)", "")
    if row.ours:
        return f"{short}, {row.threads} threads" if row.threads > 1 else short
    return f"{short}  {names[row.name]}"


if __name__ == "__main__":
    _with_one_thread()
    sys.exit(main())
