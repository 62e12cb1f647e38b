"""gRPC without any of ours, as a peer: a server that answers frames, and channels to it."""

import struct

import grpc
import grpc.aio

from cutlayer.net.chunks import ChunkReader, chunks_of
from cutlayer.net.door_limits import Limits
from cutlayer.net.gate import LOOPBACK
from cutlayer.net.identity.device_keys import DeviceKeys
from cutlayer.net.identity.names import SERVER_NAME
from cutlayer.net.identity.run_keys import RunKeys

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
    reader = ChunkReader(Limits().frame_bytes)
    while (chunk := await context.read()) is not grpc.aio.EOF:
        frame = reader.feed(chunk)
        if frame is not None:
            for part in chunks_of(answer(frame)):
                await context.write(part)
