"""The server's one open port, and the sockets behind it."""

import asyncio
import contextlib
import ipaddress
import logging
import math
import shutil
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import cast, final

from cutlayer.net.wire.link import Admission, ConnectionLimits, network_of
from cutlayer.units import KIB

# Sockets between the listener and the servers behind it, in a folder of this user's own.
#
# Nobody else on the machine can reach them, and they carry bytes at less than half the processor
# time of TCP on loopback. A server sees who connected by the name that the other end is bound to.


# what one end may write before the other has read it [bytes], if the system allows
_SEND_BYTES = 512 * 1024


@final
class InnerSockets:
    """Where the servers behind are to listen, and numbered connections to them."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="cutlayer-"))
        self._connections = 0

    def path(self, server: str) -> str:
        """Where `server` is to listen."""
        return str(self._folder / server)

    def connect(self, path: str) -> tuple[int, socket.socket]:
        """A connection to the server that listens at `path`, and its number.

        Raises OSError if nobody does, or has no time.
        """
        self._connections += 1
        name = self._folder / f"{self._connections}"
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
            connection.bind(str(name))
            name.unlink()  # it stays the connection's name
            connection.connect(path)
        except OSError:
            connection.close()
            raise
        return self._connections, connection

    def close(self) -> None:
        """Take the folder away."""
        shutil.rmtree(self._folder, ignore_errors=True)


def number_of(peer: str) -> int | None:
    """The number of a connection, by the name that its server sees; None: it is none of these."""
    tail = peer.rpartition("/")[2]
    return int(tail) if tail.isdecimal() else None


# Listening at any address: `::` is for IPv4 as well, as with other servers.
#
# asyncio would have it take IPv6 alone, and refuse every device that has an IPv4 address.


_LOG = logging.getLogger(__name__)
_BACKLOG = 100  # asyncio's own


def any_socket(host: str, port: int) -> socket.socket | None:
    """A socket that listens for both kinds of addresses, if `host` is `::`; else None.

    Where the system has no such sockets it takes IPv6 alone, and the log says so. Raises OSError.
    """
    if not _is_any(host):
        return None
    both = socket.has_dualstack_ipv6()
    if not both:
        _LOG.warning("[::]:%d accepts IPv6 only on this system; for IPv4 listen on 0.0.0.0", port)
    return socket.create_server(
        (host, port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=both
    )


async def stop_listening(server: asyncio.Server) -> None:
    """Close a server, with nobody half in.

    Python 3.11 forgets a connection that was accepted but has no transport yet when its server
    closes: nobody would ever close it. So nobody new is accepted first, and who was gets one.
    """
    loop = asyncio.get_running_loop()
    for listening in server.sockets:
        loop.remove_reader(listening.fileno())
    await asyncio.sleep(0)
    server.close()


def plain_address(address: str) -> str:
    """An IPv4 address as such, where a socket for both kinds shows it as one of IPv6."""
    with contextlib.suppress(ValueError):
        mapped = getattr(ipaddress.ip_address(address), "ipv4_mapped", None)
        return address if mapped is None else str(mapped)
    return address


def _is_any(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host) == ipaddress.IPv6Address("::")
    return False


# The server's one open port: lets connections in by `Admission` and hands them to who speaks TLS.
#
# Knows TCP, addresses and the first byte of a connection; nothing of certificates. gRPC tells
# nobody of connections that fail before a call, so a refusal could have no address, no reason and
# no limit; here each connection has all three. Bytes go through unread, at the pace of the slower
# side.


# the first byte of TLS (RFC 8446, 5.1: a handshake record), and of a device that wants to enrol,
# which is not part of what follows
TLS = b"\x16"
ENROL = b"E"
LOOPBACK = "127.0.0.1"
BUFFER_BYTES = 512 * KIB
_LEAVE_S = 0.5
# refusals that are counted, so that a flood does not flood the log
_REMEMBERED = 4096


class Listener:
    """Connections from outside, each with another to the server that its first byte asks for.

    Each refusal is logged with its reason. inner: where the servers behind listen.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self.behind: Mapping[bytes, str] = {}
        self.inner = InnerSockets()
        self.proof_s = limits.proof_s
        # one for all sides, since what came goes on at once
        self.buffer = bytearray(BUFFER_BYTES)
        self.refusals = 0
        self._admission = Admission(limits, self._evict)
        # in the order of arrival
        self._connections: dict[Connection, None] = {}
        self._by_number: dict[int, Connection] = {}
        self._refused: Counter[tuple[str, str]] = Counter()
        self._server: asyncio.Server | None = None
        self._closed = False

    async def open(self, host: str, port: int, behind: Mapping[bytes, str]) -> int:
        """Listen; the port, which the system chose if `port` is 0. Raises OSError. At `::` IPv4 is
        taken, too.

        behind: the path of `inner` for each first byte; with another byte nobody gets in.
        """
        self.behind = behind
        loop, both = asyncio.get_running_loop(), any_socket(host, port)
        self._server = await (
            loop.create_server(lambda: _Outside(self), host, port)
            if both is None
            else loop.create_server(lambda: _Outside(self), sock=both)
        )
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def held_bytes(self) -> int:
        """What has come from one side and not gone to the other [bytes]."""
        return sum(connection.held_bytes for connection in self._connections)

    def connection_of(self, peer: str) -> "Connection | None":
        """Whom a server behind sees as `peer`, if they came through here."""
        number = number_of(peer)
        return None if number is None else self._by_number.get(number)

    async def close(self) -> None:
        """Stop listening, and cut everybody off, whoever is half in too."""
        self._closed = True
        if self._server is not None:
            await stop_listening(self._server)
        for connection in tuple(self._connections):
            connection.prove()  # nobody is refused: it is us who leave
            connection.end()
        while self._connections:
            await asyncio.sleep(0)
        self.inner.close()

    def arrive(self, outside: "_Outside", address: str) -> "Connection | None":
        """A connection, if there is room for it."""
        if self._closed:
            return None
        reason = self._admission.arrive(address, time.monotonic())
        if reason is not None:
            self.refuse(address, reason)
            return None
        connection = Connection(self, outside, address)
        self._connections[connection] = None
        return connection

    def refuse(self, address: str, reason: str) -> None:
        """Tell of a refusal; of the same again the second, fourth, eighth and so on."""
        self.refusals += 1
        if len(self._refused) >= _REMEMBERED:
            self._refused.clear()
        same = (network_of(address), reason)
        self._refused[same] += 1
        count = self._refused[same]
        if math.log2(count).is_integer():
            times = "" if count == 1 else f" ({count} refusals so far)"
            _LOG.info(f"refused {address}: {reason}{times}")

    def _evict(self, network: str) -> None:
        """End the oldest unproven connection of a network."""
        for connection in self._connections:
            if not connection.proven and network_of(connection.address) == network:
                connection.give_way()
                return

    def connect(self, connection: "Connection", path: str) -> socket.socket:
        """An inner socket for a connection, to who listens at `path`. Raises OSError."""
        connection.number, inner = self.inner.connect(path)
        self._by_number[connection.number] = connection
        return inner

    def proven(self, connection: "Connection") -> None:
        """The connection has shown who it is."""
        self._admission.prove(connection.address)

    def leave(self, connection: "Connection") -> None:
        """The connection's outer side has ended."""
        self._connections.pop(connection, None)
        if connection.number is not None:
            del self._by_number[connection.number]
        self._admission.leave(connection.address, connection.proven)


