"""The fuzz campaign: hostile packets at every preset's decoder, C loops under sanitizers.

    python tests/codec/fuzz.py --packets 1000000

Builds the C file with the address and the undefined-behaviour sanitizer, runs itself again with
that library, and reports for each preset: packets, refusals, decodes that passed (only packets that
were signed again may), the slowest packet, the largest allocation. Then encodes random matrices,
one for each thousand packets, which must give numpy's bytes. Ends with code 1 where a goal was
missed; the packet that brought a process down is left in a file. Linux and gcc.
"""

import argparse
import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from codec.ends import any_symbols, correlated
from codec.hostile import damaged, forged
from cutlayer.codec.codec import EMPTY, Codec, CodecState, Decoded
from cutlayer.codec.kernels.kernels import Kernels
from cutlayer.codec.kernels.native import Native, load_kernels
from cutlayer.codec.kernels.portable import Portable
from cutlayer.codec.presets import PRESETS, best, codec_pair
from cutlayer.codec.quantisers import TargetBits
from cutlayer.codec.references import References
from cutlayer.codec.staged import StagedCodec
from cutlayer.codec.two_way import TwoWay
from cutlayer.errors import PacketError

SOURCE = Path(__file__).parents[2] / "src" / "cutlayer" / "codec" / "kernels" / "_native.c"
FLAGS = ("-O1", "-g", "-std=c99", "-shared", "-fPIC", "-ffp-contract=off")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# the intrinsics are what users run; the plain form is what all else compiles to
BUILDS = {"intrinsics": "-DCUTLAYER_NO_CLONES", "plain": "-DCUTLAYER_PLAIN"}
SLOWEST_S = 0.05
# beyond twice the tensor: a decoder's tables, a learned basis, the traceback of an error
SPARE_BYTES = 2**20
SIGNED_SHARE = 0.6
PACKETS_TO_LEARN = 24
TRACED = 16  # one packet in so many, since tracing makes a decode several times slower
Shape = tuple[tuple[int, ...], tuple[int, ...] | None]
SHAPES: tuple[Shape, ...] = (
    ((2, 5, 16), None),
    ((3, 4, 8), (4, 1, 0)),
    ((1, 30, 24), (23,)),
    ((7, 9), None),
)


@dataclass(frozen=True, eq=False)
class Victim:
    """A decoder that waits for packets: valid ones, each with the state in which it is due."""

    name: str
    codec: Codec
    shape: tuple[int, ...]
    packets: tuple[tuple[bytes, CodecState], ...]

    @property
    def tensor_bytes(self) -> int:
        """Of the tensor that it expects."""
        return 4 * int(np.prod(self.shape))


@dataclass(frozen=True)
class Report:
    """What became of the packets that one victim was sent.

    `excess_bytes`: the largest allocation [bytes] beyond twice the expected tensor. `holes`: how
    often a decoder did what no packet may make it do; `hole`: the first time, with the packet.
    """

    name: str
    packets: int = 0
    refused: int = 0
    passed: int = 0
    slowest_ms: float = 0.0
    excess_bytes: int = 0
    holes: int = 0
    hole: str = ""

    def merged(self, other: "Report") -> "Report":
        """Both together."""
        return Report(
            self.name,
            self.packets + other.packets,
            self.refused + other.refused,
            self.passed + other.passed,
            max(self.slowest_ms, other.slowest_ms),
            max(self.excess_bytes, other.excess_bytes),
            self.holes + other.holes,
            self.hole or other.hole,
        )

    @property
    def good(self) -> bool:
        """Whether every goal was met."""
        quick = self.slowest_ms < 1e3 * SLOWEST_S
        return quick and self.excess_bytes <= SPARE_BYTES and not self.holes


def victims(kernels: Kernels, shapes: Sequence[Shape] = SHAPES) -> Iterator[Victim]:
    """Every preset, both directions, over small tensors with and without padding."""
    for name in PRESETS:
        pair = codec_pair(name)
        codecs = {"up": pair.up, "down": pair.down}
        if name == "best":
            # more bits, and a stream so long that a basis is worth its bytes
            pair = best(TargetBits(3.0), TargetBits(3.0), packets=1_000_000)
            codecs = {"up": pair.up, "down": pair.down, "references": References(pair.up, 64)}
        for direction, codec in codecs.items():
            if isinstance(codec, StagedCodec):
                codec = replace(codec, kernels=kernels)
            elif isinstance(codec, References):
                codec = replace(codec, inner=replace(codec.inner, kernels=kernels))
            for shape, lengths in shapes:
                yield _victim(f"{name} {direction}", codec, shape, lengths)


