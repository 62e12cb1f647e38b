"""A link over one gRPC stream, and a device's way to open one to the server.

Knows grpc.aio and chunks; what a server does with streams is `grpc_server.py`. Messages are raw
bytes: no protobuf, so no copy of a tensor into one. Both ends show a certificate of the run's
authority (mutual TLS); addresses and what the other end says of itself count for nothing.
"""

import asyncio
import struct
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Protocol, final, runtime_checkable

import grpc
import grpc.aio

from cutlayer.errors import FrameError
from cutlayer.net.identity.certificates import SERVER_NAME
from cutlayer.net.identity.device_keys import DeviceKeys
from cutlayer.net.server.admission import ConnectionLimits
from cutlayer.net.wire.link import Link, LinkClosed
from cutlayer.units import KIB, MIB, format_bytes

# Frames in chunks, so that neither end of a stream holds or waits for more than one mebibyte.
#
# Knows the chunks of one stream in order; nothing of what carries them. A chunk is four bytes, the
# count of the frame's bytes still to come with this chunk's own (little endian), and as many of
# them as fit. So a frame has one sequence of chunks, its length is known from the first, and bytes
# that were lost or added show at once.


CHUNK_BYTES = MIB
_HEADER = struct.Struct("<I")
_ROOM_BYTES = CHUNK_BYTES - _HEADER.size
LARGEST_FRAME_BYTES = 2**32 - 1


def chunks_of(frame: bytes) -> Iterator[bytes]:
    """The chunks of `frame`, each of at most `CHUNK_BYTES`; an empty frame is one chunk.

    Raises FrameError for a frame of 4 GiB or more.
    """
    if len(frame) > LARGEST_FRAME_BYTES:
        raise FrameError(f"a frame of {format_bytes(len(frame))}; 4 GiB is the end")
    view = memoryview(frame)
    for start in range(0, max(1, len(frame)), _ROOM_BYTES):
        header = _HEADER.pack(len(frame) - start)
        yield b"".join((header, view[start : start + _ROOM_BYTES]))


class ChunkReader:
    """Puts the frames of one stream together again, holding at most one.

    largest_frame_bytes: a longer frame is refused at its first chunk.
    """

    def __init__(self, largest_frame_bytes: int) -> None:
        self._largest = largest_frame_bytes
        self._parts: list[memoryview] = []
        self._missing = 0

    @property
    def within_frame(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._parts)

    @property
    def held_bytes(self) -> int:
        """What has come of it."""
        return sum(len(part) for part in self._parts)

    def feed(self, chunk: bytes) -> bytes | None:
        """The frame that `chunk` completes, if any. Raises FrameError; the stream is then over."""
        if not _HEADER.size <= len(chunk) <= CHUNK_BYTES:
            raise FrameError(f"a chunk of {len(chunk)} bytes, neither empty nor within 1 MiB")
        (missing,) = _HEADER.unpack_from(chunk)
        self._check(missing, len(chunk) - _HEADER.size)
        self._parts.append(memoryview(chunk)[_HEADER.size :])
        self._missing = missing - (len(chunk) - _HEADER.size)
        if self._missing:
            return None
        parts, self._parts = self._parts, []
        return b"".join(parts)

    def _check(self, missing: int, held: int) -> None:
        if self.within_frame and missing != self._missing:
            raise FrameError(f"a chunk with {missing} bytes to come where {self._missing} were")
        if missing > self._largest:
            raise FrameError(
                f"a frame of {format_bytes(missing)} where {format_bytes(self._largest)} are the"
                " limit"
            )
        if held != min(missing, _ROOM_BYTES):
            raise FrameError(f"a chunk that holds {held} of {missing} bytes to come")


