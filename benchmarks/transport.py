"""Our link beside bare gRPC streams that carry the same bytes, on loopback.

    python benchmarks/transport.py [--quick] [--json FILE]

See README.md here for what each figure answers. Needs `pip install '.[train,net]'`. The server is
a process of its own, which ends when this one does.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

import grpc
from network import (
    CHUNKS,
    WANTED_BYTES,
    WHOLE,
    answer,
    bare_channel,
    bare_server,
    enrolled,
    question,
)

from cutlayer.net.identity.credentials import DeviceKeys
from cutlayer.net.identity.run_keys import RunKeys, init_keys, read_keys
from cutlayer.net.wire.admission import ConnectionLimits
from cutlayer.net.wire.grpc_link import connect, serve
from cutlayer.net.wire.link import ChunkReader, Link, chunks_of
from cutlayer.net.wire.listener import LOOPBACK
from cutlayer.net.wire.messages import Outline

LIMITS = ConnectionLimits()
_OUTLINE = Outline("causal-lm", ())
PAYLOAD_BYTES = 5_000_000
SMALL_BYTES = 1024
_GOAL = 1.3
# small frames are over so soon that one alone would time the scheduler
_REPEATS = 20


class Peer(ABC):
    """One way to have a frame answered by the server."""

    name: str

    @abstractmethod
    async def open(self, port: int, keys: DeviceKeys) -> None:
        """Connect."""

    @abstractmethod
    async def ask(self, frame: bytes) -> bytes:
        """The answer to `frame`."""

    @abstractmethod
    async def close(self) -> None:
        """Leave."""


@final
class Bare(Peer):
    """A gRPC stream: a frame is one message."""

    def __init__(self, name: str, secure: bool) -> None:
        self.name = name
        self._secure = secure

    async def open(self, port: int, keys: DeviceKeys) -> None:
        self._channel = bare_channel(port, keys if self._secure else None)
        self._call = self._channel.stream_stream(WHOLE)()

    async def ask(self, frame: bytes) -> bytes:
        await self._call.write(frame)
        found: bytes = await self._call.read()
        return found

    async def close(self) -> None:
        self._call.cancel()
        await self._channel.close()


@final
class BareChunks(Peer):
    """A gRPC stream: a frame is messages of 1 MiB at most, cut as our link cuts it."""

    name = "gRPC, mutual TLS, chunks"

    async def open(self, port: int, keys: DeviceKeys) -> None:
        self._channel = bare_channel(port, keys)
        self._call = self._channel.stream_stream(CHUNKS)()
        self._reader = ChunkReader(LIMITS.frame_bytes)

    async def ask(self, frame: bytes) -> bytes:
        for chunk in chunks_of(frame):
            await self._call.write(chunk)
        while (found := self._reader.feed(await self._call.read())) is None:
            pass
        return found

    async def close(self) -> None:
        self._call.cancel()
        await self._channel.close()


@final
class Ours(Peer):
    """Our link, by way of the server's listener."""

    name = "our link"

    async def open(self, port: int, keys: DeviceKeys) -> None:
        self._link = await connect(f"{LOOPBACK}:{port}", keys, LIMITS)

    async def ask(self, frame: bytes) -> bytes:
        await self._link.send(frame)
        return await self._link.receive()

    async def close(self) -> None:
        await self._link.close()


PLAIN = Bare("gRPC, no TLS", secure=False)
BARE = Bare("gRPC, mutual TLS", secure=True)
CHUNKED = BareChunks()
OURS = Ours()
# which of the server's ports each one speaks to
PORTS: Mapping[str, str] = {
    PLAIN.name: "plain",
    BARE.name: "secure",
    CHUNKED.name: "secure",
    OURS.name: "ours",
}
PEERS: tuple[Peer, ...] = (PLAIN, BARE, CHUNKED, OURS)


