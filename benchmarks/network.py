"""What the network's benchmarks share: the files of a run of many devices, and bare gRPC as a peer.

A site is a folder with a tiny model and data, the run's keys, and for each device an identity and
samples of its own. Bare gRPC has nothing of ours: a server that answers frames, and channels to it.
"""

import struct
import time
from dataclasses import dataclass
from pathlib import Path

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
from cutlayer.net.identity.run_keys import RunKeys, init_keys
from cutlayer.net.wire.admission import ConnectionLimits
from cutlayer.net.wire.link import ChunkReader, chunks_of
from cutlayer.net.wire.listener import LOOPBACK

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


WHOLE, CHUNKS = "/bare/whole", "/bare/chunks"
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
    handlers = {
        WHOLE.rpartition("/")[2]: grpc.stream_stream_rpc_method_handler(_answer_whole),
        CHUNKS.rpartition("/")[2]: grpc.stream_stream_rpc_method_handler(_answer_chunks),
    }
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


async def _answer_chunks(_: object, context: grpc.aio.ServicerContext) -> None:
    reader = ChunkReader(ConnectionLimits().frame_bytes)
    while (chunk := await context.read()) is not grpc.aio.EOF:
        frame = reader.feed(chunk)
        if frame is not None:
            for part in chunks_of(answer(frame)):
                await context.write(part)


def enrolled(keys: RunKeys, name: str) -> DeviceKeys:
    """What the device `name` shows from now on."""
    token = keys.invite(name, 60.0, time.time())
    key = new_key()
    certificate = keys.enrol(name, token.secret, signing_request(key, name), time.time())
    return device_keys(Signed(key, certificate), keys.authority.certificate)