SERVICE = "cutlayer.Link"
# the version of what a stream carries: another one is another method
METHOD = "v1"
# what the server says first, to a device that it lets in
ACCEPTED = ("cutlayer", "accepted")
_CONNECT_S = 20.0
_CLOSE_S = 5.0
# what may be under way in a stream and not read: a frame, within these
_SMALLEST_WINDOW_BYTES = 64 * KIB
_LARGEST_WINDOW_BYTES = 4 * MIB
LARGEST_MESSAGE_BYTES = 2 * CHUNK_BYTES
_CUT = "the connection was cut"
# a server's end of gRPC cannot tell them apart
CLOSED = "the other end closed the link, or was cut off"

Options = list[tuple[str, int | str]]


@runtime_checkable
class GrpcStream(Protocol):
    """What either end of a gRPC stream can do."""

    async def read(self) -> Any:
        """The next message, or `grpc.aio.EOF`."""

    async def write(self, message: bytes) -> None:
        """Returns when flow control has let the message go."""


@final
class GrpcLink(Link):
    """One stream as a link.

    A frame that is not received waits here, with one more behind it; then nothing is read, and
    gRPC's flow control stops the sender. Cancelling `receive` loses nothing. Cancelling `send` may
    leave half a frame, so it ends the link.

    hang_up: ends the stream, when this end closes the link; called once.
    over: set when nothing comes any more, from either end.
    """

    def __init__(
        self,
        peer: str,
        stream: GrpcStream,
        largest_frame_bytes: int,
        hang_up: Callable[[], Awaitable[None]],
    ) -> None:
        self._peer = peer
        self._stream = stream
        self._hang_up = hang_up
        self._chunks = ChunkReader(largest_frame_bytes)
        self._next: bytes | None = None
        self._after: bytes | None = None
        self._arrived = asyncio.Event()
        self._received = asyncio.Event()
        self._writing = asyncio.Lock()
        self._why: str | None = None
        self._closed = False
        self.over = asyncio.Event()
        self._pump = asyncio.create_task(self._read())

    @property
    def peer(self) -> str:
        """The name in the other end's certificate."""
        return self._peer

    @property
    def held_bytes(self) -> int:
        """What has come and was not received [bytes]: two frames at most, or one and a part."""
        waiting = (frame for frame in (self._next, self._after) if frame is not None)
        return self._chunks.held_bytes + sum(map(len, waiting))

    @property
    def why(self) -> str:
        """Why the link has ended; empty while it has not."""
        return self._why or ""

    async def send(self, frame: bytes) -> None:
        """Send one frame; waits while the peer is slow. Raises LinkClosed."""
        async with self._writing:
            for chunk in chunks_of(frame):
                if self._why is not None:
                    raise LinkClosed(self._why)
                await self._write(chunk)

    async def receive(self) -> bytes:
        """The next whole frame. Raises LinkClosed when there is none and never will be."""
        while self._next is None:
            if self.over.is_set():
                raise LinkClosed(self.why)
            self._arrived.clear()
            await self._arrived.wait()
        frame, self._next = self._next, None
        self._received.set()
        return frame

    async def close(self, reason: str = "") -> None:
        """End the link: what was sent still arrives, what was not received is lost."""
        if self._closed:
            return
        self._closed = True
        self._next = self._after = None
        self.end(reason or "closed at this end")
        self._nothing_comes()
        await self._hang_up()

    def end(self, why: str) -> None:
        """Nothing more is sent; the first reason stands. What has come may still be received."""
        if self._why is None:
            self._why = why

    def _nothing_comes(self) -> None:
        for event in (self.over, self._arrived, self._received):
            event.set()

    async def _write(self, chunk: bytes) -> None:
        try:
            await self._stream.write(chunk)
        except BaseException as error:  # gRPC has many words for a stream that has ended
            ours = _cancelled(error)
            self.end("a frame was given up half-way" if ours else _reason(error))
            if ours or not isinstance(error, Exception | asyncio.CancelledError):
                raise
            raise LinkClosed(self.why) from error

    async def _read(self) -> None:
        """Frames for `receive` until the stream ends."""
        why = CLOSED
        try:
            # no variable here: it would keep a frame alive until the next one comes
            while self._feed(await self._stream.read()):
                await self._deliver()
        except BaseException as error:
            if _cancelled(error):
                raise
            why = _reason(error)
        self.end(f"{why}, within a frame" if self._chunks.within_frame else why)
        self._nothing_comes()

    def _feed(self, chunk: Any) -> bool:
        """Put a chunk to those before it; whether it was one, and not the stream's end."""
        if chunk is grpc.aio.EOF:
            return False
        self._after = self._chunks.feed(chunk)
        return True

    async def _deliver(self) -> None:
        """If a frame is whole, wait for the one before it to be received."""
        while self._after is not None and self._next is not None:
            self._received.clear()
            await self._received.wait()
        if self._after is not None and not self._closed:
            self._next = self._after
            self._arrived.set()
        self._after = None


