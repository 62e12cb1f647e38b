"""The server's one open port: who gets in, and what is told of who does not.

Knows TCP, addresses and the first byte of a connection; nothing of certificates. Each connection
has an address, a reason and a limit; on one that says nothing, nothing is spent but its descriptor.
"""

import asyncio
import contextlib
import ipaddress
import logging
import math
import socket
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeAlias, final

from cutlayer.net.wire.link import Admission, ConnectionLimits, network_of

LOOPBACK = "127.0.0.1"
_LOG = logging.getLogger(__name__)
# asyncio's own
_BACKLOG = 100
# the first byte of TLS (RFC 8446, 5.1: a handshake record)
_TLS = b"\x16"
# refusals that are counted, so that a flood does not flood the log
_REMEMBERED = 4096
# where descriptors run out, until some may be free again
_PAUSE_S = 0.2

# Listening at any address: `::` is for IPv4 as well, as with other servers.
#
# asyncio would have it take IPv6 alone, and refuse every device that has an IPv4 address.


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


def listening_sockets(host: str, port: int) -> Iterator[socket.socket]:
    """One that listens for each address that the name has. Raises OSError."""
    both = any_socket(host, port)
    if both is not None:
        yield both
        return
    for family, *_, found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        yield socket.create_server(found[:2], family=family, backlog=_BACKLOG)


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


# Connections, by `Admission`.


@final
class Listener:
    """Lets connections in, and tells of each refusal with its reason.

    greet: what to do with a connection whose first byte is one of TLS, for as long as there is one;
    cancelled when the connection is to end. It takes the socket over.
    """

    def __init__(self, limits: ConnectionLimits, greet: "Greet") -> None:
        self.greet = greet
        self.proof_s = limits.proof_s
        self.refusals = 0
        self._admission = Admission(limits, self._evict)
        # in the order of arrival
        self._connections: dict[Connection, None] = {}
        self._refused: Counter[tuple[str, str]] = Counter()
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self.greetings: set[asyncio.Task[None]] = set()

    async def open(self, host: str, port: int) -> int:
        """Listen; the port, which the system chose if `port` is 0. Raises OSError. At `::` IPv4 is
        taken, too."""
        for listening in listening_sockets(host, port):
            self._sockets.append(listening)
            listening.setblocking(False)
            self._accepting.append(asyncio.create_task(self._accept(listening)))
        return int(self._sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening, and cut everybody off, whoever is half in too."""
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        for listening in self._sockets:
            listening.close()
        for connection in tuple(self._connections):
            connection.prove()  # nobody is refused: it is us who leave
            connection.end()
        await asyncio.gather(*self.greetings, return_exceptions=True)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                there, address = await loop.sock_accept(listening)
            except OSError as error:  # no descriptor is left, or who came has left
                _LOG.info(f"a connection could not be accepted: {error.strerror or error}")
                await asyncio.sleep(_PAUSE_S)
                continue
            self._arrive(there, plain_address(address[0]))
            await asyncio.sleep(0)  # a flood leaves others their turn

    def _arrive(self, there: socket.socket, address: str) -> None:
        reason = self._admission.arrive(address, time.monotonic())
        if reason is None:
            self._connections[Connection(self, there, address)] = None
            return
        self.refuse(address, reason)
        there.close()

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
                connection.reason = "too many of its connections were unauthenticated"
                connection.end()
                return

    def proven(self, connection: "Connection") -> None:
        """The connection has shown who it is."""
        self._admission.prove(connection.address)

    def leave(self, connection: "Connection") -> None:
        """The connection has ended."""
        del self._connections[connection]
        self._admission.leave(connection.address, connection.proven)


@final
class Connection:
    """One connection from outside.

    `reason`: why it is refused, should it end before it has shown who it is.
    """

    def __init__(self, listener: Listener, there: socket.socket, address: str) -> None:
        self.address = address
        self.proven = False
        self.reason = "disconnected before it presented a certificate of this run or a token"
        self.socket = there
        self._ended = False
        self._listener = listener
        self._greeting: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._overdue = self._loop.call_later(listener.proof_s, self._too_late)
        there.setblocking(False)
        self._loop.add_reader(there, self._begin)

    def prove(self) -> None:
        """It has shown who it is: it may stay."""
        if not self.proven and not self._ended:
            self.proven = True
            self._overdue.cancel()
            self._listener.proven(self)

    def end(self) -> None:
        """It has ended, or ends now."""
        if self._ended:
            return
        self._ended = True
        self._overdue.cancel()
        if self._greeting is None:
            self._loop.remove_reader(self.socket)
            self.socket.close()
        else:
            self._greeting.cancel()
        if not self.proven:
            self._listener.refuse(self.address, self.reason)
        self._listener.leave(self)

    def _begin(self) -> None:
        """Find out whether it speaks TLS; the byte is left where it is."""
        try:
            first = self.socket.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            first = b""
        if first != _TLS:
            if first:
                self.reason = "does not speak TLS"
            self.end()
            return
        self._loop.remove_reader(self.socket)
        self._greeting = asyncio.create_task(self._listener.greet(self))
        self._listener.greetings.add(self._greeting)
        self._greeting.add_done_callback(self._greeted)

    def _greeted(self, greeting: asyncio.Task[None]) -> None:
        self._listener.greetings.discard(greeting)
        self.socket.close()  # whoever took it over has, unless it was ended before it began
        self.end()

    def _too_late(self) -> None:
        self.reason = f"presented neither certificate nor token within {self._listener.proof_s:g} s"
        self.end()


Greet: TypeAlias = Callable[[Connection], Coroutine[Any, Any, None]]
