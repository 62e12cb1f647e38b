"""The server's end of all links: who may have one, and one link a device at most.

Knows the listener's connections and the certificates of devices. A stranger is told nothing; each
refusal is logged with its reason.
"""

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import final

from cutlayer.errors import CutlayerError, IdentityError
from cutlayer.net.identity.credentials import common_name
from cutlayer.net.identity.enrolment import LARGEST_BYTES, TIMEOUT_S, Enrolment
from cutlayer.net.identity.run_keys import CertificateStore, RunKeys
from cutlayer.net.wire.link import ConnectionLimits, Link, LinkClosed, TokenBucket, full_bucket
from cutlayer.net.wire.listener import Connection, Listener
from cutlayer.net.wire.messages import Outline
from cutlayer.net.wire.tls_link import (
    ENROL,
    LEAVE_S,
    LINK,
    OTHER_VERSION,
    SCRATCH_BYTES,
    TlsLink,
    Word,
    server_context,
)

_LOG = logging.getLogger(__name__)

OnLink = Callable[[Link], Awaitable[None]]


@dataclass(frozen=True, eq=False)
class _OpenLink:
    """A device's link by its certificate, where from, and when its session will have ended."""

    name: str
    serial: int
    address: str
    link: TlsLink
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
        self._listener = Listener(limits, self._greet)
        self._enrolment = Enrolment(keys, outline)
        self._context = server_context(keys)
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))
        self._links: set[TlsLink] = set()
        self._open_links: dict[str, _OpenLink] = {}
        self._sessions: set[asyncio.Task[None]] = set()
        # by serial number, so that who has a revoked certificate takes nothing from its successor
        self._buckets: dict[int, TokenBucket] = {}
        self._watch: asyncio.Task[None] | None = None
        self.port = 0

    @property
    def refusals(self) -> int:
        """How many connections were refused."""
        return self._listener.refusals

    @property
    def held_bytes(self) -> int:
        """What waits in links, from devices and for them [bytes]."""
        return sum(link.held_bytes for link in self._links)

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError if the address is not to be had."""
        self.port = await self._listener.open(host, port)
        self._watch = asyncio.create_task(self._watch_certificates())

    async def stop(self) -> None:
        """Close every link, wait for the sessions to end, and stop listening."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        closing = (own.link.close("the server is stopping") for own in self._open_links.values())
        await asyncio.gather(*closing)
        if self._sessions:
            await asyncio.wait(tuple(self._sessions))
        await self._listener.close()

    async def _greet(self, connection: Connection) -> None:
        """One connection, from its handshake to its end."""
        link = TlsLink(self._limits, self._scratch)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: link,
                connection.socket,
                ssl=self._context,
                # the listener's time is up before
                ssl_handshake_timeout=2 * self._limits.proof_s,
                ssl_shutdown_timeout=LEAVE_S,
            )
        except ssl.SSLError as error:
            connection.reason = _refused(error)
            return
        except OSError:
            return  # it left
        self._links.add(link)
        try:
            if link.protocol == LINK:
                self._admit(link, connection)
            elif link.protocol == ENROL:
                await self._enrol(link, connection)
            else:
                self._dismiss(link, connection, OTHER_VERSION)
            await link.lost.wait()
        finally:
            self._links.discard(link)
            if not link.lost.is_set():
                link.abort("the connection was cut")

    def _dismiss(
        self, link: TlsLink, connection: Connection, reason: str, word: Word | None = None
    ) -> None:
        """It is refused, and has a moment to leave by itself: it may have been answered."""
        connection.reason = reason
        if word is not None:
            link.greet(word)
        link.leave()

    async def _enrol(self, link: TlsLink, connection: Connection) -> None:
        link.begin("", LARGEST_BYTES, keepalive=False)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await self._enrolment.exchange(link)
                connection.prove()
                await link.send(answer)
            await link.close("enrolled")
        except IdentityError as error:
            self._dismiss(link, connection, str(error))
        except (TimeoutError, LinkClosed):
            link.leave()

    def _admit(self, link: TlsLink, connection: Connection) -> None:
        """Who is there, by the certificate that TLS verified and never by what they say; they get
        a session, or the reason is told if they get none."""
        certificate = link.certificate
        if certificate is None:
            connection.reason = "presents no certificate"
            link.leave()
            return
        name, serial = common_name(certificate), certificate.serial_number
        refusal = self._refusal(name, serial)
        if refusal is not None:
            self._dismiss(link, connection, refusal, Word.NOT_VALID)
            return
        if self._too_often(serial):
            reason = f"more than {self._limits.sessions_burst} links of {name} in a row"
            self._dismiss(link, connection, reason, Word.TOO_OFTEN)
            return
        connection.prove()
        link.greet(Word.ACCEPTED)
        link.begin(name, self._limits.frame_bytes)
        own = _OpenLink(name, serial, connection.address, link, asyncio.Event())
        session = asyncio.create_task(self._session(own))
        self._sessions.add(session)
        session.add_done_callback(self._sessions.discard)

    def _too_often(self, serial: int) -> bool:
        """Count a link of a device; who has many proves each, so that no limit of strangers
        holds."""
        limits, now_s = self._limits, time.monotonic()
        full = full_bucket(limits.sessions_per_s, limits.sessions_burst, now_s)
        bucket = self._buckets.get(serial, full).at(now_s)
        often = bucket.level < 1.0
        self._buckets[serial] = bucket if often else bucket.take(1.0)
        return often

    def _refusal(self, name: str, serial: int) -> str | None:
        try:
            valid = self._keys.certificates().valid(name, serial)
        except (IdentityError, OSError) as error:
            return f"{name}, since devices cannot be checked: {error}"
        return None if valid else f"a certificate of {name} that is revoked"

    async def _session(self, own: _OpenLink) -> None:
        """The session of a link, after the one before it of the same device has ended."""
        name = own.name
        try:
            await self._take_over(own)
            _LOG.info(f"{name} connected from {own.address}")
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
        older = self._open_links.get(own.name)
        self._open_links[own.name] = own
        if older is not None:
            older.link.abort(f"a newer connection of {own.name} took its place")
            await older.over.wait()

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
                own.link.abort(f"the certificate of {own.name} was revoked")

    def _revoked(self, certificates: CertificateStore) -> list[_OpenLink]:
        return [
            own for own in self._open_links.values() if not certificates.valid(own.name, own.serial)
        ]


def _refused(error: ssl.SSLError) -> str:
    """Why there is no TLS with somebody."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"presents a certificate that does not count here: {error.verify_message}"
    return f"TLS handshake failed ({error.reason})"


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