async def connect(address: str, keys: DeviceKeys, limits: ConnectionLimits) -> Link:
    """A device's link to the server at `address` (`host:port`), tried once.

    Raises LinkClosed if it cannot be reached, is not this run's server, or does not want us.
    """
    channel = _channel(address, keys, limits)
    call = channel.stream_stream(f"/{SERVICE}/{METHOD}")()
    try:
        async with asyncio.timeout(_CONNECT_S):
            if ACCEPTED not in tuple(await call.initial_metadata()):
                raise LinkClosed(await _refusal(address, call))
    except BaseException as error:
        call.cancel()
        await channel.close()
        if isinstance(error, TimeoutError):
            raise LinkClosed(f"{address}: no answer in {_CONNECT_S:g} s") from None
        raise
    return GrpcLink(SERVER_NAME, call, limits.frame_bytes, lambda: _hang_up(channel, call))


def window_bytes(limits: ConnectionLimits) -> int:
    """How much of a stream may be under way and not read [bytes]."""
    return min(max(limits.frame_bytes, _SMALLEST_WINDOW_BYTES), _LARGEST_WINDOW_BYTES)


def stream_options(limits: ConnectionLimits) -> Options:
    """What both ends ask of gRPC: bounded memory, and to notice when the other end has gone."""
    keepalive_ms = round(1000 * limits.keepalive_s)
    return [
        # a little more, so that it is our reader that refuses the next larger ones, with a reason
        ("grpc.max_receive_message_length", LARGEST_MESSAGE_BYTES),
        ("grpc.max_send_message_length", CHUNK_BYTES),
        ("grpc.max_metadata_size", 16 * KIB),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", window_bytes(limits)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.keepalive_timeout_ms", keepalive_ms),
        # the answer to that question is the answer to a ping, which has a limit of its own
        ("grpc.http2.ping_timeout_ms", keepalive_ms),
    ]


def _channel(address: str, keys: DeviceKeys, limits: ConnectionLimits) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(keys.authority, keys.key, keys.certificate)
    options = [
        *stream_options(limits),
        # the certificate names the server, whatever its address is
        ("grpc.ssl_target_name_override", SERVER_NAME),
        # one connection a link, none of them by way of a proxy
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", 0),
    ]
    return grpc.aio.secure_channel(address, credentials, options)


async def _hang_up(channel: grpc.aio.Channel, call: grpc.aio.StreamStreamCall) -> None:
    """Let what was sent arrive, then leave."""
    try:
        async with asyncio.timeout(_CLOSE_S):
            await call.done_writing()
            await call.code()
    except (TimeoutError, grpc.aio.BaseError):
        pass  # the other end is slow, or has left before
    finally:
        call.cancel()
        await channel.close()


async def _refusal(address: str, call: grpc.aio.StreamStreamCall) -> str:
    code = await call.code()
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return f"{address}: the server does not accept this device's certificate; was it revoked?"
    return f"{address}: {code.name}: {await call.details()}"


def _reason(error: BaseException) -> str:
    if isinstance(error, FrameError):
        return str(error)
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{_CUT} ({error.code().name}: {error.details()})"
    return _CUT


def _cancelled(error: BaseException) -> bool:
    """Whether it is this task that was cancelled; gRPC raises the same for a call that was."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
