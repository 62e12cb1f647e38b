"""What a session's driver asks of a connection, links that pace it or lose patience, and who may
have one.
"""

import asyncio
import ipaddress
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, final

from cutlayer.errors import ConfigError, IdentityError
from cutlayer.net.wire.frames import Buffers, Kind, Received, claims_kind, size_of
from cutlayer.units import BITS_PER_BYTE, KIB, MIB

# What a session's driver asks of a connection. Knows no socket: each kind of link is a file.


class LinkClosed(Exception):  # noqa: N818 - an event of every link's life, not a mistake
    """The connection has ended; says why in words that carry no secret."""


class Link(ABC):
    """One device's connection, seen from either end: frames in order, whole, or closed."""

    @property
    @abstractmethod
    def peer(self) -> str:
        """The authenticated name of the other end."""

    @abstractmethod
    async def send(self, frame: Buffers) -> None:
        """Send one frame; waits while the peer is slow. Raises LinkClosed."""

    @abstractmethod
    async def receive(self) -> Received:
        """One whole frame. Raises LinkClosed."""

    @abstractmethod
    async def close(self, reason: str = "") -> None:
        """End the connection; closing again does nothing."""


# A link that does not wait for ever for the other end to read.
#
# Knows a limit; what paces a link goes around this one, so that its waiting is not the reader's.


@final
class PatientLink(Link):
    """Another link, closed once a frame has waited for its reader for `patience_s` [s]."""

    def __init__(self, link: Link, patience_s: float) -> None:
        self._link = link
        self._patience_s = patience_s

    @property
    def peer(self) -> str:
        """The authenticated name of the other end."""
        return self._link.peer

    async def send(self, frame: Buffers) -> None:
        """Send one frame. Raises LinkClosed, also for a reader that is too slow."""
        try:
            async with asyncio.timeout(self._patience_s):
                await self._link.send(frame)
        except TimeoutError:
            reason = f"a frame was not read for {self._patience_s:g} s"
            await self._link.close(reason)
            raise LinkClosed(reason) from None

    async def receive(self) -> Received:
        """One whole frame. Raises LinkClosed."""
        return await self._link.receive()

    async def close(self, reason: str = "") -> None:
        """End the connection; closing again does nothing."""
        await self._link.close(reason)


# Sending no faster than a share of the link: a token bucket, and a link that obeys one.
#
# Knows amounts and times; the bucket is pure (the time is passed in), the link is given its clock
# and how to wait.


BURST_BYTES = 16 * KIB


@dataclass(frozen=True)
class TokenBucket:
    """Fills at `rate_per_s` up to `burst`. More may be taken than is in it, and is waited for.

    Who waits `wait_s` after each taking gets, in any window of T seconds, at most
    `rate_per_s * T` beyond `burst` or the largest amount, whichever is more. `level` is what was
    in it at `at_s`, less than nothing while something is waited for.
    """

    rate_per_s: float
    burst: float
    level: float
    at_s: float

    @property
    def wait_s(self) -> float:
        """How long from `at_s` until all that was taken is there [s]."""
        return max(0.0, -self.level) / self.rate_per_s

    def at(self, now_s: float) -> "TokenBucket":
        """The bucket at `now_s`; a clock that goes back adds nothing, then or later."""
        gained = max(0.0, now_s - self.at_s) * self.rate_per_s
        level = min(self.burst, self.level + gained)
        return replace(self, level=level, at_s=max(self.at_s, now_s))

    def take(self, amount: float) -> "TokenBucket":
        """With `amount` taken out."""
        return replace(self, level=self.level - amount)


def full_bucket(rate_per_s: float, burst: float, now_s: float) -> TokenBucket:
    """A bucket that nothing was taken from yet."""
    return TokenBucket(rate_per_s, burst, burst, now_s)


