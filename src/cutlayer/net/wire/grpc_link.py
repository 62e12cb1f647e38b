"""Links over gRPC streams: a device's way to open one, and the server that takes them.

Knows grpc.aio, chunks, the listener and the certificates of devices; what is said over a link is
the caller's. Messages are raw bytes: no protobuf, so no copy of a tensor into one. Both ends show a
certificate of the run's authority (mutual TLS); addresses and what the other end says of itself
count for nothing.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import grpc
import grpc.aio
from cryptography import x509

from cutlayer.errors import CutlayerError, FrameError, IdentityError
from cutlayer.net.identity.credentials import SERVER_NAME, DeviceKeys, common_name
from cutlayer.net.identity.enrolment import Enrolment
from cutlayer.net.identity.run_keys import CertificateStore, RunKeys
from cutlayer.net.wire.link import (
    CHUNK_BYTES,
    ChunkReader,
    ConnectionLimits,
    Link,
    LinkClosed,
    TokenBucket,
    chunks_of,
    full_bucket,
)
from cutlayer.net.wire.listener import ENROL, TLS, Connection, Listener
from cutlayer.net.wire.messages import Outline
from cutlayer.units import KIB, MIB

# One stream as a link, and a device's way to open one to the server.


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


# The server's end of all links: who may have one, and one link a device at most. A stranger is told
# nothing; each refusal is logged with its reason.


_LOG = logging.getLogger(__name__)

OnLink = Callable[[Link], Awaitable[None]]


@runtime_checkable
class ServerStream(GrpcStream, Protocol):
    """What the server's end of a gRPC stream can do besides; its class has no public name."""

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        """What TLS has verified of the other end."""

    def peer(self) -> str:
        """The other end's address."""

    async def send_initial_metadata(self, metadata: tuple[tuple[str, str], ...]) -> None:
        """Tell the other end that its stream is accepted."""

    async def abort(self, code: grpc.StatusCode) -> None:
        """End the stream; raises."""


@dataclass(frozen=True)
class _Peer:
    """Whose stream it is, by certificate, and how it came in."""

    name: str
    serial: int
    connection: Connection


@dataclass(frozen=True)
class _OpenLink:
    """A link that is there, and when its session will have ended."""

    peer: _Peer
    link: GrpcLink
    over: asyncio.Event