@final
class Connection:
    """One connection through the listener."""

    def __init__(self, listener: Listener, outside: "_Outside", address: str) -> None:
        self.address = address
        self.number: int | None = None
        self.proven = False
        self._gone = False
        self._listener = listener
        self._outside = outside
        self._behind: _Behind | None = None
        self._connecting: asyncio.Task[None] | None = None
        self.reason = "disconnected before it presented a certificate of this run or a token"
        self._loop = asyncio.get_running_loop()
        self._overdue = self._loop.call_later(listener.proof_s, self._too_late)

    @property
    def held_bytes(self) -> int:
        """What waits to be written to either side [bytes]."""
        sides = (side for side in (self._outside, self._behind) if side is not None)
        return sum(side.transport.get_write_buffer_size() for side in sides)

    def begin(self, first: bytes) -> None:
        """Find who is behind for these bytes, and let them have the connection."""
        path = self._listener.behind.get(first[:1])
        if path is None:
            self.reason = "speaks neither TLS nor the enrolment protocol"
            self.end()
            return
        rest = first[1:] if first[:1] == ENROL else first
        self._outside.transport.pause_reading()
        self._connecting = asyncio.create_task(self._connect(path, rest))

    def prove(self) -> None:
        """It has shown who it is: it may stay."""
        if not self.proven and not self._gone:
            self.proven = True
            self._listener.proven(self)

    def dismiss(self, reason: str) -> None:
        """It is refused, and has a moment to leave by itself: it may have been answered."""
        self.reason = reason
        self.over()

    def over(self) -> None:
        """Nothing comes from behind any more: whoever is outside has a moment to leave by itself,
        or would hold its place for as long as it likes."""
        if not self._gone:
            self._overdue.cancel()
            self._overdue = self._loop.call_later(_LEAVE_S, self.end)

    def give_way(self) -> None:
        """Its place is another's, now."""
        self.reason = "too many of its connections were unauthenticated"
        self.ended()

    def end(self) -> None:
        """Cut both sides off, now."""
        for side in (self._outside, self._behind):
            if side is not None:
                side.transport.abort()

    def ended(self) -> None:
        """The side outside has gone, or is not waited for."""
        if self._gone:
            return
        self._gone = True
        self._overdue.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
        self.end()
        if not self.proven:
            self._listener.refuse(self.address, self.reason)
        self._listener.leave(self)

    async def _connect(self, path: str, first: bytes) -> None:
        try:
            inner = self._listener.connect(self, path)
        except OSError:
            self.reason = "the server is stopping"
            self.end()
            return
        _, behind = await self._loop.create_connection(
            lambda: _Behind(self._listener, self), sock=inner
        )
        self._behind = behind
        self._outside.other, behind.other = behind, self._outside
        behind.transport.write(first)
        self._outside.transport.resume_reading()

    def _too_late(self) -> None:
        if not self.proven:
            self.reason = (
                f"presented neither certificate nor token within {self._listener.proof_s:g} s"
            )
            self.end()


