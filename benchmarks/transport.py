"""Our link beside bare gRPC streams that carry the same bytes, on loopback.

Bare gRPC has nothing of ours: a server that answers frames, and channels to it. The load benchmark
takes it from here, as it does a site: a folder with a tiny model and data, a run's keys, and for
each device an identity and samples of its own.

    python benchmarks/transport.py [--quick] [--json FILE]

See README.md here for what each figure answers. Needs `pip install '.[bench]'`. The server is a
process of its own, which ends when this one does.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import struct
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
import grpc.aio
import numpy as np
import torch
import transformers

from cutlayer.config.read import config_yaml
from cutlayer.config.schema import Config
from cutlayer.data.samples import write_arrays
from cutlayer.jobs.dataset import OwnData
from cutlayer.jobs.join import Joining
from cutlayer.net.identity.credentials import (
    SERVER_NAME,
    DeviceKeys,
    Signed,
    device_keys,
    make_private_folder,
    new_key,
    read_device_keys,
    signing_request,
    write_device_keys,
)
from cutlayer.net.identity.run_keys import RunKeys, init_keys, read_keys
from cutlayer.net.wire.link import ConnectionLimits, Link
from cutlayer.net.wire.link_server import serve
from cutlayer.net.wire.listener import LOOPBACK
from cutlayer.net.wire.messages import Outline
from cutlayer.net.wire.tls_link import connect

LIMITS = ConnectionLimits()
_OUTLINE = Outline("causal-lm", ())
PAYLOAD_BYTES = 5_000_000
SMALL_BYTES = 1024
_GOAL = 1.3
# small frames are over so soon that one alone would time the scheduler
_REPEATS = 20


WHOLE = "/bare/whole"
_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
# a frame opens with the length of the answer it wants
_WANTED = struct.Struct("<I")
WANTED_BYTES = _WANTED.size


def question(sent_bytes: int, wanted_bytes: int) -> bytes:
    """A frame of `sent_bytes` that `answer` gives `wanted_bytes` for."""
    return _WANTED.pack(wanted_bytes) + bytes(sent_bytes - _WANTED.size)


def answer(frame: bytes) -> bytes:
    """As many bytes as `frame` asks for."""
    (wanted,) = _WANTED.unpack_from(frame)
    return bytes(wanted)


def bare_channel(port: int, keys: DeviceKeys | None) -> grpc.aio.Channel:
    """A connection of its own; None: without TLS."""
    address = f"{LOOPBACK}:{port}"
    options = [
        *_UNLIMITED,
        ("grpc.ssl_target_name_override", SERVER_NAME),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if keys is None:
        return grpc.aio.insecure_channel(address, options)
    credentials = grpc.ssl_channel_credentials(keys.authority, keys.key, keys.certificate)
    return grpc.aio.secure_channel(address, credentials, options)


async def bare_server(keys: RunKeys) -> tuple[grpc.aio.Server, int, int]:
    """A server that has started, its port without TLS and the one with mutual TLS."""
    server = grpc.aio.server(options=_UNLIMITED)
    handlers = {WHOLE.rpartition("/")[2]: grpc.stream_stream_rpc_method_handler(_answer_whole)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare", handlers),))
    credentials = grpc.ssl_server_credentials(
        [keys.server_pem], keys.authority_pem, require_client_auth=True
    )
    plain = server.add_insecure_port(f"{LOOPBACK}:0")
    secure = server.add_secure_port(f"{LOOPBACK}:0", credentials)
    await server.start()
    return server, plain, secure


async def _answer_whole(_: object, context: grpc.aio.ServicerContext) -> None:
    while (frame := await context.read()) is not grpc.aio.EOF:
        await context.write(answer(frame))


def enrolled(keys: RunKeys, name: str) -> DeviceKeys:
    """What the device `name` shows from now on."""
    token = keys.invite(name, 60.0, time.time())
    key = new_key()
    certificate = keys.enrol(name, token.secret, signing_request(key, name), time.time())
    return device_keys(Signed(key, certificate), keys.authority.certificate)


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
class Ours(Peer):
    """Our link."""

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
OURS = Ours()
# which of the server's ports each one speaks to
PORTS: Mapping[str, str] = {
    PLAIN.name: "plain",
    BARE.name: "secure",
    OURS.name: "ours",
}
PEERS: tuple[Peer, ...] = (PLAIN, BARE, OURS)


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


# a site, for the load

CLASSES = ("dark", "dim", "light", "bright")
_WIDTH = 24
_SIDE_PX = 28
_SAMPLES = 32
_PATIENCE_S = 300.0


@dataclass(frozen=True)
class Site:
    """The files of a run in `folder`."""

    folder: Path

    @property
    def config(self) -> Path:
        """The server's configuration."""
        return self.folder / "run.yaml"

    @property
    def keys(self) -> Path:
        """The run's keys."""
        return self.folder / "keys"

    def identity(self, number: int) -> DeviceKeys:
        """What a device shows."""
        return read_device_keys(self._device(number) / "identity")

    def joining(self, number: int, port: int) -> Joining:
        """A device as `cutlayer join` has it."""
        folder = self._device(number)
        return Joining(
            address=f"{LOOPBACK}:{port}",
            keys=self.identity(number),
            own=OwnData(folder / "samples"),
            state=folder / "state.safetensors",
            cache=folder / "cache",
            patience_s=_PATIENCE_S,
            threads=1,
            device=torch.device("cpu"),
            jitter=lambda: 0.0,
        )

    def add_device(self, number: int, keys: RunKeys) -> None:
        """Invite and enrol it, and give it samples."""
        folder = self._device(number)
        make_private_folder(folder / "identity")
        write_device_keys(folder / "identity", enrolled(keys, name(number)))
        _write_samples(folder / "samples", _SAMPLES, np.random.default_rng(number))

    def _device(self, number: int) -> Path:
        return self.folder / name(number)