@dataclass(frozen=True)
class Row:
    """Wall time of one peer, medians; `*_x`: over bare gRPC with mutual TLS, one message a frame.

    The ratios are medians too, of the ratios of exchanges that followed each other.
    """

    name: str
    small_per_s: float
    up_ms: float
    down_ms: float
    small_x: float
    up_x: float
    down_x: float


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 if the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer exchanges: within 60 s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure by name")
    parser.add_argument("--serve", type=Path, metavar="KEYS", help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.serve:
        asyncio.run(_serve(read_keys(arguments.serve)))
        return 0
    rounds = 30 if arguments.quick else 200
    busy = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        rows = _measured(Path(folder), rounds)
    print(f"{'':26}{'frames/s':>9}{'up ms':>8}{'down ms':>9}{'x':>7}{'up x':>7}{'down x':>8}")
    for row in rows:
        _print(row)
    worst = max(rows[-1].up_x, rows[-1].down_x)
    print(f"\ngoal: {PAYLOAD_BYTES / 1e6:g} MB up and down in at most {_GOAL} times: ", end="")
    print(f"{worst:.2f}, {'met' if worst <= _GOAL else 'missed'}")
    print(f"{os.cpu_count()} processors, load average {busy:.2f} before")
    if arguments.json:
        about = {
            "python": platform.python_version(),
            "grpc": grpc.__version__,
            "processors": os.cpu_count(),
            "load_average_before": busy,
            "rounds": rounds,
        }
        text = json.dumps({"about": about, "transport": [asdict(row) for row in rows]}, indent=1)
        arguments.json.write_text(text + "\n", encoding="utf-8")
    return int(worst > _GOAL)


def _measured(folder: Path, rounds: int) -> list[Row]:
    keys = init_keys(folder / "keys", time.time())
    words = [sys.executable, __file__, "--serve", str(keys.folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin and server.stdout
        ports = json.loads(server.stdout.readline())
        seconds = asyncio.run(_exchanges(ports, enrolled(keys, "device"), rounds))
        server.stdin.close()
    return [_row(peer, seconds) for peer in PEERS]


Seconds = dict[tuple[str, str], list[float]]


async def _exchanges(ports: Mapping[str, int], keys: DeviceKeys, rounds: int) -> Seconds:
    """Of each peer and kind of exchange, the seconds of each round; the peers take turns."""
    exchanges = {
        "small": (SMALL_BYTES, SMALL_BYTES),
        "up": (PAYLOAD_BYTES, WANTED_BYTES),
        "down": (WANTED_BYTES, PAYLOAD_BYTES),
    }
    for peer in PEERS:
        await peer.open(ports[PORTS[peer.name]], keys)
    seconds: Seconds = {}
    for number in range(-2, rounds):  # two to warm up
        for kind, (sent, wanted) in exchanges.items():
            frame = question(sent, wanted)
            for turn in range(len(PEERS)):
                peer = PEERS[(number + turn) % len(PEERS)]
                taken = await _seconds(peer, frame, _REPEATS if kind == "small" else 1)
                if number >= 0:
                    seconds.setdefault((peer.name, kind), []).append(taken)
    for peer in PEERS:
        await peer.close()
    return seconds


async def _seconds(peer: Peer, frame: bytes, repeats: int) -> float:
    """Of one exchange, the mean of `repeats` in a row."""
    started = time.perf_counter()
    for _ in range(repeats):
        found = await peer.ask(frame)
    taken = time.perf_counter() - started
    assert len(found) == len(answer(frame))
    return taken / repeats


def _row(peer: Peer, seconds: Seconds) -> Row:
    def taken(kind: str) -> float:
        return statistics.median(seconds[peer.name, kind])

    def ratio(kind: str) -> float:
        pairs = zip(seconds[peer.name, kind], seconds[BARE.name, kind], strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs)

    return Row(
        peer.name,
        small_per_s=1 / taken("small"),
        up_ms=1e3 * taken("up"),
        down_ms=1e3 * taken("down"),
        small_x=ratio("small"),
        up_x=ratio("up"),
        down_x=ratio("down"),
    )


def _print(row: Row) -> None:
    print(
        f"{row.name:26}{row.small_per_s:9.0f}{row.up_ms:8.1f}{row.down_ms:9.1f}"
        f"{row.small_x:7.2f}{row.up_x:7.2f}{row.down_x:8.2f}"
    )


async def _serve(keys: RunKeys) -> None:
    """All servers, until standard input ends."""
    bare, plain, secure = await bare_server(keys)
    ours = await serve((LOOPBACK, 0), keys, _answer_link, LIMITS, _OUTLINE)
    print(json.dumps({"plain": plain, "secure": secure, "ours": ours.port}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await ours.stop()
    await bare.stop(grace=1.0)


async def _answer_link(link: Link) -> None:
    while True:  # until LinkClosed
        await link.send(answer(await link.receive()))


if __name__ == "__main__":
    sys.exit(main())