def _victim(
    name: str, codec: Codec, shape: tuple[int, ...], lengths: tuple[int, ...] | None
) -> Victim:
    """Packets of a stream: the first ones, and those that carry what was learned."""
    rng = np.random.default_rng(len(name))
    packets: list[tuple[bytes, CodecState]] = []
    sender, receiver = EMPTY, EMPTY
    columns = np.exp(rng.normal(0.0, 1.0, shape[-1]))
    learns = False
    for number in range(PACKETS_TO_LEARN):
        if number >= 3 and not learns:
            break
        # near three directions, so that there is a basis to learn
        tensor = correlated(shape, number, rank=3) * columns.astype(np.float32)
        encoded = codec.encode(tensor, sender, rng, lengths=lengths)
        packets.append((encoded.packet, receiver))
        decoded = codec.decode(encoded.packet, shape, receiver)
        sender, receiver = encoded.state, decoded.state
        learns = any(name.startswith("statistics.") for name in sender)
    # a shipment makes a packet longer: those, and some of the rest
    longest = sorted(packets, key=lambda packet: -len(packet[0]))[:3]
    return Victim(name, codec, shape, (*longest, packets[0], packets[-1]))


def attack(victim: Victim, count: int, rng: np.random.Generator, note: mmap.mmap | None) -> Report:
    """Send `count` hostile packets.

    `note` holds the packet that is being decoded, its length in front: it outlives a crash.
    """
    valid = {packet for packet, _ in victim.packets}
    report = Report(victim.name)
    while report.packets < count:
        original, state = victim.packets[int(rng.integers(len(victim.packets)))]
        other, _ = victim.packets[int(rng.integers(len(victim.packets)))]
        again = bool(rng.random() < SIGNED_SHARE)
        hostile = (forged if again else damaged)(original, other, rng)
        if hostile in valid:
            continue
        if note is not None:
            note[:4] = len(hostile).to_bytes(4, "little")
            note[4 : 4 + len(hostile)] = hostile
        traced = report.packets % TRACED == 0
        report = report.merged(_shot(victim, hostile, state, again, traced))
    return report


def _shot(victim: Victim, packet: bytes, state: CodecState, again: bool, traced: bool) -> Report:
    """One packet. `again`: it was signed again; `traced`: its memory is measured, too."""
    # of this thread, so that a busy machine is not taken for a hang
    start = time.thread_time()
    decoded, hole = _decoded(victim, packet, state)
    taken = time.thread_time() - start
    excess = _peak(victim, packet, state) - 2 * victim.tensor_bytes if traced else 0
    if decoded is not None:
        hole = _wrong(victim, decoded, again)
    if hole:
        hole = f"{victim.name}, {victim.shape}: {hole}: {packet.hex()}"
    return Report(
        victim.name,
        packets=1,
        refused=int(decoded is None),
        passed=int(decoded is not None),
        slowest_ms=1e3 * taken,
        excess_bytes=excess,
        holes=int(bool(hole)),
        hole=hole,
    )


def _decoded(victim: Victim, packet: bytes, state: CodecState) -> tuple[Decoded | None, str]:
    """None for a packet that is refused; what was wrong if not by a PacketError that says why."""
    try:
        return victim.codec.decode(packet, victim.shape, state), ""
    except PacketError as error:
        return None, "" if str(error) else "refused without a word"
    except Exception as error:  # whatever it is, it is a finding
        return None, f"{type(error).__name__}: {error}"


def _peak(victim: Victim, packet: bytes, state: CodecState) -> int:
    """The most memory [bytes] that was held at once while decoding."""
    tracemalloc.start()
    try:
        _decoded(victim, packet, state)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _wrong(victim: Victim, decoded: Decoded, again: bool) -> str:
    """A packet passed: it must have been signed again, and be a tensor such as was asked for."""
    tensor = decoded.tensor
    if not again:
        return "a damaged packet passed"
    if tensor.shape != victim.shape or tensor.dtype != np.float32:
        return f"decoded to {tensor.dtype} of shape {tensor.shape}"
    if not np.isfinite(tensor).all():
        return "decoded to values that are not finite"
    if tensor.ndim == 3:
        for sample, length in zip(tensor, decoded.lengths, strict=True):
            if sample[length:].any():
                return "decoded to padding that is not zero"
    return ""