def make_site(folder: Path, devices: int, rounds: int, local_steps: int) -> Site:
    """Everything on disk."""
    site = Site(folder)
    _write_model(folder / "model")
    # without it a server warns, as it should
    preprocessor = json.dumps({"image_mean": 0.5, "image_std": 0.5})
    (folder / "model" / "preprocessor_config.json").write_text(preprocessor, encoding="utf-8")
    # those that nobody trains on: the server deals its own out as a simulation would
    _write_samples(folder / "data", max(devices, _SAMPLES), np.random.default_rng(devices))
    config = _config(folder, devices, rounds, local_steps)
    site.config.write_text(config_yaml(config), encoding="utf-8")
    keys = init_keys(site.keys, time.time())
    for number in range(devices):
        site.add_device(number, keys)
    return site


def name(number: int) -> str:
    """A device's."""
    return f"device-{number}"


def _config(folder: Path, devices: int, rounds: int, local_steps: int) -> Config:
    return Config.model_validate(
        {
            "model": {"name": str(folder / "model"), "cut": 2},
            "data": {
                "name": str(folder / "data"),
                "image_size": _SIDE_PX,
                "train_samples": None,
                "test_samples": None,
            },
            "adapter": {"rank": 2, "alpha": 2},
            "training": {"rounds": rounds, "local_steps": local_steps, "batch_size": 4},
            "devices": {"count": devices},
            "net": {"devices": tuple(name(number) for number in range(devices))},
            "threads": 1,
        }
    )


def _write_model(folder: Path) -> None:
    """A DINOv2 of four blocks, random: five tokens of 24 values a sample."""
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=_WIDTH,
        num_hidden_layers=4,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=_SIDE_PX,
    )
    transformers.Dinov2Model(config).save_pretrained(folder)


def _write_samples(folder: Path, count: int, rng: np.random.Generator) -> None:
    """Both splits: noise whose brightness is the class."""
    folder.mkdir(parents=True)
    labels = np.arange(count) % len(CLASSES)
    noise = rng.integers(0, 60, (count, _SIDE_PX, _SIDE_PX))
    split = ((60 * labels[:, None, None] + noise).astype(np.uint8), labels)
    write_arrays(folder, split, split, CLASSES)


if __name__ == "__main__":
    sys.exit(main())