class _Side(asyncio.BufferedProtocol):
    """One side of a connection through the listener: what arrives goes out at the other side.

    Nothing is read while the other side has something unsent, so what is held is never more than
    one buffer.
    """

    def __init__(self, listener: Listener) -> None:
        self.transport: asyncio.Transport
        self.other: _Side | None = None
        self._listener = listener
        self._heard_all = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=0)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._listener.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.other is not None:
            self.other.transport.write(memoryview(self._listener.buffer)[:nbytes])
            if self.other.transport.get_write_buffer_size():
                self._listener.buffer = bytearray(
                    BUFFER_BYTES
                )  # the rest may be in the old one yet

    def eof_received(self) -> bool:
        """One side may be done sending while the other goes on."""
        self._heard_all = True
        if self.other is None or self.other.transport.is_closing():
            return False
        if self.other._heard_all:
            self.other.transport.close()
            return False
        self.other.transport.write_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self.other.transport.close()

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and not self.other.transport.is_closing():
            self.other.transport.resume_reading()


@final
class _Behind(_Side):
    """The side of the server behind, which ends a connection that is over or refused."""

    def __init__(self, listener: Listener, connection: Connection) -> None:
        super().__init__(listener)
        self._connection = connection

    def eof_received(self) -> bool:
        # it was read after all else from behind had been sent on: nothing is lost here
        self._connection.over()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.over()
        super().connection_lost(exc)


@final
class _Outside(_Side):
    """The side of whoever connected."""

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener)
        self._connection: Connection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        # a connection that is gone already has no name
        if peer is not None:
            self._connection = self._listener.arrive(self, plain_address(peer[0]))
        if self._connection is None:
            self.transport.abort()

    def buffer_updated(self, nbytes: int) -> None:
        if self.other is None and self._connection is not None:
            self._connection.begin(bytes(self._listener.buffer[:nbytes]))
        else:
            super().buffer_updated(nbytes)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._connection.ended()
        super().connection_lost(exc)