@final
class PacedLink(Link):
    """Another link, whose frames leave no faster than what `rate_bit_s` says then [bit/s].

    A frame is let go when its last bit would have left a line of that rate, so it reaches the
    other end as over such a line. The wire itself carries it in one go: in any window of T
    seconds, what was let go is at most `rate_bit_s * T` bits beyond `burst_bytes` and one frame.
    What is received is not paced. Closing the link ends the waiting of what is to be sent.
    """

    def __init__(
        self,
        link: Link,
        rate_bit_s: Callable[[], float],
        burst_bytes: int = BURST_BYTES,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Coroutine[Any, Any, None]] = asyncio.sleep,
    ) -> None:
        self._link = link
        self._clock = clock
        self._sleep = sleep
        self._burst_bytes = burst_bytes
        self._rate_bit_s = rate_bit_s
        self._bucket = full_bucket(rate_bit_s() / BITS_PER_BYTE, burst_bytes, clock())
        self._turn = asyncio.Lock()
        self._waiting: asyncio.Future[None] | None = None
        self._closed = False

    @property
    def peer(self) -> str:
        """The authenticated name of the other end."""
        return self._link.peer

    async def send(self, frame: Buffers) -> None:
        """Wait for the share's time, then send. Raises LinkClosed."""
        async with self._turn:
            size = size_of(frame)
            for start in range(0, size, self._burst_bytes):
                await self._take(min(self._burst_bytes, size - start))
            await self._link.send(frame)

    async def receive(self) -> Received:
        """The next whole frame. Raises LinkClosed."""
        return await self._link.receive()

    async def close(self, reason: str = "") -> None:
        """End the connection; closing again does nothing."""
        self._closed = True
        if self._waiting is not None:
            self._waiting.cancel()
        await self._link.close(reason)

    async def _take(self, amount_bytes: int) -> None:
        """In parts of a burst at most, so that a change of the rate counts soon."""
        now = self._bucket.at(self._clock())
        rate_per_s = self._rate_bit_s() / BITS_PER_BYTE
        self._bucket = replace(now, rate_per_s=rate_per_s).take(amount_bytes)
        if self._bucket.wait_s > 0 and not self._closed:
            await self._wait(self._bucket.wait_s)
        if self._closed:
            raise LinkClosed("closed at this end")

    async def _wait(self, seconds: float) -> None:
        """Until then, or until this end closes the link."""
        self._waiting = asyncio.ensure_future(self._sleep(seconds))
        try:
            await asyncio.wait((self._waiting,))
        finally:
            self._waiting.cancel()
            self._waiting = None


# How fast one connection may ask.
#
# Knows the kind that a frame claims to be; what trains is paced by what it costs its device.


# a second: of a device's part, 50 MB; others are asked once a round, or once a connection
_QUESTIONS_PER_S = {Kind.FETCH: 50.0, Kind.ASK: 10.0, Kind.PROBE: 10.0}
# at once, of what comes in a second
_BURST_S = 2.0


@final
class QuestionPace:
    """What one connection asked so far: who asks too fast is answered later, and its own link alone
    waits."""

    def __init__(self) -> None:
        self._buckets: dict[Kind, TokenBucket] = {}

    def wait_s(self, frame: Received, now_s: float) -> float:
        """How long a frame that came at `now_s` is left lying [s]: 0 for all but questions."""
        for kind, rate in _QUESTIONS_PER_S.items():
            if claims_kind(frame, kind):
                bucket = self._buckets.get(kind) or full_bucket(rate, rate * _BURST_S, now_s)
                self._buckets[kind] = bucket.at(now_s).take(1.0)
                return self._buckets[kind].wait_s
        return 0.0


# Where a driver's computations run: beside the event loop, so that links stay alive meanwhile.


# runs a computation and gives what it gives; one at a time is asked of it, and a write beside it
Compute: TypeAlias = Callable[[Callable[[], Any]], Awaitable[Any]]


async def in_thread(work: Callable[[], Any]) -> Any:
    """In a thread of its own: for a process that has links to keep alive."""
    return await asyncio.to_thread(work)


async def in_place(work: Callable[[], Any]) -> Any:
    """Here and now: for devices and server in one process, which share a model's parts."""
    return work()