@final
class LinkServer:
    """What `serve` started; `stop` ends it."""

    def __init__(
        self, keys: RunKeys, on_link: OnLink, limits: ConnectionLimits, outline: Outline
    ) -> None:
        self._keys = keys
        self._on_link = on_link
        self._limits = limits
        self._listener = Listener(limits)
        self._enrolment = Enrolment(keys, self._listener, outline)
        self._open_links: dict[str, _OpenLink] = {}
        self._sessions: set[asyncio.Task[None]] = set()
        # by serial number, so that who has a revoked certificate takes nothing from its successor
        self._buckets: dict[int, TokenBucket] = {}
        self._grpc = grpc.aio.server(options=_server_options(limits))
        self._watch: asyncio.Task[None] | None = None
        self.port = 0

    @property
    def refusals(self) -> int:
        """How many connections were refused."""
        return self._listener.refusals

    @property
    def held_bytes(self) -> int:
        """What waits at the listener and in links, from devices and for them [bytes]."""
        links = sum(own.link.held_bytes for own in self._open_links.values())
        return links + self._listener.held_bytes

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError if the address is not to be had."""
        self._grpc.add_generic_rpc_handlers((self._handlers(),))
        behind = self._listener.inner.path("grpc")
        self._grpc.add_secure_port(f"unix:{behind}", self._credentials())
        await self._grpc.start()
        enrolment = await self._enrolment.open(self._limits.connections)
        self.port = await self._listener.open(host, port, {TLS: behind, ENROL: enrolment})
        self._watch = asyncio.create_task(self._watch_certificates())

    async def stop(self) -> None:
        """Close every link, wait for the sessions to end, and stop listening."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        for own in tuple(self._open_links.values()):
            await own.link.close("the server is stopping")
        if self._sessions:
            await asyncio.wait(tuple(self._sessions))
        await self._grpc.stop(grace=1.0)
        await self._enrolment.close()
        await self._listener.close()

    def _handlers(self) -> grpc.GenericRpcHandler:
        handler = grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler})

    def _credentials(self) -> grpc.ServerCredentials:
        return grpc.ssl_server_credentials(
            [self._keys.server_pem], self._keys.authority_pem, require_client_auth=True
        )

    async def _stream(self, _: object, context: ServerStream) -> None:
        """One device's stream, from its first byte to its last."""
        peer = self._admitted(context)
        if peer is None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED)  # raises
            return
        if self._too_often(peer):
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED)  # raises
            return
        await context.send_initial_metadata((ACCEPTED,))
        link = GrpcLink(peer.name, context, self._limits.frame_bytes, _nothing_more)
        session = asyncio.create_task(self._session(_OpenLink(peer, link, asyncio.Event())))
        self._sessions.add(session)
        session.add_done_callback(self._sessions.discard)
        try:
            await link.over.wait()
        finally:
            link.end("the connection was cut")

    def _admitted(self, context: ServerStream) -> _Peer | None:
        """Who is there, by the certificate that TLS verified and never by what they say; None,
        and the reason told, if they get no link."""
        (pem,) = context.auth_context()["x509_pem_cert"]
        certificate = x509.load_pem_x509_certificate(pem)
        name, serial = common_name(certificate), certificate.serial_number
        connection = self._listener.connection_of(context.peer())
        if connection is None:
            _LOG.info(f"refused {name}: did not come through the listener")
            return None
        refusal = self._refusal(name, serial)
        if refusal is not None:
            connection.dismiss(refusal)
            return None
        connection.prove()
        return _Peer(name, serial, connection)

    def _too_often(self, peer: _Peer) -> bool:
        """Count a stream of a device. The listener counts connections, and one holds many streams,
        one after another; so a connection that holds too many ends."""
        limits, now_s = self._limits, time.monotonic()
        full = full_bucket(limits.sessions_per_s, limits.sessions_burst, now_s)
        bucket = self._buckets.get(peer.serial, full).at(now_s)
        often = bucket.level < 1.0
        self._buckets[peer.serial] = bucket if often else bucket.take(1.0)
        if often:
            reason = f"more than {limits.sessions_burst} links of {peer.name} in a row"
            self._listener.refuse(peer.connection.address, reason)
            peer.connection.dismiss(reason)
        return often

    def _refusal(self, name: str, serial: int) -> str | None:
        try:
            valid = self._keys.certificates().valid(name, serial)
        except (IdentityError, OSError) as error:
            return f"{name}, since devices cannot be checked: {error}"
        return None if valid else f"a certificate of {name} that is revoked"

    async def _session(self, own: _OpenLink) -> None:
        """The session of a link, after the one before it of the same device has ended."""
        name = own.peer.name
        try:
            await self._take_over(own)
            _LOG.info(f"{name} connected from {own.peer.connection.address}")
            with contextlib.suppress(LinkClosed):
                await self._on_link(own.link)
            await own.link.close("its session has ended")
            _LOG.info(f"{name} left: {own.link.why}")
        except CutlayerError as error:  # what a device must not send
            await own.link.close(str(error))
            _LOG.info(f"refused {name}: {error}")
        except Exception as error:
            _LOG.info(f"the session of {name} failed: {error!r}")
            bug = {"message": f"the session of {name} failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(bug)
        finally:
            await own.link.close("its session failed")
            if self._open_links.get(name) is own:
                del self._open_links[name]
            own.over.set()

    async def _take_over(self, own: _OpenLink) -> None:
        """A device that lost its link is back before the server noticed: the newer link counts."""
        name = own.peer.name
        older = self._open_links.get(name)
        self._open_links[name] = own
        if older is not None:
            await self._expel(older, f"a newer connection of {name} took its place")
            await older.over.wait()

    async def _expel(self, own: _OpenLink, reason: str) -> None:
        await own.link.close(reason)
        own.peer.connection.end()

    async def _watch_certificates(self) -> None:
        """Revoking takes effect on links that are there."""
        while True:
            await asyncio.sleep(self._limits.revocation_s)
            try:
                certificates = self._keys.certificates()
            except (IdentityError, OSError) as error:
                _LOG.info(f"the device registry cannot be read: {error}")
                continue
            for own in self._revoked(certificates):
                await self._expel(own, f"the certificate of {own.peer.name} was revoked")

    def _revoked(self, certificates: CertificateStore) -> list[_OpenLink]:
        return [
            own
            for own in self._open_links.values()
            if not certificates.valid(own.peer.name, own.peer.serial)
        ]


async def serve(
    address: tuple[str, int],
    keys: RunKeys,
    on_link: OnLink,
    limits: ConnectionLimits,
    outline: Outline,
) -> LinkServer:
    """Give every device of the run a link; `on_link` is its session, and never two at once of one.

    `on_link` must return soon after its link raises LinkClosed; when it returns, the link is
    closed. A device that connects again gets a new session as soon as the older has returned.
    `outline`: what the invited are told of the run before they have an identity.

    Raises OSError if `address` (host, port; port 0 lets the system choose) is not to be had.
    """
    server = LinkServer(keys, on_link, limits, outline)
    try:
        await server.start(*address)
    except BaseException:
        await server.stop()
        raise
    return server


async def _nothing_more() -> None:
    """A stream at the server ends with its handler, which waits for its link to be over."""


def _server_options(limits: ConnectionLimits) -> Options:
    # of handshakes the listener keeps the time, and says whose took too long
    return [
        *stream_options(limits),
        ("grpc.so_reuseport", 0),
        ("grpc.max_concurrent_streams", 1),
        ("grpc.max_allowed_incoming_connections", limits.connections),
        ("grpc.max_connection_idle_ms", round(1000 * limits.proof_s)),
        # devices ask whether we are there; as often as we ask them is not too often
        ("grpc.http2.min_ping_interval_without_data_ms", round(500 * limits.keepalive_s)),
    ]