def campaign(packets: int, seed: int, kernels: Kernels, note: mmap.mmap | None) -> list[Report]:
    """`packets` evenly over all victims; one report for each preset and direction."""
    everyone = list(victims(kernels))
    reports: dict[str, Report] = {}
    for place, victim in enumerate(everyone):
        share = packets * (place + 1) // len(everyone) - packets * place // len(everyone)
        report = attack(victim, share, np.random.default_rng([seed, place]), note)
        reports[victim.name] = report.merged(reports.get(victim.name, Report(victim.name)))
        print(f"  {victim.name} {victim.shape}: {share} packets", file=sys.stderr, flush=True)
    return list(reports.values())


def twins(matrices: int, seed: int, kernels: Kernels) -> int:
    """How many random matrices `kernels` code to other bytes than numpy does, or to none that come
    back: an encoder's loops read only what their own side made, but of any such."""
    rng, differ = np.random.default_rng([seed, 1]), 0
    for _ in range(matrices):
        symbols = any_symbols(int(rng.integers(1, 200)), int(rng.integers(1, 200)), rng)
        sections = TwoWay().encode(symbols, kernels)
        back = TwoWay().decode(sections, *symbols.shape, kernels)
        same = sections == TwoWay().encode(symbols, Portable())
        differ += not (same and np.array_equal(back, symbols))
    return differ


def main(words: Sequence[str] | None = None) -> int:
    """Build, run again under the sanitizers, report."""
    arguments = _parser().parse_args(words)
    if arguments.library is None:
        return _under_sanitizers(arguments, list(sys.argv[1:] if words is None else words))
    kernels = Native(1, arguments.library) if arguments.library else load_kernels()
    with arguments.note.open("r+b") as file, mmap.mmap(file.fileno(), 0) as note:
        started = time.perf_counter()
        reports = campaign(arguments.packets, arguments.seed, kernels, note)
        matrices = arguments.packets // 1000
        differ = twins(matrices, arguments.seed, kernels)
    _print(reports, time.perf_counter() - started)
    print(f"{matrices} matrices: {differ} that the two forms code differently")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(report) for report in reports], indent=1))
    return 0 if all(report.good for report in reports) and not differ else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--packets", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--build", choices=BUILDS, default="intrinsics")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the reports")
    parser.add_argument(
        "--keep",
        type=Path,
        default=Path("crash.packet"),
        metavar="FILE",
        help="where a packet that brings the process down is left",
    )
    parser.add_argument("--library", help=argparse.SUPPRESS)
    parser.add_argument("--note", type=Path, help=argparse.SUPPRESS)
    return parser


def _under_sanitizers(arguments: argparse.Namespace, words: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        library, note = Path(folder) / "native.so", Path(folder) / "packet"
        note.write_bytes(bytes(2**20))
        command = [
            "gcc",
            *FLAGS,
            *SANITIZERS,
            BUILDS[arguments.build],
            "-o",
            str(library),
            str(SOURCE),
        ]
        subprocess.run(command, check=True)
        name = subprocess.run(
            ["gcc", "-print-file-name=libasan.so"], check=True, capture_output=True, text=True
        ).stdout.strip()
        environment = {
            **os.environ,
            "LD_PRELOAD": name,
            "ASAN_OPTIONS": "detect_leaks=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
        again = [sys.executable, __file__, *words, "--library", str(library), "--note", str(note)]
        code = subprocess.run(again, env=environment, check=False).returncode
        if code not in (0, 1):
            data = note.read_bytes()
            packet = data[4 : 4 + int.from_bytes(data[:4], "little")]
            arguments.keep.write_bytes(packet)
            print(f"the process came down with {code}; its packet: {arguments.keep}")
        return code


def _print(reports: Sequence[Report], seconds: float) -> None:
    print(f"{'':20}{'packets':>10}{'refused':>10}{'passed':>9}{'slowest ms':>12}{'excess KiB':>12}")
    for report in reports:
        print(
            f"{report.name:20}{report.packets:>10}{report.refused:>10}{report.passed:>9}"
            f"{report.slowest_ms:>12.2f}{report.excess_bytes / 1024:>12.0f}"
        )
    total, holes = (sum(getattr(r, name) for r in reports) for name in ("packets", "holes"))
    print(f"{total} packets in {seconds:.0f} s: no crash, {holes} holes")
    for report in reports:
        if report.hole:
            print(f"  {report.holes} x {report.hole}")


if __name__ == "__main__":
    sys.exit(main())
