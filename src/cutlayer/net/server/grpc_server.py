"""The server's end of all links: who may have one, and one link a device at most.

Knows the gate, enrolment, gRPC and the register of devices; what is said over a link is the
caller's. A stranger is told nothing; each refusal is logged with its reason.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import grpc
import grpc.aio
from cryptography import x509

from cutlayer.errors import CutlayerError, IdentityError
from cutlayer.net.identity.device_keys import common_name
from cutlayer.net.identity.enrolment import Enrolment
from cutlayer.net.identity.run_keys import CertificateStore, RunKeys
from cutlayer.net.server.admission import ConnectionLimits
from cutlayer.net.server.listener import ENROL, TLS, Connection, Listener
from cutlayer.net.wire.grpc_link import (
    ACCEPTED,
    METHOD,
    SERVICE,
    GrpcLink,
    GrpcStream,
    Options,
    stream_options,
)
from cutlayer.net.wire.limits import Outline
from cutlayer.net.wire.link import Link, LinkClosed, TokenBucket, full_bucket

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
class _Visitor:
    """Whose stream it is, by certificate, and how it came in."""

    name: str
    serial: int
    visit: Connection


@dataclass(frozen=True)
class _Held:
    """A link that is there, and when its session will have ended."""

    visitor: _Visitor
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
        self._gate = Listener(limits)
        self._enrolment = Enrolment(keys, self._gate, outline)
        self._held: dict[str, _Held] = {}
        self._sessions: set[asyncio.Task[None]] = set()
        # by serial number, so that who has a revoked certificate takes nothing from its successor
        self._buckets: dict[int, TokenBucket] = {}
        self._grpc = grpc.aio.server(options=_server_options(limits))
        self._watch: asyncio.Task[None] | None = None
        self.port = 0

    @property
    def refusals(self) -> int:
        """How many connections were refused."""
        return self._gate.refusals

    @property
    def held_bytes(self) -> int:
        """What waits at the gate and in links, from devices and for them [bytes]."""
        links = sum(held.link.held_bytes for held in self._held.values())
        return links + self._gate.held_bytes

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError if the address is not to be had."""
        self._grpc.add_generic_rpc_handlers((self._handlers(),))
        behind = self._gate.inner.path("grpc")
        self._grpc.add_secure_port(f"unix:{behind}", self._credentials())
        await self._grpc.start()
        enrolment = await self._enrolment.open(self._limits.connections)
        self.port = await self._gate.open(host, port, {TLS: behind, ENROL: enrolment})
        self._watch = asyncio.create_task(self._watch_register())

    async def stop(self) -> None:
        """Close every link, wait for the sessions to end, and stop listening."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        for held in tuple(self._held.values()):
            await held.link.close("the server is stopping")
        if self._sessions:
            await asyncio.wait(tuple(self._sessions))
        await self._grpc.stop(grace=1.0)
        await self._enrolment.close()
        await self._gate.close()

    def _handlers(self) -> grpc.GenericRpcHandler:
        handler = grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler})

    def _credentials(self) -> grpc.ServerCredentials:
        return grpc.ssl_server_credentials(
            [self._keys.server_pem], self._keys.authority_pem, require_client_auth=True
        )

    async def _stream(self, _: object, context: ServerStream) -> None:
        """One device's stream, from its first byte to its last."""
        visitor = self._admitted(context)
        if visitor is None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED)  # raises
            return
        if self._too_often(visitor):
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED)  # raises
            return
        await context.send_initial_metadata((ACCEPTED,))
        link = GrpcLink(visitor.name, context, self._limits.frame_bytes, _nothing_more)
        session = asyncio.create_task(self._session(_Held(visitor, link, asyncio.Event())))
        self._sessions.add(session)
        session.add_done_callback(self._sessions.discard)
        try:
            await link.over.wait()
        finally:
            link.end("the connection was cut")

    def _admitted(self, context: ServerStream) -> _Visitor | None:
        """Who is there, by the certificate that TLS verified and never by what they say; None,
        and the reason told, if they get no link."""
        (pem,) = context.auth_context()["x509_pem_cert"]
        certificate = x509.load_pem_x509_certificate(pem)
        name, serial = common_name(certificate), certificate.serial_number
        visit = self._gate.visit(context.peer())
        if visit is None:
            _LOG.info(f"refused {name}: did not come through the gate")
            return None
        refusal = self._refusal(name, serial)
        if refusal is not None:
            visit.dismiss(refusal)
            return None
        visit.prove()
        return _Visitor(name, serial, visit)

    def _too_often(self, visitor: _Visitor) -> bool:
        """Count a stream of a device. The gate counts connections, and one holds many streams, one
        after another; so a connection that holds too many ends."""
        limits, now_s = self._limits, time.monotonic()
        full = full_bucket(limits.sessions_per_s, limits.sessions_burst, now_s)
        bucket = self._buckets.get(visitor.serial, full).at(now_s)
        often = bucket.level < 1.0
        self._buckets[visitor.serial] = bucket if often else bucket.take(1.0)
        if often:
            reason = f"more than {limits.sessions_burst} links of {visitor.name} in a row"
            self._gate.refuse(visitor.visit.address, reason)
            visitor.visit.dismiss(reason)
        return often

    def _refusal(self, name: str, serial: int) -> str | None:
        try:
            valid = self._keys.register().valid(name, serial)
        except (IdentityError, OSError) as error:
            return f"{name}, since nobody can be checked: {error}"
        return None if valid else f"a certificate of {name} that is revoked"

    async def _session(self, held: _Held) -> None:
        """The session of a link, after the one before it of the same device has ended."""
        name = held.visitor.name
        try:
            await self._take_over(held)
            _LOG.info(f"{name} connected from {held.visitor.visit.address}")
            with contextlib.suppress(LinkClosed):
                await self._on_link(held.link)
            await held.link.close("its session is over")
            _LOG.info(f"{name} left: {held.link.why}")
        except CutlayerError as error:  # what a device must not send
            await held.link.close(str(error))
            _LOG.info(f"refused {name}: {error}")
        except Exception as error:
            _LOG.info(f"the session of {name} failed: {error!r}")
            bug = {"message": f"the session of {name} failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(bug)
        finally:
            await held.link.close("its session failed")
            if self._held.get(name) is held:
                del self._held[name]
            held.over.set()

    async def _take_over(self, held: _Held) -> None:
        """A device that lost its link is back before the server noticed: the newer link counts."""
        name = held.visitor.name
        older = self._held.get(name)
        self._held[name] = held
        if older is not None:
            await self._expel(older, f"a newer connection of {name} took its place")
            await older.over.wait()

    async def _expel(self, held: _Held, reason: str) -> None:
        await held.link.close(reason)
        held.visitor.visit.end()

    async def _watch_register(self) -> None:
        """Revoking takes effect on links that are there."""
        while True:
            await asyncio.sleep(self._limits.revocation_s)
            try:
                register = self._keys.register()
            except (IdentityError, OSError) as error:
                _LOG.info(f"the register of devices cannot be read: {error}")
                continue
            for held in self._revoked(register):
                await self._expel(held, f"the certificate of {held.visitor.name} was revoked")

    def _revoked(self, register: CertificateStore) -> list[_Held]:
        return [
            held
            for held in self._held.values()
            if not register.valid(held.visitor.name, held.visitor.serial)
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
    proof_ms = round(1000 * limits.proof_s)
    return [
        *stream_options(limits),
        ("grpc.so_reuseport", 0),
        ("grpc.max_concurrent_streams", 1),
        ("grpc.max_allowed_incoming_connections", limits.connections),
        ("grpc.server_handshake_timeout_ms", proof_ms),
        ("grpc.max_connection_idle_ms", proof_ms),
        # devices ask whether we are there; as often as we ask them is not too often
        ("grpc.http2.min_ping_interval_without_data_ms", round(500 * limits.keepalive_s)),
    ]