@final
class Turns(AbstractAsyncContextManager[None]):
    """One at a time, in order of arrival."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._here = 0

    @property
    def free(self) -> bool:
        """Whether nobody has the turn or waits for it: who asks now need not wait."""
        return not self._here

    async def acquire(self) -> None:
        """Wait for the turn."""
        self._here += 1
        try:
            await self._lock.acquire()
        except BaseException:
            self._here -= 1
            raise

    def release(self) -> None:
        """The next one has the turn."""
        self._lock.release()
        self._here -= 1

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *_: object) -> None:
        self.release()


# Addresses and names of devices as a user writes them.


_DEVICE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def address_of(text: str) -> tuple[str, int]:
    """The two parts of `HOST:PORT`; IPv6 in brackets. Raises ConfigError."""
    host, colon, port = str(text).rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(
            f"{text!r} is not HOST:PORT with a port up to 65535, such as 192.168.1.10:7700"
        )
    return host, int(port)


def device_name(text: str) -> str:
    """`text`, if a device can have it as its name: a DNS label (RFC 1123) in lower case.

    Raises IdentityError.
    """
    if _DEVICE.fullmatch(text) is None:
        raise IdentityError(
            f"no name for a device: {text[:80]!r}; use 1 to 63 of a to z, 0 to 9 and inner hyphens"
        )
    return text


# Who may connect at all, and what a server puts up with from strangers and devices.
#
# Knows numbers; `listener.py`, `link_server.py` and `driver.py` keep to them.


# what a device that reads may leave unread: an answer, its repetition, the next round's opening
OUTBOX_FRAMES = 4


@dataclass(frozen=True)
class ConnectionLimits:
    """The defaults let 200 devices behind one address come at once, on 1024 file descriptors.

    frame_bytes: the largest frame of a device. Its link holds two at most that nobody received.
    connections: in all, devices' and others'. Each takes a file descriptor.
    unproven: connections that have not shown a certificate or a token yet, in all. Where these two
        leave no room, the address with the most unproven ones gives way to one with fewer.
    unproven_by_address: the same, of one address (of IPv6, one network of 64 bits).
    arrivals_burst, arrivals_per_s: new connections of one address, at once and in the long run.
    sessions_burst, sessions_per_s: new links of one device, at once and in the long run.
    proof_s: how long a connection may stay unproven.
    keepalive_s: within so long an end that has nothing to send says that it is there; one that
        nothing came from for twice as long has gone.
    revocation_s: how often the device registry is looked at for certificates revoked.
    """

    frame_bytes: int = 64 * MIB
    connections: int = 280
    unproven: int = 240
    unproven_by_address: int = 220
    arrivals_burst: int = 400
    arrivals_per_s: float = 5.0
    sessions_burst: int = 40
    sessions_per_s: float = 1.0
    proof_s: float = 10.0
    keepalive_s: float = 20.0
    revocation_s: float = 1.0


# Who may connect at all: how many, and how often from one address.
#
# Knows counts and times, which are passed in; nothing of sockets.


# addresses that are remembered before those that are quiet again are forgotten
_REMEMBERED = 4096
_IPV6_NETWORK_BITS = 64


class Admission:
    """The connections that are there, by network; `arrive` decides about one more.

    Strangers do not fill the places that devices come back to: where there is no room, one of the
    network with the most connections that are unproven gives way to a network with fewer.

    evict: ends an unproven connection of a network, and `leave`s it at once.
    """

    def __init__(
        self, limits: ConnectionLimits, evict: Callable[[str], None] | None = None
    ) -> None:
        self._limits = limits
        self._evict = evict
        self._buckets: dict[str, TokenBucket] = {}
        self._unproven: dict[str, int] = {}
        self._connections = 0

    @property
    def remembered(self) -> int:
        """How many networks it keeps a count of arrivals for."""
        return len(self._buckets)

    def arrive(self, address: str, now_s: float) -> str | None:
        """Count a connection in, unproven; or say why it may not stay."""
        network = network_of(address)
        reason = self._flood(network, now_s)
        if reason is None:
            self._make_room(network)
            reason = self._full(network)
        if reason is None:
            self._connections += 1
            self._unproven[network] = self._unproven.get(network, 0) + 1
        return reason

    def prove(self, address: str) -> None:
        """One of this address's connections has shown who it is."""
        network = network_of(address)
        self._unproven[network] -= 1
        if not self._unproven[network]:
            del self._unproven[network]

    def leave(self, address: str, proven: bool) -> None:
        """A connection that `arrive` counted in has ended."""
        self._connections -= 1
        if not proven:
            self.prove(address)

    def _flood(self, network: str, now_s: float) -> str | None:
        limits = self._limits
        if network not in self._buckets and len(self._buckets) >= _REMEMBERED:
            self._forget_quiet(now_s)
        full = full_bucket(limits.arrivals_per_s, limits.arrivals_burst, now_s)
        bucket = self._buckets.get(network, full).at(now_s)
        if bucket.level < 1.0:
            self._buckets[network] = bucket
            return f"more than {limits.arrivals_burst} connections in a row from one address"
        self._buckets[network] = bucket.take(1.0)
        return None

    def _full(self, network: str) -> str | None:
        limits = self._limits
        if self._connections >= limits.connections:
            return f"{self._connections} connections already"
        if sum(self._unproven.values()) >= limits.unproven:
            return f"{limits.unproven} unauthenticated connections already"
        if self._unproven.get(network, 0) >= limits.unproven_by_address:
            return f"{limits.unproven_by_address} of its connections are unauthenticated"
        return None

    def _make_room(self, network: str) -> None:
        """End one connection, if that is what it takes and is fair."""
        own = self._unproven.get(network, 0)
        if self._evict is None or own >= self._limits.unproven_by_address:
            return
        loudest = max(self._unproven, key=self._unproven.__getitem__, default=network)
        # it still has as many as this one then, or more: two networks do not take turns for ever
        if self._unproven.get(loudest, 0) >= own + 2 and self._full(network) is not None:
            self._evict(loudest)

    def _forget_quiet(self, now_s: float) -> None:
        """Of all whose bucket is full again nothing is lost; else the oldest half goes."""
        buckets = {network: bucket.at(now_s) for network, bucket in self._buckets.items()}
        loud = {net: bucket for net, bucket in buckets.items() if bucket.level < bucket.burst}
        newest = list(loud.items())[-_REMEMBERED // 2 :]
        self._buckets = dict(newest)


def network_of(address: str) -> str:
    """What counts as one address: IPv4's own, of IPv6 the network of 64 bits that one host has."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 4:
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((ip, _IPV6_NETWORK_BITS), strict=False))
